"""A figure that a part keeps, as Prometheus is shown it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple


class Reading(NamedTuple):
    """How a figure is called and where it is read.

    :ivar read: the value; or values by label, if ``label`` names one.
    :ivar is_counter: it only grows; Prometheus adds ``_total`` to its name.
    """

    name: str
    help: str
    read: Callable[[], float | Mapping[str, float]]
    is_counter: bool = True
    label: str | None = None
