"""What the value of an option may be: from text to a value, and what to tell who wrote another text."""

from __future__ import annotations

import math
import re
from typing import Any, Protocol
from urllib.parse import urlsplit

import attrs

from chatflow.passwords import MASK, mask_password

_FLAG_VALUES = {"yes": True, "true": True, "on": True, "1": True}
_FLAG_VALUES |= {"no": False, "false": False, "off": False, "0": False}


class Kind(Protocol):
    """A set of values and how they are written.

    :ivar placeholder: stands for the value in the help, such as ``N``; empty when there is no value to write.
    :ivar allowed: completes the sentence "must be …".
    """

    @property
    def placeholder(self) -> str: ...

    @property
    def allowed(self) -> str: ...

    def parse(self, text: str) -> Any:
        """The value that ``text`` stands for.

        :raises ValueError: it stands for none; an argument, if any, says what is wrong beyond ``allowed``.
        """

    def show(self, value: Any) -> str:
        """The text for ``value``, fit for everyone's eyes: passwords are masked."""

    def may_quote(self, text: str) -> bool:
        """Whether a text that was refused may be repeated in the error."""


@attrs.frozen
class Plain:
    """What most kinds have in common."""

    def show(self, value: Any) -> str:
        return str(value)

    def may_quote(self, text: str) -> bool:
        return True


@attrs.frozen
class _Numeric(Plain):
    minimum: float
    maximum: float
    unit: str = ""

    _noun = "a number"

    @property
    def placeholder(self) -> str:
        return self.unit.upper() or "N"

    @property
    def allowed(self) -> str:
        of_unit = f" of {self.unit}" if self.unit else ""
        return f"{self._noun}{of_unit} from {self.show(self.minimum)} to {self.show(self.maximum)}"

    def _within(self, value: Any) -> Any:
        if not self.minimum <= value <= self.maximum:
            raise ValueError
        return value


@attrs.frozen
class Integer(_Numeric):
    """A whole number. Only ASCII digits: int() would also take ``1_0`` and digits of other scripts."""

    _noun = "a whole number"

    def parse(self, text: str) -> int:
        if not re.fullmatch(r"-?[0-9]{1,18}", text):
            raise ValueError
        return int(self._within(int(text)))


@attrs.frozen
class Number(_Numeric):
    """A number that may have a fraction, as a float; neither exponent, infinity nor NaN."""

    def parse(self, text: str) -> float:
        if not re.fullmatch(r"-?[0-9]{1,18}(\.[0-9]{1,18})?", text):
            raise ValueError
        return float(self._within(float(text)))

    def show(self, value: float) -> str:
        return str(int(value)) if math.floor(value) == value else str(value)


@attrs.frozen
class Text(Plain):
    """Text that matches a pattern as a whole. Without one: anything on one line."""

    allowed: str = "text on one line"
    pattern: str = r"[^\x00-\x1f\x7f\ud800-\udfff]+"
    placeholder: str = "TEXT"

    def parse(self, text: str) -> str:
        if not re.fullmatch(self.pattern, text):
            raise ValueError
        return text


@attrs.frozen
class Choice(Plain):
    """A value that is one of a few words."""

    words: tuple[str, ...]

    @property
    def placeholder(self) -> str:
        return "|".join(self.words)

    @property
    def allowed(self) -> str:
        return " or ".join(repr(word) for word in self.words)

    def parse(self, text: str) -> str:
        if text not in self.words:
            raise ValueError
        return text


@attrs.frozen
class Flag(Plain):
    """Yes or no. On the command line ``--name`` is yes and ``--no-name`` is no."""

    placeholder = ""
    allowed = "yes, true, on, 1, or no, false, off, 0"

    def parse(self, text: str) -> bool:
        if text.lower() not in _FLAG_VALUES:
            raise ValueError
        return _FLAG_VALUES[text.lower()]

    def show(self, value: bool) -> str:
        return "yes" if value else "no"


@attrs.frozen
class Url:
    """A URL of one of some schemes, or one of some words that stand for one. Its password is never shown.

    :ivar example: how such a URL looks, for the error and the help.
    :ivar needs_host: whether the URL must name one host; several hosts (``a:1,b:2``), as libpq takes them,
        pass only without it.
    """

    schemes: tuple[str, ...]
    example: str
    words: tuple[str, ...] = ()
    needs_host: bool = True
    placeholder: str = "URL"

    @property
    def allowed(self) -> str:
        return "".join(f"{word!r} or " for word in self.words) + f"a URL such as {self.example}"

    def parse(self, text: str) -> str:
        if text in self.words:
            return text
        if not re.fullmatch(r"[\x21-\x7e]+", text):
            raise ValueError("other characters than visible ASCII must be percent-encoded")
        if re.search("%(?![0-9A-Fa-f]{2})|%00", text):
            raise ValueError("a % must be percent-encoded as %25")
        try:
            parts = urlsplit(text)
            port = parts.port if self.needs_host else None
        except ValueError:  # its text may repeat half of a password
            raise ValueError("the host or the port is malformed") from None
        if parts.scheme not in self.schemes or not text.startswith(f"{parts.scheme}://"):
            raise ValueError
        if "@" in parts.path + parts.query or parts.netloc.count("@") > 1 or "#" in text:
            # Half of a password would be taken for a path, and shown as one.
            raise ValueError("the characters @ / ? # in user and password must be percent-encoded")
        if self.needs_host and not parts.hostname:
            raise ValueError("the host is missing")
        if not self.needs_host:
            _check_for_libpq(parts.netloc.rpartition("@")[2], parts.query)
        if port == 0:
            raise ValueError("port 0 cannot be reached")
        return text

    def show(self, value: str) -> str:
        return mask_password(value)

    def may_quote(self, text: str) -> bool:
        return False  # any part of it may be a password, or half of one


@attrs.frozen
class Secrets:
    """Secrets, one on each line, of which none is ever shown."""

    min_characters: int
    example: str
    placeholder: str = "SECRET"

    @property
    def allowed(self) -> str:
        return f"{self.min_characters} or more visible characters of ASCII without a blank, {self.example}"

    def parse(self, text: str) -> tuple[str, ...]:
        secrets = tuple(line for each in text.splitlines() if (line := each.strip()))
        if not secrets or not all(re.fullmatch(rf"[\x21-\x7e]{{{self.min_characters},}}", each) for each in secrets):
            raise ValueError
        return secrets

    def show(self, value: Any) -> str:
        return ", ".join([MASK] * len(value))

    def may_quote(self, text: str) -> bool:
        return False


def _check_for_libpq(places: str, query: str) -> None:
    """What libpq would refuse with an error that repeats it.

    :param places: ``host:port``, or several with commas.
    :raises ValueError: they, or a parameter, are malformed.
    """
    for place in places.split(","):
        if not re.fullmatch(r"(\[[^\[\]]*\]|[^:\[\]]*)(:[0-9]{0,5})?", place):
            raise ValueError("the host or the port is malformed")
    if query and not all(re.fullmatch("[^=]+=[^=]*", parameter) for parameter in query.split("&")):
        raise ValueError("behind the ? must be name=value, several joined by &; a = in a value is %3D")
