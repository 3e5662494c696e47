"""Who may come in, and who is an operator: a request's credentials judged, the same for WebSocket and HTTP."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from hashlib import sha256
from typing import Any

from attrs import frozen
from twisted.web.http_headers import Headers

from chatflow.contracts.identity import ANYONE, OPERATOR, Identity, ITokenVerifier
from chatflow.edge.credentials import basic_password, bearer_token
from chatflow.edge.refusals import RequestRefused, unavailable
from chatflow.errors import Refused, TokenRefused, Unavailable
from chatflow.rooms.moderator import Moderator

# RFC 6750, 3; a browser asks its user for a password where Basic is offered, so that the dashboard can be opened.
_ASK_USER = 'Bearer realm="chatflow"'
_ASK_OPERATOR = 'Basic realm="ChatFlow, for operators: any name, and the admin token as password", charset="UTF-8"'


class AdminTokens:
    """The operators' secrets, any of which is good."""

    def __init__(self, tokens: Sequence[str] = ()) -> None:
        self.replace(tokens)

    def __bool__(self) -> bool:
        return bool(self._digests)

    def replace(self, tokens: Sequence[str]) -> None:
        """From now on these are good."""
        self._digests = [sha256(token.encode()).digest() for token in tokens]

    def matches(self, given: str) -> bool:
        """Whether it is one of them. Takes as long whatever is wrong."""
        digest = sha256(given.encode("utf-8", "replace")).digest()
        found = False
        for each in self._digests:
            found |= hmac.compare_digest(each, digest)
        return found


class Gate:
    """Of one kind of port.

    :param verifier: of users' tokens; None asks nobody who he is.
    :param admin_tokens: of operators.
    :param for_operators: whether this port is the operators' own: who comes here is one, unless there are tokens.
    :param has_operators: whether anything here is for operators; it is elsewhere, if they have a port of their own.
    """

    def __init__(
        self,
        *,
        verifier: ITokenVerifier | None = None,
        admin_tokens: AdminTokens,
        for_operators: bool = False,
        has_operators: bool = True,
    ) -> None:
        self._verifier = verifier
        self._admin_tokens = admin_tokens
        self._for_operators = for_operators
        self._has_operators = has_operators

    @property
    def has_operators(self) -> bool:
        """Whether anything on this port is for operators."""
        return self._has_operators

    @property
    def knows_operators(self) -> bool:
        """Whether operators can be told from others here."""
        return self._for_operators or bool(self._admin_tokens)

    @property
    def asks_users(self) -> bool:
        """Whether a user needs a token."""
        return self._verifier is not None

    @property
    def asks_operators(self) -> bool:
        """Whether an operator needs one."""
        return bool(self._admin_tokens) or self._verifier is not None

    def identify(self, headers: Headers, query: bytes, subprotocols: Sequence[str] = ()) -> Identity:
        """Who asks.

        :param query: the target behind its question mark.
        :raises RequestRefused: 401, the credentials are missing or not good; 400, there are several; 503, not now.
        """
        if not self.asks_operators:
            # Without a token of either kind everybody is welcome to everything that is on this port.
            return OPERATOR if self._for_operators or self._has_operators else ANYONE
        token = bearer_token(headers, query, subprotocols)
        secret = basic_password(headers) if token is None else token
        if secret is not None and self._admin_tokens.matches(secret):
            return OPERATOR
        if self._for_operators:
            raise _unauthorized("this is for operators: the admin token is missing or wrong", _ASK_OPERATOR)
        if self._verifier is None:
            return ANYONE
        if token is None:
            raise _unauthorized("a token is needed: as a header Authorization: Bearer", _ASK_USER)
        try:
            return self._verifier.verify(token)
        except TokenRefused as refused:
            challenge = f'{_ASK_USER}, error="invalid_token"'
            raise RequestRefused(401, refused.code, str(refused), {"www-authenticate": challenge}) from None
        except Unavailable as error:
            raise unavailable(str(error)) from None

    def identify_request(self, request: Any) -> Identity:
        """The same for a request of HTTP."""
        return self.identify(request.requestHeaders, request.uri.partition(b"?")[2])

    def check_operator(self, request: Any) -> None:
        """:raises RequestRefused: whoever asks is no operator: 401; or 403, since nobody can prove to be one here."""
        if not self.asks_operators:
            return
        if not self._admin_tokens:
            raise closed()
        identity = ANYONE
        try:
            identity = self.identify_request(request)
        except RequestRefused as refused:
            if refused.status != 401:
                raise
        if not identity.is_operator:
            raise _unauthorized("this is for operators: the admin token is missing or wrong", _ASK_OPERATOR)

    def refuse(self, identity: Identity, reason: str) -> RequestRefused:
        """Why this identity may not do something: with a token that is good but not good enough 403, else 401."""
        if identity.user_id is None and self._admin_tokens:
            return _unauthorized(f"{reason}: the admin token is missing or wrong", _ASK_OPERATOR)
        return RequestRefused(403, "forbidden", reason)


@frozen(kw_only=True)
class Gates:
    """:ivar public: of the ports where clients connect. :ivar operators: of those where nobody else does."""

    public: Gate
    operators: Gate


def check_entry(moderator: Moderator, room: int, user_id: int | None, client_ip: str | None) -> None:
    """See that nobody who is banned enters a room, or reads what was said there.

    :param room: 0 for none, which only those may not ask for who are banned from all.
    :param user_id: whom it says to be, if anybody.
    :raises RequestRefused: 403, ``banned``.
    """
    try:
        moderator.check_entry(room, () if user_id is None else (user_id,), client_ip)
    except Refused as refused:
        raise RequestRefused(403, refused.code, str(refused)) from None


def closed() -> RequestRefused:
    """The answer where no credentials could help."""
    return RequestRefused(
        403, "forbidden", "this is for operators, and closed here: see --admin-token-file and --admin-listen"
    )


def _unauthorized(reason: str, challenge: str) -> RequestRefused:
    return RequestRefused(401, "unauthorized", reason, {"www-authenticate": challenge})
