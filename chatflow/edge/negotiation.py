"""Which of several forms of an answer a client prefers (RFC 9110, 12.5), and whether it has the newest one (13.1.2)."""

from __future__ import annotations

from collections.abc import Sequence

from werkzeug.datastructures import MIMEAccept
from werkzeug.http import parse_accept_header, parse_etags

# Prometheus' own text is what OpenMetrics came from, and what a client that asks for either can read.
_TEXT = ("text/plain", "application/openmetrics-text")
_JSON = ("application/json",)

# A header of a stranger is weighed on the reactor's thread, some microseconds for each of its items. What browsers and
# Prometheus send has 300 characters at most.
_MAX_WEIGHED_CHARACTERS = 1000


def prefers_prometheus(accept: str) -> bool:
    """Whether ``/metrics`` is to be Prometheus' text, by a header Accept; else JSON.

    The higher quality wins; of the same the one that is named more exactly, and then the one that is named first.
    Parameters such as ``version`` do not matter: there is one version of each. Who writes a book prefers nothing.
    """
    if len(accept) > _MAX_WEIGHED_CHARACTERS:
        return False
    ranges = [(value.partition(";")[0].strip(), quality) for value, quality in parse_accept_header(accept)]
    accepted = MIMEAccept(ranges)
    return _rank(accepted, _TEXT) > _rank(accepted, _JSON)


def _rank(accepted: MIMEAccept, types: Sequence[str]) -> tuple[float, int, float]:
    """Quality, exactness, and earliness in the header; nothing of quality 0 is acceptable."""
    ranks = []
    for kind in types:
        place = accepted.find(kind)  # sorted by exactness
        if place >= 0:
            value, quality = accepted[place]
            if quality > 0:
                ranks.append((quality, -value.count("*"), -place if "*" not in value else float("-inf")))
    return max(ranks, default=(0.0, 0, float("-inf")))


def has_newest(if_none_match: str | None, tag: str) -> bool:
    """Whether a client with this header If-None-Match has what carries this entity tag.

    :param tag: without its quotes.
    """
    if if_none_match is None or len(if_none_match) > _MAX_WEIGHED_CHARACTERS:
        return False
    return parse_etags(if_none_match).contains_weak(tag)
