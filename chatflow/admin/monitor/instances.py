"""The instances: where they are, and what each tells of itself over HTTP. Blocks."""

from __future__ import annotations

import json
import time
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from typing import Any

from attrs import define, field, frozen
from prometheus_client.parser import text_string_to_metric_families

from chatflow.errors import ChatFlowError
from chatflow.passwords import without_passwords

_TIMEOUT_SECONDS = 3.0
_MAX_BYTES = 4_000_000


class NoAnswer(ChatFlowError):
    """An instance does not tell its figures. The text says why."""


@frozen
class Scrape:
    """What one instance told.

    :ivar at: by a monotonic clock.
    :ivar totals: figures by name, added up over their labels.
    :ivar labelled: the same by label.
    :ivar version: of the program.
    """

    at: float
    totals: Mapping[str, float]
    labelled: Mapping[str, Mapping[str, float]]
    version: str = ""


@frozen
class Target:
    """An instance. ``url``: None if nobody knows where it listens. ``silent_seconds``: None if it has no heartbeat."""

    name: str
    url: str | None
    silent_seconds: float | None = None


def scrape(url: str, seconds: Callable[[], float] = time.monotonic, token: str | None = None) -> Scrape:
    """
    :param token: of operators, if the instance asks for one.
    :raises NoAnswer: there is none within seconds, or it is something else.
    """
    text = _get(f"{url.rstrip('/')}/metrics", "text/plain", token)
    try:
        return parse(text, seconds())
    except ValueError as error:
        raise NoAnswer(str(error)) from None


def get_json(url: str, token: str | None = None) -> Any:
    """What it answers.

    :raises NoAnswer: nothing, or no JSON.
    """
    try:
        return json.loads(_get(url, "application/json", token))
    except ValueError:
        raise NoAnswer("what answers there is no ChatFlow") from None


def _get(url: str, accept: str, token: str | None) -> str:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        request = urllib.request.Request(url, headers={"Accept": accept})
        if token is not None:
            request.add_header("Authorization", f"Bearer {token}")
        with opener.open(request, timeout=_TIMEOUT_SECONDS) as answer:
            text: str = answer.read(_MAX_BYTES).decode()
            return text
    except (OSError, ValueError, HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise NoAnswer(without_passwords(" ".join(str(reason).split())) or type(error).__name__) from None


def parse(text: str, at: float) -> Scrape:
    """:raises ValueError: it is not Prometheus' text, or not ChatFlow's."""
    totals: dict[str, float] = defaultdict(float)
    labelled: dict[str, dict[str, float]] = defaultdict(dict)
    version = ""
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            totals[sample.name] += sample.value
            if len(sample.labels) == 1:
                (label,) = sample.labels.values()
                labelled[sample.name][label] = sample.value
                version = label if sample.name == "chatflow_build_info" else version
    if "chatflow_messages_acknowledged_total" not in totals:
        raise ValueError("what answers there is no ChatFlow")
    return Scrape(at, totals, labelled, version)


def scrape_all(targets: Sequence[Target], token: str | None = None) -> dict[str, Scrape | NoAnswer]:
    """Ask every instance whose address is known, all at the same time; the answers by URL. Blocks."""

    def look(url: str) -> Scrape | NoAnswer:
        try:
            return scrape(url, token=token)
        except NoAnswer as error:
            return error

    urls = sorted({place.url for place in targets if place.url})
    if not urls:
        return {}
    with ThreadPoolExecutor(min(32, len(urls))) as pool:
        return dict(zip(urls, pool.map(look, urls), strict=True))


@define
class Rates:
    """How much each counter grew since the look before. A counter that fell began anew with its process."""

    _before: dict[str, Scrape] = field(factory=dict)

    def look(self, url: str, now: Scrape) -> tuple[float, Callable[[str], float]] | None:
        """Seconds since the look before and the growth of a counter by name; None at the first look."""
        before = self._before.get(url)
        self._before[url] = now
        if before is None or now.at <= before.at:
            return None

        def growth(name: str) -> float:
            value, known = now.totals.get(name, 0.0), before.totals.get(name, 0.0)
            return value - known if value >= known else value

        return now.at - before.at, growth
