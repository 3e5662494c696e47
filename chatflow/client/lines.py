"""Lines that people and programs write, as messages. No input and no output."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
from attrs import define, field, frozen

from chatflow.errors import ChatFlowError

#: Far more than 500 characters take, however they are written.
MAX_LINE_BYTES = 65_536

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class BadLine(ChatFlowError):
    """A line is no message. The text says why."""


@frozen
class Draft:
    """A message as a line of input asks for it, not checked by the server yet."""

    text: str
    message_type: str = "TEXT"


@define
class LineSplitter:
    """Bytes as they come, as numbered lines without their ends (LF or CRLF). Holds at most one line.

    :ivar lines: how many there were.
    """

    lines: int = field(init=False, default=0)
    _rest: bytes = field(init=False, default=b"")
    _is_too_long: bool = field(init=False, default=False)

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes | None]]:
        """Each line that is complete now; None for one that was too long to be held."""
        *complete, rest = (self._rest + data).split(b"\n")
        for line in complete:
            yield self._number(line)
        self._rest = rest
        if len(rest) > MAX_LINE_BYTES:
            self._rest, self._is_too_long = b"", True

    def end(self) -> Iterator[tuple[int, bytes | None]]:
        """The last line, if it has no end."""
        if self._rest or self._is_too_long:
            yield self._number(self._rest)
            self._rest = b""

    def _number(self, line: bytes) -> tuple[int, bytes | None]:
        self.lines += 1
        if self._is_too_long or len(line) > MAX_LINE_BYTES:
            self._is_too_long = False
            return self.lines, None
        if self.lines == 1:
            line = line.removeprefix(_BYTE_ORDER_MARK)
        return self.lines, line.removesuffix(b"\r")


def understand(line: bytes | None, *, as_json: bool) -> Draft | None:
    """What a line says; None if there is nothing in it.

    :param line: as :class:`LineSplitter` gives it.
    :param as_json: it is ``{"message": …}`` or ``{"message": …, "messageType": …}``.
    :raises BadLine: it is no message. Whether the server takes it is not looked at.
    """
    if line is None:
        raise BadLine(f"is longer than {MAX_LINE_BYTES} bytes")
    try:
        text = line.decode()
    except UnicodeDecodeError:
        raise BadLine("is not UTF-8") from None
    if not text.strip():
        return None
    return _from_json(line) if as_json else Draft(text)


def _from_json(line: bytes) -> Draft:
    try:
        value: Any = msgspec.json.decode(line)
    except (msgspec.DecodeError, RecursionError):
        raise BadLine("is not JSON") from None
    if not isinstance(value, dict) or not isinstance(value.get("message"), str):
        raise BadLine('must be an object such as {"message": "Hello"}')
    message_type = value.get("messageType", "TEXT")
    if not isinstance(message_type, str):
        raise BadLine("has a messageType that is no text")
    return Draft(value["message"], message_type)
