"""What has come and nobody has taken yet; and whether more is read meanwhile."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from twisted.internet.defer import Deferred

from chatflow.client.protocol import Connection
from chatflow.client.session import Event

#: Frames that are not heard while nobody takes what comes; they come again when the client resumes.
_SKIPPED = {None, "resumed", "reset", "heartbeat", "presence"}


class Inbox:
    """Events in the order in which they came. Runs on the reactor thread.

    While too many wait, nothing more is read; unless an answer is waited for: then what comes beside it is left out,
    and the connection is made anew once half of them are taken, to fetch it.

    :param max_events: so many may wait.
    :param expects_answers: whether an answer is waited for.
    """

    def __init__(self, max_events: int, expects_answers: Callable[[], bool]) -> None:
        self._max_events = max_events
        self._expects_answers = expects_answers
        self._events: deque[Event] = deque()
        self._taker: Deferred[None] | None = None
        self._connection: Connection | None = None
        # While too many wait: nothing is read, or what comes is left out.
        self._paused = False
        self._skipping = False

    def __len__(self) -> int:
        return len(self._events)

    @property
    def _full(self) -> bool:
        return len(self._events) >= self._max_events

    def connected(self, connection: Connection) -> None:
        """What comes, comes by this connection now."""
        self._connection = connection
        self.hold()

    def lost(self) -> None:
        """There is no connection."""
        self._connection = None
        self._paused = self._skipping = False

    def skip(self, frame: Mapping[str, Any]) -> bool:
        """Leave a frame out, if there is no room for it and an answer behind it is waited for; whether that is so.

        All that follows is left out too, until the client has come back to where it was.
        """
        if "status" in frame or frame.get("type") not in _SKIPPED:
            return False
        self._skipping = self._skipping or (self._full and self._expects_answers())
        return self._skipping

    def add(self, event: Event) -> None:
        """Keep it until it is taken."""
        self._events.append(event)
        self.wake()
        self.hold()

    def take(self) -> Event:
        """The oldest one.

        :raises IndexError: there is none.
        """
        event = self._events.popleft()
        if len(self._events) <= self._max_events // 2:
            self.listen()
            if self._skipping and self._connection is not None:
                self._connection.abort()  # and come back for what was left out
        return event

    def woken(self) -> Deferred[None]:
        """Fires when an event has come, or there is another reason to look again."""
        self._taker = Deferred()
        return self._taker

    def wake(self) -> None:
        """Have who waits look again."""
        taker, self._taker = self._taker, None
        if taker is not None:
            taker.callback(None)

    def hold(self) -> None:
        """Stop reading if too much waits, unless that would keep an answer from being heard."""
        if self._full and not self._paused and self._connection is not None and not self._expects_answers():
            self._paused = True
            self._connection.pause()

    def listen(self) -> None:
        """Read on."""
        if self._paused and self._connection is not None:
            self._paused = False
            self._connection.resume()
