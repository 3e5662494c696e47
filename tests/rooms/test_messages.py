"""What a client may send, what it is told when it sends something else, and what it is sent."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from chatflow.contracts.messages import ClientMessage, Message, StoredMessage
from chatflow.errors import Refused
from chatflow.rooms.messages import (
    acknowledgement,
    broadcast,
    decode,
    decode_checked,
    encode_error,
    iso_timestamp,
    parse_room,
)
from tests.support.chat import NOW_US, legal_frames, legal_messages, make_message

encode = msgspec.json.encode

FRAME = {
    "userId": "12345",
    "username": "user12345",
    "message": "Hello",
    "timestamp": "2026-11-23T10:30:00.123456789Z",
    "messageType": "TEXT",
}

#: What a client is told of a field that breaks its rule; documented, so tested to the letter.
RULES = {
    "userId": "userId must be a string or integer of digits from 1 to 100000",
    "username": "username must be 3-20 characters, letters and digits",
    "message": "message must be 1-500 characters, without NUL",
    "timestamp": "timestamp must be ISO-8601 with a zone, such as 2026-11-23T10:30:00.123Z",
    "messageType": "messageType must be TEXT, JOIN or LEAVE",
    "clientMessageId": "clientMessageId must be 1-64 characters, without NUL",
}

GOOD: dict[str, list[Any]] = {
    "userId": ["1", "100000", "00042", 1, 100_000],
    "username": ["abc", "ABCdef0123456789zzzz", "123"],
    "message": ["x", " ", "x" * 500, "😀" * 500, "\u0001\u001b\u2028\ufeff\uffff", '"\\/\b\f\n\r\t'],
    "timestamp": [
        "2026-11-23T10:30:00Z",
        "2026-11-23T10:30:00.1Z",
        "2026-11-23T10:30:00.123456789Z",
        "2026-11-23T10:30:00+05:30",
        "2026-11-23T10:30:00.5-15:59",
        "2026-11-23T10:30:00-00:00",
        "2024-02-29T23:59:59Z",
        "0001-01-01T00:00:00+15:59",
        "9999-12-31T23:59:59.999999999-15:59",
    ],
    "messageType": ["TEXT", "JOIN", "LEAVE"],
    "clientMessageId": ["x", "x" * 64, "😀" * 64],
}

OTHER_TYPES: list[Any] = [None, True, 1.5, [], ["TEXT"], {}, {"userId": "1"}]

BAD: dict[str, list[Any]] = {
    "userId": [
        *[0, 100_001, -1, 1.0],
        *["0", "100001", "000000", "1234567", "", "-1", "+1", " 1", "1 ", "1\n", "1e3", "0x1", "one", "１２", "٣"],
        *OTHER_TYPES,
    ],
    "username": ["", "ab", "a" * 21, "a b", "abc\n", "abc\0", "émile", "ａｂｃ", "a_b", "a-b", 123, *OTHER_TYPES],
    "message": ["", "x" * 501, "😀" * 501, "\0", "a\0b", 5, *OTHER_TYPES],
    "timestamp": [
        "",
        "yesterday",
        "2026-11-23",
        "2026-11-23T10:30Z",
        "2026-11-23T10:30:00",  # no zone
        "2026-11-23T10:30:00.123",
        "2026-11-23 10:30:00Z",
        "2026-11-23t10:30:00z",
        "2026-11-23T10:30:00.Z",
        "2026-11-23T10:30:00,5Z",
        "2026-11-23T10:30:00.1234567890Z",  # 10 fraction digits
        "2026-13-23T10:30:00Z",
        "2026-00-23T10:30:00Z",
        "2026-02-30T10:30:00Z",
        "2025-02-29T10:30:00Z",
        "0000-01-01T00:00:00Z",
        "10000-01-01T00:00:00Z",
        "-2026-11-23T10:30:00Z",
        "2026-11-23T24:00:00Z",
        "2026-11-23T10:60:00Z",
        "2026-11-23T10:30:60Z",
        "2026-11-23T10:30:00+16:00",
        "2026-11-23T10:30:00+05:60",
        "2026-11-23T10:30:00+0530",
        "2026-11-23T10:30:00+05",
        "2026-11-23T10:30:00Z+01:00",
        "2026-11-23T10:30:00 UTC",
        "2026-11-23T10:30:00Z\n",
        " 2026-11-23T10:30:00Z",
        "2026-W47-1T10:30:00Z",
        "٢٠٢٦-11-23T10:30:00Z",  # digits, but not of ASCII: PostgreSQL would refuse the whole envelope
        "2026-11-23T10:30:00.123456٣Z",
        "2026-11-23T10:30:00.٣Z",
        "2026-11-23T10:30:00+0٣:00",
        1795429800,
        *OTHER_TYPES,
    ],
    "messageType": ["", "text", "TEXT ", "ERROR", 0, *OTHER_TYPES],
    "clientMessageId": ["", "x" * 65, "😀" * 65, "a\0", 5, *OTHER_TYPES],
}


def cases(table: dict[str, list[Any]]) -> list[Any]:
    return [
        pytest.param(field, value, id=f"{field}-{ascii(value)[:40]}")
        for field, values in table.items()
        for value in values
    ]


def frame(**fields: Any) -> bytes:
    return json.dumps(FRAME | fields).encode()


def refusal(payload: bytes) -> tuple[str, str | None, str]:
    """Code, field and text of the error."""
    refusals = []
    for way in (decode, decode_checked):
        with pytest.raises(Refused) as caught:
            way(payload)
        refusals.append((caught.value.code, caught.value.field, str(caught.value)))
    assert refusals[0] == refusals[1], "the shorter way takes and refuses the same"
    return refusals[0]


class TestFields:
    @pytest.mark.parametrize(("field", "value"), cases(GOOD))
    def test_what_keeps_its_rule_is_taken_as_it_is(self, field: str, value: Any) -> None:
        assert [getattr(way(frame(**{field: value})), field) for way in (decode, decode_checked)] == [value, value]

    @pytest.mark.parametrize(("field", "value"), cases(BAD))
    def test_what_breaks_its_rule_is_refused_with_field_and_rule(self, field: str, value: Any) -> None:
        assert refusal(frame(**{field: value})) == ("invalid_field", field, RULES[field])

    @pytest.mark.parametrize("field", FRAME)
    def test_a_missing_field_is_named(self, field: str) -> None:
        payload = json.dumps({name: value for name, value in FRAME.items() if name != field}).encode()
        assert refusal(payload) == ("missing_field", field, f"{field} is missing: {RULES[field]}")

    def test_an_integer_of_thousands_of_digits_is_no_user(self) -> None:
        payload = frame().replace(b'"12345"', b"1" * 5000)
        assert refusal(payload) == ("invalid_field", "userId", RULES["userId"])

    def test_the_clients_own_id_may_be_left_out(self) -> None:
        assert not decode(frame()).clientMessageId

    def test_unknown_fields_are_ignored(self) -> None:
        assert decode(frame(roomId="9", queuedMessage=True, nested={"a": [1, {}]}, huge=10**4000)) == decode(frame())

    def test_the_last_of_a_repeated_field_counts(self) -> None:
        assert decode(frame()[:-1] + b',"message":"second"}').message == "second"

    @pytest.mark.parametrize("surrogate", [r"\ud800", r"\udfff", r"\udc00\ud800", r"\ud800\ud800", r"a\ud800b"])
    def test_a_lone_surrogate_is_refused(self, surrogate: str) -> None:
        payload = frame().replace(b"Hello", surrogate.encode())
        assert refusal(payload) == ("invalid_json", None, "the frame must be one JSON object in UTF-8")

    def test_a_pair_of_surrogates_is_one_character(self) -> None:
        assert decode(frame().replace(b"Hello", rb"\ud83d\ude00")).message == "😀"


class TestFrames:
    @pytest.mark.parametrize("payload", [b"[]", b'[{"userId":"1"}]', b'"text"', b"1", b"null", b"true", b"[" * 10_000])
    def test_json_that_is_no_object_is_refused(self, payload: bytes) -> None:
        assert refusal(payload) == ("invalid_json", None, "the frame must be one JSON object")

    @pytest.mark.parametrize(
        "payload",
        [
            pytest.param(payload, id=ascii(payload)[:40])
            for payload in [
                b"",
                b" \n",
                b"Hello",
                b"{",
                b"}",
                b"{'userId':1}",
                frame()[:-1],
                frame() + b"{}",
                frame() + b"\0",
                b"\xef\xbb\xbf" + frame(),  # RFC 8259 8.1: no byte order mark
                frame().decode().encode("utf-16"),
                frame().replace(b"Hello", b"\xff"),
                frame().replace(b"Hello", b"\xed\xa0\x80"),  # a surrogate in UTF-8
                frame().replace(b"Hello", b"\xc0\x80"),  # NUL, too long
                frame().replace(b"Hello", b"a\nb"),
                frame().replace(b"Hello", b"\0"),
                frame().replace(b"Hello", rb"\x41"),
                frame().replace(b'"12345"', b"NaN"),
                b'{"x":' * 10_000,
            ]
        ],
    )
    def test_what_is_no_json_in_utf_8_is_refused(self, payload: bytes) -> None:
        assert refusal(payload) == ("invalid_json", None, "the frame must be one JSON object in UTF-8")

    @pytest.mark.parametrize("field", FRAME)
    @pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"x":', b"}")])
    def test_ten_thousand_brackets_in_a_field_break_its_rule(self, field: str, opening: bytes, closing: bytes) -> None:
        nested = opening * 10_000 + (b"1" if closing == b"}" else b"") + closing * 10_000
        payload = frame().replace(json.dumps(FRAME[field]).encode(), nested, 1)
        assert refusal(payload) == ("invalid_field", field, RULES[field])

    @pytest.mark.parametrize("place", ["first", "last"])
    def test_ten_thousand_brackets_in_an_unknown_field_are_refused(self, place: str) -> None:
        nested = b'"x":' + b"[" * 10_000 + b"]" * 10_000
        payload = b"{" + nested + b"," + frame()[1:] if place == "first" else frame()[:-1] + b"," + nested + b"}"
        assert refusal(payload) == ("invalid_json", None, "the frame must be one JSON object in UTF-8")


class TestAnyBytes:
    @given(st.binary())
    def test_the_decoder_raises_nothing_but_its_own_error(self, payload: bytes) -> None:
        decode_or_refuse(payload)

    @given(legal_frames(), st.data())
    def test_nor_does_it_on_what_is_nearly_a_message(self, fields: dict[str, Any], data: st.DataObject) -> None:
        payload = bytearray(json.dumps(fields, ensure_ascii=data.draw(st.booleans())).encode())
        for _ in range(data.draw(st.integers(1, 4))):
            start = data.draw(st.integers(0, len(payload)))
            end = start + data.draw(st.integers(0, 3))
            payload[start:end] = data.draw(st.binary(max_size=4))
        decode_or_refuse(bytes(payload))

    @given(
        st.dictionaries(
            st.sampled_from([*RULES, "other"]),
            st.recursive(
                st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
                lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
                max_leaves=20,  # of each field; with more most of the time goes into drawing them
            ),
        )
    )
    def test_nor_does_it_on_any_json(self, fields: dict[str, Any]) -> None:
        decode_or_refuse(json.dumps(FRAME | fields).encode())

    @given(legal_frames())
    def test_the_shorter_way_takes_every_legal_frame_as_the_longer_one_does(self, fields: dict[str, Any]) -> None:
        payload = json.dumps(fields).encode()
        assert json_of(decode(payload)) == json_of(decode_checked(payload))

    @pytest.mark.parametrize("stamp", ["2024-02-29T23:59:59Z", "2026-04-30T00:00:00.1-00:00", "2026-01-31T23:00:00Z"])
    def test_it_takes_what_it_is_not_certain_of_by_the_longer_one(self, stamp: str) -> None:
        assert decode(frame(timestamp=stamp)).timestamp == stamp


def json_of(message: ClientMessage) -> Any:
    return json.loads(msgspec.json.encode(message))


def decode_or_refuse(payload: bytes) -> None:
    try:
        message = decode(payload)
    except Refused as refused:
        assert refusal(payload) == (refused.code, refused.field, str(refused))
        told = json.loads(encode_error(refused, NOW_US))
        assert told["code"] in {"invalid_json", "missing_field", "invalid_field"}
        assert (told.get("field") in RULES) == (told["code"] != "invalid_json")
    else:
        assert json_of(decode_checked(payload)) == json_of(message)


def kind(payload: bytes) -> str:
    """What a frame is to the reference's client; it counts anything else as an error."""
    answer = json.loads(payload)
    if answer.get("status") == "SUCCESS":
        return "ack"
    return "broadcast" if "messageId" in answer and "roomId" in answer else "error"


ADDRESS = "2001:db8::dead:beef"


class TestAnswers:
    @given(legal_frames(), st.booleans())
    def test_every_legal_frame_comes_back_in_ack_and_broadcast(self, fields: dict[str, Any], ascii_only: bool) -> None:
        original = decode(json.dumps(fields, ensure_ascii=ascii_only).encode())
        message = make_message(
            original.message,
            user_id=int(original.userId),
            username=original.username,
            message_type=original.messageType,
            client_timestamp=original.timestamp,
            client_ip=ADDRESS,
            client_message_id=original.clientMessageId or None,
        )

        ack = encode(acknowledgement(message, original))
        assert kind(ack) == "ack"
        assert json.loads(ack) == {
            "status": "SUCCESS",
            "messageId": message.message_id,
            "timestamp": "2026-11-23T10:30:00.123456Z",
            "originalMessage": {name: value for name, value in fields.items() if name in RULES},
        }
        sent = encode(broadcast(StoredMessage(7, 42, "s1", message)))
        assert kind(sent) == "broadcast"
        assert json.loads(sent) == {
            "messageId": message.message_id,
            "roomId": "7",
            "seq": 42,
            "userId": str(int(fields["userId"])),
            "username": fields["username"],
            "message": fields["message"],
            "timestamp": "2026-11-23T10:30:00.123456Z",
            "messageType": fields["messageType"],
            "serverId": "s1",
        }

    @given(legal_messages())
    def test_the_clients_address_is_never_sent(self, message: Message) -> None:
        known = msgspec.structs.replace(message, client_ip=ADDRESS)
        original = ClientMessage("1", message.username, message.text, message.client_timestamp, message.message_type)
        for payload in (
            encode(acknowledgement(known, original)),
            encode(broadcast(StoredMessage(1, 1, "s1", known))),
        ):
            assert ADDRESS.encode() not in payload

    @given(st.text(st.characters(exclude_categories=["Cs"])), st.none() | st.sampled_from(list(RULES)))
    @example("the frame must be one JSON object", None)
    def test_an_error_is_neither_ack_nor_broadcast(self, text: str, field: str | None) -> None:
        payload = encode_error(Refused("some_code", text, field), NOW_US)  # type: ignore[arg-type]
        assert kind(payload) == "error"
        expected = {
            "status": "ERROR",
            "code": "some_code",
            "errorMessage": text,
            "timestamp": "2026-11-23T10:30:00.123456Z",
        }
        assert json.loads(payload) == expected | ({"field": field} if field else {})


class TestTimes:
    @given(st.lists(st.datetimes(min_value=datetime(1970, 1, 1)), min_size=1))
    def test_a_time_is_written_to_the_microsecond_whatever_was_written_before(self, moments: list[datetime]) -> None:
        for moment in moments:
            since = moment - datetime(1970, 1, 1)
            microseconds = (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
            written = iso_timestamp(microseconds)
            assert len(written) == len("2026-11-23T10:30:00.123456Z")
            assert datetime.fromisoformat(written) == moment.replace(tzinfo=UTC)


class TestRooms:
    def test_rooms_are_named_by_their_plain_number(self) -> None:
        assert [parse_room(str(room), 20) for room in range(1, 21)] == list(range(1, 21))

    @pytest.mark.parametrize(
        "text", ["", "0", "21", "01", "+1", "-1", "1 ", " 1", "1.0", "1e0", "0x1", "one", "１", "²", "1\n", "9" * 5000]
    )
    def test_no_other_text_names_a_room(self, text: str) -> None:
        assert parse_room(text, 20) is None
