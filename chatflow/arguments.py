"""A command line whose errors repeat no secret that somebody gave in the wrong place."""

from __future__ import annotations

import argparse
import re
import sys
from typing import Any, NoReturn

from chatflow.text import visible

_REPEATED = re.compile("(?P<what>unrecognized arguments|invalid choice): (?P<words>.*)", re.DOTALL)
_NAME_OF_OPTION = re.compile(r"(?<!\S)--[a-z][a-z-]*(?=[=\s]|\Z)")


class DiscreetParser(argparse.ArgumentParser):
    """argparse repeats what it does not know. That may be half of a password, since a blank in that of a URL makes two
    arguments of it; or what follows an option that there is not, such as ``--token``, which is only read from a file.
    """

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        self._words = list(sys.argv[1:] if args is None else args)
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        repeats = _REPEATED.search(message)
        if repeats is not None and any("://" in word or word.startswith("-") for word in self._words):
            names = " ".join(_NAME_OF_OPTION.findall(repeats["words"]))
            message = message[: repeats.start()] + repeats["what"] + (f": {names}" if names else "")
        super().error(visible(message))
