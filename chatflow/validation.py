"""What msgspec says of input that is not as it must be: which field is at fault. Pure."""

from __future__ import annotations

import re

# It names the place of an error as "... - at `$.username`" and a missing one as "... field `username`".
_PLACE = re.compile(r"(?:at `\$\.|missing required field `)(\w+)")


def field_at_fault(error: str) -> tuple[str, bool] | None:
    """The outermost field of an object that the text of a :class:`msgspec.ValidationError` names, and whether it is
    missing; None if it names none, as of what is no object."""
    place = _PLACE.search(error)
    return None if place is None else (place[1], "missing" in error)
