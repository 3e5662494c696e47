"""A virtual client with one connection, which is to last for the whole phase."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from zope.interface import implementer

from chatflow.load import wire
from chatflow.load.client_session import Session
from chatflow.load.connection import LoadConnection
from chatflow.load.interfaces import IConnectionOwner, ILoadClient

Connect = Callable[[LoadConnection], Deferred[Any]]
"""Connects it to its ``address``. Fires once that is done, before the handshake, or fails."""


def refuse_opening(opened: Deferred[None], error: Exception) -> None:
    """The first handshake failed. Whoever gave up waiting for it has had another failure already."""
    if not opened.called:
        opened.errback(Failure(error))


def ended_in_handshake(reason: Failure) -> wire.WireError:
    """:param reason: of ``connectionLost``."""
    return wire.WireError(f"closed during the handshake: {reason.getErrorMessage()}")


@implementer(ILoadClient, IConnectionOwner)
class LoadClient:
    """When the server ends the connection, or sends what it may not, the client is lost."""

    def __init__(self, session: Session, connect: Connect) -> None:
        self.session = session
        self.opened: Deferred[None] = Deferred()
        self.closed: Deferred[None] = Deferred()
        self.connection = LoadConnection(wire.parse_url(session.client.url, session.client.room), session, self)
        self._connect = connect

    def connect(self) -> Deferred[Any]:
        return self._connect(self.connection)

    def send(self) -> None:
        if self.connection.closing:
            return
        messages = self.session.take()
        if messages:
            self.connection.write(messages)

    def close(self) -> None:
        self.connection.close()

    def abort(self) -> None:
        self.connection.abort()

    def connection_opened(self) -> None:
        self.session.enter()
        self.opened.callback(None)

    def connection_refused(self, error: wire.WireError) -> None:
        refuse_opening(self.opened, error)

    def connection_broken(self, error: Exception) -> None:
        self.session.lose(str(error))

    def connection_closed(self, code: int, reason: str) -> None:
        self.session.lose(f"the server closed it: {code} {reason}".rstrip())
        self.connection.close()

    def connection_ended(self, reason: Failure) -> None:
        if not self.connection.is_open:
            refuse_opening(self.opened, ended_in_handshake(reason))
        elif not self.connection.closing:
            self.session.lose(f"lost: {reason.getErrorMessage()}")
        self.closed.callback(None)

    def message_refused(self, code: str) -> None:
        self.session.refused(code)
