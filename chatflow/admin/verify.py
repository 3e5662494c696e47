"""``verify-analytics``: whether every count is what the messages say."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import closing

from chatflow.admin.settings import add_settings, read_settings
from chatflow.errors import ChatFlowError
from chatflow.persistence.database import connect
from chatflow.persistence.recount import recount_in_thread
from chatflow.text import visible

_VERIFY = """\
Counts everything anew from the messages, in one snapshot of the database, and names what differs: the heads
of the rooms and holes in their order, messages that are stored twice, what each user did in each room, the
messages of each minute, and the materialized views if nothing was stored or dropped since their refresh.

Where retention has dropped messages, rooms are counted from their first held message on, and what users did
must be at least what is still there.

It reads every message, so it takes about a second per million of them; the daemons go on meanwhile.
"""


class CountsDiffer(ChatFlowError):
    """Something is not what the messages say."""


def add_to(add_command: Callable[..., argparse.ArgumentParser]) -> None:
    """Register the command; see :func:`chatflow.admin.make_parser`."""
    verify = add_command("verify-analytics", help="recount everything from the messages", description=_VERIFY)
    add_settings(verify, "database", "data-dir")
    verify.set_defaults(run=_verify)


def _verify(arguments: argparse.Namespace) -> None:
    wrong = 0
    with closing(connect(read_settings(arguments).database_url())) as connection:
        for check in recount_in_thread(connection):
            if check.note:
                print(f"skipped  {check.name}: {check.note}", flush=True)
            elif not check.differences:
                print(f"right    {check.name}", flush=True)
            else:
                wrong += 1
                print(f"WRONG    {check.name}", flush=True)
                for difference in check.differences:
                    print(f"           {visible(difference)}", flush=True)
    if wrong:
        raise CountsDiffer(f"{wrong} of these differ from a recount of the messages")
