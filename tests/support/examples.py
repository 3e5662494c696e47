"""How many examples a property is tried on."""

from __future__ import annotations

from hypothesis import settings


def at_least(count: int) -> settings:
    """So many, where the profile that is loaded has fewer: the usual one's say too little, the long one has more."""
    return settings(max_examples=max(count, settings().max_examples))
