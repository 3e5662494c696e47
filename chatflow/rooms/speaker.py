"""What a connection, or a request, may say in a room, by its identity: decodes its messages and holds them to it."""

from __future__ import annotations

from collections.abc import Callable

from chatflow.contracts.identity import Identity
from chatflow.contracts.messages import ClientMessage
from chatflow.errors import Refused
from chatflow.rooms.messages import decode, decode_unsigned

Decode = Callable[[bytes], ClientMessage]


def decoder_for(identity: Identity, room: int) -> Decode:
    """What decodes the frames of whoever has this identity: as :func:`chatflow.rooms.messages.decode` does, which it is
    for those who speak for anybody.

    A message may leave out the fields that the identity says: they are filled in. It raises :class:`Refused`, too, with
    ``wrong_user`` for a message that names somebody else, and ``read_only`` for any if the room may only be read.
    """
    if not identity.may_write(room):
        return _refuse
    if identity.user_id is None:
        return decode
    user_id, username = identity.user_id, identity.username

    def decode_own(payload: bytes) -> ClientMessage:
        message = decode_unsigned(payload, user_id, username)
        if int(message.userId) != user_id:
            raise Refused("wrong_user", f"userId must be that of the token, {user_id}, or left out", "userId")
        if username is not None and message.username != username:
            raise Refused("wrong_user", f"username must be that of the token, {username}, or left out", "username")
        return message

    return decode_own


def _refuse(payload: bytes) -> ClientMessage:
    raise Refused("read_only", "the token does not allow messages to this room")
