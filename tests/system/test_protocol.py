"""The wire protocol of well-behaved clients, the reference's among them."""

from __future__ import annotations

import json
import random
import re
import uuid
from datetime import UTC, datetime, timedelta

import pytest

from testbed.client import (
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    ChatClient,
    Frame,
    RawClient,
    client_frame,
    kind,
    message,
)
from testbed.daemon import Daemon

_TIMESTAMP = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z"

DAEMON_OPTIONS = ("--rooms", "1000")


def acks(frames: list[Frame]) -> list[Frame]:
    return [frame for frame in frames if kind(frame) == "ack"]


def broadcasts(frames: list[Frame]) -> list[Frame]:
    return [frame for frame in frames if kind(frame) == "broadcast"]


class TestAcknowledgement:
    def test_it_has_exactly_these_fields_and_the_message_as_it_was_sent(self, daemon: Daemon, room: int) -> None:
        with ChatClient(daemon.chat_url(room)) as client:
            client.send("Hello")
            ack = client.receive_kind("ack")
        assert set(ack) == {"status", "messageId", "timestamp", "originalMessage"}
        assert ack["status"] == "SUCCESS"
        assert uuid.UUID(ack["messageId"]).version == 7
        assert re.fullmatch(_TIMESTAMP, ack["timestamp"])
        assert abs(datetime.fromisoformat(ack["timestamp"]) - datetime.now(UTC)) < timedelta(minutes=1)
        assert ack["originalMessage"] == message("Hello")

    def test_its_id_is_that_of_the_broadcast_and_of_the_stored_row(self, daemon: Daemon, room: int) -> None:
        with ChatClient(daemon.chat_url(room)) as client:
            client.send("one id", userId="77", messageType="JOIN", clientMessageId="mine-1")
            frames = client.frames_until_now()
        (ack,), (broadcast,) = acks(frames), broadcasts(frames)
        assert broadcast["messageId"] == ack["messageId"]
        assert broadcast["timestamp"] == ack["timestamp"]
        ((row),) = daemon.sql(
            "SELECT room_id, seq, user_id, username, message_text, message_type, host(client_ip), client_message_id,"
            " server_id, created_at, client_timestamp FROM messages WHERE message_id = %s",
            ack["messageId"],
        )
        assert row == (
            *(room, broadcast["seq"], 77, "user12345", "one id", "JOIN", "127.0.0.1", "mine-1"),
            *(broadcast["serverId"], datetime.fromisoformat(ack["timestamp"])),
            datetime(2026, 11, 23, 10, 30, 0, 123457, UTC),
        )

    def test_a_message_is_stored_when_its_ack_and_its_broadcast_come(self, daemon: Daemon, room: int) -> None:
        with ChatClient(daemon.chat_url(room)) as client:
            for _ in range(20):
                client.send()
                first = client.receive()
                assert daemon.sql("SELECT 1 FROM messages WHERE message_id = %s", first["messageId"])
                client.receive()

    def test_a_user_id_that_was_a_number_stays_one(self, daemon: Daemon, room: int) -> None:
        with ChatClient(daemon.chat_url(room)) as client:
            client.send(userId=9)
            frames = client.frames_until_now()
        assert acks(frames)[0]["originalMessage"]["userId"] == 9
        assert broadcasts(frames)[0]["userId"] == "9"


class TestBroadcast:
    def test_it_has_exactly_these_fields(self, daemon: Daemon, room: int) -> None:
        with ChatClient(daemon.chat_url(room)) as client:
            client.send("Hello", userId="42", username="abc", messageType="LEAVE")
            broadcast = client.receive_kind("broadcast")
        assert re.fullmatch(_TIMESTAMP, broadcast.pop("timestamp"))
        uuid.UUID(broadcast.pop("messageId"))
        assert broadcast == {
            "roomId": str(room),
            "seq": 1,
            "userId": "42",
            "username": "abc",
            "message": "Hello",
            "messageType": "LEAVE",
            "serverId": daemon.get("/health").json()["serverId"],
        }

    @pytest.mark.parametrize(
        "text",
        ["ünïcödé ☃", "🎉" * 500, 'quote " backslash \\ slash /', "tab\tline\nreturn\r\\N \\.", "\x01\x1f\x7f\u2028"],
        ids=["accents", "500 emoji", "quotes", "what COPY escapes", "control characters"],
    )
    def test_any_text_arrives_and_is_stored_as_it_was_sent(self, daemon: Daemon, room: int, text: str) -> None:
        with ChatClient(daemon.chat_url(room)) as client:
            client.send(text)
            broadcast = client.receive_kind("broadcast")
        assert broadcast["message"] == text
        assert daemon.sql("SELECT message_text FROM messages WHERE message_id = %s", broadcast["messageId"]) == [
            (text,)
        ]

    def test_everybody_in_the_room_gets_everything_in_one_order_without_holes(self, daemon: Daemon, room: int) -> None:
        each = 200
        url = daemon.chat_url(room)
        with ChatClient(url) as one, ChatClient(url) as two, ChatClient(url) as listener:
            for number in range(each):
                one.send(f"one {number}")
                two.send(f"two {number}")
            got_one = [one.receive() for _ in range(3 * each)]
            got_two = [two.receive() for _ in range(3 * each)]
            got_listener = [listener.receive() for _ in range(2 * each)]
            assert listener.frames_until_now() == []
        assert len(acks(got_one)) == len(acks(got_two)) == each
        assert acks(got_listener) == []
        assert [frame["seq"] for frame in got_listener] == list(range(1, 2 * each + 1))
        assert broadcasts(got_one) == broadcasts(got_two) == got_listener
        for name in ("one", "two"):
            texts = [frame["message"] for frame in got_listener if frame["message"].startswith(name)]
            assert texts == [f"{name} {number}" for number in range(each)], "a connection's own order is kept"

    def test_other_rooms_hear_nothing(self, daemon: Daemon, room: int) -> None:
        other = room + 500
        with ChatClient(daemon.chat_url(room)) as client, ChatClient(daemon.chat_url(other)) as elsewhere:
            client.send("for this room")
            client.receive_kind("ack")
            assert elsewhere.frames_until_now() == []

    def test_who_joins_later_hears_what_is_said_from_then_on(self, daemon: Daemon, room: int) -> None:
        with ChatClient(daemon.chat_url(room)) as early:
            early.send("before")
            early.receive_kind("ack")
            with ChatClient(daemon.chat_url(room)) as late:
                early.send("after")
                assert late.receive()["message"] == "after"

    def test_no_frame_comes_that_the_client_did_not_ask_for(self, daemon: Daemon, room: int) -> None:
        with ChatClient(daemon.chat_url(room)) as client:
            assert client.frames_until_now() == []


@pytest.mark.parametrize(
    "timestamp",
    [
        *("0001-01-01T00:00:00Z", "0001-01-01T00:00:00.000000001+15:59", "9999-12-31T23:59:59.999999999-15:59"),
        *("2024-02-29T23:59:59.9Z", "2026-11-23T00:00:00-00:00", "1969-12-31T23:59:59.999999999Z"),
    ],
)
def test_every_timestamp_that_is_taken_can_be_stored(daemon: Daemon, room: int, timestamp: str) -> None:
    with ChatClient(daemon.chat_url(room)) as client:
        client.send(timestamp=timestamp)
        assert client.receive_kind("ack")["originalMessage"]["timestamp"] == timestamp
    assert daemon.sql("SELECT count(client_timestamp) FROM messages WHERE room_id = %s", room) == [(1,)]


class TestTheReferencesClient:
    """What ``facts-reference`` saw the reference's load client do."""

    def test_500_messages_of_500_users_in_a_window_of_50_are_acknowledged_once_each(
        self, daemon: Daemon, room: int
    ) -> None:
        total, window = 500, 50
        chance = random.Random(1)
        sent: list[str] = []
        got: list[Frame] = []
        with ChatClient(daemon.chat_url(room)) as client:

            def send() -> None:
                text = f"message {len(sent)}"
                user = chance.randint(1, 100_000)
                kind_of = chance.choices(["TEXT", "JOIN", "LEAVE"], [90, 5, 5])[0]
                fraction = chance.choice(["", ".421", ".421440", ".421440832"])
                client.send(
                    text,
                    queuedMessage=kind_of == "TEXT",
                    synchronousMessage=kind_of != "TEXT",
                    userId=str(user),
                    username=f"user{user}",
                    messageType=kind_of,
                    timestamp=f"2026-11-23T17:50:19{fraction}Z",
                )
                sent.append(text)

            for _ in range(window):
                send()
            while len(acks(got)) < total:
                got.append(client.receive())
                if kind(got[-1]) == "ack" and len(sent) < total:
                    send()
            got += client.frames_until_now()
        assert [ack["originalMessage"]["message"] for ack in acks(got)] == sent
        assert [frame["message"] for frame in broadcasts(got)] == sent
        assert [frame["seq"] for frame in broadcasts(got)] == list(range(1, total + 1))
        assert len(got) == 2 * total
        stored = daemon.sql(
            "SELECT message_id::text FROM messages WHERE room_id = %s ORDER BY seq LIMIT %s", room, total
        )
        assert [row[0] for row in stored] == [frame["messageId"] for frame in broadcasts(got)]
        assert {ack["messageId"] for ack in acks(got)} == {row[0] for row in stored}

    @pytest.mark.parametrize("fields", ["unknown", "another order"])
    def test_unknown_fields_and_any_order_of_fields_are_taken(self, daemon: Daemon, room: int, fields: str) -> None:
        whole = message()
        if fields == "unknown":
            whole |= {"queuedMessage": True, "synchronousMessage": False, "nested": {"userId": [1, {}]}}
        else:
            whole = dict(reversed(whole.items()))
        with ChatClient(daemon.chat_url(room)) as client:
            client.send_frame(json.dumps(whole))
            assert client.receive_kind("ack")["originalMessage"] == message()

    def test_leave_ends_neither_the_connection_nor_its_broadcasts(self, daemon: Daemon, room: int) -> None:
        with ChatClient(daemon.chat_url(room)) as client, ChatClient(daemon.chat_url(room)) as other:
            client.send("bye", messageType="LEAVE")
            assert len(acks(client.frames_until_now())) == 1
            other.send("still there?")
            assert client.receive()["message"] == "still there?"

    def test_the_handshake_needs_neither_origin_nor_subprotocol(self, daemon: Daemon, room: int) -> None:
        with RawClient(daemon.port, f"/chat/{room}") as client:
            assert client.answer.status == 101
            assert not {"sec-websocket-protocol", "sec-websocket-extensions"} & set(client.answer.headers)

    def test_compression_that_a_client_offers_is_not_taken(self, daemon: Daemon, room: int) -> None:
        with ChatClient(daemon.chat_url(room), compression="deflate") as client:
            client.send()
            client.receive_kind("ack")
            assert client.socket.protocol.extensions == []

    def test_its_ping_is_answered_with_the_same_bytes(self, daemon: Daemon, room: int) -> None:
        with RawClient(daemon.port, f"/chat/{room}") as client:
            for payload in (b"", b"sixty seconds", bytes(range(125))):
                client.send(client_frame(PING, payload))
                assert client.receive() == (0x80 | PONG, payload)

    def test_a_ping_between_the_fragments_of_a_message_is_answered(self, daemon: Daemon, room: int) -> None:
        data = json.dumps(message("in two")).encode()
        with RawClient(daemon.port, f"/chat/{room}") as client:
            client.send(client_frame(TEXT, data[:20], fin=False) + client_frame(PING, b"now"))
            assert client.receive() == (0x80 | PONG, b"now")
            client.send(client_frame(CONTINUATION, data[20:]))
            frames = [json.loads(client.receive().payload) for _ in range(2)]
        assert {kind(frame) for frame in frames} == {"ack", "broadcast"}


class TestFraming:
    """Encodings of the same messages that a client may choose (RFC 6455, 5.2 and 5.4)."""

    def test_messages_in_one_segment_and_a_byte_at_a_time_are_the_same(self, daemon: Daemon, room: int) -> None:
        def frame(text: str) -> bytes:
            return client_frame(TEXT, json.dumps(message(text)).encode())

        with RawClient(daemon.port, f"/chat/{room}") as client:
            client.send(frame("first") + frame("second") + frame("third")[:7])
            for byte in frame("third")[7:] + frame("fourth"):
                client.send(bytes([byte]))
            got = [json.loads(client.receive().payload) for _ in range(8)]
        assert [each["message"] for each in broadcasts(got)] == ["first", "second", "third", "fourth"]
        assert len(acks(got)) == 4

    @pytest.mark.parametrize("pieces", [2, 7, 500])
    def test_a_fragmented_message_is_one_message(self, daemon: Daemon, room: int, pieces: int) -> None:
        text = json.dumps(message("in pieces ☃" * 20), ensure_ascii=False)
        size = -(-len(text) // pieces)
        with ChatClient(daemon.chat_url(room)) as client:
            client.send_frame([text[begin : begin + size] for begin in range(0, len(text), size)])
            assert client.receive_kind("broadcast")["message"] == "in pieces ☃" * 20

    def test_whitespace_and_escapes_of_json_do_not_matter(self, daemon: Daemon, room: int) -> None:
        with ChatClient(daemon.chat_url(room)) as client:
            client.send_frame("\r\n\t " + json.dumps(message("☃🎉"), indent=3, ensure_ascii=True) + " \n")
            assert client.receive_kind("broadcast")["message"] == "☃🎉"
