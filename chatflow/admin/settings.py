"""Settings that commands share with the daemon: so called, so checked, and read from the same places."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from attrs import field, fields, frozen

from chatflow.broker.names import Names
from chatflow.config import NONE_BY_ZERO, TABLE
from chatflow.errors import StartupError
from chatflow.options import Setting, load, mask_password, read_file
from chatflow.options.kinds import Kind
from chatflow.options.table import COMMAND_LINE, CONFIG, Option
from chatflow.postgres.environment import forget_variables

_OPTIONS = {option.name: option for option in TABLE.options}


def add_settings(parser: argparse.ArgumentParser, *names: str) -> None:
    """Add options of the daemon, and ``--config``."""
    group = parser.add_argument_group(
        "settings of the daemon, also read from its environment variables (CHATFLOW_...) and file"
    )
    in_files = [name for name, option in TABLE.kept_in_file().items() if option.name in names]
    on_command_line = TABLE.given_by(COMMAND_LINE)
    names = tuple(name for name in (*names, *in_files, CONFIG.name) if name in on_command_line)
    for name in names:
        option = _OPTIONS[name]
        group.add_argument(
            f"--{name}",
            metavar=option.kind.placeholder,
            type=_checked(option.kind),
            help=_help(option),
        )
    parser.set_defaults(settings=names)


@frozen(kw_only=True)
class Settings:
    """Those of the daemon's that some command needs."""

    queue_prefix: str
    rooms: int
    room_queues: int | None
    broker: str
    database: str = field(repr=mask_password)
    data_dir: Path = field(converter=Path)
    reap_after_seconds: float
    admin_token: tuple[str, ...] = field(repr=False)

    @property
    def operator_token(self) -> str | None:
        """What instances are shown that ask who is an operator; None if there is none."""
        return next(iter(self.admin_token), None)

    @property
    def names(self) -> Names:
        """What the objects in AWS are called."""
        return Names(self.queue_prefix, self.rooms, self.room_queues)

    def database_url(self) -> str:
        """Where the messages are; of an embedded database, where the daemon left its address.

        :raises StartupError: no daemon did.
        """
        if self.database != "embedded":
            return self.database
        forget_variables()
        try:
            url = (self.data_dir / "database.url").read_text().strip()
            if url.startswith("postgresql://"):
                return url
            raise StartupError(
                f"{self.data_dir / 'database.url'} holds no address: the daemon writes it when it starts"
            )
        except (OSError, UnicodeDecodeError):
            raise StartupError(
                f"no daemon runs its database in {self.data_dir}: give its --data-dir, or another --database"
            ) from None


def read_settings(arguments: argparse.Namespace) -> Settings:
    """What was given to this command, and what else the daemon would read.

    :raises ConfigError: a variable or the file is wrong.
    """
    settings = load_settings(arguments)
    values: dict[str, Any] = {each.name: settings[each.name.replace("_", "-")].value for each in fields(Settings)}
    for name in NONE_BY_ZERO & values.keys():
        values[name] = values[name] or None
    return Settings(**values)


def load_settings(arguments: argparse.Namespace) -> dict[str, Setting]:
    """The same as they are, for commands that need others.

    :raises ConfigError: a variable or the file is wrong.
    """
    texts = {name: getattr(arguments, name.replace("-", "_")) for name in arguments.settings}
    given = {name: [text] for name, text in texts.items() if text is not None}
    return load(TABLE, given, os.environ, read_file)


def _checked(kind: Kind) -> Callable[[str], str]:
    def check(text: str) -> str:
        try:
            kind.parse(text)
        except ValueError as error:
            detail = "".join(f"; {argument}" for argument in error.args[:1])
            raise argparse.ArgumentTypeError(f"must be {kind.allowed}{detail}") from None
        return text

    return check


def _help(option: Option) -> str:
    default = option.default_text or option.show(option.default_value())
    return f"{option.help} Default: {default}.".replace("%", "%%")
