"""The client: comes back by itself, sends again what was not acknowledged, hands on every message once and in order."""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Literal, Self
from uuid import uuid4

import msgspec
from attrs import frozen
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger

from chatflow.client.inbox import Inbox
from chatflow.client.outbox import SendFailed
from chatflow.client.protocol import Connection, Rejected, TryLater, Unauthorized, open_connection
from chatflow.client.sending import Sending, Sent
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

#: A token, or a function that fetches one.
Token = str | Callable[[], str | Awaitable[str]]


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
        self._uniform = uniform
        self._on_state = on_state
        self._session = Session(since=since, last=last)
        self._inbox = Inbox(max_waiting, lambda: self._sending.expects_answers)
        self._sending = Sending(
            reactor,
            max_unacknowledged=max_unacknowledged,
            uniform=uniform,
            why_ended=self._why_ended,
            expecting=self._inbox.listen,
            settled=self._inbox.hold,
        )
        self._connection: Connection | None = None
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
        return await self._sending.send(own_id, frame)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        while not self._inbox:
            if self._rejected is not None:
                raise self._rejected
            if self._closing:
                raise StopAsyncIteration
            await self._inbox.woken()
        return self._inbox.take()

    async def close(self) -> None:
        """End the connection and the iteration. What has no answer fails with :class:`SendFailed`."""
        self._closing = True
        if self._pause is not None:
            self._pause.cancel()
        if self._connection is not None:
            self._inbox.listen()
            self._connection.sendClose(1000)
        if self._running is not None:
            await self._running
        self._end(lambda: SendFailed("the client was closed before there was an answer"))

    @property
    def user_id(self) -> str | None:
        """Who this is: as it was told, or as the server said of the token; None while that is not known."""
        return self._who.get("userId") or self._session.user_id

    def _why_ended(self) -> SendFailed | None:
        """Why nothing is sent any more, if that is so."""
        if self._rejected is not None:
            return _not_let_in(self._rejected)
        return SendFailed("the client is closed") if self._closing else None

    def _end(self, failure: Callable[[], SendFailed]) -> None:
        """Nothing more comes: everybody who waits is told."""
        self._sending.end(failure)
        self._inbox.wake()

    # The connection, and the next one

    async def _run(self) -> None:
        failures = 0
        while not self._closing:
            self._tell(State("connecting"))
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
        self._tell(State("closed"))

    async def _wait_for_another_try(self, reason: str, failures: int) -> None:
        self._log.info("not connected: {reason}", reason=reason)
        self._tell(State("waiting", reason))
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
        self._tell(State("closed", str(error)))
        self._end(lambda: _not_let_in(error))

    def _tell(self, state: State) -> None:
        try:
            self._on_state(state)
        except Exception:  # the connection goes on, and whoever waits is to be told
            self._log.failure("what is called with the connection's state failed")

    def _query(self) -> dict[str, Any]:
        return {**self._session.query(), **self._who, **({"presence": 1} if self._presence else {})}

    def _opened(self, connection: Connection) -> None:
        self.connections += 1
        if self._closing:
            connection.sendClose(1000)
            return
        self._connection = connection
        self._tell(State("open"))
        self._sending.connected(connection)
        self._inbox.connected(connection)

    def _lost(self) -> None:
        self._connection = None
        self._inbox.lost()
        self._sending.lost()

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
            if self._inbox.skip(frame):
                if "type" not in frame:
                    self._found(frame["messageId"], frame["seq"], frame["userId"])
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
                self._inbox.add(event)
            elif isinstance(event, Reset | Presence):
                self._inbox.add(event)
            elif isinstance(event, Acknowledged):
                self._sending.acknowledged(event)
            elif isinstance(event, StoredAt):
                self._sending.found(event.message_id, event.seq, early=False)
            elif isinstance(event, Expiring):
                if callable(self._token):
                    Deferred.fromCoroutine(self._renew())
            elif isinstance(event, Goodbye):
                self._retry_after_seconds = event.retry_after_seconds
            else:
                self._sending.refused(event)

    def _found(self, message_id: str, seq: int, user_id: str) -> None:
        self._sending.found(message_id, seq, early=user_id == self.user_id and self._sending.is_unanswered)


def _not_let_in(error: Rejected) -> SendFailed:
    return SendFailed(f"the server does not let this client in: {error}")


def _longest_pause_seconds(failures: int) -> float:
    return min(_LONGEST_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * 2.0 ** min(failures, 10))
