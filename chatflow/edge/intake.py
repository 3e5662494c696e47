"""What one client sends, taken into its room or refused, and answered. Which frames that comes in is not known here."""

from __future__ import annotations

from collections.abc import Sequence

from twisted.logger import Logger
from zope.interface import Attribute, implementer

from chatflow.contracts.members import Accepted, IMember, ISender
from chatflow.edge.close_codes import POLICY_VIOLATION
from chatflow.edge.ending import Tally
from chatflow.edge.handshake import Handshake
from chatflow.edge.inflight import InFlight
from chatflow.edge.quota import Quota
from chatflow.edge.services import EdgeServices
from chatflow.edge.speakers import Speakers
from chatflow.edge.tenure import Tenure
from chatflow.errors import Refused
from chatflow.rooms.ingress import Moment

#: So long at most a client that sends too much is not read, and is believed to live.
_MAX_REST_SECONDS = 60.0

#: And so long if nobody knows when it is better.
_SHORT_REST_MS = 100


class IClient(IMember):
    """A connection, as what takes its messages sees it."""

    is_live = Attribute("Whether its handshake is done and nobody has begun to close it.")

    def write(frame: bytes) -> None:
        """Send it a frame; nothing once it is being closed."""

    def answer(frame: bytes) -> None:
        """The same, ahead of what others are sent: it waits for that."""

    def leave(code: int, reason: str) -> None:
        """Send a close frame and take nothing more."""


@implementer(ISender)
class Intake:
    """Runs on the reactor thread. What is read ahead of the handshake's end is none of it.

    :param client: is answered.
    :param tenure: decodes what it sends, by its token.
    :param quota: what it may send; None if nothing limits it but the limits of all.
    :param in_flight: what of that has no answer yet.
    """

    _log = Logger()
    __slots__ = (
        "_client",
        "_dialect",
        "_in_flight",
        "_ip",
        "_quota",
        "_room",
        "_services",
        "_speakers",
        "_tally",
        "_tenure",
    )

    def __init__(
        self,
        services: EdgeServices,
        handshake: Handshake,
        client: IClient,
        *,
        tenure: Tenure,
        speakers: Speakers,
        tally: Tally,
        quota: Quota | None,
        in_flight: InFlight,
    ) -> None:
        self._services = services
        self._room = handshake.room
        self._dialect = handshake.dialect
        self._ip = handshake.client_ip
        self._client = client
        self._tenure = tenure
        self._speakers = speakers
        self._tally = tally
        self._quota = quota
        self._in_flight = in_flight

    def opened(self) -> None:
        """The handshake is done."""
        if self._quota is not None:
            self._quota.opened()

    def closed(self) -> None:
        """The connection has ended. Only after :meth:`opened`."""
        if self._quota is not None:
            self._quota.closed()
        self._in_flight.end_rest()

    def charge_bytes(self, size: int) -> None:
        """So many bytes have come; of whom that is too much is not read for a while."""
        if self._quota is not None:
            self._rest(self._quota.charge_bytes(size))

    def charge_frame(self) -> None:
        """A frame has come that is no message, such as a ping or a part of one."""
        if self._quota is not None:
            self._rest(self._quota.charge_frame())

    def may_look(self) -> bool:
        """Whether it is this connection's turn, among those of its address, to have looked at what it sent; else it
        rests until then."""
        if self._quota is None:
            return True
        wait = self._quota.look()
        self._rest(wait)
        return not wait

    def take(self, payload: bytes, moment: Moment | None) -> bool:
        """A text message has come, in UTF-8.

        :param moment: when, if that is known.
        :return: whether the client rests now.
        """
        services = self._services
        services.counters.messages_received += 1
        self._tally.messages += 1
        if self._quota is not None:
            too_often = self._quota.take_message()
            if too_often is not None:
                self._refuse_rate(self._quota, too_often)
                return True
        try:
            original = self._tenure.decode(payload)
            message = services.ingress.accept(self._room, original, self, self._ip, moment)
        except Refused as refused:
            if not self._tenure.renew(payload):
                self.message_refused(refused)
            return False
        except Exception:
            self._log.failure("a message in room {room} failed", room=self._room)
            self.message_refused(Refused("internal_error", "the server failed on this message"))
            return False
        self._speakers.spoke(message.user_id)
        self._dialect.sent(services, message, self._client)
        self._in_flight.accepted()
        return False

    def message_refused(self, refused: Refused) -> None:
        """Answer a message that is not accepted; the connection lives on."""
        self._services.counters.messages_refused += 1
        if self._client.is_live:
            self._client.write(self._dialect.error(refused, int(self._services.now() * 1e6)))

    def acknowledge(self, accepted: Sequence[Accepted]) -> None:
        self._in_flight.answered(len(accepted))
        if self._client.is_live:
            self._services.counters.acks_sent += len(accepted)
            self._client.answer(self._dialect.acknowledgements(accepted))
            self._dialect.acknowledged(self._services, accepted, self._client)

    def refuse(self, refused: Refused, count: int) -> None:
        self._in_flight.answered(count)
        for _ in range(count):
            self.message_refused(refused)

    def _refuse_rate(self, quota: Quota, refused: Refused) -> None:
        self.message_refused(refused)
        if quota.is_abused:
            self._client.leave(POLICY_VIOLATION, "this client goes on sending too much, whatever it is told")
        else:
            self._rest((refused.retry_after_ms or _SHORT_REST_MS) / 1000)

    def _rest(self, seconds: float) -> None:
        if seconds and self._client.is_live:
            self._in_flight.rest(min(seconds, _MAX_REST_SECONDS))
