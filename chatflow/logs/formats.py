"""An event of twisted.logger as text, or as an object of JSON. What strangers wrote cannot begin a line."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from twisted.logger import formatEvent, formatTime
from twisted.python.failure import Failure

from chatflow.text import visible

_INDENT = "    "

# Names of the object's own, and of what twisted.python.log adds to an event of an older kind.
_OWN = frozenset({"time", "level", "namespace", "message", "error", "traceback"})
_LEGACY = frozenset({"isError", "message", "time", "system", "format", "why", "failure", "logLevel"})

_MAX_ITEMS = 100


def as_text(event: dict[str, Any], *, stamped: bool = True) -> str:
    """One line, with the traceback of a failure on further ones, which are indented; ends without a line end.

    :param stamped: whether it begins with the time; the journal has its own.
    """
    stamp = f"{formatTime(event.get('log_time'))} " if stamped else ""
    system = event.get("log_system") or f"{event.get('log_namespace', '-')}#{level_name(event)}"
    lines = [f"{stamp}[{visible(str(system))}] {visible(message(event))}"]
    failure = event.get("log_failure")
    if failure is not None:
        lines += [_INDENT + visible(line) for line in _traceback(failure).splitlines()]
    return "\n".join(lines)


def as_json(event: dict[str, Any]) -> str:
    """One line: an object of ``time``, ``level``, ``namespace``, ``message`` and the event's own named fields; of a
    failure also ``error`` and ``traceback``. ASCII only.

    A field that has one of these names gets a ``_`` behind it.
    """
    stamp = datetime.fromtimestamp(event.get("log_time", 0.0), UTC).isoformat(timespec="milliseconds")
    line: dict[str, Any] = {
        "time": stamp.replace("+00:00", "Z"),
        "level": level_name(event),
        "namespace": str(event.get("log_namespace", "-")),
        "message": _encodable(message(event)),
    }
    failure = event.get("log_failure")
    if failure is not None:
        line["error"] = _encodable(_in_short(failure))
        line["traceback"] = _encodable(_traceback(failure))
    for name, value in _fields(event):
        line[f"{name}_" if name in _OWN else name] = _plain(value)
    return json.dumps(line)


def level_name(event: dict[str, Any]) -> str:
    """``debug``, ``info``, ``warn``, ``error`` or ``critical``."""
    level = event.get("log_level")
    return "info" if level is None else str(level.name)


def message(event: dict[str, Any]) -> str:
    """What happened, as it was written: the format with its fields, or of a bare failure what failed."""
    text = formatEvent(event)
    failure = event.get("log_failure")
    return text if text or failure is None else _in_short(failure)


def _fields(event: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    is_legacy = "log_legacy" in event or "isError" in event
    for name, value in event.items():
        if not name.startswith("log_") and not (is_legacy and name in _LEGACY):
            yield name, value


def _plain(value: Any) -> Any:
    """What JSON has for a value; the text of one for which it has nothing."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(value)
    if isinstance(value, (list, tuple, set, frozenset)) and len(value) <= _MAX_ITEMS:
        return [_text(each) if isinstance(each, (list, tuple, dict, set)) else _plain(each) for each in value]
    return _text(value)


def _text(value: Any) -> str:
    try:
        return _encodable(str(value))
    except Exception as error:
        return f"(cannot be shown: {type(error).__name__})"


def _encodable(text: str) -> str:
    """The same, but for lone surrogates, on which readers of JSON choke."""
    return text if text.isascii() else "".join(visible(one) if "\ud800" <= one <= "\udfff" else one for one in text)


def _in_short(failure: Failure) -> str:
    return f"{failure.type.__name__ if failure.type else 'failure'}: {failure.getErrorMessage()}"


def _traceback(failure: Failure) -> str:
    try:
        return str(failure.getTraceback())
    except Exception as error:  # a broken __str__
        return f"(no traceback: {type(error).__name__})"
