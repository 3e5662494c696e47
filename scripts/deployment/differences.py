"""What would change in a stack: a comparison of two templates and their parameters. Pure functions.

CloudFormation's own answer is a change set, which ``up`` shows; but to make one is a change, and needs an account.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from attrs import frozen

_MAX_VALUE_CHARACTERS = 60


@frozen
class Version:
    """A stack as it is, or as it is to be.

    :ivar parameters: with the values of the defaults.
    """

    template: Mapping[str, Any]
    parameters: Mapping[str, str]

    @property
    def resources(self) -> Mapping[str, Any]:
        """By name."""
        found: Mapping[str, Any] = self.template["Resources"]
        return found


def with_defaults(template: Mapping[str, Any], parameters: Mapping[str, str]) -> dict[str, str]:
    """Each parameter's value; of those that the template does not know nothing is left."""
    declared: Mapping[str, Any] = template.get("Parameters", {})
    return {name: str(parameters.get(name, declaration.get("Default", ""))) for name, declaration in declared.items()}


def differences(old: Version, new: Version) -> list[str]:
    """A line for each: ``+`` is made, ``-`` removed, ``~`` changed."""
    lines = []
    changed = {
        name for name, value in new.parameters.items() if name in old.parameters and old.parameters[name] != value
    }
    for name in sorted(changed):
        lines.append(f"~ parameter {name}: {_shown(old.parameters[name])} → {_shown(new.parameters[name])}")
    for name in sorted(new.parameters.keys() - old.parameters.keys()):
        lines.append(f"+ parameter {name}: {_shown(new.parameters[name])}")
    lines += [f"- parameter {name}" for name in sorted(old.parameters.keys() - new.parameters.keys())]
    for name in sorted(old.resources.keys() | new.resources.keys()):
        lines += _of_resource(name, old.resources.get(name), new.resources.get(name), changed)
    for name in sorted(old.template.get("Outputs", {}).keys() ^ new.template.get("Outputs", {}).keys()):
        lines.append(f"{'+' if name in new.template.get('Outputs', {}) else '-'} output {name}")
    return lines


def _of_resource(
    name: str, old: Mapping[str, Any] | None, new: Mapping[str, Any] | None, parameters: set[str]
) -> Iterator[str]:
    if old is None or new is None:
        made = new or old or {}
        yield f"{'-' if new is None else '+'} {name} ({made['Type']})"
        return
    if old["Type"] != new["Type"]:
        yield f"- {name} ({old['Type']})"
        yield f"+ {name} ({new['Type']})"
        return
    paths = list(_paths("", old, new))
    if paths:
        yield f"~ {name} ({new['Type']})"
        for path, before, after in paths:
            yield f"    {path}: {before} → {after}"
    used = sorted(parameters & set(_references(new)))
    if used:
        # AWS decides what follows from it: an update in place, or a replacement.
        yield f"~ {name} ({new['Type']}): through {', '.join(used)}"


def _paths(path: str, old: Any, new: Any) -> Iterator[tuple[str, str, str]]:
    """Where two values differ, as deep as can be said."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in [*old, *(key for key in new if key not in old)]:
            inner = f"{path}.{key}" if path else key
            if key not in new:
                yield inner, _shown(old[key]), "nothing"
            elif key not in old:
                yield inner, "nothing", _shown(new[key])
            else:
                yield from _paths(inner, old[key], new[key])
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for index, (one, other) in enumerate(zip(old, new, strict=True)):
            yield from _paths(f"{path}[{index}]", one, other)
    elif old != new:
        yield path, _shown(old), _shown(new)


def _references(value: Any) -> Iterator[str]:
    """Names that intrinsic functions in it refer to."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if key == "Ref":
                yield str(inner)
            elif key == "Fn::Sub":
                text = inner if isinstance(inner, str) else inner[0]
                yield from re.findall(r"\$\{(\w+)\}", text)
            yield from _references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _references(inner)


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    text = text.replace("\n", " ")
    return text if len(text) <= _MAX_VALUE_CHARACTERS else f"{text[: _MAX_VALUE_CHARACTERS - 1]}…"


def inventory(template: Mapping[str, Any]) -> list[str]:
    """What a template makes: a line for each service, with the kinds of things and how many."""
    services: dict[str, Counter[str]] = {}
    for resource in template["Resources"].values():
        _, service, kind = resource["Type"].split("::")[:3]
        services.setdefault(service, Counter())[kind] += 1
    return [
        f"+ {service}: " + ", ".join(kind if count == 1 else f"{count} {kind}" for kind, count in kinds.items())
        for service, kinds in services.items()
    ]
