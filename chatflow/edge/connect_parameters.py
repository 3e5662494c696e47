"""What a client asks for in the query of its WebSocket address: where to resume, presence, and who it is."""

from __future__ import annotations

import re
from urllib.parse import parse_qsl

from attrs import frozen

from chatflow.contracts.membership import Who
from chatflow.contracts.messages import MAX_USER_ID, USERNAME
from chatflow.errors import Refused
from chatflow.rooms.messages import RULES

#: Larger integers are not exact in JavaScript.
MAX_SEQ = 2**53
MAX_LAST = 1000

_KNOWN = {"since", "last", "presence", "userId", "username"}
_DIGITS = re.compile(r"[0-9]{1,16}")
_USERNAME = re.compile(USERNAME)


@frozen
class ConnectParameters:
    """A checked query.

    :ivar since: resume behind this seq.
    :ivar last: begin with the newest so many messages; never together with ``since``.
    :ivar presence: tell who is in the room, and of changes.
    :ivar who: whose connection this is, for presence.
    """

    since: int | None = None
    last: int | None = None
    presence: bool = False
    who: Who | None = None

    @property
    def resumes(self) -> bool:
        """Whether history is asked for, before what is live."""
        return self.since is not None or self.last is not None


def parse_connect_parameters(address: str) -> ConnectParameters:
    """Those in a WebSocket address, or in the part of it behind its host.

    :raises Refused: ``invalid_parameter``; its ``field`` is the parameter at fault. Unknown ones are ignored.
    """
    given: dict[str, str] = {}
    for name, value in parse_qsl(address.partition("?")[2], keep_blank_values=True, errors="replace"):
        if name not in _KNOWN:
            continue
        if name in given:
            raise Refused("invalid_parameter", f"{name} is given twice", name)
        given[name] = value
    since = _number(given, "since", 0, MAX_SEQ)
    last = _number(given, "last", 1, MAX_LAST)
    if since is not None and last is not None:
        raise Refused("invalid_parameter", "last cannot be given together with since", "last")
    return ConnectParameters(since, last, bool(_number(given, "presence", 0, 1)), _who(given))


def _number(given: dict[str, str], name: str, least: int, most: int) -> int | None:
    text = given.get(name)
    if text is None:
        return None
    if not _DIGITS.fullmatch(text) or not least <= int(text) <= most:
        raise Refused("invalid_parameter", f"{name} must be an integer from {least} to {most}", name)
    return int(text)


def _who(given: dict[str, str]) -> Who | None:
    user_id, username = given.get("userId"), given.get("username")
    if user_id is None and username is None:
        return None
    if user_id is None or not _DIGITS.fullmatch(user_id) or not 1 <= int(user_id) <= MAX_USER_ID:
        raise Refused("invalid_parameter", f"{RULES['userId']}, and comes with username", "userId")
    if username is None or not _USERNAME.fullmatch(username):
        raise Refused("invalid_parameter", f"{RULES['username']}, and comes with userId", "username")
    return Who(int(user_id), username)
