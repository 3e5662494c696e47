"""``/queue/{room}`` and ``/queue/all``: how deep the room queues are, all numbers as strings. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping

from chatflow.contracts.room_queue import Depth


def queue(name: str, depth: Depth) -> dict[str, object]:
    """``/queue/{room}``.

    :param name: the room as it was asked for; what is no room has an empty queue.
    """
    return {
        "roomId": name,
        "queueUrl": depth.url and _without_account(depth.url),
        "approximateMessages": str(depth.waiting),
        "approximateNotVisible": str(depth.in_flight),
        "approximateDelayed": str(depth.delayed),
    }


def _without_account(url: str) -> str:
    """A queue's URL without the number of the AWS account (https://sqs.REGION.amazonaws.com/ACCOUNT/NAME)."""
    return re.sub(r"/[0-9]{12}/", "/***/", url)


def queues(depths: Mapping[int, Depth]) -> dict[str, object]:
    """``/queue/all``, by room."""
    return {
        f"room{room}": {
            "messages": str(depth.waiting),
            "notVisible": str(depth.in_flight),
            "delayed": str(depth.delayed),
        }
        for room, depth in depths.items()
    }
