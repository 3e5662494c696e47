"""How long a connection may stay, by the token that it came with; and how another token makes that longer."""

from __future__ import annotations

import msgspec
from twisted.internet.interfaces import IDelayedCall
from zope.interface import Interface

from chatflow.contracts.identity import Identity, ITokenVerifier
from chatflow.edge.close_codes import TOKEN_EXPIRED
from chatflow.edge.handshake import Handshake
from chatflow.edge.services import EdgeServices
from chatflow.errors import Refused, TokenRefused, Unavailable
from chatflow.rooms.speaker import decoder_for

#: How long before the end the client is warned; of a short time a third.
WARNING_SECONDS = 60.0


class _Refresh(msgspec.Struct, tag="refresh"):
    """What a client sends that has a new token."""

    token: str


_decoder = msgspec.json.Decoder(_Refresh)


class ITenant(Interface):
    """A connection, as its tenure sees it."""

    def write(frame: bytes) -> None:
        """Send it a frame; nothing once it is being closed."""

    def leave(code: int, reason: str) -> None:
        """Send a close frame and take nothing more."""

    def message_refused(refused: Refused) -> None:
        """Answer with an error."""


class Tenure:
    """From the handshake to the end of a connection. Runs on the reactor thread. Has no timer where nothing expires.

    :ivar decode: of the connection's frames: see :func:`chatflow.rooms.speaker.decoder_for`.
    """

    __slots__ = ("_dialect", "_identity", "_room", "_services", "_tenant", "_timer", "decode")

    def __init__(self, services: EdgeServices, handshake: Handshake, tenant: ITenant) -> None:
        self._services = services
        self._room = handshake.room
        self._dialect = handshake.dialect
        self._tenant = tenant
        self._identity = handshake.identity
        self._timer: IDelayedCall | None = None
        self.decode = decoder_for(handshake.identity, handshake.room)

    def begin(self) -> None:
        """The handshake is done."""
        left = self._left_seconds()
        if left is not None:
            warning = self._dialect.expiring(0) is not None
            before = min(WARNING_SECONDS, left / 3) if warning else 0.0
            self._timer = self._services.clock.callLater(max(0.0, left - before), self._warn if warning else self._end)

    def end(self) -> None:
        """The connection has ended."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()

    def renew(self, payload: bytes) -> bool:
        """Take a new token, if that is what a frame is, and answer it; False if it is not."""
        verifier = self._services.verifier
        if verifier is None or self._dialect.refreshed(0) is None:
            return False
        try:
            token = _decoder.decode(payload).token
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return False
        try:
            self._take(self._verify(verifier, token))
        except Refused as refused:
            self._tenant.message_refused(refused)
        return True

    def _verify(self, verifier: ITokenVerifier, token: str) -> Identity:
        try:
            identity: Identity = verifier.verify(token)
        except TokenRefused as refused:
            raise Refused(refused.code, str(refused), "token") from None
        except Unavailable as error:
            raise Refused("unavailable", str(error), "token") from None
        if identity.user_id != self._identity.user_id:
            raise Refused("wrong_user", "the new token must be of the same user: sub has to stay", "token")
        if not identity.may_read(self._room):
            raise Refused("invalid_token", "the new token does not allow this room", "token")
        return identity

    def _take(self, identity: Identity) -> None:
        self.end()
        self._identity = identity
        self.decode = decoder_for(identity, self._room)
        self.begin()
        self._tell(self._dialect.refreshed(self._left_ms()))

    def _left_seconds(self) -> float | None:
        expires_at = self._identity.expires_at
        return None if expires_at is None else max(0.0, expires_at - self._services.now())

    def _left_ms(self) -> int:
        return int((self._left_seconds() or 0.0) * 1000)

    def _warn(self) -> None:
        self._timer = self._services.clock.callLater(self._left_seconds() or 0.0, self._end)
        self._tell(self._dialect.expiring(self._left_ms()))

    def _tell(self, frame: bytes | None) -> None:
        if frame is not None:
            self._tenant.write(frame)

    def _end(self) -> None:
        self._services.counters.tokens_expired += 1
        self._tenant.leave(TOKEN_EXPIRED, "the token has expired: reconnect with a new one, and resume")
