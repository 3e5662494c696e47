"""How long to wait between calls, so that few of them carry much when calls are scarce, and none waits when not.

Calls are the scarce thing: they cost processor time here and money at AWS. The gap between two publishes of a queue,
and between two receives, grows while the measured round trip is well above its base (as TCP Vegas sees a full path:
Brakmo and Peterson, 1995) or this instance's calls exceed their budget, and shrinks again when neither holds.
"""

from __future__ import annotations

from twisted.internet.interfaces import IReactorTime

_STEP_SECONDS = 0.25  # between two decisions
_GROWTH = 2.0  # at most, so that a burst finds the gap it needs in a second
_SHRINK = 0.85
_SMALLEST_SECONDS = 0.02  # the first gap, and the last before none
#: The round trip may rise to this many times its base before calls are thought to be queueing.
_ROUND_TRIPS = 3.0
_SMALLEST_BASE_SECONDS = 0.01
#: The base is forgotten slowly, by so much a second: a path that became longer for good looks full for some minutes,
#: and doubles its base in three. By the call, it would be forgotten within seconds just when calls are many.
_BASE_DRIFT = 1.004
_MAX_DRIFT_SECONDS = 3600.0
_SMOOTHING = 0.3


class Pace:
    """One gap for all queues of an instance. Runs on the reactor thread.

    :param max_gap_seconds: the gap's bound, and so what pacing may add to a message's way at each of its two places.
    :param calls_per_second: the budget.
    """

    def __init__(self, *, clock: IReactorTime, max_gap_seconds: float, calls_per_second: float) -> None:
        self._clock = clock
        self._max_gap_seconds = max_gap_seconds
        self._budget = calls_per_second
        self._decided_at = clock.seconds()
        self._calls = self._failures = 0
        self._quickest_seconds: float | None = None
        self.gap_seconds = 0.0
        self.round_trip_seconds = 0.0
        self.base_seconds = 0.0
        self.calls_per_second = 0.0

    def count(self, round_trip_seconds: float | None = None) -> None:
        """A call was made. Give its round trip unless it was one that waits by itself, as a long poll does."""
        self._calls += 1
        if round_trip_seconds is not None:
            if not self.base_seconds:
                self.base_seconds = self.round_trip_seconds = round_trip_seconds
            self.base_seconds = min(self.base_seconds, round_trip_seconds)
            # The quickest of some: where calls queue, every one of them does; a single slow one says nothing.
            self._quickest_seconds = min(round_trip_seconds, self._quickest_seconds or round_trip_seconds)
        elapsed = self._clock.seconds() - self._decided_at
        if elapsed >= _STEP_SECONDS:
            self._decide(elapsed)

    def observe(self, operation: str, seconds: float) -> None:
        """A call succeeded. A receive waits by itself: the time it took says nothing."""
        self.count(None if operation == "receive_message" else seconds)

    def failed(self) -> None:
        """A call was throttled, failed or timed out: for a while, fewer of them."""
        self._failures += 1
        self.count()

    def wait_seconds(self, last_call_at: float, share: float = 1.0) -> float:
        """How long to wait, when the previous call of this kind and queue began at ``last_call_at``.

        :param share: of the gap, for calls that serve many rooms at once.
        """
        gap_seconds = share * self.gap_seconds
        return max(0.0, last_call_at + gap_seconds - self._clock.seconds())

    def _decide(self, elapsed: float) -> None:
        rate, failures = self._calls / elapsed, self._failures
        self._calls = self._failures = 0
        self._decided_at += elapsed
        self.base_seconds *= _BASE_DRIFT ** min(elapsed, _MAX_DRIFT_SECONDS)
        if self._quickest_seconds is not None:
            self.round_trip_seconds += _SMOOTHING * (self._quickest_seconds - self.round_trip_seconds)
            self._quickest_seconds = None
        # A quiet second between bursts is no proof of a free path, hence the smoothing; a long pause is.
        weight = min(1.0, elapsed)
        self.calls_per_second += weight * (rate - self.calls_per_second)
        pressure = max(
            self.calls_per_second / self._budget,
            self.round_trip_seconds / (_ROUND_TRIPS * max(self.base_seconds, _SMALLEST_BASE_SECONDS)),
        )
        if failures:
            pressure = max(pressure, 1.25)
        if pressure > 1.0:
            growth = min(_GROWTH, pressure)
            self.gap_seconds = min(self._max_gap_seconds, max(_SMALLEST_SECONDS, self.gap_seconds * growth))
        elif pressure < 0.8:
            self.gap_seconds *= _SHRINK
            if self.gap_seconds < _SMALLEST_SECONDS:
                self.gap_seconds = 0.0
