"""What commands print: for people, to a terminal or not."""

from __future__ import annotations

import json
import sys

from rich.console import Console

_COLUMNS_OF_A_FILE = 200


def json_escaped(text: str) -> str:
    """Text written by users, with JSON's escapes for what could control a terminal: JSON stays JSON."""
    return "".join(one if one.isprintable() else json.dumps(one)[1:-1] for one in text)


def make_console() -> Console:
    """Standard output. Nothing in a text is taken for markup, and a table is not squeezed where nobody sees it."""
    return Console(
        file=sys.stdout,
        width=None if sys.stdout.isatty() else _COLUMNS_OF_A_FILE,
        markup=False,
        highlight=False,
        emoji=False,
    )
