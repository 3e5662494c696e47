"""What a client must not send: each gets its one error frame and the connection lives on, or the close of RFC 6455."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, cast

import pytest

from testbed.client import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    TEXT,
    ChatClient,
    RawClient,
    client_frame,
    kind,
    message,
)
from testbed.daemon import Daemon


@pytest.fixture
def client(daemon: Daemon) -> Iterator[ChatClient]:
    with ChatClient(daemon.chat_url(1)) as client:
        yield client


@pytest.fixture
def raw(daemon: Daemon) -> Iterator[RawClient]:
    with RawClient(daemon.port, "/chat/2") as client:
        yield client


_LONGEST = 16_384

# Name of the case: the frame, the error's code, and a word that its text must have.
NOT_A_MESSAGE: dict[str, tuple[str | bytes, str, str]] = {
    "not JSON": ("hello", "invalid_json", "JSON"),
    "half of a JSON object": ('{"userId":"1",', "invalid_json", "JSON"),
    "two JSON objects": (json.dumps(message()) * 2, "invalid_json", "JSON"),
    "NaN": (json.dumps(message()).replace('"12345"', "NaN"), "invalid_json", "JSON"),
    "empty": ("", "invalid_json", "JSON"),
    "a blank": (" ", "invalid_json", "JSON"),
    "an array": (json.dumps([message()]), "invalid_json", "object"),
    "null": ("null", "invalid_json", "object"),
    "a string": ('"hello"', "invalid_json", "object"),
    "a number": ("1e999", "invalid_json", "object"),
    "binary": (json.dumps(message()).encode(), "binary_frame", "text"),
    "binary and empty": (b"", "binary_frame", "text"),
    "10,000 nested brackets": ("[" * 10_000, "invalid_json", "JSON"),
    "8,000 nested brackets that end": ("[" * 8000 + "]" * 8000, "invalid_json", "JSON"),
    "8,000 nested brackets in an unknown field": (
        json.dumps(message()).replace("{", '{"x":' + "[" * 8000 + "]" * 8000 + ",", 1),
        "invalid_json",
        "JSON",
    ),
}

# Name of the case: what differs from a right message, the field at fault, and what its rule says.
BAD_FIELD: dict[str, tuple[dict[str, object], str, str]] = {
    "userId 0": ({"userId": "0"}, "userId", "1 to 100000"),
    "userId 000000": ({"userId": "000000"}, "userId", "1 to 100000"),
    "userId 100001": ({"userId": "100001"}, "userId", "1 to 100000"),
    "userId -1": ({"userId": "-1"}, "userId", "1 to 100000"),
    "userId integer 0": ({"userId": 0}, "userId", "1 to 100000"),
    "userId integer 100001": ({"userId": 100_001}, "userId", "1 to 100000"),
    "userId integer of 30 digits": ({"userId": 10**30}, "userId", "1 to 100000"),
    "userId fraction": ({"userId": 1.5}, "userId", "1 to 100000"),
    "userId true": ({"userId": True}, "userId", "1 to 100000"),
    "userId object": ({"userId": {}}, "userId", "1 to 100000"),
    "userId empty": ({"userId": ""}, "userId", "1 to 100000"),
    "userId letters": ({"userId": "abc"}, "userId", "1 to 100000"),
    "userId other digits": ({"userId": "\u0661\u0662"}, "userId", "1 to 100000"),
    "userId with a line end": ({"userId": "1\n"}, "userId", "1 to 100000"),
    "username of 2": ({"username": "ab"}, "username", "3-20"),
    "username of 21": ({"username": "a" * 21}, "username", "3-20"),
    "username with a blank": ({"username": "user 1"}, "username", "letters and digits"),
    "username with an accent": ({"username": "us\u00e9r"}, "username", "letters and digits"),
    "username with a line end": ({"username": "user1\n"}, "username", "letters and digits"),
    "username number": ({"username": 12345}, "username", "3-20"),
    "message empty": ({"message": ""}, "message", "1-500"),
    "message of 501 characters": ({"message": "a" * 501}, "message", "1-500"),
    "message of 501 emoji": ({"message": "🎉" * 501}, "message", "1-500"),
    "message with NUL": ({"message": "a\0b"}, "message", "NUL"),
    "message number": ({"message": 1}, "message", "1-500"),
    "message list": ({"message": ["a"]}, "message", "1-500"),
    "timestamp empty": ({"timestamp": ""}, "timestamp", "ISO-8601"),
    "timestamp words": ({"timestamp": "yesterday"}, "timestamp", "ISO-8601"),
    "timestamp without zone": ({"timestamp": "2026-11-23T10:30:00"}, "timestamp", "ISO-8601"),
    "timestamp with 10 digits": ({"timestamp": "2026-11-23T10:30:00.1234567890Z"}, "timestamp", "ISO-8601"),
    "timestamp of no day": ({"timestamp": "2026-02-30T10:30:00Z"}, "timestamp", "ISO-8601"),
    "timestamp of year 0": ({"timestamp": "0000-01-01T00:00:00Z"}, "timestamp", "ISO-8601"),
    "timestamp of hour 25": ({"timestamp": "2026-11-23T25:30:00Z"}, "timestamp", "ISO-8601"),
    "timestamp number": ({"timestamp": 1_763_893_800}, "timestamp", "ISO-8601"),
    "messageType unknown": ({"messageType": "SHOUT"}, "messageType", "TEXT, JOIN or LEAVE"),
    "messageType lower case": ({"messageType": "text"}, "messageType", "TEXT, JOIN or LEAVE"),
    "messageType number": ({"messageType": 0}, "messageType", "TEXT, JOIN or LEAVE"),
    "clientMessageId empty": ({"clientMessageId": ""}, "clientMessageId", "1-64"),
    "clientMessageId of 65": ({"clientMessageId": "a" * 65}, "clientMessageId", "1-64"),
    "clientMessageId with NUL": ({"clientMessageId": "\0"}, "clientMessageId", "NUL"),
    "clientMessageId number": ({"clientMessageId": 7}, "clientMessageId", "1-64"),
}


class TestOneErrorAndTheConnectionLivesOn:
    @pytest.mark.parametrize("name", NOT_A_MESSAGE)
    def test_what_is_no_message(self, client: ChatClient, name: str) -> None:
        frame, code, word = NOT_A_MESSAGE[name]
        error = client.error_for(frame)
        assert error["code"] == code
        assert word in error["errorMessage"]

    @pytest.mark.parametrize("name", BAD_FIELD)
    def test_a_field_that_breaks_its_rule_is_refused_with_that_rule(self, client: ChatClient, name: str) -> None:
        fields, field, rule = BAD_FIELD[name]
        error = client.error_for(json.dumps(message(**cast(dict[str, Any], fields))))
        assert (error["code"], error["field"]) == ("invalid_field", field)
        assert field in error["errorMessage"] and rule in error["errorMessage"]

    @pytest.mark.parametrize("field", ["userId", "username", "message", "timestamp", "messageType"])
    def test_a_field_that_is_missing(self, client: ChatClient, field: str) -> None:
        error = client.error_for(json.dumps(message(**cast(dict[str, Any], {field: None}))))
        assert (error["code"], error["field"]) == ("missing_field", field)
        assert field in error["errorMessage"]

    @pytest.mark.parametrize("field", ["userId", "username", "message", "timestamp", "messageType", "clientMessageId"])
    def test_a_field_that_is_null(self, client: ChatClient, field: str) -> None:
        whole = message(clientMessageId="mine")
        error = client.error_for(json.dumps({**whole, field: None}))
        assert (error["code"], error["field"]) == ("invalid_field", field)

    @pytest.mark.parametrize("surrogate", ["\\ud800", "\\udc00", "\\udfff\\ud83c", "\\ud83c x"])
    @pytest.mark.parametrize("field", ["message", "username", "clientMessageId", "unknown"])
    def test_a_lone_surrogate_is_refused(self, client: ChatClient, field: str, surrogate: str) -> None:
        frame = json.dumps({**message(), field: "RAW"}).replace("RAW", surrogate)
        assert client.error_for(frame)["status"] == "ERROR"

    def test_an_error_has_these_fields_and_never_those_of_a_broadcast(self, client: ChatClient) -> None:
        error = client.error_for(json.dumps(message(username="x", roomId="1", messageId="2")))
        assert set(error) == {"status", "code", "errorMessage", "field", "timestamp"}
        assert set(client.error_for("?")) == {"status", "code", "errorMessage", "timestamp"}
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", error["timestamp"])

    def test_each_of_many_gets_its_own_and_good_ones_between_them_are_stored(
        self, daemon: Daemon, client: ChatClient
    ) -> None:
        for number in range(100):
            client.send(f"good {number}")
            client.send_frame("bad")
        frames = client.frames_until_now()
        kinds = [kind(frame) for frame in frames]
        assert {name: kinds.count(name) for name in set(kinds)} == {"ack": 100, "broadcast": 100, "error": 100}
        assert daemon.sql("SELECT count(*) FROM messages WHERE message_text LIKE 'good %%'") == [(100,)]

    def test_only_the_sender_hears_of_it(self, daemon: Daemon, client: ChatClient) -> None:
        with ChatClient(daemon.chat_url(1)) as other:
            client.error_for("bad")
            assert [kind(frame) for frame in other.frames_until_now()] == ["broadcast"]


class TestTooLarge:
    @pytest.mark.parametrize("size", [_LONGEST + 1, 65_535, 65_536, 1_000_000], ids=str)
    def test_a_frame_is_answered_and_the_connection_lives_on(self, client: ChatClient, size: int) -> None:
        error = client.error_for("x" * size)
        assert error["code"] == "too_large"
        assert str(_LONGEST) in error["errorMessage"]

    def test_a_binary_frame_is_answered_and_the_connection_lives_on(self, client: ChatClient) -> None:
        assert client.error_for(b"x" * 1_000_000)["code"] == "too_large"

    def test_a_message_of_several_frames_is_answered_and_the_connection_lives_on(self, client: ChatClient) -> None:
        assert client.error_for(["x" * 10_000] * 2)["code"] == "too_large"
        assert client.error_for(["x" * 1000] * 1000)["code"] == "too_large"

    def test_a_message_of_very_many_empty_frames_is_answered_and_the_connection_lives_on(
        self, client: ChatClient
    ) -> None:
        assert client.error_for([""] * 5000)["code"] == "too_large"

    def test_a_frame_of_just_the_limit_is_taken(self, client: ChatClient) -> None:
        client.send_frame(json.dumps(message()).ljust(_LONGEST))
        assert client.receive_kind("ack")

    def test_a_message_of_several_frames_of_just_the_limit_is_taken(self, client: ChatClient) -> None:
        whole = json.dumps(message()).ljust(_LONGEST)
        client.send_frame([whole[:5000], whole[5000:10_000], whole[10_000:]])
        assert client.receive_kind("ack")

    def test_one_that_is_far_too_large_is_closed_with_1009_before_it_has_come(self, raw: RawClient) -> None:
        raw.send(client_frame(TEXT, claimed_bytes=1 << 62))
        assert raw.receive_close() == 1009

    def test_many_frames_that_are_far_too_large_together_are_closed_with_1009(self, raw: RawClient) -> None:
        raw.send(client_frame(TEXT, b"x" * 1_000_000, fin=False))
        for _ in range(4):
            raw.send(client_frame(CONTINUATION, b"x" * 1_000_000, fin=False))
        assert raw.receive_close() == 1009


# Name of the case: the bytes, and the close code that RFC 6455 has for them.
BROKEN: dict[str, tuple[bytes, int]] = {
    "text that is not UTF-8": (client_frame(TEXT, b"\xff"), 1007),
    "text with an overlong encoding": (client_frame(TEXT, b'{"a":"\xc0\x80"}'), 1007),
    "text with an encoded surrogate": (client_frame(TEXT, b'{"a":"\xed\xa0\x80"}'), 1007),
    "text that ends within a character": (client_frame(TEXT, "☃".encode()[:2]), 1007),
    "fragments that are not UTF-8": (
        client_frame(TEXT, b"\xf0\x9f", fin=False) + client_frame(CONTINUATION, b"\xff"),
        1007,
    ),
    "an unmasked text frame": (client_frame(TEXT, b"{}", masked=False), 1002),
    "an unmasked long frame": (client_frame(TEXT, b"x" * 300, masked=False), 1002),
    "an unmasked ping": (client_frame(PING, masked=False), 1002),
    "an unmasked huge frame": (client_frame(TEXT, masked=False, claimed_bytes=1 << 62), 1002),
    "a length with the highest bit": (b"\x81\xff" + b"\xff" * 8 + b"\0" * 4, 1002),
    "a short length written long": (b"\x81\xfe\x00\x05" + b"\0" * 9, 1002),
    "a short length written very long": (b"\x81\xff" + (5).to_bytes(8, "big") + b"\0" * 9, 1002),
    "a reserved bit": (b"\xc1\x80" + b"\0" * 4, 1002),
    "a reserved opcode": (client_frame(0x3, b"x"), 1002),
    "a reserved control opcode": (client_frame(0xB, b"x"), 1002),
    "a ping of 126 bytes": (client_frame(PING, b"x" * 126), 1002),
    "a ping in fragments": (client_frame(PING, b"x", fin=False), 1002),
    "a continuation of nothing": (client_frame(CONTINUATION, b"x"), 1002),
    "a new message within a fragmented one": (
        client_frame(TEXT, b"{", fin=False) + client_frame(TEXT, b"{}"),
        1002,
    ),
}

BROKEN_CLOSE: dict[str, bytes] = {
    "one byte": client_frame(CLOSE, b"\x03"),
    "a code that is not for the wire": client_frame(CLOSE, b"\x03\xed"),
    "a reason that is not UTF-8": client_frame(CLOSE, b"\x03\xe8\xff"),
}


class TestBrokenFrames:
    """What RFC 6455 lets no connection live on after: the close frame with its code, and the end."""

    @pytest.mark.parametrize("name", BROKEN)
    def test_it_is_closed_with_the_code_of_its_fault(self, raw: RawClient, name: str) -> None:
        data, code = BROKEN[name]
        raw.send(data)
        assert raw.receive_close() == code
        raw.send(client_frame(CLOSE, code.to_bytes(2, "big")))
        raw.wait_end()

    @pytest.mark.parametrize("name", BROKEN_CLOSE)
    def test_a_broken_close_frame_is_the_end(self, raw: RawClient, name: str) -> None:
        raw.send(BROKEN_CLOSE[name])
        raw.wait_end()

    def test_messages_before_it_in_the_same_segment_are_stored(self, daemon: Daemon, raw: RawClient) -> None:
        good = client_frame(TEXT, json.dumps(message("just before")).encode())
        with ChatClient(daemon.chat_url(2)) as witness:
            raw.send(good + client_frame(TEXT, b"\xff") + good)
            assert raw.receive_close() == 1007
            assert witness.receive()["message"] == "just before"
            assert witness.frames_until_now() == []

    def test_others_do_not_notice(self, daemon: Daemon) -> None:
        with ChatClient(daemon.chat_url(3)) as witness:
            for data, _ in BROKEN.values():
                with RawClient(daemon.port, "/chat/3") as client:
                    client.send(data)
                    client.receive_close()
            for data in BROKEN_CLOSE.values():
                with RawClient(daemon.port, "/chat/3") as client:
                    client.send(data)
                    client.wait_end()
            assert witness.frames_until_now() == []

    def test_binary_in_fragments_is_refused_as_one(self, raw: RawClient) -> None:
        raw.send(client_frame(BINARY, b"\xff\xfe", fin=False) + client_frame(CONTINUATION, b"\xff"))
        assert json.loads(raw.receive().payload)["code"] == "binary_frame"
        raw.send_message("lives on")
        assert json.loads(raw.receive().payload)


def test_nothing_of_all_this_is_logged_as_a_failure(daemon: Daemon) -> None:
    assert daemon.errors() == ""
    assert "Traceback" not in daemon.output()
    assert "#error]" not in daemon.output() and "#critical]" not in daemon.output()


def test_no_message_body_is_in_the_log(daemon: Daemon) -> None:
    with ChatClient(daemon.chat_url(4)) as client:
        client.send("a secret between us")
        client.frames_until_now()
        client.error_for("a secret that is not JSON")
        client.error_for(json.dumps(message("a secret", username="a secret name")))
    assert "secret" not in daemon.output()
