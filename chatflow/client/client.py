"""The client: comes back by itself, sends again what was not acknowledged, hands on every message once and in order."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Self
from uuid import uuid4

import msgspec
from attrs import frozen
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger

from chatflow.client.protocol import Connection, open_connection
from chatflow.client.session import (
    Acknowledged,
    Broken,
    Event,
    Goodbye,
    Message,
    Presence,
    Reset,
    SendAgain,
    Session,
    StoredAt,
)
from chatflow.errors import ChatFlowError
from chatflow.rooms.messages import decode

_FIRST_PAUSE_SECONDS = 0.2
_LONGEST_PAUSE_SECONDS = 20.0
_SEND_AGAIN_SECONDS = 1.0
_MAX_REFUSALS = 20


class SendFailed(ChatFlowError):
    """A message was not acknowledged and will not be sent again; it may have been stored all the same."""


@frozen
class Sent:
    """An acknowledged message. ``seq``: its place, fires once that is known; only servers of chatflow.v2 tell it."""

    message_id: str
    seq: Deferred[int]


class ChatClient:
    """One user in one room. Runs on the reactor thread.

    Iterate it for what comes: :class:`Message`, and :class:`Reset` and :class:`Presence` where they happen. While
    ``max_waiting`` of them wait to be taken, nothing more is read from the server.

    :param url: of the server, such as ``ws://localhost:8080``; ``wss://`` needs ``chatflow[tls]``.
    :param since: begin with what follows this seq; 0 for all that is held.
    :param last: begin with so many messages instead. Without both, with what is live.
    :param presence: ask for :class:`Presence` events.
    :param max_unacknowledged: :meth:`send` waits while so many messages have no answer.
    :param uniform: of two bounds, for the pauses.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        url: str,
        room: int,
        *,
        user_id: int,
        username: str,
        since: int | None = None,
        last: int | None = None,
        presence: bool = False,
        max_unacknowledged: int = 100,
        max_waiting: int = 1000,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._reactor = reactor
        self._url = f"{url.rstrip('/')}/chat/{room}"
        self._who = {"userId": str(user_id), "username": username}
        self._presence = presence
        self._max_unacknowledged = max_unacknowledged
        self._max_waiting = max_waiting
        self._uniform = uniform
        self._session = Session(since=since, last=last)
        self._events: deque[Event] = deque()
        self._taker: Deferred[None] | None = None
        self._answers: dict[str, Deferred[Sent]] = {}
        self._places: dict[str, Deferred[int]] = {}
        self._room_to_send: list[Deferred[None]] = []
        self._connection: Connection | None = None
        self._paused = False
        self._pause: Deferred[None] | None = None
        self._retry_after_seconds: float | None = None
        self._refusals = 0
        self._closing = False
        self._running: Deferred[None] | None = None
        #: How often it has connected.
        self.connections = 0

    def start(self) -> Self:
        """Begin to connect, and to come back whenever the connection is lost, until :meth:`close`."""
        self._running = Deferred.fromCoroutine(self._run())
        return self

    async def send(self, text: str, message_type: str = "TEXT") -> Sent:
        """Send a message, now or once there is a connection; returns when it is durable.

        :raises chatflow.errors.Refused: it breaks a rule of the protocol, and was not sent.
        :raises SendFailed: the client was closed before there was an answer, or the server kept refusing.
        """
        own_id = str(uuid4())
        timestamp = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        frame = msgspec.json.encode(
            {
                **self._who,
                "message": text,
                "timestamp": timestamp,
                "messageType": message_type,
                "clientMessageId": own_id,
            }
        )
        decode(frame)
        while len(self._session.unacknowledged) >= self._max_unacknowledged and not self._closing:
            turn: Deferred[None] = Deferred()
            self._room_to_send.append(turn)
            await turn
        if self._closing:
            raise SendFailed("the client is closed")
        answer: Deferred[Sent] = Deferred()
        self._answers[own_id] = answer
        self._session.unacknowledged[own_id] = frame
        if self._connection is not None:
            self._connection.send(frame)
        return await answer

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        while not self._events:
            if self._closing:
                raise StopAsyncIteration
            self._taker = Deferred()
            await self._taker
        event = self._events.popleft()
        if self._paused and len(self._events) <= self._max_waiting // 2:
            self._paused = False
            if self._connection is not None:
                self._connection.transport.resumeProducing()
        return event

    async def close(self) -> None:
        """End the connection and the iteration. What has no answer fails with :class:`SendFailed`."""
        self._closing = True
        if self._pause is not None:
            self._pause.cancel()
        if self._connection is not None:
            if self._paused:
                self._connection.transport.resumeProducing()
            self._connection.sendClose(1000)
        if self._running is not None:
            await self._running
        answers, self._answers = self._answers, {}
        for answer in answers.values():
            answer.errback(SendFailed("the client was closed before there was an answer"))
        self._wake()

    # The connection, and the next one

    async def _run(self) -> None:
        failures = 0
        while not self._closing:
            try:
                connection = await open_connection(self._reactor, self._url, self._query(), self)
            except Exception as error:
                failures += 1
                self._log.info("cannot connect: {reason}", reason=str(error) or type(error).__name__)
            else:
                before = self._session.seq
                self._opened(connection)
                await connection.closed
                self._connection = None
                failures = 0 if self._session.seq != before or self._retry_after_seconds is not None else failures + 1
            if not self._closing:
                await self._wait(failures)

    def _query(self) -> dict[str, Any]:
        return {**self._session.query(), **self._who, **({"presence": 1} if self._presence else {})}

    def _opened(self, connection: Connection) -> None:
        self.connections += 1
        if self._closing:
            connection.sendClose(1000)
            return
        self._connection = connection
        if self._paused:
            connection.transport.pauseProducing()
        for frame in self._session.to_send():
            connection.send(frame)

    async def _wait(self, failures: int) -> None:
        """Full jitter, so that the clients of a lost server do not come back together; or as the server asked."""
        longest = min(_LONGEST_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * 2 ** min(failures, 10))
        seconds, self._retry_after_seconds = self._retry_after_seconds, None
        self._pause = deferLater(self._reactor, self._uniform(0, longest) if seconds is None else seconds)
        try:
            await self._pause
        except CancelledError:
            pass
        finally:
            self._pause = None

    # Frames

    def heard(self, frame: dict[str, Any]) -> None:
        """A frame came; called by the connection."""
        try:
            events = self._session.received(frame)
        except (Broken, KeyError, TypeError) as error:
            self._log.warn("the connection is given up: {reason}", reason=str(error))
            if self._connection is not None:
                self._connection.abort()
            return
        for event in events:
            if isinstance(event, Message | Reset | Presence):
                self._hand_on(event)
            elif isinstance(event, Acknowledged):
                self._acknowledged(event)
            elif isinstance(event, StoredAt):
                place = self._places.pop(event.message_id, None)
                if place is not None:
                    place.callback(event.seq)
            elif isinstance(event, Goodbye):
                self._retry_after_seconds = event.retry_after_seconds
            else:
                self._refused(event)

    def _hand_on(self, event: Event) -> None:
        self._events.append(event)
        self._wake()
        if len(self._events) >= self._max_waiting and not self._paused and self._connection is not None:
            self._paused = True
            self._connection.transport.pauseProducing()

    def _wake(self) -> None:
        taker, self._taker = self._taker, None
        if taker is not None:
            taker.callback(None)
        waiting, self._room_to_send = self._room_to_send, []
        for turn in waiting:
            turn.callback(None)

    def _acknowledged(self, event: Acknowledged) -> None:
        self._refusals = 0
        answer = self._answers.pop(event.own_id, None)
        if answer is not None:
            place: Deferred[int] = Deferred()
            self._places[event.message_id] = place
            if len(self._places) > 2 * self._max_unacknowledged:
                self._places.pop(next(iter(self._places)))
            answer.callback(Sent(event.message_id, place))
        self._wake()

    def _refused(self, event: SendAgain) -> None:
        self._refusals += 1
        if self._refusals == 1 or self._refusals % _MAX_REFUSALS:
            connection = self._connection
            self._reactor.callLater(_SEND_AGAIN_SECONDS, self._send_again, connection)
            return
        self._session.unacknowledged.clear()
        answers, self._answers = self._answers, {}
        for answer in answers.values():
            answer.errback(SendFailed(f"the server keeps refusing: {event.code}: {event.reason}"))
        self._wake()

    def _send_again(self, connection: Connection | None) -> None:
        if connection is not None and connection is self._connection:
            for frame in self._session.to_send():
                connection.send(frame)
