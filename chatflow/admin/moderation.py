"""``ban``, ``mute``, ``disconnect``, their ends, and what is in force."""

from __future__ import annotations

import argparse
import getpass
import os
import re
import socket
from collections.abc import Callable
from typing import Any, cast

import msgspec
from rich.table import Table

from chatflow.admin.output import json_escaped, make_console
from chatflow.admin.settings import add_settings, read_settings
from chatflow.contracts.messages import MAX_USER_ID
from chatflow.contracts.moderation import (
    MAX_REASON_CHARACTERS,
    MAX_SECONDS,
    Action,
    ISanctionTable,
    Sanction,
    Sanctions,
    Subject,
)
from chatflow.errors import ChatFlowError
from chatflow.lifecycle.blocking import at_once
from chatflow.networks import network_meant
from chatflow.persistence.sanctions import open_sanctions
from chatflow.rooms.messages import iso_timestamp
from chatflow.rooms.rules import ShownSanction
from chatflow.text import visible

_MAX_ROOM = 999_999_999
_UNIT_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}

_SUBJECT = """
Whom it concerns: a user, an address, a room, or who is all of those that are given. An address is one of
IPv4; one of IPv6, and with it the /64 that it is in; or a network such as 192.0.2.0/24 (a single address of
IPv6 is written with /128).

Every running instance acts on it within 5 seconds, and so does one that is started later. While an instance
cannot reach the database, it goes on with what it knew.
"""

_MUTE = f"""\
Refuses messages, with an error of code `muted`; the connection lives on, and reads. With --room alone
nobody may send to the room. To mute the same again replaces the reason and the end.
{_SUBJECT}"""

_BAN = f"""\
Keeps out: a handshake is answered with 403, code `banned`, and connections are closed with 4403. A user is
who has said so in the address of its connection, or in its token; a connection without either that speaks
for many users lives on, and messages in the name of the banned one are refused with an error of code
`banned`. With --room alone the room is closed to all. To ban the same again replaces the reason and the end.
{_SUBJECT}"""

_DISCONNECT = f"""\
Closes the connections that there are now, with 4000; they may come back. A user is who has said so in the
address of its connection, or in its token, or has sent messages as that user.
{_SUBJECT}"""

_UNDO = """\
Lifts what was ordered for just this subject, before it ends by itself. `chatflow-admin bans` says what is in force.
"""


class NothingInForce(ChatFlowError):
    """There was nothing to lift."""


def add_to(add_command: Callable[..., argparse.ArgumentParser]) -> None:
    """Register the commands; see :func:`chatflow.admin.make_parser`."""

    def add(name: str, run: Callable[[argparse.Namespace], None], help_: str, description: str) -> Any:
        parser = add_command(name, help=help_, description=description)
        parser.set_defaults(run=run, command=name, fail=parser.error)
        return parser

    for action, help_, description in (
        ("disconnect", "close connections", _DISCONNECT),
        ("mute", "refuse messages", _MUTE),
        ("ban", "keep out", _BAN),
    ):
        parser = add(action, _order, f"{help_} of a user, an address, a room", description)
        _add_subject(parser)
        if action != "disconnect":
            parser.add_argument(
                "--for",
                dest="seconds",
                metavar="DURATION",
                type=_checked(_duration, "must be a number with s, m, h or d, such as 10m, at most 3650d"),
                help="until then; without it until it is lifted. Such as 90s, 10m, 12h or 30d",
            )
        parser.add_argument(
            "--reason",
            type=_checked(_reason, f"must be at most {MAX_REASON_CHARACTERS} characters"),
            default="",
            help="is told to whom it concerns, and logged",
        )
        add_settings(parser, "database", "data-dir")
    for name, help_ in (("unmute", "let speak again"), ("unban", "let in again")):
        parser = add(name, _lift, help_, _UNDO)
        _add_subject(parser)
        add_settings(parser, "database", "data-dir")
    bans = add("bans", _list, "list the bans and mutes in force", "Prints the bans and mutes in force, oldest first.")
    bans.add_argument("--json", action="store_true", help="as JSON, an object a line")
    add_settings(bans, "database", "data-dir")


def _add_subject(parser: argparse.ArgumentParser) -> None:
    subject = parser.add_argument_group("whom it concerns; at least one, and all that are given must be met")
    user = _checked(_number(MAX_USER_ID), f"must be a userId, 1 to {MAX_USER_ID}")
    subject.add_argument("--user", metavar="ID", type=user, help="a userId")
    subject.add_argument("--address", type=_network, help="an IP address, or a network such as 192.0.2.0/24")
    subject.add_argument("--room", metavar="ID", type=_checked(_number(_MAX_ROOM), "must be the number of a room"))


def _order(arguments: argparse.Namespace) -> None:
    action, subject = cast(Action, arguments.command), _subject(arguments)
    seconds = getattr(arguments, "seconds", None)

    async def order(table: ISanctionTable) -> Sanction:
        return await table.order(action, subject, reason=arguments.reason, by=_operator(), for_seconds=seconds)

    with open_sanctions(read_settings(arguments).database_url()) as table:
        ordered = at_once(order(table))
    until = "" if seconds is None or ordered.ends_at_us is None else f" until {iso_timestamp(ordered.ends_at_us)}"
    print(f"{action} of {subject}{until}: in force on all instances within 5 seconds")


def _lift(arguments: argparse.Namespace) -> None:
    action, subject = cast(Action, arguments.command.removeprefix("un")), _subject(arguments)

    async def lift(table: ISanctionTable) -> Sanction | None:
        return await table.lift(action, subject, by=_operator())

    with open_sanctions(read_settings(arguments).database_url()) as table:
        if at_once(lift(table)) is None:
            raise NothingInForce(f"there is no {action} of {subject}: `chatflow-admin bans` lists what is in force")
    print(f"{action} of {subject} is lifted, on all instances within 5 seconds")


def _list(arguments: argparse.Namespace) -> None:
    async def read(table: ISanctionTable) -> Sanctions | None:
        return await table.read(None)

    with open_sanctions(read_settings(arguments).database_url()) as table:
        found = at_once(read(table))
    lasting = [one for one in (found.in_force if found else ()) if one.lasts]
    if arguments.json:
        for each in lasting:
            print(msgspec.json.encode(ShownSanction.of(each)).decode())
        return
    if not lasting:
        print("nobody is banned or muted")
        return
    shown = Table(box=None, pad_edge=False)
    for title in ("order", "user", "address", "room", "since", "until", "by", "reason"):
        shown.add_column(title, overflow="fold")
    for one in map(ShownSanction.of, lasting):
        shown.add_row(
            one.action,
            one.userId or "",
            one.address or "",
            one.roomId or "",
            f"{one.since[:19]}Z",
            "lifted" if one.until is None else f"{one.until[:19]}Z",
            json_escaped(one.by),
            json_escaped(one.reason),
        )
    make_console().print(shown)


def _subject(arguments: argparse.Namespace) -> Subject:
    subject = Subject(arguments.user, arguments.address, arguments.room)
    if subject == Subject():
        arguments.fail("whom? Give --user, --address or --room; who is all that are given is meant")
    return subject


def _operator() -> str:
    """Who gives this command, as well as the system tells."""
    try:
        name = os.environ.get("SUDO_USER") or getpass.getuser()
    except (KeyError, OSError):
        name = str(os.getuid())
    return visible(f"{name}@{socket.gethostname()}")[:100]


def _network(text: str) -> Any:
    try:
        return network_meant(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"must be an IP address or a network: {visible(str(error))}") from None


def _number(most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not re.fullmatch("[1-9][0-9]{0,9}", text) or int(text) > most:
            raise ValueError
        return int(text)

    return parse


def _reason(text: str) -> str:
    text.encode()  # half a character cannot be stored: UnicodeEncodeError is a ValueError
    if len(text) > MAX_REASON_CHARACTERS:
        raise ValueError
    return text


def _duration(text: str) -> float:
    """Seconds."""
    found = re.fullmatch("([1-9][0-9]{0,8})([smhd])", text)
    if found is None or (seconds := int(found[1]) * _UNIT_SECONDS[found[2]]) > MAX_SECONDS:
        raise ValueError
    return float(seconds)


def _checked(parse: Callable[[str], Any], complaint: str) -> Callable[[str], Any]:
    def check(text: str) -> Any:
        try:
            return parse(text)
        except ValueError:
            raise argparse.ArgumentTypeError(complaint) from None

    return check
