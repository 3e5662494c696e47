"""The table for people: as help in a terminal, as a page of the documentation, and with its values."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping

from chatflow.options.table import COMMAND_LINE, ENVIRONMENT, FILE, Option, Setting, Table

_INDENT = "      "


def as_config(table: Table, settings: Mapping[str, Setting]) -> str:
    """A line ``key = value  (source)`` per option, secrets hidden."""
    return "".join(
        f"{option.name} = {option.show(settings[option.name].value)}  ({settings[option.name].source})\n"
        for option in table.options
        if FILE in option.sources and option.name not in table.kept_in_file()  # the source of the other names it
    )


def as_help(table: Table, width_columns: int) -> str:
    """The whole manual as text for a terminal."""

    def wrapped(text: str, indent: str) -> str:
        return textwrap.fill(
            text, width_columns, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False
        )

    lines = [f"Usage: twistd [-n] {table.name} [options]", ""]
    lines += [wrapped(paragraph, "") + "\n" for paragraph in _introduction(table)]
    for heading, options in table.groups():
        lines += [heading, ""]
        for option in options:
            lines.append(f"  {_usage(option)}")
            lines += [wrapped(paragraph, _INDENT) for paragraph in _paragraphs(option)]
            lines += [wrapped("; ".join(_facts(table, option)), _INDENT), ""]
    lines += [
        "Other",
        "",
        "  --help",
        _INDENT + "Prints this.",
        "  --version",
        _INDENT + "Prints the version.",
        "",
    ]
    for purpose, command in table.examples:
        lines += [f"{purpose}:", "", f"  {command}", ""]
    return "\n".join(lines)


def as_page(table: Table, title: str) -> str:
    """The manual as reStructuredText, as it is kept in the documentation."""
    lines = [
        ".. Made from the table of options; a test compares. Do not edit.",
        "",
        title,
        "=" * len(title),
        "",
    ]
    for paragraph in _introduction(table):
        lines += [textwrap.fill(paragraph, 100, break_on_hyphens=False), ""]
    for heading, options in table.groups():
        lines += [heading, "-" * len(heading), ""]
        for option in options:
            lines.append(f"``{_usage(option)}``")
            for paragraph in (*_paragraphs(option), "; ".join(_facts(table, option, literal="``"))):
                indent = "    "
                lines += [
                    textwrap.fill(
                        paragraph,
                        100,
                        initial_indent=indent,
                        subsequent_indent=indent,
                        break_on_hyphens=False,
                    ),
                    "",
                ]
    if table.examples:
        lines += ["Examples", "--------", ""]
    for purpose, command in table.examples:
        lines += [f"{purpose}::", "", f"    {command}", ""]
    return re.sub(r"(?<!`)`(?!`)", "``", "\n".join(lines).rstrip()) + "\n"


def _introduction(table: Table) -> list[str]:
    some = min(table.given_by(FILE).values(), key=lambda option: len(option.name))
    return [
        *table.summary.split("\n\n"),
        f"Each option can be given in three ways. The first that has it wins: the command line "
        f"(--{some.name}), the environment ({table.variable(some)}), the section [{table.name}] of the INI "
        f"file that --config names ({some.name} = ...). What is wrong or unknown in any of them is told in "
        "one line, and the exit status is 1. Passwords belong into the environment or into a file that only "
        "the daemon's user can read: the command line is visible to everyone on the machine.",
    ]


def _usage(option: Option) -> str:
    if option.is_flag:
        return f"--{option.name}" + (f", --no-{option.name}" if can_be_negated(option) else "")
    return f"--{option.name} {option.kind.placeholder}"


def can_be_negated(option: Option) -> bool:
    """Whether the command line needs a way to say no: when a weaker source may have said yes."""
    return option.is_flag and option.sources != {COMMAND_LINE}


def _paragraphs(option: Option) -> list[str]:
    return [" ".join(paragraph.split()) for paragraph in option.help.split("\n\n")]


def _facts(table: Table, option: Option, literal: str = "") -> Iterator[str]:
    """Default, what is allowed, and where else it can be given.

    :param literal: stands around what is to be typed as it is.
    """
    if not option.is_flag:
        yield f"Must be {option.kind.allowed}"
        if option.repeatable:
            yield "may be repeated (environment, file: separated by commas or line ends)"
    default = option.default_text or f"{literal}{option.show(option.default_value()) or 'none'}{literal}"
    yield f"Default: {default}" if option.is_flag else f"default: {default}"
    if ENVIRONMENT in option.sources:
        yield f"{literal}{table.variable(option)}{literal}"
    if FILE not in option.sources:
        yield "not in the file"
