"""``chatflow-admin``: what an operator does by hand, or a deployment by script.

Each module in ``_MODULES`` brings commands: its ``add_to(add_command)`` calls ``add_command(name, help=...,
description=...)``, adds arguments to the parser that this returns, and sets its ``run`` to a function of the
parsed arguments, which prints to standard output and raises :class:`chatflow.errors.ChatFlowError` when it
cannot do its work. What it returns, if anything, is the exit status.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial

from chatflow.admin import deadletters, instances, migrate, moderation, monitor, queues, setup, tokens, verify
from chatflow.arguments import DiscreetParser
from chatflow.errors import ChatFlowError
from chatflow.text import visible

_MODULES = (migrate, setup, queues, deadletters, instances, moderation, monitor, verify, tokens)

_DESCRIPTION = "Administers ChatFlow. `chatflow-admin COMMAND --help` explains a command."

_EXIT_STATUS = """\
exit status:
  0  done; also when there was nothing to do
  1  not done; a line on standard error says why
  2  the command line is wrong
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    :param arguments: without the program's name; by default the command line.
    :return: the exit status.
    :raises SystemExit: for ``--help`` and a wrong command line, as argparse does.
    """
    parsed = make_parser().parse_args(arguments)
    try:
        return parsed.run(parsed) or 0
    except ChatFlowError as error:
        print(f"chatflow-admin: {visible(' '.join(str(error).split()))}", file=sys.stderr)
        return 1


def make_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line; what it returns has ``run``."""
    parser = DiscreetParser(
        prog="chatflow-admin",
        description=_DESCRIPTION,
        epilog=_EXIT_STATUS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    add_command = partial(
        commands.add_parser,
        epilog=_EXIT_STATUS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    for module in _MODULES:
        module.add_to(add_command)
    return parser
