"""The table as the options class that twistd asks a service for."""

from __future__ import annotations

import getopt
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar

from twisted.python import usage

from chatflow.errors import ConfigError
from chatflow.options.manual import as_config, as_help, can_be_negated
from chatflow.options.pidfile import forget_stale_pid_file
from chatflow.options.sources import load, unknown
from chatflow.options.table import COMMAND_LINE, SHOW_CONFIG, Setting, Table
from chatflow.text import visible

_HELP_COLUMNS = 100
"""Longer lines are hard to read, however wide the terminal is."""


class CommandLine(usage.Options):
    """``twistd … NAME [options]`` for one table. Subclasses set :attr:`table` and :meth:`build`.

    twistd answers a usage error with its own whole help before the error (``twisted.application.app.run``).
    So nothing here raises one: an error is one line on stderr and exit status 1.

    :ivar config: what :meth:`build` made of the settings; there once :meth:`parseOptions` has returned.
    :ivar settings: each of them with its source; as :attr:`config`.
    """

    table: ClassVar[Table]
    optFlags: ClassVar[list[list[Any]]]
    optParameters: ClassVar[list[list[Any]]]
    config: Any
    settings: Mapping[str, Setting]
    _arguments: Mapping[str, Sequence[str]]
    _directory: Path

    @staticmethod
    def build(settings: Mapping[str, Setting]) -> Any:
        """Make the configuration.

        :raises ConfigError: settings contradict each other.
        """
        raise NotImplementedError

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        options = cls.table.given_by(COMMAND_LINE).values()
        # Twisted looks these two up on the class; zsh's completion reads them, too.
        cls.optFlags = [[option.name, None, option.help] for option in options if option.is_flag]
        cls.optFlags += [[f"no-{option.name}", None, ""] for option in options if can_be_negated(option)]
        cls.optParameters = [[option.name, None, None, option.help] for option in options if not option.is_flag]

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """Read every source; then :attr:`config` is there.

        :raises SystemExit: 1 after an error, 0 after ``--help``, ``--version`` and ``--show-config``.
        """
        try:
            self._arguments = self._given(list(options or ()))
            self._directory = Path.cwd()  # where the paths are meant that were typed
            self.settings = self.read_again()
            self.config = self.build(self.settings)
        except ConfigError as error:
            line = " ".join(str(error).split())  # what was typed may have had line ends
            print(f"{self.table.name}: {visible(line)}", file=sys.stderr)
            raise SystemExit(1) from None
        if self.settings[SHOW_CONFIG.name].value:
            sys.stdout.write(as_config(self.table, self.settings))
            raise SystemExit(0)
        if self.parent:  # twistd's own
            forget_stale_pid_file(self.parent.get("pidfile"))

    def read_again(self) -> Mapping[str, Setting]:
        """Every source as it is now, but for the command line and the environment, which stay.

        :raises ConfigError: a setting is wrong, by itself or beside others.
        """
        settings = load(self.table, self._arguments, os.environ, lambda path: read_file(self._directory / path))
        self.build(settings)
        return settings

    def _given(self, arguments: list[str]) -> dict[str, list[str]]:
        """The texts given for each option, in order."""
        try:
            pairs, rest = getopt.getopt(arguments, self.shortOpt, self.longOpt)
        except getopt.GetoptError as error:
            raise ConfigError(self._explain(error)) from None
        names = [name for name, _text in pairs]
        if "--help" in names:
            self.opt_help()
        if "--version" in names:
            self.opt_version()
        if rest:
            # A blank in the password of a URL makes an argument of its second half.
            quoted = "" if any("://" in text for text in arguments) else f" {rest[0]!r}"
            raise ConfigError(f"unexpected argument{quoted} (command line): every setting is an option")

        given: dict[str, list[str]] = {}
        flags = {name for name, option in self.table.given_by(COMMAND_LINE).items() if option.is_flag}
        for name, text in ((name.removeprefix("--"), text) for name, text in pairs):
            if name in flags:
                given.setdefault(name, []).append("yes")
            elif name.removeprefix("no-") in flags:
                given.setdefault(name.removeprefix("no-"), []).append("no")
            else:
                given.setdefault(name, []).append(text)
        return given

    def _explain(self, error: getopt.GetoptError) -> str:
        known = self.table.given_by(COMMAND_LINE)
        option = known.get(error.opt)
        if option is None:
            name = ("--" if len(error.opt) > 1 else "-") + error.opt
            return unknown(f"option {name} (command line)", name, (f"--{name}" for name in known))
        if option.is_flag:
            return f"{option.name} (command line): takes no value"
        return f"{option.name} (command line): a value is missing; must be {option.kind.allowed}"

    def opt_version(self) -> None:
        print(f"ChatFlow {metadata.version('chatflow')}")
        raise SystemExit(0)

    def getUsage(self, width: int | None = None) -> str:
        return as_help(self.table, width or min(_HELP_COLUMNS, shutil.get_terminal_size().columns))

    __str__ = getUsage


def read_file(path: Path | str) -> str:
    """What :func:`chatflow.options.sources` reads files with: UTF-8, with or without a byte order mark.

    :raises OSError: it cannot be read.
    :raises UnicodeError: it is something else, such as UTF-16, of which every other byte is NUL.
    """
    text = Path(path).read_text(encoding="utf-8-sig")
    if "\0" in text:
        raise UnicodeError("a NUL in a text file")
    return text
