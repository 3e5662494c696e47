"""Who has too many messages unanswered is not read, and is again when half of them are answered."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from chatflow.edge.inflight import InFlight
from tests.edge.rig import EdgeRig, rigged
from tests.support.transport import Transport

_LIMIT = 100  # of the rig


@pytest.fixture
def rig() -> Iterator[EdgeRig]:
    with rigged() as rig:
        yield rig


@pytest.fixture
def transport() -> Transport:
    return Transport()


@pytest.fixture
def in_flight(rig: EdgeRig, transport: Transport) -> InFlight:
    return InFlight(rig.edge, transport)


def accept(in_flight: InFlight, count: int) -> None:
    for _ in range(count):
        in_flight.accepted()


def test_up_to_the_limit_all_is_read(in_flight: InFlight, transport: Transport) -> None:
    accept(in_flight, _LIMIT - 1)
    in_flight.answered(_LIMIT - 1)
    accept(in_flight, _LIMIT - 1)
    assert (in_flight.paused, transport.producerState) == (False, "producing")


def test_at_the_limit_reading_pauses_once_until_half_is_answered(
    rig: EdgeRig, in_flight: InFlight, transport: Transport
) -> None:
    accept(in_flight, _LIMIT + 5)  # what had been read already
    assert (in_flight.paused, transport.producerState) == (True, "paused")
    assert rig.edge.counters.reads_paused == 1
    in_flight.answered(_LIMIT // 2 + 4)
    assert in_flight.paused
    in_flight.answered(1)
    assert (in_flight.paused, transport.producerState, in_flight.messages) == (False, "producing", _LIMIT // 2)


def test_while_the_instance_drains_it_is_not_read_again(
    rig: EdgeRig, in_flight: InFlight, transport: Transport
) -> None:
    accept(in_flight, _LIMIT)
    rig.edge.connections.begin_drain()
    in_flight.answered(_LIMIT)
    assert (in_flight.paused, transport.producerState) == (True, "paused")


def test_a_connection_that_is_closed_is_read_for_its_last_frame(in_flight: InFlight, transport: Transport) -> None:
    accept(in_flight, _LIMIT)
    in_flight.resume()
    assert (in_flight.paused, transport.producerState) == (False, "producing")
