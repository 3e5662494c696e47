"""How instances stand, for people and for programs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs

from scripts.deployment.fleet import Instance

_HEADS = ("instance", "release", "state", "balancer", "clients", "lag", "")


def as_lines(instances: Sequence[Instance]) -> list[str]:
    """A table, and below it a sentence on the whole."""
    rows = [_HEADS, *(_row(instance) for instance in instances)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADS))]
    lines = ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    serving = sum(instance.serves for instance in instances)
    outdated = [instance.name for instance in instances if not instance.current]
    lines += ["", f"{serving} of {len(instances)} serve clients" + (", as they should" if healthy(instances) else "")]
    if outdated:
        lines.append(f"not on the release that all are to run: {', '.join(outdated)}; scripts/deploy roll goes on")
    return lines


def healthy(instances: Sequence[Instance]) -> bool:
    """Whether all serve, with the release that all are to run."""
    return bool(instances) and all(instance.serves and instance.current for instance in instances)


def as_values(instances: Sequence[Instance]) -> list[dict[str, Any]]:
    """For JSON: fields and units of :class:`Instance`."""
    return [{**attrs.asdict(instance), "state": instance.state.value} for instance in instances]


def _row(instance: Instance) -> tuple[str, ...]:
    return (
        instance.name,
        instance.release,
        instance.state.value,
        "in" if instance.in_balancer else "out",
        "-" if instance.clients is None else str(instance.clients),
        "-" if instance.lag_seconds is None else f"{instance.lag_seconds:.1f} s",
        instance.note,
    )
