"""The end of the clients' service, for good or while the clock is wrong: they are asked to come back elsewhere."""

from __future__ import annotations

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from chatflow.contracts.broker import IBroker
from chatflow.edge.connections import Connections
from chatflow.rooms.ingress import Ingress
from chatflow.status import InstanceStatus

#: Who has waited so long for a clock to be set right goes elsewhere.
_WRONG_CLOCK_SECONDS = 30.0
_WRONG_CLOCK = "the clock of this server is wrong: reconnect, or send this message again later"

#: Refusing takes some turns of the reactor.
_REFUSED_SECONDS = 0.25


class Drain(Service):
    """Ready from its start on. Its stop fires when no client is left.

    The ports stay open until then: a load balancer has to see ``/health/ready`` turn 503, and new chat connections
    are refused with 503.

    :param answer_timeout_seconds: how long to wait until what was accepted is answered.
    """

    _log = Logger()

    def __init__(
        self,
        *,
        clock: IReactorTime,
        connections: Connections,
        ingress: Ingress,
        status: InstanceStatus,
        broker: IBroker,
        answer_timeout_seconds: float,
    ) -> None:
        self._clock = clock
        self._connections = connections
        self._ingress = ingress
        self._status = status
        self._broker = broker
        self._answer_timeout_seconds = answer_timeout_seconds

    def startService(self) -> None:
        super().startService()
        self._status.started = True

    def stopService(self) -> Deferred[None]:
        super().stopService()
        return Deferred.fromCoroutine(self._drain())

    async def _drain(self) -> None:
        began = self._clock.seconds()
        clients, pending = len(self._connections), self._ingress.pending
        self._connections.begin_drain()
        self._broker.begin_drain()
        if not await self._answered(self._answer_timeout_seconds):
            # Now, so that there is time to tell the clients.
            self._log.error("{pending} messages are given up: they cannot be stored", pending=self._ingress.pending)
            self._broker.abort_pending()
            await self._answered(_REFUSED_SECONDS)
        await self._connections.close_all()
        self._log.info(
            "drained {clients} clients and {pending} messages in {seconds:.3f} s",
            clients=clients,
            pending=pending,
            seconds=self._clock.seconds() - began,
        )

    async def _answered(self, within_seconds: float) -> bool:
        """Whether every accepted message is answered by then."""
        drained = self._ingress.drain()
        too_late = self._clock.callLater(within_seconds, drained.cancel)
        try:
            await drained
        except CancelledError:
            return False
        too_late.cancel()
        return True


class WrongClock:
    """What clients meet while this machine's clock is wrong: refusals at once, and the way to another instance later.

    Nobody is sent away for a mistake that is put right soon, nor where there is no other instance.

    :param has_others: whether there may be other instances.
    """

    def __init__(self, *, clock: IReactorTime, ingress: Ingress, connections: Connections, has_others: bool) -> None:
        self._clock = clock
        self._ingress = ingress
        self._connections = connections
        self._has_others = has_others
        self._sending_away: IDelayedCall | None = None

    def begin(self) -> None:
        """Refuse messages from now on, and send clients elsewhere if it stays so."""
        self._ingress.close(_WRONG_CLOCK)
        if self._has_others:
            self._sending_away = self._clock.callLater(_WRONG_CLOCK_SECONDS, self._send_away)

    def end(self) -> None:
        """Take messages again."""
        self._ingress.reopen()
        if self._sending_away is not None and self._sending_away.active():
            self._sending_away.cancel()

    def _send_away(self) -> None:
        Deferred.fromCoroutine(self._connections.send_away(_WRONG_CLOCK)).addErrback(
            lambda failure: Drain._log.failure("clients were not sent away", failure)
        )
