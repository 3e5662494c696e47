"""How long messages are gathered before a flush begins: not at all where that would only be waiting.

A commit costs nearly the same for one message as for ten. While messages come one by one, each is committed at once,
and nobody waits. Once commits overlap with arrivals, so that a batch holds more than one, the next begins a little
later and takes several more with it. It is not put off for longer than the latency allowed, nor beyond what makes the
batch large enough: from some dozens of messages on, the fixed cost of a commit is a small part of its whole cost.

That others have come while a message was stored is what is observed, not the rate: somebody who sends the next message
when the last is acknowledged makes a high rate, and nobody joins a batch that is held back for him.
"""

from __future__ import annotations

from twisted.internet.interfaces import IReactorTime

#: A batch of so many pays for its commit: see docs/performance.rst.
ENOUGH_MESSAGES = 80
#: Messages of a batch, smoothed, from which on there is company to wait for. Left alone, one that gathers for nobody is
#: back at single messages after some flushes.
_COMPANY = 1.25
#: The weight of the latest flush.
_SMOOTHING = 0.25


class Rhythm:
    """When the next flush should begin. Runs on the reactor thread; asked by whoever gathers.

    :param ceiling_seconds: the longest that messages are gathered after a flush; 0 for never.
    """

    def __init__(self, *, clock: IReactorTime, ceiling_seconds: float) -> None:
        self._clock = clock
        self._ceiling_seconds = ceiling_seconds
        self._messages = 1.0
        self._flush_seconds = 0.0
        self._interval_seconds = 0.0
        self._began_at = clock.seconds()
        self._next_at = 0.0
        #: Whether the next flush begins with what has asked in this turn of the reactor.
        self._begins = False

    def began(self) -> None:
        """A flush begins."""
        now = self._clock.seconds()
        self._interval_seconds += _SMOOTHING * (now - self._began_at - self._interval_seconds)
        self._began_at = now
        if now >= self._next_at and not self._begins:
            self._next_at = now + self._period_seconds()

    def ended(self, messages: int) -> None:
        """It is done, with so many messages."""
        self._messages += _SMOOTHING * (messages - self._messages)
        self._flush_seconds += _SMOOTHING * (self._clock.seconds() - self._began_at - self._flush_seconds)

    def wait_seconds(self) -> float:
        """From now until the next flush should begin, if something waits for it. A flush under way may take longer.

        Who is told to wait no longer begins it, with all who ask in the same turn of the reactor. Later ones are for
        the flush after it: if they followed at once, they would have one of their own.
        """
        waits = self._next_at - self._clock.seconds()
        if waits > 0:
            return waits
        if not self._begins:
            self._begins = True
            self._clock.callLater(0, self._begin_period)
        return 0.0

    def _begin_period(self) -> None:
        self._begins = False
        self._next_at = self._clock.seconds() + self._period_seconds()

    def _period_seconds(self) -> float:
        """From the beginning of a flush to that of the next; 0 for as soon as can be."""
        ceiling = self._ceiling_seconds
        if self._messages < _COMPANY or not ceiling:
            return 0.0
        enough_seconds = self._interval_seconds * ENOUGH_MESSAGES / self._messages
        # One that took long, such as for an outage, says nothing of the next; and batches fill in it anyway.
        return min(min(self._flush_seconds, ceiling) + ceiling, enough_seconds)
