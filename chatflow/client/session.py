"""What a client knows over all its connections, and what each frame means to it. No input and no output.

It holds the rules of ``docs/protocol.rst``, "Coming back": which seq is next, what is dropped, when to come back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from attrs import define, field, frozen

from chatflow.client.outbox import Refusal
from chatflow.errors import ChatFlowError


class Broken(ChatFlowError):
    """This connection cannot be used any more: come back on another one."""


@frozen
class Message:
    """A message of the room. ``timestamp``: the server's, in ISO-8601."""

    message_id: str
    seq: int
    user_id: str
    username: str
    text: str
    message_type: str
    timestamp: str
    server_id: str


@frozen
class Reset:
    """What was asked for, or what came, is not there: the next message is ``first``, if that is known.

    :ivar reason: ``beyond_head``, ``expired`` or ``restored``.
    """

    reason: str
    first: int | None


@frozen
class Presence:
    """Who is in the room: connections, and of those that are named (userId, username, connections)."""

    members: int
    users: Sequence[tuple[str, str, int]]


@frozen
class Acknowledged:
    """A message of this client is durable. ``own_id``: its clientMessageId."""

    own_id: str
    message_id: str


@frozen
class StoredAt:
    """A message of this client has its place."""

    message_id: str
    seq: int


@frozen
class Goodbye:
    """The server asks to come back after so long."""

    retry_after_seconds: float


@frozen
class Expiring:
    """The token of this connection expires soon: the server takes a new one."""


Event = Expiring | Message | Reset | Presence | Acknowledged | StoredAt | Refusal | Goodbye


@define
class Session:
    """:ivar since: where to begin, as :class:`chatflow.client.ChatClient` was told.
    :ivar last: the same.
    :ivar seq: the last seq that was handed on; None while that is not known.
    :ivar max_frame_bytes: what the server takes, if it has said so.
    """

    since: int | None = None
    last: int | None = None
    seq: int | None = field(init=False)
    max_frame_bytes: int | None = field(init=False, default=None)
    #: Who the server says this is, by the token.
    user_id: str | None = field(init=False, default=None)
    #: Whether the next message may have any seq that is larger.
    _forgiving: bool = field(init=False, default=True)

    def __attrs_post_init__(self) -> None:
        self.seq = self.since
        self._forgiving = not self.since

    def query(self) -> dict[str, int]:
        """Parameters of the next connection's address."""
        if self.seq is not None:
            return {"since": self.seq}
        return {"last": self.last} if self.last is not None else {}

    def received(self, frame: Mapping[str, Any]) -> list[Event]:
        """What a frame means.

        :raises Broken: a message is missing.
        """
        kind = frame.get("type")
        if kind is not None:
            return self._special(kind, frame)
        status = frame.get("status")
        if status == "SUCCESS":
            return [Acknowledged(frame["originalMessage"].get("clientMessageId"), frame["messageId"])]
        if status == "ERROR":
            # An answer to a new token is none to a message; the connection ends when the old one does.
            return [] if frame.get("field") == "token" else self._error(frame)
        return self._message(frame)

    def _message(self, frame: Mapping[str, Any]) -> list[Event]:
        seq = frame["seq"]
        if self.seq is not None:
            if seq <= self.seq:
                return []
            if seq > self.seq + 1 and not self._forgiving:
                raise Broken(f"message {self.seq + 1} is missing: {seq} came")
        self.seq, self._forgiving = seq, False
        return [
            Message(
                frame["messageId"],
                seq,
                frame["userId"],
                frame["username"],
                frame["message"],
                frame["messageType"],
                frame["timestamp"],
                frame["serverId"],
            )
        ]

    def _error(self, frame: Mapping[str, Any]) -> list[Event]:
        code = frame["code"]
        if code in {"since_beyond_head", "since_expired"}:
            # Without chatflow.v2 the server says in words only where it goes on.
            self.seq, self._forgiving = None if code == "since_beyond_head" else self.seq, True
            return [Reset(code.removeprefix("since_"), None)]
        retry_after_ms = frame.get("retryAfterMs")
        return [
            Refusal(code, frame["errorMessage"], None if retry_after_ms is None else max(0.0, retry_after_ms / 1000))
        ]

    def _special(self, kind: str, frame: Mapping[str, Any]) -> list[Event]:
        if kind == "welcome":
            self.user_id = frame.get("userId")
            self.max_frame_bytes = frame.get("limits", {}).get("maxFrameBytes")
            if self.seq is None and self.last is None:
                self.seq, self._forgiving = frame["head"], False
        elif kind == "resumed":
            if self._forgiving:
                self.seq, self._forgiving = frame["from"] - 1, False
        elif kind == "reset":
            self.seq, self._forgiving = frame["from"] - 1, False
            return [Reset(frame["reason"], frame["from"])]
        elif kind == "heartbeat":
            if self.seq is not None and frame["head"] > self.seq:
                raise Broken(f"messages up to {frame['head']} were missed after {self.seq}")
        elif kind == "stored":
            return [StoredAt(frame["messageId"], frame["seq"])]
        elif kind == "expiring":
            return [Expiring()]
        elif kind == "goodbye":
            return [Goodbye(frame["retryAfterMs"] / 1000)]
        elif kind == "presence":
            users = [(user["userId"], user["username"], user["connections"]) for user in frame["users"]]
            return [Presence(frame["members"], users)]
        return []  # of a newer server
