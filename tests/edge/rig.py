"""Connections of one instance without a network: handshakes and frames as bytes, a store and a clock of the test's."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import txaio
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from zope.interface import implementer

from chatflow.contracts.envelopes import Envelope
from chatflow.contracts.identity import ANYONE, Identity
from chatflow.contracts.messages import StoredMessage
from chatflow.contracts.room_queue import IPublish
from chatflow.edge.connect_parameters import parse_connect_parameters
from chatflow.edge.connections import Connections
from chatflow.edge.dialects import choose_dialect
from chatflow.edge.factory import ChatFactory
from chatflow.edge.frames import broadcast_block
from chatflow.edge.handshake import Handshake
from chatflow.edge.limits import EdgeLimits, LimitsInForce
from chatflow.edge.services import EdgeServices
from chatflow.edge.stored import StoredTracker
from chatflow.edge.v2 import SUBPROTOCOL, presence_block
from chatflow.rooms.hub import Hub
from chatflow.rooms.ingress import Ingress
from chatflow.rooms.pages import Pages
from chatflow.rooms.presence import NoOthers, Presence
from chatflow.rooms.resume import Resumer
from testbed.client import CLOSE, TEXT, client_frame, message
from tests.rooms.doubles import Store
from tests.support.transport import Transport

_KEY = "dGhlIHNhbXBsZSBub25jZQ=="
Frame = dict[str, Any]


@implementer(IPublish)
class Queue:
    """Holds what is published until the test lets it become durable."""

    def __init__(self) -> None:
        self.published: list[tuple[Envelope, Deferred[None]]] = []

    def publish(self, envelope: Envelope) -> Deferred[None]:
        self.published.append((envelope, Deferred()))
        return self.published[-1][1]

    def wait_seconds(self, room: int) -> float:
        return 0


class Peer:
    """A client's end of one connection."""

    def __init__(
        self,
        factory: ChatFactory,
        send: Callable[[], object],
        query: str,
        v2: bool,
        ip: str | None,
        identity: Identity,
        compresses: bool,
    ) -> None:
        self._send = send
        dialect = choose_dialect([SUBPROTOCOL] if v2 else [])
        asked = Handshake(
            1, parse_connect_parameters(query), _KEY, dialect, client_ip=ip, identity=identity, compresses=compresses
        )
        self.protocol = factory.build_connection(asked)
        self.transport = Transport()
        self.protocol.makeConnection(self.transport)
        headers = [name + b": " + value for name, (value,) in asked.plain_headers().getAllRawHeaders()]
        self.protocol.dataReceived(b"\r\n".join([b"GET / HTTP/1.1", *headers, b"\r\n"]))
        head, _, rest = self.transport.value().partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101"), head
        self.transport.clear()
        self.transport.write(rest)

    def say(self, text: str, **fields: Any) -> None:
        """Send a message."""
        self.protocol.dataReceived(client_frame(TEXT, json.dumps(message(text, **fields)).encode()))

    def sent(self) -> bytes:
        """What came since the last call of :meth:`frames`, at the end of this turn of the reactor."""
        self._send()
        value: bytes = self.transport.value()
        return value

    def frames(self) -> list[Frame]:
        """What came since the last call; a close frame is ``{"closed": code}``."""
        data, found = self.sent(), []
        while data:
            length, start = data[1], 2
            if length == 126:
                length, start = int.from_bytes(data[2:4], "big"), 4
            payload, opcode = data[start : start + length], data[0] & 0xF
            assert opcode in (TEXT, CLOSE)
            closed = {"closed": int.from_bytes(payload[:2], "big")}
            found.append(json.loads(payload) if opcode == TEXT else closed)
            data = data[start + length :]
        self.transport.clear()
        return found

    def kinds(self) -> list[Any]:
        """What came since the last call, in words: its type, its status, its seq or its close code."""
        return [
            frame.get("type") or frame.get("status") or frame.get("seq") or frame["closed"] for frame in self.frames()
        ]


class EdgeRig:
    """An instance with everything behind its connections; room 1 is what tests talk in."""

    def __init__(self, *, max_client_buffer_bytes: int = 1_000_000, **limits: Any) -> None:
        self.clock = Clock()
        self.clock.advance(1000)
        self.in_force = LimitsInForce(EdgeLimits(16384, 100, 100, max_client_buffer_bytes, 60, **limits))
        self.store = Store()
        self.queue = Queue()
        self.hub = Hub(clock=self.clock, history=self.store, encode=broadcast_block)
        self.resumer = Resumer(
            clock=self.clock,
            hub=self.hub,
            pages=Pages(clock=self.clock, history=self.store, concurrent_reads=1, others_work=int),
        )
        self.presence = Presence(clock=self.clock, table=NoOthers(), encode=presence_block)
        self.stored = StoredTracker(clock=self.clock, hub=self.hub, seqs_of=self._seqs_of)
        self.edge = EdgeServices(
            clock=self.clock,
            now=self.clock.seconds,
            rooms=1,
            server_id="s1",
            ingress=Ingress(
                clock=self.clock, now=self.clock.seconds, queue=self.queue, server_id="s1", max_pending_messages=100
            ),
            hub=self.hub,
            resumer=self.resumer,
            presence=self.presence,
            stored=self.stored,
            connections=Connections(clock=self.clock, in_force=self.in_force),
            in_force=self.in_force,
            ping_interval_seconds=20,
        )
        self.factory = ChatFactory(self.edge)

    async def _seqs_of(self, message_ids: object) -> dict[str, int]:
        return {}

    def peer(
        self,
        query: str = "",
        *,
        v2: bool = True,
        ip: str | None = None,
        identity: Identity = ANYONE,
        compresses: bool = False,
    ) -> Peer:
        """Somebody connects."""
        return Peer(self.factory, self.edge.backlog.send, query, v2, ip, identity, compresses)

    def deliver(self, first: int, last: int) -> None:
        """These messages are stored and come from the fan-out, one by one."""
        self.store.commit(last)
        for seq in range(first, last + 1):
            self.hub.deliver(self.store.messages(seq, seq))

    def store_published(self, first_seq: int) -> None:
        """What was published is stored, numbered from there on, acknowledged and delivered."""
        self.clock.advance(0)
        published, self.queue.published = self.queue.published, []
        for envelope, durable in published:
            messages = [StoredMessage(1, seq, "s1", one) for seq, one in enumerate(envelope.messages, first_seq)]
            first_seq += len(messages)
            durable.callback(None)
            self.hub.deliver(messages)


@contextmanager
def rigged(**options: Any) -> Iterator[EdgeRig]:
    """A rig whose clock Autobahn's timers follow meanwhile."""
    rig = EdgeRig(**options)
    config: Any = txaio.config  # type: ignore[attr-defined]
    before, config.loop = config.loop, rig.clock
    try:
        yield rig
    finally:
        config.loop = before
