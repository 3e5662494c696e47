"""Nothing that a transport says of its peer, and nothing that the edge lets through, is refused by the schema."""

from __future__ import annotations

import ipaddress
from contextlib import closing
from typing import Any

import msgspec
import psycopg2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.address import HostnameAddress, IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock

from chatflow.contracts.envelopes import Envelope
from chatflow.contracts.membership import RoomPresence, Run
from chatflow.edge.addresses import client_ip
from chatflow.edge.connect_parameters import parse_connect_parameters
from chatflow.errors import Refused
from chatflow.lifecycle.blocking import at_once
from chatflow.persistence.commit import commit_in_thread
from chatflow.persistence.history import messages_after_in_thread
from chatflow.persistence.membership import open_membership
from chatflow.rooms.ingress import Ingress
from chatflow.rooms.messages import decode
from tests.support.chat import NOW_US, legal_characters, legal_frames
from tests.support.examples import at_least


@pytest.mark.parametrize(
    ("peer", "ip"),
    [
        (IPv4Address("TCP", "192.0.2.1", 1), "192.0.2.1"),
        (IPv4Address("TCP", b"192.0.2.1", 1), "192.0.2.1"),  # type: ignore[arg-type]
        (IPv4Address("TCP", "nowhere", 1), None),
        (IPv4Address("TCP", "192.0.2.1 ", 1), None),
        (IPv4Address("TCP", "192.0.2.01", 1), None),
        (IPv4Address("TCP", "192.0.2", 1), None),
        (IPv4Address("TCP", "", 1), None),
        (IPv4Address("TCP", "192.0.2.1/24", 1), None),
        (IPv4Address("TCP", "٣.0.2.1", 1), None),
        (IPv6Address("TCP", "2001:DB8:0::0:1", 1), "2001:db8::1"),
        (IPv6Address("TCP", "fe80::1%eth0", 1, 0, 2), "fe80::1"),
        (IPv6Address("TCP", "fe80::1%", 1), "fe80::1"),
        (IPv6Address("TCP", "::ffff:192.0.2.1", 1), "192.0.2.1"),
        (IPv6Address("TCP", "::1%\0", 1), "::1"),
        (IPv6Address("TCP", "\ud83d", 1), None),
        (UNIXAddress(b"/run/chatflow"), None),
        (UNIXAddress(None), None),
        (HostnameAddress(b"example.invalid", 1), None),
        (None, None),
        (object(), None),
    ],
)
def test_an_address_is_one_that_the_database_takes_or_none(peer: Any, ip: str | None) -> None:
    assert client_ip(peer) == ip


def hosts() -> st.SearchStrategy[Any]:
    """What anybody may say of an address, in PROXY protocol or as the address of a socket."""
    ips = st.ip_addresses().map(str)
    zones = st.builds("{}%{}".format, st.ip_addresses(v=6).map(str), st.text(max_size=9))
    mapped = st.ip_addresses(v=4).map(lambda ip: f"::ffff:{ip}")
    return ips | zones | mapped | st.text(max_size=40) | st.binary(max_size=20)


class Queue:
    """Takes what ingress publishes."""

    def __init__(self) -> None:
        self.published: list[Envelope] = []

    def publish(self, envelope: Envelope) -> Deferred[None]:
        self.published.append(envelope)
        return succeed(None)

    def wait_seconds(self, room: int) -> float:
        return 0.0


class Sender:
    def acknowledge(self, accepted: object) -> None:
        """Not asked for here."""

    def refuse(self, refused: object, count: int) -> None:
        raise AssertionError(refused)


def odd_frames() -> st.SearchStrategy[dict[str, Any]]:
    """Legal frames in which one field is anything else; most are refused, some are not."""
    anything = st.text(legal_characters(), max_size=70) | st.integers() | st.none() | st.floats(allow_nan=False)
    times = st.from_regex(r"\A[0-9]{4}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-6][0-9]:[0-6][0-9](\.[0-9]{1,9})?"
                          r"(Z|[+-][01][0-9]:[0-5][0-9])\Z")  # fmt: skip
    fields = st.fixed_dictionaries(
        {}, optional={"timestamp": times | anything, "userId": anything, "username": anything,
                      "clientMessageId": anything, "message": anything, "messageType": anything}
    )  # fmt: skip
    return st.builds(lambda frame, odd: {**frame, **odd}, legal_frames(), fields)


@pytest.mark.usefixtures("class_database_url")
class TestEveryColumn:
    @given(frame=legal_frames() | odd_frames(), host=hosts())
    @at_least(300)
    def test_what_the_edge_lets_through_is_stored_as_it_is(
        self, class_database_url: str, frame: dict[str, Any], host: Any
    ) -> None:
        try:
            original = decode(msgspec.json.encode(frame))
        except Refused:
            return
        clock, queue = Clock(), Queue()
        clock.advance(NOW_US / 1e6)
        ingress = Ingress(clock=clock, now=clock.seconds, queue=queue, server_id="s-1", max_pending_messages=10)  # type: ignore[arg-type]
        ip = client_ip(IPv6Address("TCP", host, 1))
        sent = ingress.accept(1, original, Sender(), ip)  # type: ignore[arg-type]
        clock.advance(0)
        with closing(psycopg2.connect(class_database_url)) as connection, connection.cursor() as cursor:
            commit_in_thread(cursor, queue.published)
            (stored,) = messages_after_in_thread(cursor, 1, 0, 10)  # and nothing stays
        message = stored.message
        assert (message.user_id, message.username, message.text) == (sent.user_id, sent.username, sent.text)
        assert (message.message_type, message.client_message_id) == (sent.message_type, sent.client_message_id)
        assert message.client_ip == (None if ip is None else str(ipaddress.ip_address(ip)))

    @given(query=st.text(max_size=40) | st.builds("userId={}&username={}".format, st.text(max_size=9), st.text()))
    @at_least(200)
    def test_who_somebody_says_to_be_is_told_to_the_others(self, class_database_url: str, query: str) -> None:
        try:
            wish = parse_connect_parameters(f"/chat/1?{query}&presence=1")
        except Refused:
            return
        users = () if wish.who is None else ((wish.who, 1),)
        run = Run("s-1", "0", "queue")
        with open_membership(class_database_url) as table:
            at_once(table.register(run, None))
            at_once(table.tell(run, {1: RoomPresence(1, users, False)}))
