"""The subprotocol ``chatflow.v2``: what a client that asks for it is told besides the frames of every client.

Each frame names its kind in ``type``. ``docs/protocol.rst`` specifies them.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from chatflow.contracts.members import Reset, Resumed
from chatflow.contracts.membership import RoomPresence
from chatflow.contracts.messages import MAX_TEXT_CHARACTERS
from chatflow.edge.connect_parameters import MAX_LAST
from chatflow.edge.frames import text_frame

SUBPROTOCOL = "chatflow.v2"

#: How often a client is told its room's head.
HEARTBEAT_SECONDS = 10.0


class Limits(msgspec.Struct, frozen=True):
    """What a client may do; see the options of the same names."""

    maxFrameBytes: int
    maxPendingMessages: int
    maxMessageCharacters: int = MAX_TEXT_CHARACTERS
    maxLast: int = MAX_LAST


class Welcome(msgspec.Struct, tag="welcome", frozen=True, omit_defaults=True):
    """The first frame of a connection: where the room stands, and what this server allows.

    Of a client that came with a token also who it is, and for how long.
    """

    roomId: str
    head: int
    first: int
    serverId: str
    pingIntervalSeconds: float
    heartbeatSeconds: float
    limits: Limits
    userId: str | None = None
    username: str | None = None
    expiresInMs: int | None = None


class ResumedFrame(msgspec.Struct, tag="resumed", frozen=True, rename={"from_": "from"}):
    """History follows: ``count`` messages with seqs from ``from`` to ``to``."""

    from_: int
    to: int
    count: int


class ResetFrame(msgspec.Struct, tag="reset", frozen=True, rename={"from_": "from"}):
    """What was asked for is not there."""

    reason: Literal["beyond_head", "expired", "restored"]
    from_: int


class Heartbeat(msgspec.Struct, tag="heartbeat", frozen=True):
    """Who has every message up to ``head`` has missed nothing."""

    head: int


class StoredFrame(msgspec.Struct, tag="stored", frozen=True, omit_defaults=True):
    """A message of this client has its place."""

    messageId: str
    seq: int
    clientMessageId: str | None = None


class Goodbye(msgspec.Struct, tag="goodbye", frozen=True):
    """The connection is about to be closed with 1012."""

    retryAfterMs: int
    reason: Literal["restart"] = "restart"


class Expiring(msgspec.Struct, tag="expiring", frozen=True):
    """The token expires then, and the connection is closed with 4401, unless a ``refresh`` with a new one comes."""

    expiresInMs: int


class Refreshed(msgspec.Struct, tag="refreshed", frozen=True):
    """The new token is taken, and lasts so long."""

    expiresInMs: int


class User(msgspec.Struct, frozen=True):
    """Someone who has said who it is."""

    userId: str
    username: str
    connections: int


class PresenceFrame(msgspec.Struct, tag="presence", frozen=True):
    """Who is in the room, on all instances."""

    roomId: str
    members: int
    users: list[User]
    truncated: bool


Frame = Welcome | ResumedFrame | ResetFrame | Heartbeat | StoredFrame | Goodbye | PresenceFrame | Expiring | Refreshed

_encode = msgspec.json.Encoder().encode


def encode(frame: Frame) -> bytes:
    """The frame as bytes for the socket."""
    return text_frame(_encode(frame))


def encode_place(message_id: str, seq: int, own_id: str | None) -> bytes:
    """``stored``: the place of a message that was sent under this clientMessageId."""
    return encode(StoredFrame(message_id, seq, own_id))


def resume_frame(result: Resumed | Reset) -> ResumedFrame | ResetFrame:
    """What became of the request to resume."""
    if isinstance(result, Reset):
        return ResetFrame(result.reason, result.first)
    return ResumedFrame(result.first, result.last, result.count)


def users(presence: RoomPresence) -> list[User]:
    """Those who are named, as clients and the HTTP API are shown them."""
    return [User(str(who.user_id), who.username, connections) for who, connections in presence.users]


def presence_block(room: int, presence: RoomPresence) -> bytes:
    """The frame for everyone who watches the room."""
    return encode(PresenceFrame(str(room), presence.members, users(presence), presence.truncated))
