"""Who takes slowly what comes: nothing is lost, nothing piles up, and nobody waits for ever."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from chatflow.client import ChatClient, Message
from tests.client.rig import ClientRig, Outcome, Taker, rigged


@pytest.fixture
def rig() -> Iterator[ClientRig]:
    with rigged() as rig:
        yield rig


class TestPings:
    def test_a_server_that_answers_no_ping_is_given_up(self, rig: ClientRig) -> None:
        rig.client()
        server = rig.server()
        server.welcome()
        rig.advance(30)
        assert server.controls() == ["ping"]
        assert not server.transport.aborted
        rig.advance(15)
        assert server.transport.aborted

    def test_anything_that_is_heard_is_life(self, rig: ClientRig) -> None:
        rig.client()
        server = rig.server()
        server.welcome()
        for _ in range(10):
            rig.advance(16)
            server.ping()
        assert not server.transport.aborted

    def test_who_does_not_read_gives_nobody_up_and_shows_that_it_lives(self, rig: ClientRig) -> None:
        client = rig.client(max_waiting=10)
        server = rig.server()
        server.welcome()
        server.broadcast(*range(1, 11))
        assert not server.is_read
        server.controls()
        rig.advance(300)
        assert not server.transport.aborted
        assert server.controls() == ["pong"] * 20
        taker = Taker(client)
        assert server.is_read
        rig.advance(29)
        assert not server.transport.aborted, "its silence counts from now on"
        server.broadcast(11)
        assert taker.seqs == list(range(1, 12))


class TestReading:
    def test_it_stops_while_too_much_waits_and_goes_on_at_half(self, rig: ClientRig) -> None:
        client = rig.client(max_waiting=10)
        server = rig.server()
        server.welcome()
        server.broadcast(*range(1, 13))
        assert not server.is_read
        for _ in range(6):
            assert not server.is_read
            assert Outcome(client.__anext__()).result
        assert not server.is_read
        assert Outcome(client.__anext__()).result
        assert server.is_read
        assert client.connections == 1

    def test_an_acknowledgement_is_heard_although_too_much_waits(self, rig: ClientRig) -> None:
        client = rig.client(max_waiting=10, since=0)
        server = rig.server()
        server.welcome()
        server.broadcast(*range(1, 11))
        assert not server.is_read
        one = Outcome(client.send("mine"))
        assert server.is_read
        server.broadcast(*range(11, 21))
        server.acknowledge(*server.messages())
        assert one.result
        assert not server.is_read, "there is no room, and nothing to wait for"

    def test_a_place_is_heard_although_too_much_waits(self, rig: ClientRig) -> None:
        client = rig.client(max_waiting=10, since=0)
        server = rig.server()
        server.welcome()
        one = Outcome(client.send("mine"))
        server.broadcast(*range(1, 11))
        server.acknowledge(*server.messages())
        assert not server.is_read
        seqs: list[int] = []
        one.result.seq.addCallback(seqs.append)
        assert server.is_read
        server.broadcast(11, message_id="of mine")
        assert seqs == [11]

    def test_what_is_waited_for_is_heard_although_too_much_comes_before_it(self, rig: ClientRig) -> None:
        client = rig.client(max_waiting=10, since=0)
        server = rig.server()
        server.welcome()
        one = Outcome(client.send("mine"))
        server.broadcast(*range(1, 11))
        assert server.is_read, "for the acknowledgement"
        for _ in range(10):
            assert Outcome(client.__anext__()).result
        server.acknowledge(*server.messages())
        seqs: list[int] = []
        one.result.seq.addCallback(seqs.append)
        server.broadcast(*range(11, 21))
        assert server.is_read, "for the place"
        server.broadcast(21, message_id="of mine")
        assert seqs == [21]
        assert not server.transport.aborted
        assert Outcome(client.__anext__()).result
        assert not server.transport.aborted
        for _ in range(4):
            assert Outcome(client.__anext__()).result
        assert server.transport.aborted, "it comes back for what was left out"

    def test_who_answers_each_message_before_it_takes_the_next_gets_every_one_once(self, rig: ClientRig) -> None:
        client = rig.client(max_waiting=10, since=0)
        heard: list[int] = []

        async def echo(client: ChatClient) -> None:
            async for event in client:
                if isinstance(event, Message):
                    heard.append(event.seq)
                    await client.send(f"heard {event.seq}")

        Outcome(echo(client))
        total, most = 100, 0
        for _ in range(total):
            if len(heard) == total:
                break
            server = rig.server()
            server.welcome(total)
            begin = int(server.address.partition("since=")[2].partition("&")[0]) + 1
            for seq in range(begin, total + 1):
                server.broadcast(seq)
                if seq % 5 == 0:  # answers come behind what was under way
                    server.acknowledge(*server.messages())
                most = max(most, len(client._inbox))
            while not server.transport.aborted and (messages := server.messages()):
                server.acknowledge(*messages)
            server.lose()
            rig.advance(1)
        assert heard == list(range(1, total + 1))
        assert most <= 11, "what waits is bounded"
