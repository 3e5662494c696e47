"""The value of every option, from command line > environment > systemd's credentials > file > default.

Pure: what it reads is handed to it.
"""

from __future__ import annotations

import configparser
import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import attrs

from chatflow.errors import ConfigError
from chatflow.options.table import COMMAND_LINE, CONFIG, ENVIRONMENT, FILE, Option, Setting, Table

_QUOTED_CHARACTERS = 80
"""How much of a wrong value an error repeats."""


@attrs.frozen
class _Given:
    """What one source says about one option: the texts, not yet judged."""

    texts: tuple[str, ...]
    source: str
    may_quote: bool = True


def load(
    table: Table,
    argv_values: Mapping[str, Sequence[str]],
    environ: Mapping[str, str],
    read_file: Callable[[str], str],
) -> dict[str, Setting]:
    """Every option of ``table`` by name, with its value and where that came from.

    Values are judged where they count: a wrong one that a stronger source overrides is not looked at.

    :param argv_values: option name → texts as on the command line, in order; of an option that cannot be
        repeated the last one counts.
    :param environ: all of the environment; what does not begin with the table's prefix is ignored.
    :param read_file: path → text; called for ``config``, for each ``NAME-file`` that is given, and for credentials.
        May raise OSError or UnicodeError.
    :raises ConfigError: one line that names the key, its source and what is allowed.
    """
    command_line = {name: _Given(tuple(texts), COMMAND_LINE) for name, texts in argv_values.items()}
    for name in command_line:
        if name not in table.given_by(COMMAND_LINE):
            known_options = [f"--{known}" for known in table.given_by(COMMAND_LINE)]
            raise ConfigError(unknown(f"option --{name} (command line)", f"--{name}", known_options))
    environment = _read_environment(table, environ)
    credentials = _read_credentials(table, environ.get("CREDENTIALS_DIRECTORY"), read_file)
    config = command_line.get(CONFIG.name) or environment.get(CONFIG.name)
    file = _read_ini(table, _value(CONFIG, config), config.source, read_file) if config else {}
    given_by = [_with_files(table, given, read_file) for given in (command_line, environment, credentials, file)]

    settings = {}
    for option in table.options:
        given = next((given[option.name] for given in given_by if option.name in given), None)
        if given is None:
            settings[option.name] = Setting(option.default_value(), "default")
        else:
            settings[option.name] = Setting(_value(option, given), given.source)
    return settings


def check_order(settings: Mapping[str, Setting], *pairs: tuple[str, str]) -> None:
    """
    :param pairs: names of two numbers, of which the first must not be larger.
    :raises ConfigError: it is.
    """
    for low, high in pairs:
        if settings[low].value > settings[high].value:
            at_most = f"must be at most {high} = {settings[high].value} ({settings[high].source})"
            raise ConfigError(f"{low} = {settings[low].value} ({settings[low].source}): {at_most}")


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """The line about ``what``, whose ``name`` does not exist: the nearest one that does, else all of them."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1)
    return f"unknown {what}: " + (f"did you mean {near[0]}?" if near else f"known are {', '.join(names)}")


def _value(option: Option, given: _Given) -> Any:
    if not option.repeatable:
        return _parse(option, given.texts[-1], given)
    texts = list(given.texts)
    if given.source != COMMAND_LINE:
        texts = [each.strip() for text in texts for each in re.split(r"[,\n]", text) if each.strip()]
    return tuple(_parse(option, text, given) for text in texts)


def _parse(option: Option, text: str, given: _Given) -> Any:
    try:
        return option.kind.parse(text)
    except ValueError as error:
        quoted = ""
        if given.may_quote and option.kind.may_quote(text):
            quoted = f" = {text!r}" if len(text) <= _QUOTED_CHARACTERS else f" = {text[:_QUOTED_CHARACTERS]!r}…"
        detail = "".join(f"; {argument}" for argument in error.args[:1])
        if re.fullmatch(r"""(?s)(["']).*\1""", text):
            detail += "; the quotes are taken for a part of it, leave them out"
        elif not text:
            detail += "; it is empty, leave it out for the default"
        raise ConfigError(f"{option.name}{quoted} ({given.source}): must be {option.kind.allowed}{detail}") from None


def _read_environment(table: Table, environ: Mapping[str, str]) -> dict[str, _Given]:
    variables = {table.variable(option): name for name, option in table.given_by(ENVIRONMENT).items()}
    given = {}
    for variable, text in sorted(environ.items()):
        if not table.owns_variable(variable) or _is_service_link(variable, text):
            continue
        if variable not in variables:
            raise ConfigError(unknown(f"environment variable {variable}", variable, variables))
        given[variables[variable]] = _Given((_trimmed(text),), f"environment variable {variable}")
    return given


def _trimmed(text: str) -> str:
    """A value without what programs leave around it: blanks, line ends (``echo``), a byte order mark (Windows)."""
    return text.strip().removeprefix("\ufeff").strip()


def _read_credentials(table: Table, directory: str | None, read_file: Callable[[str], str]) -> dict[str, _Given]:
    """What systemd hands over with ``LoadCredential=``, for options that can hold a secret.

    https://systemd.io/CREDENTIALS/
    """
    given: dict[str, _Given] = {}
    for option in table.kept_in_file().values() if directory else ():
        path, name = f"{directory}/{table.credential(option)}", table.credential(option)
        try:
            given[option.name] = _Given((_trimmed(read_file(path)),), f"credential {name}", may_quote=False)
        except FileNotFoundError:
            continue
        except (OSError, UnicodeError) as error:
            raise ConfigError(f"{option.name} (credential {name}): {_unreadable(path, error)}") from None
    return given


def _with_files(table: Table, given: Mapping[str, _Given], read_file: Callable[[str], str]) -> dict[str, _Given]:
    """The same, with the text of each file that a ``NAME-file`` names as that of ``NAME``."""
    whole = dict(given)
    for name, option in table.kept_in_file().items():
        if name not in given or not given[name].texts[-1].strip():
            continue
        source = given[name].source
        path = given[name].texts[-1].strip()
        if option.name in given:
            raise ConfigError(f"{name} ({source}): cannot stand beside {option.name} ({given[option.name].source})")
        try:
            whole[option.name] = _Given(
                (_trimmed(read_file(path)),), f"file {path}, named by {name} ({source})", may_quote=False
            )
        except (OSError, UnicodeError) as error:
            # An abbreviation, such as --jwt-key, may have been given the secret itself.
            shown = path if source != COMMAND_LINE or COMMAND_LINE in option.sources else "that is given there"
            raise ConfigError(f"{name} ({source}): {_unreadable(shown, error)}") from None
    return whole


def _unreadable(path: str, error: Exception) -> str:
    if isinstance(error, OSError):
        return f"cannot read file {path}: {error.strerror or error}"
    return f"file {path} is not UTF-8 text: save it as UTF-8"


def _is_service_link(variable: str, text: str) -> bool:
    """Whether Kubernetes set it: a Service called ``chatflow`` puts CHATFLOW_PORT and more into all pods.

    https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables
    """
    if re.search(r"_SERVICE_HOST$|_SERVICE_PORT(_\w+)?$|_PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?$", variable):
        return True
    # A person who writes this one means a number, and has to learn that it is not called so.
    return variable.endswith("_PORT") and text.startswith(("tcp://", "udp://", "sctp://"))


def _read_ini(table: Table, path: str, named_by: str, read_file: Callable[[str], str]) -> dict[str, _Given]:
    parser = configparser.RawConfigParser(
        delimiters=("=",),
        comment_prefixes=("#", ";"),
        default_section="",  # no section lends its keys to others
        empty_lines_in_values=False,
    )
    try:
        parser.read_string(read_file(path))
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"config ({named_by}): {_unreadable(path, error)}") from None
    except configparser.Error as error:
        raise ConfigError(f"file {path}{_what_is_wrong(error, table.name)}") from None

    known = table.given_by(FILE)
    for section in parser.sections():
        if section not in (table.name, *table.siblings):
            name = _quotable(section, "...")
            raise ConfigError(unknown(f"section [{name}] (file {path})", f"[{name}]", [f"[{table.name}]"]))
    if not parser.has_section(table.name):
        return {}
    given = {}
    for key, text in parser.items(table.name):
        if key not in known:
            name = _quotable(key, "whose name is not repeated here")
            raise ConfigError(unknown(f"key {name} (file {path})", name, known))
        given[key] = _Given((_trimmed(text),), f"file {path}")
    return given


def _quotable(name: str, otherwise: str) -> str:
    """A name that a person made up; what does not look like one may be half of a password."""
    return name if re.fullmatch("[A-Za-z0-9_.-]{1,60}", name) else otherwise


def _what_is_wrong(error: configparser.Error, section: str) -> str:
    """In our words, since configparser's span lines and repeat the file's text, which may be a secret."""
    match error:
        case configparser.DuplicateOptionError():
            return f", line {error.lineno}: the key {_quotable(error.option, 'in it')} is there twice"
        case configparser.DuplicateSectionError():
            return f", line {error.lineno}: the section [{_quotable(error.section, '...')}] is there twice"
        case configparser.MissingSectionHeaderError():
            return f", line {error.lineno}: the section [{section}] must come first"
        case configparser.ParsingError() if error.errors:
            return f", line {error.errors[0][0]}: must be 'key = value'"
        case _:
            return ": is not an INI file"
