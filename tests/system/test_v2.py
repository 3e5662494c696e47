"""The subprotocol chatflow.v2: what a client that asks for it is told besides, and nobody else."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from testbed.client import ChatClient, Frame
from testbed.daemon import Daemon, running_daemon

DAEMON_OPTIONS = ("--rooms", "1000")


@contextlib.contextmanager
def connected(url: str, query: str = "") -> Iterator[ChatClient]:
    with ChatClient(f"{url}{query}", subprotocols=[Subprotocol("chatflow.v2")]) as client:
        assert client.socket.subprotocol == "chatflow.v2"
        yield client


def frames(client: ChatClient, count: int) -> list[Frame]:
    return [json.loads(client.socket.recv(20)) for _ in range(count)]


def until(client: ChatClient, kind: str) -> list[Frame]:
    """Frames up to the first of a kind."""
    seen: list[Frame] = []
    while not seen or seen[-1].get("type") != kind:
        seen.append(json.loads(client.socket.recv(20)))
    return seen


def kinds(seen: list[Frame]) -> list[str]:
    return [frame.get("type") or frame.get("status") or "broadcast" for frame in seen]


def test_the_welcome_comes_first_and_tells_the_room_and_the_limits(daemon: Daemon, room: int) -> None:
    with connected(daemon.chat_url(room)) as client:
        client.send("1")
        first, *others = frames(client, 4)
        assert first == {
            "type": "welcome",
            "roomId": str(room),
            "head": 0,
            "first": 1,
            "serverId": first["serverId"],
            "pingIntervalSeconds": 20.0,
            "heartbeatSeconds": 10.0,
            "limits": {
                "maxFrameBytes": 16384,
                "maxPendingMessages": 500,
                "maxMessageCharacters": 500,
                "maxLast": 1000,
            },
        }
        assert sorted(kinds(others)) == ["SUCCESS", "broadcast", "stored"]


def test_a_sender_is_told_the_place_of_its_message_after_the_acknowledgement(daemon: Daemon, room: int) -> None:
    with connected(daemon.chat_url(room)) as client:
        client.send("1", clientMessageId="mine")
        seen = until(client, "stored")
        ack = next(frame for frame in seen if frame.get("status"))
        assert seen[-1] == {
            "type": "stored", "messageId": ack["messageId"], "seq": 1, "clientMessageId": "mine",
        }  # fmt: skip
        client.send("2")
        assert until(client, "stored")[-1]["seq"] == 2
        client.send("1", clientMessageId="mine")
        repeated = until(client, "stored")
        assert kinds(repeated) == ["SUCCESS", "stored"], "it is not delivered again"
        assert repeated[-1]["seq"] == 1


def test_nobody_else_is_told_anything(daemon: Daemon, room: int) -> None:
    with connected(daemon.chat_url(room)) as client, ChatClient(daemon.chat_url(room)) as plain:
        assert plain.socket.subprotocol is None
        client.send("1")
        until(client, "stored")
        plain.send("2")
        assert [kind for kind in kinds(plain.frames_until_now()) if kind not in {"SUCCESS", "broadcast", "ERROR"}] == []


def test_an_unknown_subprotocol_is_not_chosen(daemon: Daemon, room: int) -> None:
    with ChatClient(daemon.chat_url(room), subprotocols=[Subprotocol("chatflow.v9")]) as client:
        assert client.socket.subprotocol is None


def test_a_resume_is_announced_and_history_comes_before_what_is_live(daemon: Daemon, room: int) -> None:
    url = daemon.chat_url(room)
    with ChatClient(url) as talker:
        talker.talk(map(str, range(5)))
        with connected(url, "?since=2") as client:
            seen = frames(client, 5)
            assert kinds(seen) == ["welcome", "resumed", *["broadcast"] * 3]
            assert seen[1] == {"type": "resumed", "from": 3, "to": 5, "count": 3}
            talker.send("live")
            assert [frame["seq"] for frame in [*seen[2:], *frames(client, 1)]] == [3, 4, 5, 6]
        with connected(url, "?since=6") as client:
            assert frames(client, 2)[1] == {"type": "resumed", "from": 7, "to": 6, "count": 0}
        with connected(url, "?since=100") as client:
            assert frames(client, 2)[1] == {"type": "reset", "reason": "beyond_head", "from": 7}


def test_who_asks_is_told_who_is_there_and_when_that_changes(daemon: Daemon, room: int) -> None:
    url = daemon.chat_url(room)
    with connected(url, "?presence=1&userId=7&username=ann") as ann:
        first = until(ann, "presence")[-1]
        user: dict[str, Any] = {"userId": "7", "username": "ann", "connections": 1}
        assert first == {"type": "presence", "roomId": str(room), "members": 1, "users": [user], "truncated": False}
        with ChatClient(f"{url}?userId=8&username=bob"), ChatClient(url):
            both = until(ann, "presence")[-1]
            assert (both["members"], [one["username"] for one in both["users"]]) == (3, ["ann", "bob"])
        assert until(ann, "presence")[-1] == first


def test_a_drain_says_goodbye_and_when_to_come_back() -> None:
    with running_daemon() as daemon, connected(daemon.chat_url(1)) as client, ChatClient(daemon.chat_url(1)) as plain:
        frames(client, 1)
        assert daemon.stop() == 0
        (goodbye,) = frames(client, 1)
        assert goodbye["type"] == "goodbye"
        assert goodbye["reason"] == "restart"
        assert 100 <= goodbye["retryAfterMs"] <= 3000
        for one in (client, plain):
            with contextlib.suppress(ConnectionClosed):
                raise AssertionError(one.socket.recv(5))
            assert one.socket.protocol.close_code == 1012
