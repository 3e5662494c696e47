"""Which calls to SQS and SNS go wrong, and how: rules, drawn from a seed. Pure, but for its counters.

The n-th call of an operation always meets the same fate for the same seed and rules, whatever other operations do.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from fnmatch import fnmatchcase
from random import Random

from attrs import define, field, fields, frozen

#: At most one of these befalls a call; they are drawn in this order.
KINDS = {
    "reset": "the connection is reset before the call is carried out",
    "fail": "it is not carried out, and answered with a server's error",
    "throttle": "it is not carried out, and answered as AWS answers who calls too often",
    "partial": "of a batch call every second entry, from the first on, is not carried out and listed as failed",
    "drop": "it is carried out, and the connection is closed instead of an answer",
}


@define
class Rule:
    """What happens to calls of some operations.

    :ivar operation: a shell pattern: ``SendMessageBatch``, ``*MessageBatch``, ``*``; with the name of a queue behind an
        ``@``, of calls for such a queue: ``ReceiveMessage@chatflow-fanout-*``.
    :ivar delay_ms: each call waits up to this long, evenly distributed from ``least_delay_ms`` on, before it goes on.
    :ivar answer_ms: each answer waits so long, from ``least_answer_ms`` on: to a long poll, from when there was one.
    :ivar times: how many calls it applies to, after which it is spent.
    """

    operation: str
    delay_ms: float = 0.0
    least_delay_ms: float = 0.0
    answer_ms: float = 0.0
    least_answer_ms: float = 0.0
    reset: float = 0.0
    fail: float = 0.0
    throttle: float = 0.0
    partial: float = 0.0
    drop: float = 0.0
    times: float = math.inf

    @classmethod
    def parse(cls, text: str) -> Rule:
        """A rule as people write it: ``SendMessage*:drop=0.05,fail=0.05,delay_ms=500``.

        :raises ValueError: it is none.
        """
        operation, _, settings = text.strip().partition(":")
        known = {one.name for one in fields(cls)} - {"operation"}
        values: dict[str, float] = {}
        for setting in filter(None, settings.split(",")):
            name, _, value = setting.strip().partition("=")
            if name not in known:
                raise ValueError(f"{name!r} is none of {', '.join(sorted(known))}")
            values[name] = float(value)
        if not operation or sum(values.get(kind, 0.0) for kind in KINDS) > 1.0 or min(values.values(), default=0) < 0:
            raise ValueError(f"{text!r} has no operation, or its probabilities are not from 0 to 1 together")
        return cls(operation, **values)

    def __str__(self) -> str:
        settings = [(one.name, getattr(self, one.name), one.default) for one in fields(type(self))[1:]]
        return f"{self.operation}:" + ",".join(f"{name}={value:g}" for name, value, usual in settings if value != usual)


@frozen
class Fate:
    """What happens to one call. ``kind``: of :data:`KINDS`, or None."""

    delay_seconds: float = 0.0
    kind: str | None = None
    answer_seconds: float = 0.0


@define
class Faults:
    """The rules in force; the first that matches a call counts.

    :ivar calls: since the start, by operation.
    :ivar injected: since the start, by operation and kind.
    """

    seed: int = 0
    rules: list[Rule] = field(factory=list)
    calls: Counter[str] = field(factory=Counter)
    injected: Counter[tuple[str, str]] = field(factory=Counter)
    _random: dict[str, Random] = field(factory=dict)

    def set_rules(self, texts: Iterable[str], seed: int | None = None) -> None:
        """Replace all rules; with a seed, begin anew to draw and to count.

        :raises ValueError: one is no rule; nothing has changed then.
        """
        self.rules = [Rule.parse(text) for text in texts]
        if seed is not None:
            self.seed = seed
            self._random.clear()
            self.calls.clear()
            self.injected.clear()

    def fate(self, operation: str, queue: str = "") -> Fate:
        """Decide about a call, and count it.

        :param queue: the name of the one that it is for, if it is for one.
        """
        self.calls[operation] += 1
        for rule in self.rules:
            name = f"{operation}@{queue}" if "@" in rule.operation else operation
            if rule.times >= 1 and fnmatchcase(name, rule.operation):
                rule.times -= 1
                return self._draw(operation, rule)
        return Fate()

    def _draw(self, operation: str, rule: Rule) -> Fate:
        random = self._random.setdefault(operation, Random(f"{self.seed} {operation}"))
        delay_seconds = _between(random, rule.least_delay_ms, rule.delay_ms)
        drawn = random.random()
        answer_seconds = _between(random, rule.least_answer_ms, rule.answer_ms) if rule.answer_ms else 0.0
        for kind in KINDS:
            drawn -= getattr(rule, kind)
            if drawn < 0:
                self.injected[operation, kind] += 1
                return Fate(delay_seconds, kind, answer_seconds)
        return Fate(delay_seconds, None, answer_seconds)


def _between(random: Random, least_ms: float, most_ms: float) -> float:
    return (least_ms + random.random() * (most_ms - least_ms)) / 1000
