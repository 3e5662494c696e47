"""Making this instance's fan-out queue and removing it: each time another one, and as often as it takes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from chatflow.broker.attachment import Attachment, attach, detach
from chatflow.broker.interfaces import Calls
from chatflow.broker.lookup import require_topic
from chatflow.broker.names import Names
from chatflow.errors import StartupError
from chatflow.lifecycle import Backoff
from chatflow.lifecycle.blocking import at_once
from chatflow.lifecycle.clocks import WallTime

Register = Callable[[str, str], Awaitable[object]]


class Attacher:
    """Runs on the reactor thread.

    :param now: names queues.
    :param calls: of the running daemon.
    :param register: called with the run's id and the name of a queue before it is made, so that a reaper knows of it
        if this process dies.
    :param backoff: makes the pauses between the tries for one queue.
    """

    _log = Logger()

    def __init__(
        self,
        *,
        clock: IReactorTime,
        now: WallTime,
        calls: Calls,
        names: Names,
        server_id: str,
        register: Register,
        backoff: Callable[[], Backoff] = lambda: Backoff(first_seconds=0.5, cap_seconds=10.0),
    ) -> None:
        self._clock = clock
        self._now = now
        self._calls = calls
        self._names = names
        self._server_id = server_id
        self._register = register
        self._backoff = backoff
        self._abandoned = False
        self._pause: Deferred[None] | None = None

    def attach_first(self, blocking: Calls, register: Callable[[str, str], object]) -> tuple[str, Attachment]:
        """The topic's ARN, and the first queue, made and subscribed. Blocks; for the start.

        :param blocking: calls that block.
        :param register: blocks, too.
        :raises StartupError: AWS or the database refuse, or the objects are not there.
        """
        try:
            topic_arn = at_once(require_topic(blocking, self._names))
            start, name = self._next_queue()
            register(start, name)
            return topic_arn, at_once(attach(blocking, self._names, name))
        except StartupError:
            raise
        except Exception as error:
            raise StartupError(f"cannot attach to the fan-out: {error}") from error

    async def replace(self, gone: Attachment | None) -> Attachment | None:
        """Remove a queue and attach another one; None if it was abandoned before that was done. Does not fail."""
        # One name for all tries: each of them may have made the queue, and its entry is what makes others remove it.
        start, name = self._next_queue()
        await self.remove(gone)
        backoff = self._backoff()
        while not self._abandoned:
            try:
                await self._register(start, name)
                return await attach(self._calls, self._names, name)
            except Exception:
                self._log.failure("the fan-out queue {queue} could not be made", queue=name)
            await self._wait(backoff.next_delay_seconds())
        return None

    async def remove(self, attachment: Attachment | None) -> bool:
        """Unsubscribe a queue and delete it; whether certainly nothing is left of it. Does not fail."""
        if attachment is None:
            return True
        try:
            await detach(self._calls, attachment)
        except Exception as error:
            self._log.warn(
                "{queue} was not removed, the reaper will: {reason}", queue=attachment.queue_name, reason=str(error)
            )
            return False
        return True

    def abandon(self) -> None:
        """Begin no further try: this instance stops."""
        self._abandoned = True
        if self._pause is not None:
            self._pause.cancel()

    async def _wait(self, seconds: float) -> None:
        if self._abandoned:
            return
        self._pause = deferLater(self._clock, seconds)
        try:
            await self._pause
        except CancelledError:
            pass
        finally:
            self._pause = None

    def _next_queue(self) -> tuple[str, str]:
        """The id of a run, and the name of the queue that belongs to it: another one each time."""
        start = f"{int(self._now() * 1000):x}"
        return start, self._names.fanout_queue(self._server_id, start)
