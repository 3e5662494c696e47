"""One Autobahn protocol per connection: frames in, frames out. No rules of chat here.

Whether a client may connect was decided by :mod:`chatflow.edge.handshake` before its protocol is made. A connection is
put together of parts: a channel for messages in both directions (:mod:`chatflow.edge.channel`), what becomes of those
that come (:mod:`chatflow.edge.intake`) and is not answered yet (:mod:`chatflow.edge.inflight`), its way into the room
and out of it (:mod:`chatflow.edge.room_session`), as whom and for how long it may stay (:mod:`chatflow.edge.tenure`),
and how the client is spoken to (:mod:`chatflow.edge.dialects`).
"""

from __future__ import annotations

from autobahn.websocket.types import ConnectionRequest
from twisted.internet.defer import Deferred
from zope.interface import implementer

from chatflow.contracts.members import Reset, Resumed
from chatflow.edge.channel import MessageChannel
from chatflow.edge.close_codes import BANNED, SERVICE_RESTART, TRY_AGAIN_LATER
from chatflow.edge.connections import IConnection
from chatflow.edge.enforcement import close_reason
from chatflow.edge.handshake import Handshake
from chatflow.edge.inflight import InFlight
from chatflow.edge.intake import IClient, Intake
from chatflow.edge.outgoing import Outgoing
from chatflow.edge.pace import read_little
from chatflow.edge.quota import quota_of
from chatflow.edge.room_session import ISessionMember, RoomSession
from chatflow.edge.services import EdgeServices
from chatflow.edge.speakers import Speakers
from chatflow.edge.tenure import ITenant, Tenure
from chatflow.errors import Refused
from chatflow.rooms.ingress import Moment
from chatflow.rooms.rules import Party


@implementer(IConnection, IClient, ISessionMember, ITenant)
class ChatProtocol(MessageChannel):
    """A connection to one room, of which it is a member. Runs on the reactor thread."""

    _in_flight: InFlight
    _intake: Intake
    #: When what is being read came.
    _moment: Moment | None = None

    def __init__(self, services: EdgeServices, handshake: Handshake) -> None:
        super().__init__(services.limits.max_frame_bytes, services.clock)
        self._services = services
        self._handshake: Handshake | None = handshake  # until it is done
        self._room = handshake.room
        self._dialect = handshake.dialect
        self._tenure = Tenure(services, handshake, self)
        self._session = RoomSession(services, handshake, self)
        self._ip = handshake.client_ip
        self._compresses = handshake.compresses
        self._speakers = Speakers(handshake.user_id)

    # Opening and closing

    def onConnect(self, request: ConnectionRequest) -> str | None:
        limits, clock = self._services.limits, self._services.clock
        self._outgoing = Outgoing(
            self.transport, limits.max_client_buffer_bytes, clock.seconds, self._services.backlog, self.reads_too_slowly
        )
        handshake, self._handshake = self._handshake, None
        assert handshake is not None
        quota = quota_of(self._services, handshake.client_ip, handshake.identity)
        if quota is not None:
            read_little(self.transport)
        self._in_flight = InFlight(self._services, self.transport, quota, self.read_on)
        self._intake = Intake(
            self._services,
            handshake,
            self,
            tenure=self._tenure,
            speakers=self._speakers,
            tally=self._tally,
            quota=quota,
            in_flight=self._in_flight,
        )
        return handshake.subprotocol

    def onOpen(self) -> None:
        connections = self._services.connections
        if connections.draining:
            self.leave(SERVICE_RESTART, "the server restarts")
            return
        try:  # once more: it may have been ordered since the handshake was judged
            self._services.moderator.check_entry(self._room, self._speakers.named, self._ip)
        except Refused as refused:
            self.leave(BANNED, close_reason(str(refused)))
            return
        connections.add(self)
        self._intake.opened()
        self._begin()
        self._session.open(self._outgoing)
        self._tenure.begin()

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        self._session.close()
        self._tenure.end()
        self._services.connections.remove(self)
        super().onClose(wasClean, code, reason)
        if self.opened_at is not None:
            self._intake.closed()
            self._tally.log_end(self._room, self._ip, self._services.clock.seconds(), code, reason)

    def party(self, spoken: bool) -> Party:
        """See :class:`IConnection`."""
        return Party(self._room, self._speakers.all if spoken else self._speakers.named, self._ip)

    def sendCloseFrame(self, code: int | None = None, reasonUtf8: bytes | None = None, isReply: bool = False) -> None:
        if self.state == self.STATE_OPEN:
            self._session.release()  # ahead of the close frame, behind which nothing may follow
            self._session.close()
            super().sendCloseFrame(code, reasonUtf8, isReply)
            self._in_flight.resume()
            self.read_on()

    def say_goodbye(self, retry_after_ms: int) -> None:
        """Tell the client when to come back, if its dialect can. Call it before :meth:`leave`."""
        frame = self._dialect.goodbye(retry_after_ms)
        if frame is not None:
            self.write(frame)

    # Frames in

    def dataReceived(self, data: bytes) -> None:
        if self.state == self.STATE_OPEN:
            self._intake.charge_bytes(len(data))
        self._moment = self._services.ingress.moment()
        super().dataReceived(data)
        self._moment = None

    def may_look(self) -> bool:
        """See :meth:`MessageReader.may_look`."""
        return self._intake.may_look()

    def text_received(self, payload: bytes) -> bool:
        """See :meth:`MessageReader.text_received`."""
        return self._intake.take(payload, self._moment)

    def fragment_received(self) -> None:
        """See :meth:`MessageReader.fragment_received`."""
        self._intake.charge_frame()

    def message_unreadable(self, refused: Refused) -> None:
        """See :meth:`MessageReader.message_unreadable`. It costs what a message does."""
        self.fragment_received()
        self.message_refused(refused)

    def message_refused(self, refused: Refused) -> None:
        """See :meth:`ITenant.message_refused`."""
        self._intake.message_refused(refused)

    # Frames out

    def deliver(self, block: bytes) -> None:
        if self._compresses:
            block = self._services.compressor.compressed(block)
        if self.state == self.STATE_OPEN and not self._outgoing.write(block):
            self.reads_too_slowly()

    def resuming(self, result: Resumed | Reset) -> None:
        frame = self._dialect.resuming(result, self._now_us())
        if frame is not None:
            self.write(frame)

    def drained(self) -> Deferred[None]:
        return self._outgoing.drained()

    def reads_too_slowly(self) -> None:
        """See :meth:`MessageChannel.reads_too_slowly`."""
        if self.state != self.STATE_OPEN:
            return
        self._services.counters.slow_clients_closed += 1
        self._session.release()
        self._outgoing.cut()
        self.leave(TRY_AGAIN_LATER, "this client reads too slowly: reconnect and resume")

    def _now_us(self) -> int:
        return int(self._services.now() * 1e6)

    # What befalls all connections

    def stop_reading(self) -> None:
        """Leave what the client still sends in its socket: this instance will not answer it."""
        if self.state == self.STATE_OPEN:
            self._in_flight.pause()

    def set_back(self, room: int, first: int) -> None:
        """See :meth:`RoomSession.set_back`."""
        self._session.set_back(room, first)

    def tell_head(self) -> None:
        """See :meth:`RoomSession.tell_head`."""
        self._session.tell_head()

    def leave_if_stalled(self) -> None:
        """Close it if something waits for the client, and for too long nothing of that was taken."""
        if self._outgoing.stalled_seconds() >= self._services.limits.send_timeout_seconds:
            self.reads_too_slowly()

    def ping_or_drop(self) -> None:
        """See :class:`IConnection`."""
        if self._in_flight.paused:
            self._heard = True  # who is not read cannot be heard
        elif not self.ping_unless_heard():
            self._services.counters.silent_clients_dropped += 1
            self.drop("silent: it answered no ping")
