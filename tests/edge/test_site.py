"""Whose answer is given up when clients of HTTP do not read; without sockets."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from twisted.internet.address import IPv4Address
from twisted.web.resource import Resource
from twisted.web.server import Request

from chatflow.edge.site import MAX_UNREAD_BYTES, ChatSite
from tests.edge.rig import EdgeRig, rigged
from tests.support.transport import Transport


class Large(Resource):
    isLeaf = True

    def render_GET(self, request: Request) -> bytes:
        return b"x" * int(request.path[1:])


class Client(Transport):
    """One that asked for so many bytes and has taken nothing."""

    def __init__(self, site: ChatSite, size: int) -> None:
        super().__init__(peerAddress=IPv4Address("TCP", "192.0.2.1", 1))
        self.protocol = site.buildProtocol(None)
        self.protocol.makeConnection(self)
        self.stalls()
        self.protocol.resumeProducing()
        self.protocol.dataReceived(f"GET /{size} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        self.protocol.pauseProducing()

    def abortConnection(self) -> None:
        super().abortConnection()
        self.protocol.connectionLost(None)


@pytest.fixture
def rig() -> Iterator[EdgeRig]:
    with rigged() as rig:
        yield rig


@pytest.fixture
def site(rig: EdgeRig) -> ChatSite:
    return ChatSite(Large(), rig.edge, rig.clock)


_MUCH = MAX_UNREAD_BYTES * 2 // 5  # of which three are too much


def test_of_too_much_for_all_who_took_nothing_for_the_longest_time_is_ended(rig: EdgeRig, site: ChatSite) -> None:
    oldest, still = Client(site, _MUCH), Client(site, _MUCH)
    for _ in range(10):
        rig.clock.advance(1)
        oldest.takes(100)
        site.end_stalled()
    newest = Client(site, _MUCH)
    assert [oldest.aborted, still.aborted, newest.aborted] == [False, True, False]
    assert rig.edge.counters.slow_clients_closed == 1


def test_however_many_there_are_little_enough_is_kept(rig: EdgeRig, site: ChatSite) -> None:
    clients = [Client(site, 100_000) for _ in range(200)]
    rig.clock.advance(30)
    site.end_stalled()
    assert not any(client.aborted for client in clients)


def test_who_takes_something_at_times_may_take_as_long_as_it_needs(rig: EdgeRig, site: ChatSite) -> None:
    slow, still = Client(site, 1_000_000), Client(site, 1_000_000)
    for _ in range(20):  # 15 minutes, far more than an idle connection has
        rig.clock.pump([9] * 5)
        slow.takes(10)
        site.end_stalled()
    assert (slow.aborted, slow.disconnecting, still.aborted) == (False, False, True)
    slow.takes(slow._tempDataLen)
    rig.clock.pump([10] * 10)
    assert slow.disconnecting, "then it is idle"


def test_an_answer_that_was_taken_is_not_waited_for(rig: EdgeRig, site: ChatSite) -> None:
    client = Client(site, 100_000)
    client.takes(client._tempDataLen)
    rig.clock.advance(25)
    site.end_stalled()
    assert not client.aborted
