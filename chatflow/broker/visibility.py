"""How long SQS is asked to hide what is received: short, so that a dead holder's rooms soon go on, and long enough.

A visibility that ends while its holder lives costs more than it is good for: an extension is a call, and what is given
to somebody else is worked on twice. So it follows how long envelopes are held: a fraction of a second as a rule, and
seconds when the database or the calls are slow; then deliveries take as long anyhow.

A database that was away says nothing of how long envelopes are held once it is back. So no hold counts for more than
what can be asked for, and each is forgotten within seconds, also where little comes.
"""

from __future__ import annotations

import math

from twisted.internet.interfaces import IReactorTime

#: What is received is hidden for so many times the longest that envelopes were held of late.
_TIMES = 3.0
#: No longer than this, though: a room may have to wait for it.
_MOST_SECONDS = 30.0
#: What is left of a peak after each batch that was held for less.
_DECAY = 0.9
#: And half of it is left after so long. What is slow all the time is received anew as soon as it is settled.
_HALF_LIFE_SECONDS = 5.0


class Visibility:
    """Of one instance, for all its queues.

    :param clock: of durations.
    :param least_seconds: of a visibility.
    """

    def __init__(self, clock: IReactorTime, least_seconds: float) -> None:
        self._clock = clock
        self._least_seconds = least_seconds
        self._held_seconds = 0.0
        self._observed_at = clock.seconds()

    def observe(self, held_seconds: float) -> None:
        """Envelopes that were received together are settled now."""
        held_seconds = min(held_seconds, _MOST_SECONDS / _TIMES)
        self._held_seconds = max(held_seconds, _DECAY * self._remembered_seconds() + (1 - _DECAY) * held_seconds)
        self._observed_at = self._clock.seconds()

    @property
    def seconds(self) -> int:
        """Of what is received, or extended, now."""
        return math.ceil(max(self._least_seconds, _TIMES * self._remembered_seconds()))

    def _remembered_seconds(self) -> float:
        half_lives = (self._clock.seconds() - self._observed_at) / _HALF_LIFE_SECONDS
        return float(self._held_seconds * 0.5**half_lives)

    @staticmethod
    def until_late(visibility_seconds: float) -> float:
        """When, in seconds after a visibility began, an extension is due: there is time left to try it twice."""
        return 0.6 * visibility_seconds
