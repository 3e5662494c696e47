"""Whether policies of IAM allow a call: the part of its rules that ours use, without conditions and boundaries.

https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_evaluation-logic.html
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any


def allows(policies: Iterable[Mapping[str, Any]], action: str, resource: str) -> bool:
    """An explicit Deny wins over everything; without an Allow nothing is."""
    effects = {
        statement["Effect"]
        for policy in policies
        for statement in policy["Statement"]
        if _matches(statement["Action"], action, re.IGNORECASE) and _matches(statement["Resource"], resource)
    }
    return effects == {"Allow"}


def actions(policies: Iterable[Mapping[str, Any]]) -> set[str]:
    """All actions that are allowed on something."""
    statements = [statement for policy in policies for statement in policy["Statement"]]
    return {action for statement in statements if statement["Effect"] == "Allow" for action in statement["Action"]}


def _matches(patterns: str | list[str], value: str, flags: int = 0) -> bool:
    return any(
        re.fullmatch(re.escape(pattern).replace(r"\*", ".*").replace(r"\?", "."), value, flags)
        for pattern in ([patterns] if isinstance(patterns, str) else patterns)
    )
