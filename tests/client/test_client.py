"""The client against a real daemon, over a network that is lost and comes back."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater
from websockets.typing import Subprotocol

from chatflow.client import ChatClient, Message, Presence, Refused, Reset, SendFailed
from testbed.client import ChatClient as RoomClient
from testbed.daemon import Daemon, running_daemon
from testbed.network import Network
from testbed.postgres import fresh_database
from tests.support.reactor import on_reactor, reactor, until


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with fresh_database() as url, running_daemon("--rooms", "1000", database=url) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def network(daemon: Daemon) -> Iterator[Network]:
    with Network(daemon.port) as network:
        yield network


@pytest.fixture(scope="module", autouse=True)
def idle(daemon: Daemon) -> Iterator[RoomClient]:
    """Somebody who speaks chatflow.v2, says nothing and takes nothing while the other tests run."""
    with RoomClient(daemon.chat_url(30), subprotocols=[Subprotocol("chatflow.v2")]) as idle:
        yield idle


class Heard:
    """What a client hands on, taken by a task of its own."""

    def __init__(self, client: ChatClient) -> None:
        self.events: list[Any] = []
        self.ended = Deferred.fromCoroutine(self._take(client))

    async def _take(self, client: ChatClient) -> None:
        async for event in client:
            self.events.append(event)

    @property
    def messages(self) -> list[Message]:
        return [event for event in self.events if isinstance(event, Message)]

    @property
    def seqs(self) -> list[int]:
        return [message.seq for message in self.messages]


def client(port: int, room: int, **options: Any) -> ChatClient:
    given: dict[str, Any] = {"user_id": 7, "username": "ann"} | options
    return ChatClient(reactor, f"ws://127.0.0.1:{port}", room, **given).start()


@on_reactor
async def test_what_is_sent_is_acknowledged_gets_its_place_and_is_heard(daemon: Daemon) -> None:
    one = client(daemon.port, 1, since=0)
    heard = Heard(one)
    sent = [await one.send(f"{number}") for number in range(3)]
    assert [await one.seq for one in sent] == [1, 2, 3]
    await until(lambda: len(heard.messages) == 3, "all are heard")
    assert [message.message_id for message in heard.messages] == [one.message_id for one in sent]
    assert [message.text for message in heard.messages] == ["0", "1", "2"]
    await one.close()
    await heard.ended


@on_reactor
async def test_what_breaks_a_rule_is_refused_at_once_and_not_sent(daemon: Daemon) -> None:
    one = client(daemon.port, 2)
    with pytest.raises(Refused, match="message must be 1-500 characters"):
        await one.send("")
    await one.close()
    with pytest.raises(SendFailed):
        await one.send("too late")


@on_reactor
async def test_over_a_network_that_is_lost_again_and_again_everything_comes_once(
    daemon: Daemon, network: Network
) -> None:
    talkers = [client(network.port, 3, user_id=number + 1, since=0) for number in range(3)]
    heard = [Heard(talker) for talker in talkers]
    chance = random.Random(3)
    texts = [[f"{number} {index}" for index in range(40)] for number in range(3)]
    sending = gatherResults(
        [Deferred.fromCoroutine(_say(talker, own)) for talker, own in zip(talkers, texts, strict=True)]
    )
    while not sending.called:
        await deferLater(reactor, chance.uniform(0.02, 0.2))
        network.cut()
        await deferLater(reactor, chance.uniform(0, 0.1))
        network.heal()
    await sending
    await until(lambda: all(len(each.messages) == 120 for each in heard), "everybody has heard everything")
    for each in heard:
        assert each.seqs == list(range(1, 121))
        assert sorted(message.text for message in each.messages) == sorted(text for own in texts for text in own)
    assert min(talker.connections for talker in talkers) > 2, "it was lost now and then"
    for talker in talkers:
        await talker.close()


async def _say(talker: ChatClient, texts: list[str]) -> None:
    for text in texts:
        await talker.send(text)
        await deferLater(reactor, 0.01)


@on_reactor
async def test_it_waits_for_a_daemon_that_restarts_and_goes_on_where_it_was(daemon: Daemon) -> None:
    with fresh_database() as url, running_daemon(database=url) as own:
        port = own.port
        with Network(port) as network:
            one = client(network.port, 1, since=0)
            heard = Heard(one)
            await one.send("before")
            own.stop()
            sending = Deferred.fromCoroutine(one.send("meanwhile"))
            own.start()
            network.target = own.port
            await sending
            await until(lambda: heard.seqs == [1, 2], "both are heard once")
            await one.close()


@on_reactor
async def test_who_does_not_take_what_comes_is_not_given_more_and_loses_nothing(daemon: Daemon) -> None:
    talker, slow = client(daemon.port, 5), client(daemon.port, 5, since=0, max_waiting=10)
    await gatherResults([Deferred.fromCoroutine(talker.send(f"{number}" * 100)) for number in range(100)])
    await until(lambda: slow._inbox._paused, "it is not read any more")
    heard = Heard(slow)
    await until(lambda: heard.seqs == list(range(1, 101)), "all comes in the end")
    await talker.close()
    await slow.close()


@on_reactor
async def test_presence_and_resets_are_told(daemon: Daemon) -> None:
    one = client(daemon.port, 6, presence=True, since=99)
    heard = Heard(one)
    await until(lambda: len(heard.events) == 2, "both are told")
    assert Reset("beyond_head", 1) in heard.events
    assert Presence(1, [("7", "ann", 1)]) in heard.events
    await one.close()


def test_the_example_of_the_documentation_runs(daemon: Daemon) -> None:
    text = (Path(__file__).parents[2] / "docs" / "client.rst").read_text(encoding="utf-8")
    block = re.search(r"code-block:: python\n\n((?:    .*\n|\n)+)", text)
    assert block is not None
    program = textwrap.dedent(block[1]).replace("localhost:8080", f"127.0.0.1:{daemon.port}").replace(", 1,", ", 20,")
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert re.fullmatch(r"stored as \S+ at 1\n1 echo Hello\n", run.stdout), run.stdout + run.stderr


def test_one_can_chat_from_a_terminal(daemon: Daemon) -> None:
    command = [sys.executable, "-m", "chatflow.client", f"ws://127.0.0.1:{daemon.port}", "21", "--name", "bob"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("Hello there\n")
        process.stdin.flush()
        assert any("bob: Hello there" in line for line in process.stdout)
        process.stdin.close()
        assert process.wait(20) == 0


def test_in_a_terminal_one_is_told_why_one_is_not_let_in(daemon: Daemon) -> None:
    command = [sys.executable, "-m", "chatflow.client", f"ws://127.0.0.1:{daemon.port}", "2000", "--name", "bob"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, stdin=subprocess.PIPE, check=False)
    assert run.returncode == 1
    assert run.stderr == "chatflow-client: the server does not let this client in: rooms are /chat/1 to /chat/1000\n"


def test_a_daemon_tells_who_is_idle_how_far_its_room_is(idle: RoomClient) -> None:
    frames = [json.loads(idle.socket.recv(20)) for _ in range(2)]  # mostly it came while the other tests ran
    assert [frame["type"] for frame in frames] == ["welcome", "heartbeat"]
    assert frames[1] == {"type": "heartbeat", "head": 0}


@on_reactor
async def test_an_ipv6_address_is_reached_and_named_in_brackets() -> None:
    heads: list[bytes] = []

    class Listener(Protocol):
        def dataReceived(self, data: bytes) -> None:
            heads.append(data)
            assert self.transport is not None
            self.transport.loseConnection()

    port = reactor.listenTCP(0, Factory.forProtocol(Listener), interface="::1")
    one = ChatClient(reactor, f"ws://[::1]:{port.getHost().port}", 1, user_id=7, username="ann").start()
    await until(lambda: heads, "it has asked")
    assert f"\r\nHost: [::1]:{port.getHost().port}\r\n".encode() in heads[0]
    await one.close()
    await port.stopListening()
