"""How deep queues are, in the shape of the original server: all numbers are strings."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_twisted
from attrs import define, field, frozen
from klein import Klein
from twisted.internet.threads import deferToThread
from twisted.web.server import Site

from chatflow.contracts.room_queue import Depth
from chatflow.edge.compat.instance import InstanceFigures
from chatflow.edge.compat.queues import queue, queues
from chatflow.edge.compat.routes import InstanceSource, add_instance_routes
from testbed import http_client as http
from tests.support.reactor import on_reactor, reactor


def test_a_queue_that_is_none_of_aws() -> None:
    assert queue("2", Depth(waiting=2)) == {
        "roomId": "2",
        "queueUrl": None,
        "approximateMessages": "2",
        "approximateNotVisible": "0",
        "approximateDelayed": "0",
    }


def test_a_queue_on_sqs() -> None:
    assert queue("3", Depth("url-3", 12, 10, 1)) == {
        "roomId": "3",
        "queueUrl": "url-3",
        "approximateMessages": "12",
        "approximateNotVisible": "10",
        "approximateDelayed": "1",
    }


def test_all_of_them_are_named_by_their_rooms() -> None:
    empty = {"messages": "0", "notVisible": "0", "delayed": "0"}
    assert queues({1: Depth(), 2: Depth("url", 2, 3, 4), 3: Depth()}) == {
        "room1": empty,
        "room2": {"messages": "2", "notVisible": "3", "delayed": "4"},
        "room3": empty,
    }


@define
class Depths:
    """Knows three rooms; ``asked``: for which, in order."""

    asked: list[int] = field(factory=list)

    async def of(self, room: int) -> Depth:
        self.asked.append(room)
        return Depth(f"url-{room}", waiting=room)


@frozen
class Served:
    depths: Depths
    port: int


def no_figures() -> InstanceFigures:
    raise AssertionError("nobody asks for these here")


@pytest_twisted.async_yield_fixture
async def served() -> AsyncIterator[Served]:
    app, depths = Klein(), Depths()
    source = InstanceSource(rooms=3, figures=no_figures, depth_of=depths.of, prometheus=lambda: (b"", ""))
    add_instance_routes(app, source)
    port = reactor.listenTCP(0, Site(app.resource()), interface="127.0.0.1")
    yield Served(depths, port.getHost().port)
    await port.stopListening()


@pytest.mark.parametrize("text", ["4", "0", "01", "+1", "x"])
@on_reactor
async def test_what_is_no_room_has_an_empty_queue_and_costs_no_call(served: Served, text: str) -> None:
    answer = await deferToThread(http.request, served.port, "GET", f"/queue/{text}")
    assert (answer.status, answer.json()) == (200, queue(text, Depth()))
    assert not served.depths.asked


@on_reactor
async def test_each_room_is_asked_for_once(served: Served) -> None:
    one = await deferToThread(http.request, served.port, "GET", "/queue/3")
    assert one.json()["approximateMessages"] == "3"
    every = await deferToThread(http.request, served.port, "GET", "/queue/all")
    assert [found["messages"] for found in every.json().values()] == ["1", "2", "3"]
    assert served.depths.asked == [3, 1, 2, 3]
