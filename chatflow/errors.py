"""Every error that ChatFlow raises on purpose."""

from __future__ import annotations


class ChatFlowError(Exception):
    """Base class."""


class ConfigError(ChatFlowError):
    """A setting is unknown or wrong. The text names the key, where its value came from and what is allowed."""


class StartupError(ChatFlowError):
    """The daemon cannot start. The text is one line for the operator: what failed, and the remedy."""


class Refused(ChatFlowError):
    """A client's message is not accepted; the connection lives on.

    :ivar code: one of the codes listed in ``docs/protocol.rst``, for programs.
    :ivar field: the wire name of the field at fault, or None.
    """

    def __init__(self, code: str, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.field = field


class Unavailable(ChatFlowError):
    """A part that others depend on does not answer now; the same call may succeed later."""


class NotStored(ChatFlowError):
    """An envelope was refused by the database for good, and is among the dead letters."""
