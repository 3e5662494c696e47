"""Probes: what an instance publishes for itself, to learn whether its subscription works."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from attrs import define, frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from chatflow.lifecycle import Outstanding


@frozen(kw_only=True)
class ProbeTimes:
    """In seconds.

    :ivar repeat_seconds: between two probes through a new queue.
    :ivar lost_seconds: a queue through which none has come back for so long receives nothing. Twice as long for the
        next one, up to ``max_lost_seconds``.
    :ivar check_seconds: the same through a queue that has received before: a probe comes back much sooner.
    """

    repeat_seconds: float = 4.0
    lost_seconds: float = 12.0
    max_lost_seconds: float = 300.0
    check_seconds: float = 6.0


USUAL_TIMES = ProbeTimes()


@define(eq=False)
class _Probing:
    """:ivar timeout_seconds: counted from the first probe that SNS took. :ivar repeats: until one comes back."""

    queue_name: str
    timeout_seconds: float
    repeats: bool
    timeout: IDelayedCall | None = None
    repeat: IDelayedCall | None = None


class Prober:
    """Sends probes and waits for them, by timers. Runs on the reactor thread.

    :param send: publishes a probe of a queue; whether SNS has it.
    :param on_lost: called once when a probe did not come back in time; probing has ended then.
    :param on_not_sent: called when the only probe was not taken; likewise.
    """

    _log = Logger()

    def __init__(
        self,
        *,
        clock: IReactorTime,
        send: Callable[[str], Awaitable[bool]],
        on_lost: Callable[[], object],
        on_not_sent: Callable[[], object],
        outstanding: Outstanding,
        times: ProbeTimes,
    ) -> None:
        self._clock = clock
        self._send = send
        self._on_lost = on_lost
        self._on_not_sent = on_not_sent
        self._outstanding = outstanding
        self._times = times
        self._lost_seconds = times.lost_seconds
        self._present: _Probing | None = None

    def probe_until_returned(self, queue_name: str) -> None:
        """Begin with a new queue: one probe after the other."""
        self._begin(_Probing(queue_name, self._lost_seconds, repeats=True))

    def probe_once(self, queue_name: str) -> None:
        """Begin with a queue that has received before."""
        self._begin(_Probing(queue_name, self._times.check_seconds, repeats=False))

    def returned(self) -> None:
        """A probe came back: queues are given the usual time again."""
        self._lost_seconds = self._times.lost_seconds

    def stop(self) -> None:
        """Wait for none any more of the probes that are under way."""
        present, self._present = self._present, None
        for timer in (present.timeout, present.repeat) if present else ():
            if timer is not None and timer.active():
                timer.cancel()

    def _begin(self, probing: _Probing) -> None:
        self.stop()
        self._present = probing
        self._probe(probing)

    def _probe(self, probing: _Probing) -> None:
        self._outstanding.add("probing", Deferred.fromCoroutine(self._send_one(probing)))

    async def _send_one(self, probing: _Probing) -> None:
        is_sent = await self._send(probing.queue_name)
        if self._present is not probing:
            return
        if is_sent and probing.timeout is None:
            probing.timeout = self._clock.callLater(probing.timeout_seconds, self._lose, probing)
        if probing.repeats:
            probing.repeat = self._clock.callLater(self._times.repeat_seconds, self._probe, probing)
        elif not is_sent:
            self.stop()
            self._on_not_sent()

    def _lose(self, probing: _Probing) -> None:
        self._log.error(
            "no probe came back through {queue} for {seconds:.0f} s: making another",
            queue=probing.queue_name,
            seconds=probing.timeout_seconds,
        )
        if probing.repeats:
            self._lost_seconds = min(2 * self._lost_seconds, self._times.max_lost_seconds)
        self.stop()
        self._on_lost()
