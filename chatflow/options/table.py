"""An option, a table of them, and what each is called in each source."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import attrs

from chatflow.options.kinds import Flag, Kind, Text

COMMAND_LINE = "command line"
ENVIRONMENT = "environment"
FILE = "file"


@attrs.frozen(kw_only=True)
class Option:
    """One setting.

    :ivar name: in kebab-case with its unit, such as ``drain-seconds``.
    :ivar default: the value without any source, already of its kind; or a function that finds it. A tuple
        when the option is repeatable.
    :ivar default_text: what the help says instead of the default, for a function.
    :ivar help: what it does, and what happens at the limit; whole sentences, blank lines part paragraphs.
    :ivar group: the heading of the help under which it stands.
    :ivar may_hold_secret: a part of the value may be a secret, which its kind masks; so the value may also be kept in a
        file of its own: see :attr:`Table.options`.
    :ivar repeatable: the value is a tuple. Several are written by repeating the option, and in environment
        and file with commas or on lines of their own.
    :ivar sources: where it may be given.
    """

    name: str
    kind: Kind
    default: Any | Callable[[], Any]
    help: str
    group: str
    default_text: str = ""
    may_hold_secret: bool = False
    repeatable: bool = False
    sources: frozenset[str] = frozenset({COMMAND_LINE, ENVIRONMENT, FILE})

    @property
    def is_flag(self) -> bool:
        return isinstance(self.kind, Flag)

    def default_value(self) -> Any:
        return self.default() if callable(self.default) else self.default

    def show(self, value: Any) -> str:
        """The value as text, for everyone's eyes; an INI file can hold it as it is, unless a part of it is masked."""
        if self.repeatable:
            return ", ".join(self.kind.show(each) for each in value)
        return self.kind.show(value)


@attrs.frozen
class Setting:
    """A value, and its source: ``command line``, ``environment variable X``, ``file F`` or ``default``."""

    value: Any
    source: str


CONFIG = Option(
    name="config",
    kind=Text(allowed="the path of a file", placeholder="FILE"),
    default="",
    default_text="no file",
    group="Settings themselves",
    sources=frozenset({COMMAND_LINE, ENVIRONMENT}),
    help="Reads further settings from this INI file. An unknown key or section in it is an error.",
)
SHOW_CONFIG = Option(
    name="show-config",
    kind=Flag(),
    default=False,
    group="Settings themselves",
    sources=frozenset({COMMAND_LINE}),
    help="Prints every setting with its source, passwords hidden, and exits.",
)


@attrs.frozen(kw_only=True)
class Table:
    """Every option of one command. ``--config`` and ``--show-config`` are added by themselves.

    :ivar name: the command, and the section of the INI file. The environment variables' prefix follows from
        it: ``chatflow-load`` has ``CHATFLOW_LOAD_``.
    :ivar siblings: the names of other tables that share environment and INI file with this one; what is
        theirs is not looked at.
    :ivar summary: opens the help.
    :ivar examples: pairs of what is achieved and the command line for it.
    """

    name: str
    own_options: tuple[Option, ...]
    summary: str = ""
    examples: tuple[tuple[str, str], ...] = ()
    siblings: tuple[str, ...] = ()

    @property
    def options(self) -> tuple[Option, ...]:
        """All options; behind each that can hold a secret comes ``NAME-file``, which names a file that holds it."""
        own: list[Option] = []
        for option in self.own_options:
            own.append(option)
            if option.may_hold_secret:
                own.append(self._kept_in_file(option))
        return (*own, CONFIG, SHOW_CONFIG)

    def credential(self, option: Option) -> str:
        """The name of the systemd credential that gives ``option``."""
        return f"{self.name}.{option.name}"

    def _kept_in_file(self, option: Option) -> Option:
        return Option(
            name=file_option(option.name),
            kind=Text(allowed="the path of a file", placeholder="FILE"),
            default="",
            default_text="no file",
            group=option.group,
            sources=option.sources | {COMMAND_LINE},
            help=f"Reads --{option.name} from this file, so that neither the command line nor the environment shows "
            f"it: the file holds the value alone. Cannot stand beside --{option.name} in the same place. The systemd "
            f"credential `{self.credential(option)}` is read without being named.",
        )

    @property
    def prefix(self) -> str:
        return _prefix(self.name)

    def kept_in_file(self) -> dict[str, Option]:
        """The option whose value a file holds, by the name of the option ``NAME-file``."""
        return {file_option(option.name): option for option in self.own_options if option.may_hold_secret}

    def groups(self) -> Iterator[tuple[str, list[Option]]]:
        """The headings in the order of their first option, each with its options."""
        headings = dict.fromkeys(option.group for option in self.options)
        for heading in headings:
            yield heading, [option for option in self.options if option.group == heading]

    def given_by(self, source: str) -> dict[str, Option]:
        """The options that ``source`` may give, by name."""
        return {option.name: option for option in self.options if source in option.sources}

    def variable(self, option: Option) -> str:
        """The environment variable of ``option``."""
        return self.prefix + option.name.upper().replace("-", "_")

    def owns_variable(self, variable: str) -> bool:
        """Whether an environment variable is this table's: of several prefixes that fit, the longest."""
        longer = [_prefix(name) for name in self.siblings if len(name) > len(self.name)]
        return variable.startswith(self.prefix) and not variable.startswith(tuple(longer))


def file_option(name: str) -> str:
    """The option that names the file in which the value of option ``name`` is kept."""
    return f"{name}-file"


def _prefix(name: str) -> str:
    return name.upper().replace("-", "_") + "_"
