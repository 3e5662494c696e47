"""The routes of one instance's state: those of the original server, of which ``/metrics`` is Prometheus' as well."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from attrs import frozen
from klein import Klein

from chatflow.contracts.room_queue import Depth
from chatflow.edge.compat import instance, queues
from chatflow.edge.compat.instance import InstanceFigures
from chatflow.edge.negotiation import prefers_prometheus
from chatflow.edge.operations import json_response
from chatflow.rooms.messages import parse_room


@frozen(kw_only=True)
class InstanceSource:
    """Where the routes have it from.

    :ivar rooms: rooms are numbered from 1 to this.
    :ivar depth_of: of a room's queue; fails with :class:`chatflow.errors.Unavailable`.
    :ivar prometheus: the text and its content type.
    """

    rooms: int
    figures: Callable[[], InstanceFigures]
    depth_of: Callable[[int], Awaitable[Depth]]
    prometheus: Callable[[], tuple[bytes, str]]


def add_health(app: Klein, source: InstanceSource) -> None:
    """``/health``: for everybody, and says nothing else."""

    @app.route("/health", methods=["GET", "HEAD"])
    def health(request: Any) -> bytes:
        figures = source.figures()
        return json_response(request, 200 if figures.is_up else 503, instance.health(figures))


def add_instance_routes(app: Klein, source: InstanceSource) -> None:
    """``/metrics``, ``/db-metrics`` and ``/queue/…``: for operators."""

    @app.route("/metrics", methods=["GET", "HEAD"])
    def metrics(request: Any) -> bytes:
        request.responseHeaders.addRawHeader(b"vary", b"Accept")
        if prefers_prometheus(b",".join(request.requestHeaders.getRawHeaders(b"accept", [])).decode("latin-1")):
            text, content_type = source.prometheus()
            request.setHeader(b"content-type", content_type.encode())
            return text
        return json_response(request, 200, instance.metrics(source.figures()))

    @app.route("/db-metrics", methods=["GET", "HEAD"])
    def database_metrics(request: Any) -> bytes:
        return json_response(request, 200, instance.database_metrics(source.figures()))

    @app.route("/queue/all", methods=["GET", "HEAD"])
    async def all_queues(request: Any) -> bytes:
        depths = {room: await source.depth_of(room) for room in range(1, source.rooms + 1)}
        return json_response(request, 200, queues.queues(depths))

    @app.route("/queue/<name>", methods=["GET", "HEAD"])
    async def queue(request: Any, name: str) -> bytes:
        room = parse_room(name, source.rooms)
        depth = Depth() if room is None else await source.depth_of(room)
        return json_response(request, 200, queues.queue(name, depth))
