"""What a client may ask for in its address, and that anything else is refused with the parameter's name."""

from __future__ import annotations

from urllib.parse import quote, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatflow.edge.connect_parameters import MAX_LAST, MAX_SEQ, ConnectParameters, Who, parse_connect_parameters
from chatflow.errors import Refused


@pytest.mark.parametrize(
    ("query", "parameters"),
    [
        ("", ConnectParameters()),
        ("?", ConnectParameters()),
        ("?since=0", ConnectParameters(since=0)),
        ("?since=007", ConnectParameters(since=7)),
        (f"?since={MAX_SEQ}", ConnectParameters(since=MAX_SEQ)),
        ("?last=1", ConnectParameters(last=1)),
        (f"?last={MAX_LAST}", ConnectParameters(last=MAX_LAST)),
        ("?presence=1", ConnectParameters(presence=True)),
        ("?presence=0&since=5", ConnectParameters(since=5)),
        ("?userId=12&username=bob", ConnectParameters(who=Who(12, "bob"))),
        ("?userId=000012&username=Bob42", ConnectParameters(who=Who(12, "Bob42"))),
        ("?last=%31%30&%75serId=1&username=ann", ConnectParameters(last=10, who=Who(1, "ann"))),
        ("?user=1&x=/chat/99&Since=x&flag", ConnectParameters()),
        ("?x=since=4;last=x", ConnectParameters()),
        ("?%FF=%FE&since=1", ConnectParameters(since=1)),
    ],
    ids=str,
)
def test_what_may_be_asked_for(query: str, parameters: ConnectParameters) -> None:
    assert parse_connect_parameters(f"/chat/1{query}") == parameters
    assert parse_connect_parameters(f"ws://host:1/chat/1{query}") == parameters


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        *[
            (f"since={value}", "since")
            for value in ("", "-1", "+1", "1.0", "1e3", "x", "%20", "1%20", "%D9%A1", str(MAX_SEQ + 1), "9" * 5000)
        ],
        *[(f"last={value}", "last") for value in ("", "0", "-1", str(MAX_LAST + 1), "all", "%00")],
        *[(f"presence={value}", "presence") for value in ("", "2", "yes", "true")],
        ("since=1&last=1", "last"),
        ("since=1&since=1", "since"),
        ("presence=1&presence=1", "presence"),
        ("userId=1", "username"),
        ("username=bob", "userId"),
        *[(f"username=bob&userId={value}", "userId") for value in ("", "0", "100001", "-1", "x", "1.5")],
        *[(f"userId=1&username={value}", "username") for value in ("", "ab", "a" * 21, "a%20b", "b%C3%B6b", "bob%0A")],
    ],
)
def test_anything_else_is_refused_and_named(query: str, parameter: str) -> None:
    with pytest.raises(Refused) as refused:
        parse_connect_parameters(f"/chat/1?{query}")
    assert refused.value.code == "invalid_parameter"
    assert refused.value.field == parameter
    assert parameter in str(refused.value)


@given(st.text())
def test_whatever_is_asked_it_is_understood_or_refused(text: str) -> None:
    for query in (text, quote(text), urlencode({"since": text}), urlencode({"username": text, "userId": text})):
        try:
            parse_connect_parameters(f"/chat/1?{query}")
        except Refused as refused:
            assert refused.field in {"since", "last", "presence", "userId", "username"}
