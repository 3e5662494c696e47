"""The client: comes back by itself, sends again what was not acknowledged, hands on every message once and in order."""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Literal, Self
from uuid import uuid4

import msgspec
from attrs import field, frozen
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import deferLater
from twisted.logger import Logger

from chatflow.client.outbox import Outbox, SendFailed
from chatflow.client.pending import PendingSeq, PendingSeqs
from chatflow.client.protocol import Connection, Rejected, TryLater, Unauthorized, open_connection
from chatflow.client.session import (
    Acknowledged,
    Broken,
    Event,
    Expiring,
    Goodbye,
    Message,
    Presence,
    Reset,
    Session,
    StoredAt,
)
from chatflow.errors import Refused
from chatflow.lifecycle.clocks import WallTime
from chatflow.rooms.messages import decode_unsigned, iso_timestamp

_FIRST_PAUSE_SECONDS = 0.2
_LONGEST_PAUSE_SECONDS = 20.0
# After a refusal, before what was refused is sent again on the same connection.
_FIRST_RESEND_SECONDS = 1.0
_LONGEST_RESEND_SECONDS = 15.0

#: A token, or a function that fetches one.
Token = str | Callable[[], str | Awaitable[str]]

#: Frames that are not heard while nobody takes what comes; they come again when the client resumes.
_SKIPPED = {None, "resumed", "reset", "heartbeat", "presence"}


@frozen
class Sent:
    """An acknowledged message."""

    message_id: str
    _ask: Callable[[], Deferred[int]] = field(repr=False)

    @property
    def seq(self) -> Deferred[int]:
        """Its place; each access gives another Deferred.

        Fires once the server tells it or the message comes. Fails with :class:`chatflow.client.PlaceUnknown` when the
        client is closed before, or when twice ``max_unacknowledged`` later messages wait for their places.
        """
        return self._ask()


@frozen
class State:
    """Of the connection. ``reason``: why it is not open; empty otherwise.

    ``waiting``: to connect again. ``closed``: for good.
    """

    name: Literal["connecting", "open", "waiting", "closed"]
    reason: str = ""


class ChatClient:
    """One user in one room, by ``user_id`` and ``username``, or by its token. Runs on the reactor thread.

    Iterate it for what comes: :class:`Message`, and :class:`Reset` and :class:`Presence` where they happen. While
    ``max_waiting`` of them wait to be taken, nothing more is read from the server; unless an answer is waited for: then
    what comes beside it is left out, and fetched by resuming later.

    :param reactor: if it is the process's own, let :func:`chatflow.lifecycle.clocks.make_monotonic` have it first: a
        clock that is set would stop, or fire, its timers.
    :param now: for the timestamps of messages.
    :param url: of the server, such as ``ws://localhost:8080``; ``wss://`` needs ``chatflow[tls]``.
    :param token: what a server with ``--auth jwt`` asks for; or a function that fetches one, which may return something
        to be awaited. It is called for each connection, and again before the token expires.
    :param since: begin with what follows this seq; 0 for all that is held.
    :param last: begin with so many messages instead. Without both, with what is live.
    :param presence: ask for :class:`Presence` events.
    :param max_unacknowledged: :meth:`send` waits while so many messages have no answer.
    :param on_state: called with each :class:`State` of the connection.
    :param uniform: of two bounds, for the pauses.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        url: str,
        room: int,
        *,
        now: WallTime = time.time,
        user_id: int | None = None,
        username: str | None = None,
        token: Token | None = None,
        since: int | None = None,
        last: int | None = None,
        presence: bool = False,
        max_unacknowledged: int = 100,
        max_waiting: int = 1000,
        on_state: Callable[[State], object] = lambda state: None,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._reactor = reactor
        self._now = now
        self._url = f"{url.rstrip('/')}/chat/{room}"
        if token is None and (user_id is None or username is None):
            raise TypeError("user_id and username are needed, unless there is a token that says them")
        self._token = token
        given = {"userId": user_id if user_id is None else str(user_id), "username": username}
        self._who = {name: value for name, value in given.items() if value is not None}
        self._presence = presence
        self._max_unacknowledged = max_unacknowledged
        self._max_waiting = max_waiting
        self._uniform = uniform
        self._on_state = on_state
        self._session = Session(since=since, last=last)
        self._outbox = Outbox()
        self._pending_seqs = PendingSeqs(2 * max_unacknowledged)
        self._answers: dict[str, Deferred[Sent]] = {}
        self._room_to_send: list[Deferred[None]] = []
        self._resend: IDelayedCall | None = None
        self._events: deque[Event] = deque()
        self._taker: Deferred[None] | None = None
        self._connection: Connection | None = None
        #: While too much waits to be taken: nothing is read, or what comes is left out.
        self._paused = False
        self._skipping = False
        self._pause: Deferred[None] | None = None
        self._retry_after_seconds: float | None = None
        self._closing = False
        self._rejected: Rejected | None = None
        self._running: Deferred[None] | None = None
        #: How often it has connected.
        self.connections = 0

    def start(self) -> Self:
        """Begin to connect, and to come back whenever the connection is lost, until :meth:`close`.

        A server that answers 400, 403 or 404, or 401 to a token that no function fetches, or closes the connection of
        who is banned, ends it too: then the iteration raises :class:`chatflow.client.Rejected`.
        """
        self._running = Deferred.fromCoroutine(self._run())
        return self

    async def send(self, text: str, message_type: str = "TEXT") -> Sent:
        """Send a message, now or once there is a connection; returns when it is durable.

        :raises Refused: it breaks a rule of the protocol, or the server will never take it; it is not stored.
        :raises SendFailed: the client was closed or rejected before there was an answer, or the server kept refusing.
        """
        own_id = str(uuid4())
        frame = msgspec.json.encode(
            {
                **self._who,
                "message": text,
                "timestamp": iso_timestamp(int(self._now() * 1e6)),
                "messageType": message_type,
                "clientMessageId": own_id,
            }
        )
        decode_unsigned(frame, 1, None if "username" in self._who or self._token is None else "any")
        limit = self._session.max_frame_bytes
        if limit is not None and len(frame) > limit:
            raise Refused("too_large", f"the message must be at most {limit} bytes")
        while len(self._outbox) >= self._max_unacknowledged and not self._over:
            turn: Deferred[None] = Deferred()
            self._room_to_send.append(turn)
            await turn
        if self._over:
            raise self._failure("the client is closed")
        answer: Deferred[Sent] = Deferred()
        self._answers[own_id] = answer
        self._outbox.add(own_id, frame)
        self._flush()
        self._listen()
        return await answer

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        while not self._events:
            if self._rejected is not None:
                raise self._rejected
            if self._closing:
                raise StopAsyncIteration
            self._taker = Deferred()
            await self._taker
        event = self._events.popleft()
        if len(self._events) <= self._max_waiting // 2:
            self._listen()
            if self._skipping and self._connection is not None:
                self._connection.abort()  # and come back for what was left out
        return event

    async def close(self) -> None:
        """End the connection and the iteration. What has no answer fails with :class:`SendFailed`."""
        self._closing = True
        if self._pause is not None:
            self._pause.cancel()
        if self._connection is not None:
            self._listen()
            self._connection.sendClose(1000)
        if self._running is not None:
            await self._running
        self._end("the client was closed before there was an answer")

    @property
    def user_id(self) -> str | None:
        """Who this is: as it was told, or as the server said of the token; None while that is not known."""
        return self._who.get("userId") or self._session.user_id

    @property
    def _over(self) -> bool:
        return self._closing or self._rejected is not None

    def _failure(self, text: str) -> SendFailed:
        return SendFailed(f"the server does not let this client in: {self._rejected}" if self._rejected else text)

    def _end(self, text: str) -> None:
        """Nothing more comes: everybody who waits is told."""
        answers, self._answers = self._answers, {}
        for answer in answers.values():
            answer.errback(self._failure(text))
        self._pending_seqs.close()
        self._wake()

    # The connection, and the next one

    async def _run(self) -> None:
        failures = 0
        while not self._closing:
            self._on_state(State("connecting"))
            try:
                connection = await open_connection(
                    self._reactor, self._url, self._query(), self, await self._fetch_token()
                )
            except Rejected as error:
                if isinstance(error, Unauthorized) and callable(self._token):
                    failures += 1
                    await self._wait_for_another_try(str(error), failures)
                    continue
                self._reject(error)
                return
            except Exception as error:
                failures += 1
                reason = str(error) or type(error).__name__
                if isinstance(error, TryLater):
                    # Others behind the same address were told the same.
                    self._retry_after_seconds = error.seconds + self._uniform(0, _longest_pause_seconds(failures))
            else:
                before = self._session.seq
                self._opened(connection)
                try:
                    reason = await connection.closed
                except Rejected as error:
                    self._lost()
                    self._reject(error)
                    return
                self._lost()
                failures = 0 if self._session.seq != before or self._retry_after_seconds is not None else failures + 1
            if not self._closing:
                await self._wait_for_another_try(reason, failures)
        self._on_state(State("closed"))

    async def _wait_for_another_try(self, reason: str, failures: int) -> None:
        self._log.info("not connected: {reason}", reason=reason)
        self._on_state(State("waiting", reason))
        await self._wait(failures)

    async def _fetch_token(self) -> str | None:
        token = self._token() if callable(self._token) else self._token
        return token if token is None or isinstance(token, str) else await token

    async def _renew(self) -> None:
        """Send a new token ahead of the end of the one that the connection has."""
        connection = self._connection
        try:
            token = await self._fetch_token()
        except Exception as error:
            self._log.warn("there is no new token: {reason}", reason=str(error) or type(error).__name__)
            return
        if connection is not None and connection is self._connection:
            connection.send(msgspec.json.encode({"type": "refresh", "token": token}))

    def _reject(self, error: Rejected) -> None:
        self._rejected = error
        self._on_state(State("closed", str(error)))
        self._end("")

    def _query(self) -> dict[str, Any]:
        return {**self._session.query(), **self._who, **({"presence": 1} if self._presence else {})}

    def _opened(self, connection: Connection) -> None:
        self.connections += 1
        if self._closing:
            connection.sendClose(1000)
            return
        self._connection = connection
        self._outbox.connected()
        self._on_state(State("open"))
        self._flush()
        self._hold()

    def _lost(self) -> None:
        self._connection = None
        self._paused = self._skipping = False
        if self._resend is not None and self._resend.active():
            self._resend.cancel()

    async def _wait(self, failures: int) -> None:
        """Full jitter, so that the clients of a lost server do not come back together; or as the server asked."""
        seconds, self._retry_after_seconds = self._retry_after_seconds, None
        if seconds is None:
            seconds = self._uniform(0, _longest_pause_seconds(failures))
        self._pause = deferLater(self._reactor, seconds)
        try:
            await self._pause
        except CancelledError:
            pass
        finally:
            self._pause = None

    # What is heard

    def heard(self, frame: Mapping[str, Any]) -> None:
        """A frame came; called by the connection."""
        try:
            if self._is_skipped(frame):
                return
            events = self._session.received(frame)
        except (Broken, KeyError, TypeError) as error:
            self._log.warn("the connection is given up: {reason}", reason=str(error))
            if self._connection is not None:
                self._connection.abort()
            return
        for event in events:
            if isinstance(event, Message):
                self._found(event.message_id, event.seq, event.user_id)
                self._hand_on(event)
            elif isinstance(event, Reset | Presence):
                self._hand_on(event)
            elif isinstance(event, Acknowledged):
                self._acknowledged(event)
            elif isinstance(event, StoredAt):
                self._pending_seqs.found(event.message_id, event.seq, early=False)
            elif isinstance(event, Expiring):
                if callable(self._token):
                    Deferred.fromCoroutine(self._renew())
            elif isinstance(event, Goodbye):
                self._retry_after_seconds = event.retry_after_seconds
            else:
                self._outbox.refused(event)
                self._settle()

    def _is_skipped(self, frame: Mapping[str, Any]) -> bool:
        """Whether it is left out, since there is no room for it and an answer behind it is waited for.

        All that follows is left out too, until the client has come back to where it was.
        """
        if "status" in frame or frame.get("type") not in _SKIPPED:
            return False
        self._skipping = self._skipping or (self._full and self._expects_answers)
        if self._skipping and "type" not in frame:
            self._found(frame["messageId"], frame["seq"], frame["userId"])
        return self._skipping

    def _hand_on(self, event: Event) -> None:
        self._events.append(event)
        self._wake()
        self._hold()

    def _found(self, message_id: str, seq: int, user_id: str) -> None:
        self._pending_seqs.found(message_id, seq, early=user_id == self.user_id and len(self._outbox) > 0)

    # Room for what comes

    @property
    def _full(self) -> bool:
        return len(self._events) >= self._max_waiting

    @property
    def _expects_answers(self) -> bool:
        return len(self._outbox) > 0 or self._pending_seqs.awaited

    def _hold(self) -> None:
        """Stop reading if too much waits, unless that would keep an answer from being heard."""
        if self._full and not self._paused and self._connection is not None and not self._expects_answers:
            self._paused = True
            self._connection.pause()

    def _listen(self) -> None:
        """Read on."""
        if self._paused and self._connection is not None:
            self._paused = False
            self._connection.resume()

    def _wake(self) -> None:
        taker, self._taker = self._taker, None
        if taker is not None:
            taker.callback(None)
        waiting, self._room_to_send = self._room_to_send, []
        for turn in waiting:
            turn.callback(None)

    # What is sent

    def _flush(self) -> None:
        if self._connection is not None:
            for frame in self._outbox.to_send():
                self._connection.send(frame)

    def _acknowledged(self, event: Acknowledged) -> None:
        if not self._outbox.acknowledged(event.own_id):
            return
        place = self._pending_seqs.acknowledged(event.message_id)
        self._answers.pop(event.own_id).callback(Sent(event.message_id, partial(self._ask, place)))
        self._settle()

    def _ask(self, place: PendingSeq) -> Deferred[int]:
        seq = place.seq()
        self._listen()
        return seq

    def _settle(self) -> None:
        """Something was answered: what follows for the rest?"""
        for own_id, error in self._outbox.settle():
            self._answers.pop(own_id).errback(error)
        if not self._outbox.pausing:
            self._flush()
        elif self._resend is None or not self._resend.active():
            self._resend = self._reactor.callLater(self._resend_seconds(), self._send_again)
        self._wake()
        self._hold()

    def _resend_seconds(self) -> float:
        """As the server says; if it does not, or if that was of no use, longer and longer."""
        rounds, told = self._outbox.rounds, self._outbox.retry_after_seconds
        if told is not None and rounds == 1:
            return told
        longest = min(_LONGEST_RESEND_SECONDS, _FIRST_RESEND_SECONDS * 2 ** (rounds - 1))
        return max(told or 0.0, self._uniform(longest / 2, longest))

    def _send_again(self) -> None:
        self._outbox.resume()
        self._flush()


def _longest_pause_seconds(failures: int) -> float:
    return min(_LONGEST_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * 2.0 ** min(failures, 10))
