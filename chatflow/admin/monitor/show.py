"""What was seen, for people at a terminal, for programs that read lines, and as JSON. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from chatflow.admin.monitor.findings import Cell, Level, Section
from chatflow.text import visible

_STYLES = {Level.FINE: "", Level.WARNING: "bold yellow", Level.CRITICAL: "bold white on red"}
_BORDERS = {Level.FINE: "green", Level.WARNING: "yellow", Level.CRITICAL: "red"}
_TITLES = {Level.FINE: "ALL IS WELL", Level.WARNING: "WARNING", Level.CRITICAL: "CRITICAL"}
_SHOWN_FINDINGS = 12


def as_screen(sections: Sequence[Section], now: str) -> RenderableType:
    """What is wrong in words, then the tables."""
    level = _level(sections)
    findings = _findings(sections)
    lines = [
        Text.assemble((f"{one.name.lower():9}", _STYLES[one]), " ", f"{section}: {text}")
        for section, one, text in findings[:_SHOWN_FINDINGS]
    ]
    if len(findings) > _SHOWN_FINDINGS:
        lines.append(Text(f"and {len(findings) - _SHOWN_FINDINGS} more, in the tables below"))
    if not findings:
        lines.append(Text("nothing is beyond its threshold"))
    verdict = Panel(
        Group(*lines), title=Text(f" {_TITLES[level]} ", _STYLES[level] or "bold black on green"), subtitle=now,
        border_style=_BORDERS[level], title_align="left", subtitle_align="right",
    )  # fmt: skip
    return Group(verdict, *[_table(section) for section in sections if section.rows])


def _table(section: Section) -> Table:
    table = Table(title=section.name, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for index, column in enumerate(section.columns):
        is_number = any(isinstance(row[index].value, int | float) for row in section.rows)
        is_last = index == len(section.columns) - 1
        table.add_column(
            column,
            justify="right" if is_number else "left",
            no_wrap=True,
            overflow="ellipsis",
            min_width=None if is_last else min(24, max(len(row[index].text) for row in section.rows)),
        )
    for row in section.rows:
        table.add_row(*[Text(cell.text, _STYLES[cell.level]) for cell in row])
    return table


def as_lines(sections: Sequence[Section], now: str) -> Iterator[str]:
    """One for each finding and for each row: ``TIME LEVEL SECTION …``, so that grep finds what is wrong."""
    yield f"{now} {_level(sections).name} verdict {len(_findings(sections))} findings"
    for name, level, text in _findings(sections):
        yield f"{now} {level.name} {name} finding {text}"
    for section in sections:
        for row in section.rows:
            level = max(cell.level for cell in row)
            cells = " ".join(
                f"{column.replace(' ', '_')}={_quoted(cell.text)}"
                for column, cell in zip(section.columns, row, strict=True)
            )
            yield f"{now} {level.name} {section.name} {cells}"


def as_json(sections: Sequence[Section], now: str) -> dict[str, Any]:
    """``level`` is as the exit status says it; each section has its rows as objects."""
    return {
        "time": now,
        "level": _level(sections).name.lower(),
        "findings": [
            {"section": name, "level": level.name.lower(), "text": text} for name, level, text in _findings(sections)
        ],
        "sections": {
            section.name: [
                {
                    **{column: _value(cell) for column, cell in zip(section.columns, row, strict=True)},
                    "level": max(cell.level for cell in row).name.lower(),
                }
                for row in section.rows
            ]
            for section in sections
        },
    }


def _findings(sections: Sequence[Section]) -> list[tuple[str, Level, str]]:
    """The worst first."""
    found = [(section.name, level, visible(text)) for section in sections for level, text in section.all_findings()]
    return sorted(found, key=lambda finding: -finding[1])


def _level(sections: Sequence[Section]) -> Level:
    return max((section.level for section in sections), default=Level.FINE)


def _quoted(text: str) -> str:
    return f'"{text}"' if not text or " " in text or "=" in text else text


def _value(cell: Cell) -> Any:
    """JSON knows no NaN."""
    return None if isinstance(cell.value, float) and not math.isfinite(cell.value) else cell.value
