"""Whatever somebody sends as a token: it is one that was issued, to the letter, or it is refused in our own words."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from twisted.internet.task import Clock

from chatflow.contracts.identity import Identity
from chatflow.contracts.messages import MAX_USER_ID
from chatflow.errors import TokenRefused, Unavailable
from chatflow.tokens.claims import Expected
from chatflow.tokens.jwks import Jwks
from chatflow.tokens.keys import shared_keys
from chatflow.tokens.verifier import TokenCounts, TokenVerifier
from testbed.tokens import AUDIENCE, SECRET, Issuer, encode, hs256

_NOW = 1_800_000_000.0
_CLAIMS = {"sub": "7", "name": "alice", "exp": _NOW + 100, "aud": AUDIENCE}
_ISSUER = Issuer()
_ISSUED = [
    hs256(_CLAIMS),
    *(_ISSUER.token(algorithm, _CLAIMS) for algorithm in _ISSUER.keys),
    _ISSUER.token("ES256", _CLAIMS, kid=None),
]


class _Threads(Clock):
    """A clock that stands still; what a thread has to say is heard at once."""

    def callFromThread(self, call: Callable[..., object], *arguments: object) -> None:
        call(*arguments)


def made() -> TokenVerifier:
    jwks = Jwks(reactor=_Threads(), source="keys", refresh_seconds=300, read=lambda source: _ISSUER.document())
    jwks.start()
    return TokenVerifier(
        secrets=shared_keys([SECRET]),
        jwks=jwks,
        expected=Expected(audiences=[AUDIENCE], leeway_seconds=30),
        now=lambda: _NOW,
        counts=TokenCounts(),
    )


_verifier = made()


def judged(token: str) -> Identity | None:
    """Who it is, or None if it is refused."""
    try:
        return _verifier.verify(token)
    except (TokenRefused, Unavailable) as refused:
        assert str(refused)
        assert token not in str(refused) or len(token) < 20
        return None


_ODD = st.one_of(
    st.text("\0\ud800\u0130\u0661é.=-_ \r\n\"'AZaz09", max_size=8),
    st.sampled_from(["A" * 9000, "." * 9000, "e30", "\N{PARTY POPPER}"]),
)
_PARTS = st.sampled_from([part for token in _ISSUED for part in token.split(".")])


@given(st.one_of(st.text(), _ODD, st.lists(st.one_of(_PARTS, _ODD), max_size=5).map(".".join)))
def test_a_text_is_refused_unless_it_was_issued(text: str) -> None:
    assert (judged(text) is not None) == (text in _ISSUED)


@given(
    st.sampled_from(_ISSUED), st.integers(0, 2000), st.integers(0, 9), st.one_of(_ODD, st.text("AZaz09-_", max_size=3))
)
def test_a_token_of_which_anything_was_changed_is_refused(token: str, at: int, cut: int, put: str) -> None:
    at %= len(token) + 1
    changed = token[:at] + put + token[at + cut :]
    assert (judged(changed) is not None) == (changed in _ISSUED)


@pytest.mark.parametrize("token", _ISSUED, ids=["HS256", "RS256", "ES256", "EdDSA", "ES256 without a key id"])
def test_there_is_one_way_to_write_a_signature(token: str) -> None:
    """The last character of base64 has bits that belong to no byte (RFC 4648, 3.5)."""
    head, _, signature = token.rpartition(".")
    whole = base64.urlsafe_b64decode(signature + "==")
    for last in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_":
        other = signature[:-1] + last
        if other != signature and base64.urlsafe_b64decode(other + "==") == whole:
            assert judged(f"{head}.{other}") is None


# JSON as nobody's encoder writes it.
_NUMBERS = st.one_of(
    st.integers().map(str),
    st.floats().map(str),
    st.sampled_from(["NaN", "Infinity", "-Infinity", "1e400", "-0", "1E9", "9" * 5000, f"{_NOW + 1}", "1.8e9"]),
)
_STRINGS = st.one_of(
    st.text().map(json.dumps),
    st.sampled_from(
        ['"\\ud800"', '"\\u0000"', '"none"', '"None"', '"HS256"', '"RS256"', '"JWT"', '"7"', '"alice"', f'"{AUDIENCE}"']
    ),
)
_LITERALS = st.one_of(_NUMBERS, _STRINGS, st.sampled_from(["true", "false", "null", "", "[", "\ud800", "'a'"]))
_JSON = st.recursive(
    _LITERALS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda items: f"[{','.join(items)}]"),
        st.lists(st.tuples(_STRINGS, inner), max_size=3).map(
            lambda items: "{" + ",".join(f"{name}:{value}" for name, value in items) + "}"
        ),
        inner.map(lambda text: "[" * 500 + text + "]" * 500),
    ),
    max_leaves=4,
)


def objects(usual: dict[str, Any], names: list[str]) -> st.SearchStrategy[bytes]:
    """A usual object, of which some members are other JSON, are there twice, or are lacking."""
    members = st.lists(st.tuples(st.sampled_from(names), _JSON), max_size=4)
    left_out = st.sets(st.sampled_from(sorted(usual)), max_size=1)

    def written(more: list[tuple[str, str]], without: set[str]) -> bytes:
        whole = [(name, json.dumps(value)) for name, value in usual.items() if name not in without]
        text = ",".join(f'"{name}":{value}' for name, value in [*whole, *more])
        return ("{" + text + "}").encode("utf-8", "surrogatepass")

    return st.builds(written, members, left_out)


@given(
    objects({"alg": "HS256", "typ": "JWT"}, ["alg", "typ", "kid", "crit", "b64", "jwk", "jku", "x5c", "zip", "enc"]),
    objects(_CLAIMS, ["sub", "exp", "nbf", "iat", "aud", "iss", "name", "rooms", "jti", "admin"]),
)
@example(b'{"alg":"HS256"}', json.dumps(_CLAIMS).encode())
def test_whatever_is_signed_names_a_user_until_a_time_or_is_refused(header: bytes, payload: bytes) -> None:
    identity = judged(signed(header, payload))
    if identity is not None:
        assert identity.user_id is not None
        assert 1 <= identity.user_id <= MAX_USER_ID
        assert not identity.is_operator
        assert identity.expires_at is not None
        assert _NOW < identity.expires_at < math.inf


@pytest.mark.parametrize("depth", [10, 900, 980, 990, 1000, 1100, 3000])
def test_however_deep_a_header_is_nested(depth: int) -> None:
    """Two readers of JSON look at it, with limits of their own."""
    nested = b'{"alg":"HS256","x":' + b"[" * depth + b"]" * depth + b"}"
    judged(signed(nested, json.dumps(_CLAIMS).encode()))


def signed(header: bytes, payload: bytes) -> str:
    """With the right key, whatever the header says."""
    text = f"{encode(header)}.{encode(payload)}"
    return f"{text}.{encode(hmac.new(SECRET.encode(), text.encode(), hashlib.sha256).digest())}"
