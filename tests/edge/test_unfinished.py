"""Requests that are not finished: how long, how many, and whose go first; without sockets."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from attrs import evolve
from twisted.internet.address import IPv4Address
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request

from chatflow.edge.accounts import BURST_SECONDS, REFUSALS_PER_SECOND, SHUT_OUT_SECONDS
from chatflow.edge.pace import READ_AT_ONCE_BYTES, READ_BYTES
from chatflow.edge.security import SECURITY_HEADERS
from chatflow.edge.site import SPARE_CONNECTIONS, ChatSite
from tests.edge.rig import EdgeRig, rigged
from tests.support.transport import Transport

_REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


class Answer(Resource):
    isLeaf = True

    def render_GET(self, request: Request) -> bytes | int:
        return NOT_DONE_YET if request.path == b"/later" else b"here"


class Client(Transport):
    comes_from: IPv4Address | None = None

    def __init__(self, site: ChatSite, ip: str = "192.0.2.1") -> None:
        super().__init__(peerAddress=IPv4Address("TCP", ip, 1))
        self.protocol = site.buildProtocol(self.comes_from)
        self.gone = self.protocol is None
        if self.protocol is not None:
            self.protocol.makeConnection(self)

    def says(self, data: bytes) -> None:
        self.protocol.dataReceived(data)

    def abortConnection(self) -> None:
        super().abortConnection()
        self.gone = True
        self.protocol.connectionLost(None)


class Arriving(Client):
    """A client whose address the port sees as it comes."""

    def __init__(self, site: ChatSite, ip: str = "192.0.2.1") -> None:
        self.comes_from = IPv4Address("TCP", ip, 1)
        super().__init__(site, ip)


@pytest.fixture
def rig() -> Iterator[EdgeRig]:
    with rigged(max_unfinished_per_address=3, unlimited_address=("127.0.0.1",), request_seconds=10.0) as rig:
        yield rig


@pytest.fixture
def site(rig: EdgeRig) -> ChatSite:
    return ChatSite(Answer(), rig.edge, rig.clock)


def test_who_sends_a_byte_now_and_then_has_no_longer_than_who_sends_none(rig: EdgeRig, site: ChatSite) -> None:
    dripping, silent = Client(site), Client(site)
    for byte in _REQUEST[:10]:
        assert not dripping.value()
        rig.clock.advance(1)
        dripping.says(bytes([byte]))
        site.unfinished.end_late()
    for client in (dripping, silent):
        assert client.value().startswith(b"HTTP/1.1 408 Request Timeout\r\n")
        assert client.disconnecting
    assert rig.edge.accounts.limited["request_time"] == 2
    rig.clock.advance(5)
    assert dripping.aborted, "and does not wait for it to be taken"


def test_a_body_belongs_to_the_request(rig: EdgeRig, site: ChatSite) -> None:
    client = Client(site)
    client.says(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n")
    rig.clock.advance(9.9)
    client.says(b"x")
    site.unfinished.end_late()
    assert not client.value()
    rig.clock.advance(0.1)
    site.unfinished.end_late()
    assert client.value().startswith(b"HTTP/1.1 408")


def test_an_answer_may_take_longer_and_the_next_request_has_its_own_time(rig: EdgeRig, site: ChatSite) -> None:
    waiting, served = Client(site), Client(site)
    waiting.says(_REQUEST.replace(b" / ", b" /later "))
    served.says(_REQUEST)
    for _ in range(39):
        rig.clock.advance(1)
        served.says(b"G"[: not len(served.protocol.requests)])
        site.unfinished.end_late()
    assert not waiting.value()
    assert b"408" not in served.value()
    rig.clock.advance(1)
    site.unfinished.end_late()
    assert b"408" in served.value()
    assert not waiting.value()


def test_of_one_address_beyond_the_limit_the_oldest_goes(rig: EdgeRig, site: ChatSite) -> None:
    mine, other = [Client(site) for _ in range(3)], Client(site, "192.0.2.2")
    assert not any(client.gone for client in mine)
    mine.append(Client(site))
    assert [client.gone for client in (*mine, other)] == [True, False, False, False, False]
    assert rig.edge.accounts.limited["unfinished"] == 1


@pytest.fixture
def limited(rig: EdgeRig) -> ChatSite:
    """Where an address may come 4 times at once, and 2 times a second."""
    rig.in_force.limits = evolve(
        rig.in_force.limits, connections_per_second_per_address=0.5, requests_per_second_per_address=0.5
    )
    return ChatSite(Answer(), rig.edge, rig.clock)


def test_who_comes_too_often_is_shut_out_with_what_he_has_begun(rig: EdgeRig, limited: ChatSite) -> None:
    site = limited
    begun = [Arriving(site) for _ in range(2)]
    asked, other = Arriving(site), Arriving(site, "192.0.2.2")
    asked.says(_REQUEST.replace(b" / ", b" /later "))
    assert not Arriving(site).gone
    assert Arriving(site).gone
    assert [client.gone for client in (*begun, asked, other)] == [True, True, False, False]
    assert rig.edge.accounts.limited["accept_rate"] == 1
    rig.clock.advance(SHUT_OUT_SECONDS - 0.1)
    assert Arriving(site).gone, "although the rate allows it again"
    assert not Arriving(site, "192.0.2.2").gone
    rig.clock.advance(0.1)
    assert not Arriving(site).gone


def test_who_goes_on_stays_shut_out_as_long_as_he_does(rig: EdgeRig, limited: ChatSite) -> None:
    for _ in range(100):
        crowd = [Arriving(limited) for _ in range(4)]
        rig.clock.advance(1)
    assert all(client.gone for client in crowd)
    rig.clock.advance(SHUT_OUT_SECONDS)
    assert not Arriving(limited).gone


def test_who_is_refused_again_and_again_is_shut_out(rig: EdgeRig, limited: ChatSite) -> None:
    account = rig.edge.accounts.of_address("192.0.2.1")
    assert account is not None
    refusals = int(REFUSALS_PER_SECOND * BURST_SECONDS)
    for _ in range(refusals):
        account.refused(rig.clock.seconds())
    assert not Arriving(limited).gone
    account.refused(rig.clock.seconds())
    assert Arriving(limited).gone
    rig.clock.advance(SHUT_OUT_SECONDS)
    assert not Arriving(limited).gone


def test_a_proxy_is_not_shut_out_nor_is_anybody_where_a_rate_is_off(rig: EdgeRig, limited: ChatSite) -> None:
    limits = rig.in_force.limits
    rig.in_force.limits = evolve(limits, trusted_proxy=("192.0.2.0/24",))
    assert not any(Arriving(limited).gone for _ in range(20))
    rig.in_force.limits = evolve(limits, requests_per_second_per_address=0, max_unfinished_per_address=0)
    assert not any(Arriving(limited).gone for _ in range(20))


@pytest.fixture
def paced(rig: EdgeRig) -> ChatSite:
    """Where 4 times may be read at once from an address, however little, and twice a second."""
    rig.in_force.limits = evolve(
        rig.in_force.limits, bytes_per_second_per_address=2 * READ_BYTES, trusted_proxy=("10.0.0.0/8",)
    )
    return ChatSite(Answer(), rig.edge, rig.clock)


def drip(client: Client, times: int) -> None:
    """Say so many bytes, one by one, as far as they are read."""
    for byte in _REQUEST[:times]:
        if client.producerState == "producing":
            client.says(bytes([byte]))


def test_who_drips_is_not_read_until_the_reads_are_paid_for(rig: EdgeRig, paced: ChatSite) -> None:
    dripping, same, other = Client(paced), Client(paced), Client(paced, "192.0.2.2")
    drip(dripping, 5)
    drip(same, 1)
    drip(other, 4)
    assert [client.producerState for client in (dripping, same, other)] == ["paused", "paused", "producing"]
    assert rig.edge.accounts.limited["address_bytes"] == 2
    rig.clock.advance(0.8)
    assert [client.producerState for client in (dripping, same)] == ["producing", "paused"]
    dripping.says(_REQUEST[5:])
    assert dripping.value().endswith(b"here")
    assert dripping.producerState == "paused", "also behind an answer"
    rig.clock.advance(5)
    assert dripping.producerState == "producing"
    drip(same, 5)
    assert same.producerState == "paused"
    same.abortConnection()
    rig.clock.advance(60)
    assert same.producerState == "paused", "who has gone is left alone"


@pytest.mark.parametrize("ip", ["10.0.0.1", "127.0.0.1"])
def test_a_proxy_and_who_is_unlimited_may_drip_and_are_read_as_twisted_reads(paced: ChatSite, ip: str) -> None:
    client = Client(paced, ip)
    assert not hasattr(client, "bufferSize")
    assert Client(paced).bufferSize == READ_AT_ONCE_BYTES
    drip(client, 20)
    assert client.producerState == "producing"


def test_who_rests_and_takes_no_answer_is_read_when_both_are_over(rig: EdgeRig, paced: ChatSite) -> None:
    client = Client(paced)
    client.says(_REQUEST + b"G" * 2 * READ_BYTES * 3)
    client.stalls()
    rig.clock.advance(60)
    assert client.producerState == "paused"
    client.takes(1000)
    assert client.producerState == "producing"


def test_who_is_to_go_is_read_up_to_the_end(rig: EdgeRig, paced: ChatSite) -> None:
    """A connection of TLS ends with what both have to say."""
    client = Client(paced)
    client.says(b"x" * 8 * READ_BYTES)
    assert client.producerState == "paused"
    client.protocol.loseConnection()
    assert client.producerState == "producing"


def test_who_has_asked_is_not_counted(rig: EdgeRig, site: ChatSite) -> None:
    asked = [Client(site) for _ in range(3)]
    for client in asked:
        client.says(_REQUEST.replace(b" / ", b" /later "))
    assert not any(client.gone for client in (*asked, *[Client(site) for _ in range(3)]))


def test_a_proxy_and_who_is_unlimited_may_have_more(rig: EdgeRig) -> None:
    rig.in_force.limits = evolve(rig.in_force.limits, trusted_proxy=("10.0.0.0/8",))
    site = ChatSite(Answer(), rig.edge, rig.clock)
    assert not any(Client(site, ip).gone for ip in ["10.0.0.1", "127.0.0.1"] * 10)


def test_when_all_places_are_taken_the_oldest_of_the_busiest_address_makes_room(rig: EdgeRig, site: ChatSite) -> None:
    places = SPARE_CONNECTIONS + rig.edge.limits.max_connections
    balancer = Client(site, "192.0.2.2")
    flood = [Client(site, "127.0.0.1") for _ in range(places - 1)]
    assert not any(client.gone for client in flood)
    newest = Client(site, "192.0.2.3")
    newest.says(_REQUEST)
    assert newest.value().endswith(b"here")
    assert (flood[0].gone, flood[1].gone, balancer.gone) == (True, False, False)


def test_when_everybody_waits_for_an_answer_there_is_no_place(rig: EdgeRig, site: ChatSite) -> None:
    for _ in range(SPARE_CONNECTIONS + rig.edge.limits.max_connections):
        Client(site).says(_REQUEST.replace(b" / ", b" /later "))
    assert Client(site).gone


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (_REQUEST, b"200"),
        (b"nonsense\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nno header\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\n" + b"x" * 20_000, b"431"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n", b"413"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n", b"400"),
        (b"POST / HTTP/1.1\r\nContent-Length: " + b"9" * 5000 + b"\r\nHost: x\r\n\r\n", b"400"),
    ],
)
def test_every_answer_has_the_security_headers(site: ChatSite, data: bytes, status: bytes) -> None:
    client = Client(site)
    client.says(data)
    head = client.value().partition(b"\r\n\r\n")[0].lower()
    assert head.startswith(b"http/1.1 " + status)
    assert client.value().count(b"HTTP/1.1 ") == 1
    for name, value in SECURITY_HEADERS:
        assert name + b": " + value.lower() in head
