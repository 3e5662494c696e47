"""How long SQS is asked to hide what is received: short, so that a dead holder's rooms soon go on, and long enough.

A visibility that ends while its holder lives costs more than it is good for: an extension is a call, and what is given
to somebody else is worked on twice. So it follows how long envelopes are held: a fraction of a second as a rule, and
seconds when the database or the calls are slow; then deliveries take as long anyhow.
"""

from __future__ import annotations

import math

#: What is received is hidden for so many times the longest that envelopes were held of late.
_TIMES = 3.0
#: No longer than this, though: a room may have to wait for it.
_MOST_SECONDS = 30.0
#: What is left of a peak after each batch that was held for less.
_DECAY = 0.9


class Visibility:
    """Of one instance, for all its queues.

    :param least_seconds: of a visibility.
    """

    def __init__(self, least_seconds: float) -> None:
        self._least_seconds = least_seconds
        self._held_seconds = 0.0

    def observe(self, held_seconds: float) -> None:
        """Envelopes that were received together are settled now."""
        self._held_seconds = max(held_seconds, _DECAY * self._held_seconds + (1 - _DECAY) * held_seconds)

    @property
    def seconds(self) -> int:
        """Of what is received, or extended, now."""
        wanted = min(_TIMES * self._held_seconds, _MOST_SECONDS)
        return math.ceil(max(self._least_seconds, wanted))

    @staticmethod
    def until_late(visibility_seconds: float) -> float:
        """When, in seconds after a visibility began, an extension is due: there is time left to try it twice."""
        return 0.6 * visibility_seconds
