"""The command line of ``chatflow-client``: what was asked for, checked before anything is connected."""

from __future__ import annotations

import argparse
import json
import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from attrs import frozen

from chatflow.arguments import DiscreetParser
from chatflow.contracts.messages import MAX_USER_ID
from chatflow.errors import Refused
from chatflow.rooms.messages import decode

_DESCRIPTION = """\
Chat from a terminal, a pipe or a script.

Each line of standard input is one message: CRLF is a line end too, empty lines are not sent, the last line
needs no end. At the end of input it waits until every message is acknowledged, which means stored or bound
to be, and ends; with --follow it goes on listening. What others say is printed one message a line, with
escapes such as \\n and \\x1b for characters that would act on the terminal. In a pipe standard output has
nothing but messages from the moment of connecting, and none of one's own once the input has ended;
everything else is on standard error.

  echo "deploy done" | chatflow-client ws://localhost:8080 1 --name bob
  chatflow-client ws://localhost:8080 1 --json --follow </dev/null | jq .message
"""

_JSON = """\
JSON, one object a line. Input is {"message": "Hello"}, and may have "messageType": TEXT, JOIN or LEAVE. Output
has a "type": message (also one's own; the fields are those of docs/protocol.rst), ack or error (with "line",
the number of the line of input), reset (messages are missing). It is ASCII.
"""

_EXIT_STATUS = """\
exit status:
  0    every line was acknowledged, or there was none
  1    not so, or there is no connection: lines on standard error say what and why
  2    the command line is wrong
  129, 130, 141, 143   ended by SIGHUP, Ctrl-C, the end of who reads the output, SIGTERM; what had no
       acknowledgement may be stored or not
"""


@frozen(kw_only=True)
class Wishes:
    """:ivar url: without a path. :ivar name, user_id: None where the token says it. :ivar token: reads it.
    :ivar last: how many messages to begin with; None leaves it to the kind of input."""

    url: str
    room: int
    name: str | None
    user_id: int | None
    token: Callable[[], str] | None
    last: int | None
    as_json: bool
    follow: bool
    timeout_seconds: float


def parse(arguments: Sequence[str] | None = None) -> Wishes:
    """
    :param arguments: by default the program's.
    :raises SystemExit: 2 for a wrong command line, 0 after ``--help``.
    """
    parser = DiscreetParser(
        prog="chatflow-client",
        description=_DESCRIPTION,
        epilog=_EXIT_STATUS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("url", type=_url, help="of the server, such as ws://localhost:8080")
    parser.add_argument("room", type=_room, help="its number")
    parser.add_argument("--name", help="3 to 20 letters and digits; by default a guest's")
    parser.add_argument(
        "--token-file",
        metavar="FILE",
        help="holds the token that a server with --auth jwt asks for, and is read again for each connection; also "
        "the environment variable CHATFLOW_CLIENT_TOKEN. It says who you are, so that nothing else need",
    )
    parser.add_argument("--user-id", type=int, metavar="N", help=f"1 to {MAX_USER_ID}; by default any")
    parser.add_argument(
        "--last",
        type=_count,
        metavar="N",
        help="begin with so many messages, at most 1000; by default 20 at a terminal, else none. What comes "
        "after the end of input is seen with --follow",
    )
    parser.add_argument("--json", action="store_true", help=_JSON)
    parser.add_argument("--follow", action="store_true", help="go on listening at the end of input")
    parser.add_argument(
        "--timeout-seconds",
        type=_seconds,
        default=30.0,
        metavar="SECONDS",
        help="give up when so long no message was acknowledged that should have been; by default 30. At a terminal "
        "it goes on trying until the end of input",
    )
    given = parser.parse_args(arguments)
    token = _token_source(parser, given.token_file)
    wishes = Wishes(
        url=given.url,
        room=given.room,
        name=f"guest{random.randrange(1000)}" if given.name is None and token is None else given.name,
        user_id=random.randrange(1, MAX_USER_ID + 1) if given.user_id is None and token is None else given.user_id,
        token=token,
        last=given.last,
        as_json=given.json,
        follow=given.follow,
        timeout_seconds=given.timeout_seconds,
    )
    try:
        decode(_frame(wishes))
    except Refused as error:
        parser.error(str(error).replace("userId", "--user-id").replace("username", "--name"))
    return wishes


def _frame(wishes: Wishes) -> bytes:
    """A message that has nothing wrong but what was given."""
    user_id, name = 1 if wishes.user_id is None else wishes.user_id, "any" if wishes.name is None else wishes.name
    message = {"userId": str(user_id), "username": name, "message": "x", "messageType": "TEXT"}
    return json.dumps({**message, "timestamp": "2026-01-01T00:00:00Z"}).encode()


def _token_source(parser: argparse.ArgumentParser, path: str | None) -> Callable[[], str] | None:
    token = os.environ.get("CHATFLOW_CLIENT_TOKEN", "").strip()
    if path is None:
        return (lambda: token) if token else None

    def read() -> str:
        return Path(path).read_text(encoding="ascii").strip()

    try:
        read()
    except (OSError, ValueError) as error:
        parser.error(f"--token-file {path}: {getattr(error, 'strerror', None) or 'is not a token'}")
    return read


def _url(text: str) -> str:
    wrong = argparse.ArgumentTypeError("must be a URL such as ws://localhost:8080 or wss://chat.example.com")
    try:
        parts = urlsplit(text.strip())
        host, _port = parts.hostname, parts.port
    except ValueError:
        raise wrong from None
    scheme = {"http": "ws", "https": "wss"}.get(parts.scheme, parts.scheme)
    if scheme not in ("ws", "wss") or not host or "@" in parts.netloc or parts.query or parts.fragment:
        raise wrong
    return f"{scheme}://{parts.netloc}{parts.path.rstrip('/').removesuffix('/chat')}"


def _room(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise argparse.ArgumentTypeError("must be a number")
    return int(text)


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 4 and int(text) <= 1000):
        raise argparse.ArgumentTypeError("must be a number from 0 to 1000")
    return int(text)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.1 <= value <= 86_400:
        raise argparse.ArgumentTypeError("must be a number from 0.1 to 86400")
    return value
