"""Every error that ChatFlow raises on purpose."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

#: Why a message, or what a connection asks for, is refused, for programs; ``docs/protocol.rst`` says what each means.
ErrorCode = Literal[
    "invalid_json",
    "missing_field",
    "invalid_field",
    "binary_frame",
    "too_large",
    "overloaded",
    "rate_limited",
    "unavailable",
    "not_stored",
    "id_conflict",
    "draining",
    "internal_error",
    "since_beyond_head",
    "since_expired",
    "invalid_parameter",
    "wrong_user",
    "read_only",
    "invalid_token",
    "token_expired",
    "muted",
    "banned",
]

#: What is refused with one of these may be taken another time; every other refusal is final. ``chatflow.js`` has them.
TRANSIENT_CODES: Collection[ErrorCode] = frozenset({"overloaded", "rate_limited", "unavailable", "draining"})


class ChatFlowError(Exception):
    """Base class of every error that ChatFlow raises on purpose."""


class ConfigError(ChatFlowError):
    """A setting is unknown or wrong. The text names the key, where its value came from and what is allowed."""


class StartupError(ChatFlowError):
    """The daemon cannot start. The text is one line for the operator: what failed, and the remedy."""


class Refused(ChatFlowError):
    """A client's message is not accepted; the connection lives on.

    :ivar field: the wire name of the field at fault, or None.
    :ivar retry_after_ms: milliseconds after which it would be accepted, if that is known.
    """

    def __init__(
        self, code: ErrorCode, message: str, field: str | None = None, retry_after_ms: int | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.field = field
        self.retry_after_ms = retry_after_ms


#: Why a token is not good, for counting.
TokenFlaw = Literal[
    "malformed",
    "too_long",
    "algorithm",
    "unknown_key",
    "signature",
    "claims",
    "expired",
    "early",
    "issuer",
    "audience",
]


class TokenRefused(ChatFlowError):
    """A token is not good. The text may be told to whoever sent it, and repeats nothing of it."""

    def __init__(self, reason: TokenFlaw, message: str) -> None:
        super().__init__(message)
        self.reason = reason

    @property
    def code(self) -> ErrorCode:
        """For programs."""
        return "token_expired" if self.reason == "expired" else "invalid_token"


class Unavailable(ChatFlowError):
    """A part that others depend on does not answer now; the same call may succeed later."""


class NotStored(ChatFlowError):
    """An envelope was refused by the database for good, and is among the dead letters."""


class TooManySanctions(ChatFlowError):
    """There is no room for another mute or ban."""
