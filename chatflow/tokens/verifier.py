"""Judges a token: once for each connection or request, never for a message."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from typing import Any, get_args

import msgspec
from attrs import Factory, define
from jwt.api_jws import PyJWS
from jwt.exceptions import PyJWTError
from msgspec import UNSET
from zope.interface import implementer

from chatflow.contracts.identity import Identity, ITokenVerifier
from chatflow.errors import TokenFlaw, TokenRefused, Unavailable
from chatflow.lifecycle.clocks import WallTime
from chatflow.readings import Reading
from chatflow.tokens.claims import Expected, judge_claims
from chatflow.tokens.jwks import Jwks
from chatflow.tokens.keys import Key

#: Longer than those of any issuer that can be sent in a header.
MAX_TOKEN_CHARACTERS = 8192

#: RFC 7515, 7.1: header, payload and signature, none of them empty, so that there is always one.
_COMPACT = re.compile(r"([A-Za-z0-9_-]+)\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_ALGORITHMS = ("HS256", "RS256", "ES256", "EdDSA")
#: RFC 7519, 5.1 and RFC 9068, 2.1. Tokens of other types are for other purposes (RFC 8725, 3.11).
_TYPES = {"", "jwt", "at+jwt", "application/jwt", "application/at+jwt"}
#: What is said of every token that nobody here can have signed: which check it failed is nobody's business.
_NOT_VALID = "the token is not valid here"

_jws = PyJWS(algorithms=list(_ALGORITHMS))


class _Header(msgspec.Struct):
    """RFC 7515, 4.1. ``crit`` names extensions that must be understood; none is."""

    alg: str
    typ: str = ""
    kid: str | None = None
    crit: Any = UNSET
    b64: bool = True


_header_decoder = msgspec.json.Decoder(_Header)


@define
class TokenCounts:
    """Since the start. All reasons are there from the beginning, so that a graph has no gap."""

    accepted: int = 0
    refused: dict[str, int] = Factory(lambda: dict.fromkeys(get_args(TokenFlaw), 0))

    def readings(self) -> list[Reading]:
        """For Prometheus."""
        return [
            Reading("chatflow_tokens_accepted", "Tokens that were good", lambda: self.accepted),
            Reading("chatflow_tokens_refused", "Tokens that were not", lambda: dict(self.refused), label="reason"),
        ]


@implementer(ITokenVerifier)
class TokenVerifier:
    """Runs on the reactor thread: a signature takes some tens of microseconds.

    :param secrets: keys of HS256.
    :param jwks: others, that may change.
    :param now: seconds since the epoch.
    :param counts: of what it has judged.
    """

    def __init__(
        self,
        *,
        secrets: Sequence[Key],
        jwks: Jwks | None,
        expected: Expected,
        now: WallTime,
        counts: TokenCounts,
    ) -> None:
        self._secrets = secrets
        self._jwks = jwks
        self._expected = expected
        self._now = now
        self._counts = counts

    def verify(self, token: str) -> Identity:
        """See :class:`chatflow.contracts.identity.ITokenVerifier`."""
        try:
            identity = judge_claims(self._payload(token), self._expected, self._now())
        except TokenRefused as refused:
            self._counts.refused[refused.reason] += 1
            raise
        self._counts.accepted += 1
        return identity

    def replace_secrets(self, secrets: Sequence[Key]) -> None:
        """Tokens that others have signed are refused from now on; who is connected stays."""
        self._secrets = secrets

    def _payload(self, token: str) -> bytes:
        """What was signed, by one of our keys."""
        if len(token) > MAX_TOKEN_CHARACTERS:
            raise TokenRefused("too_long", f"a token has at most {MAX_TOKEN_CHARACTERS} characters")
        header = _read_header(token)
        for key in self._candidates(header):
            try:
                payload: bytes = _jws.decode(token, key.material, algorithms=[key.algorithm])
            except (PyJWTError, ValueError, TypeError):
                continue
            return payload
        raise TokenRefused("signature", _NOT_VALID)

    def _candidates(self, header: _Header) -> Sequence[Key]:
        if header.alg == "HS256":
            return self._secrets
        if self._jwks is None:
            raise TokenRefused("algorithm", _NOT_VALID)
        keys = self._jwks.find(header.alg, header.kid)
        if not keys:
            if self._jwks.ask_again(header.kid):
                raise Unavailable("the keys of tokens are being fetched: try again in a moment")
            raise TokenRefused("unknown_key", _NOT_VALID)
        return keys


def _read_header(token: str) -> _Header:
    parts = _COMPACT.fullmatch(token)
    if parts is None:
        raise TokenRefused("malformed", _NOT_VALID)
    try:
        header = _header_decoder.decode(_decode_base64url(parts[1]))
    except (msgspec.DecodeError, ValueError, RecursionError):
        raise TokenRefused("malformed", _NOT_VALID) from None
    if header.alg not in _ALGORITHMS:
        raise TokenRefused("algorithm", _NOT_VALID)
    if header.crit is not UNSET or not header.b64 or header.typ.lower() not in _TYPES:
        raise TokenRefused("malformed", _NOT_VALID)
    return header


def _decode_base64url(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
