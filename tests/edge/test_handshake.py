"""The opening handshake is judged once, as RFC 6455 has it; without a socket."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.web.http_headers import Headers

from chatflow.authority import parse_authority, parse_origin, split_target
from chatflow.edge.handshake import Handshake, judge
from chatflow.edge.refusals import RequestRefused

_USUAL = {
    "Host": ["chat.example"],
    "Upgrade": ["websocket"],
    "Connection": ["Upgrade"],
    "Sec-WebSocket-Key": ["dGhlIHNhbXBsZSBub25jZQ=="],
    "Sec-WebSocket-Version": ["13"],
}


def judged(headers: dict[str, list[str]] | None = None, **request: Any) -> Handshake:
    """What a request gets that differs from a usual one in this; an empty list leaves a header out."""
    whole = {name: values for name, values in {**_USUAL, **(headers or {})}.items() if values}
    request.setdefault("host", parse_authority("chat.example"))
    return judge(
        **{
            "room": 1,
            "method": b"GET",
            "version": b"HTTP/1.1",
            "query": b"",
            "headers": Headers({name.encode(): [value.encode() for value in values] for name, values in whole.items()}),
            "body_bytes": 0,
            "allowed_origins": (),
            **request,
        }
    )


def refusal(headers: dict[str, list[str]] | None = None, **request: Any) -> RequestRefused:
    """Why a request is refused."""
    with pytest.raises(RequestRefused) as raised:
        judged(headers, **request)
    return raised.value


def test_what_is_found_is_what_autobahn_is_shown() -> None:
    handshake = judged({"Sec-WebSocket-Protocol": ["mqtt, chatflow.v2"], "X-Other": ["1"]}, query=b"since=7")
    assert (handshake.subprotocol, handshake.parameters.since) == ("chatflow.v2", 7)
    shown = dict(handshake.plain_headers().getAllRawHeaders())
    assert shown[b"Sec-Websocket-Protocol"] == [b"chatflow.v2"]
    assert b"X-Other" not in shown


class TestLists:
    @pytest.mark.parametrize(
        "connection",
        [
            ["Upgrade"],
            ["keep-alive, Upgrade"],
            ["UPGRADE"],
            ["keep-alive", "upgrade"],
            [",, upgrade ,"],
            ["te,upgrade"],
        ],
        ids=str,
    )
    def test_connection_names_upgrade_somewhere(self, connection: list[str]) -> None:
        assert judged({"Connection": connection})

    @pytest.mark.parametrize("upgrade", [["WebSocket"], ["h2c, websocket"], ["h2c", "websocket"]], ids=str)
    def test_upgrade_names_websocket_somewhere(self, upgrade: list[str]) -> None:
        assert judged({"Upgrade": upgrade})

    @pytest.mark.parametrize("upgrade", [[], ["h2c"], ["websockets"], ["not-websocket"]], ids=str)
    def test_another_upgrade_is_told_the_right_one(self, upgrade: list[str]) -> None:
        assert (refusal({"Upgrade": upgrade}).status) == 426

    @pytest.mark.parametrize(
        "protocols",
        [["chatflow.v2"], ["a, chatflow.v2"], ["a", "chatflow.v2"], ["chatflow.v2, chatflow.v2"], [",chatflow.v2,"]],
        ids=str,
    )
    def test_the_subprotocol_may_be_anywhere_in_a_list(self, protocols: list[str]) -> None:
        assert judged({"Sec-WebSocket-Protocol": protocols}).subprotocol == "chatflow.v2"

    @pytest.mark.parametrize("protocols", [[], [""], ["mqtt"], ["CHATFLOW.V2"], ["chatflow.v2x", "a,a"]], ids=str)
    def test_no_other_is_agreed_on(self, protocols: list[str]) -> None:
        assert judged({"Sec-WebSocket-Protocol": protocols}).subprotocol is None


@pytest.mark.parametrize("version", ["8", "14", "0", "013", "99999999999999999999"])
def test_another_version_is_told_the_right_one(version: str) -> None:
    refused = refusal({"Sec-WebSocket-Version": [version]})
    assert (refused.status, refused.headers["sec-websocket-version"]) == (426, "13")


@pytest.mark.parametrize("versions", [[], ["13", "13"], ["13, 8"], ["abc"], [""], ["-13"], ["+13"]], ids=str)
def test_what_is_no_version_is_400(versions: list[str]) -> None:
    refused = refusal({"Sec-WebSocket-Version": versions})
    assert (refused.status, refused.headers["sec-websocket-version"]) == (400, "13")


@pytest.mark.parametrize(
    "keys",
    [
        *([], [""], ["short"], ["dGhlIHNhbXBsZSBub25jZQ"], ["dGhlIHNhbXBsZSBub25jZSE="], ["dGhlIHNhbXBsZSBub25jZQ==="]),
        *(["!" * 24], ["dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25jZQ=="], ["A" * 5000]),
    ],
    ids=lambda keys: str(keys)[:40],
)
def test_a_key_that_is_not_sixteen_bytes_is_400(keys: list[str]) -> None:
    assert refusal({"Sec-WebSocket-Key": keys}).status == 400


def test_http_1_0_has_no_upgrade() -> None:
    assert refusal(version=b"HTTP/1.0").status == 426


def test_another_method_is_told_get() -> None:
    refused = refusal(method=b"POST")
    assert (refused.status, "GET" in refused.headers["allow"]) == (405, True)


def test_a_body_is_400() -> None:
    assert refusal(body_bytes=1).status == 400


class TestOrigin:
    @pytest.mark.parametrize(
        ("host", "origin"),
        [
            *(("chat.example:443", "https://chat.example"), ("chat.example:80", "http://chat.example")),
            *(("chat.example", "https://chat.example:443"), ("chat.example", "http://chat.example")),
            *(("chat.example:8080", "http://chat.example:8080"), ("CHAT.example", "HTTPS://chat.EXAMPLE")),
            *(("chat.example.", "https://chat.example"), ("chat.example", "https://chat.example.")),
            *(
                ("[::1]:8080", "http://[::1]:8080"),
                ("[0:0::1]", "http://[::1]"),
                ("[::FFFF:1.2.3.4]", "http://[::ffff:1.2.3.4]"),
            ),
            *(
                ("xn--bcher-kva.example", "https://xn--bcher-kva.example"),
                ("bücher.example", "https://xn--bcher-kva.example"),
            ),
        ],
    )
    def test_that_of_the_same_host_may_connect(self, host: str, origin: str) -> None:
        assert judged({"Origin": [origin]}, host=parse_authority(host))

    @pytest.mark.parametrize(
        ("host", "origin"),
        [
            *(("chat.example:443", "http://chat.example"), ("chat.example", "http://chat.example:8080")),
            *(("chat.example:8080", "http://chat.example"), ("chat.example", "http://chat.example:443")),
            *(("chat.example", "https://xchat.example"), ("chat.example", "capacitor://chat.example")),
            *(("", "http://"), ("", "null"), ("chat.example", "https://chat.example/"), ("[::1]", "http://[::2]")),
            *(("chat.example", "https://u@chat.example"), ("chat.example", "//chat.example"), ("x", "http://x\ty")),
        ],
    )
    def test_a_page_of_another_origin_may_not_connect(self, host: str, origin: str) -> None:
        assert refusal({"Origin": [origin]}, host=parse_authority(host)).status == 403

    def test_two_origins_are_as_bad_as_a_foreign_one(self) -> None:
        assert refusal({"Origin": ["https://chat.example", "https://chat.example"]}).status == 403

    @pytest.mark.parametrize(
        "origin",
        [
            *("capacitor://localhost", "tauri://localhost", "ionic://localhost", "app://obsidian.md", "null"),
            *("chrome-extension://abcdefghijklmnopabcdefghijklmnop", "https://tauri.localhost", "http://[::1]:3000"),
        ],
    )
    def test_any_may_be_allowed(self, origin: str) -> None:
        assert refusal({"Origin": [origin]}).status == 403
        assert judged({"Origin": [origin]}, allowed_origins=(str(parse_origin(origin) or "null"),))


class TestTarget:
    @pytest.mark.parametrize(
        ("target", "split"),
        [
            (b"/chat/1?x=http://y", (None, b"/chat/1?x=http://y")),
            (b"//chat/1", (None, b"//chat/1")),
            (b"*", (None, b"*")),
            (b"http://x/chat/1", (b"x", b"/chat/1")),
            (b"WSS://X:443/chat/1?a=b", (b"X:443", b"/chat/1?a=b")),
            (b"https://x", (b"x", b"/")),
            (b"http://x?a=b", (b"x", b"/?a=b")),
        ],
    )
    def test_it_is_a_path_or_an_address(self, target: bytes, split: tuple[bytes | None, bytes]) -> None:
        assert split_target(target) == split

    @pytest.mark.parametrize("target", [b"http:///x", b"ftp://x/y", b"file:///etc/passwd"])
    def test_it_is_no_other_address(self, target: bytes) -> None:
        with pytest.raises(ValueError):
            split_target(target)


@given(st.binary(max_size=60))
def test_whatever_a_header_says_only_a_value_error_comes_of_it(data: bytes) -> None:
    for parse in (parse_authority, parse_origin):
        try:
            parsed = parse(data)
        except ValueError:
            continue
        if parsed is not None:
            again = parse(str(parsed)) if parse is parse_origin else parsed
            assert again == parsed, "the one form is its own one form"


@given(st.dictionaries(st.sampled_from([*_USUAL, "Origin", "Sec-WebSocket-Protocol"]), st.lists(st.text())))
def test_whatever_a_request_says_it_is_judged(headers: dict[str, list[str]]) -> None:
    cleaned = {name: [value.translate({0: "", 10: "", 13: ""}) for value in values] for name, values in headers.items()}
    try:
        handshake = judged({name: [v.encode("utf-8", "replace").decode() for v in vs] for name, vs in cleaned.items()})
    except RequestRefused as refused:
        assert refused.status in (400, 403, 426)
    else:
        assert handshake.room == 1
