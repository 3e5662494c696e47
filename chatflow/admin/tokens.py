"""``token``: one for trying, signed as a daemon with these settings takes it."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

from chatflow.admin.settings import add_settings, load_settings
from chatflow.contracts.messages import MAX_USER_ID
from chatflow.errors import StartupError
from chatflow.tokens.claims import Expected, judge_claims
from chatflow.tokens.signing import claims_of, encode_claims, sign

_TOKEN = """\
Prints a token for a user, for trying --auth jwt. It is signed with the first secret of --jwt-key-file, and says what
--jwt-audience and --jwt-issuer of the daemon's settings ask for. Real tokens are made by whoever logs your users in.

  chatflow-admin token --user 7 --name alice --jwt-key-file key.txt
  chatflow-admin token --user 7 --name alice --read 1,2 --write 1 --seconds 600
"""

_MAX_SECONDS = 366 * 86_400


def add_to(add_command: Callable[..., argparse.ArgumentParser]) -> None:
    """Register the command; see :func:`chatflow.admin.make_parser`."""
    token = add_command("token", help="make a token for trying", description=_TOKEN)
    token.add_argument("--user", required=True, metavar="N", help=f"the userId, 1 to {MAX_USER_ID}: claim sub")
    token.add_argument("--name", help="the username, 3 to 20 letters and digits: claim name. Default: any name")
    token.add_argument("--read", metavar="ROOMS", help="the rooms that it may read, as 1,2 or *. Default: all")
    token.add_argument("--write", metavar="ROOMS", help="the rooms that it may send to, as 1,2 or *. Default: all")
    token.add_argument("--seconds", type=_seconds, default=3600, help="for how long it is good. Default: 3600")
    add_settings(token, "jwt-key", "jwt-audience", "jwt-issuer")
    token.set_defaults(run=_make)


def _make(arguments: argparse.Namespace) -> None:
    settings = load_settings(arguments)
    secrets = settings["jwt-key"].value
    if not secrets:
        raise StartupError("there is no key to sign with: give --jwt-key-file, or set CHATFLOW_JWT_KEY_FILE")
    audiences = settings["jwt-audience"].value
    rooms: dict[str, Any] | None = None
    if arguments.read is not None or arguments.write is not None:
        rooms = {"read": _rooms(arguments.read), "write": _rooms(arguments.write)}
    now = time.time()
    claims = claims_of(
        arguments.user,
        arguments.name,
        now=now,
        lifetime_seconds=arguments.seconds,
        audience=audiences[0] if audiences else None,
        issuer=settings["jwt-issuer"].value or None,
        rooms=rooms,
    )
    # What a daemon would refuse is refused here, in its words.
    judge_claims(encode_claims(claims), Expected(audiences=audiences), now)
    print(sign(secrets[0], claims))


def _rooms(text: str | None) -> Any:
    if text is None or text == "*":
        return "*"
    return [int(room) if room.isascii() and room.isdigit() else room for room in text.split(",") if room]


def _seconds(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= _MAX_SECONDS):
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 to {_MAX_SECONDS}")
    return int(text)
