"""What a message over HTTP is told when it cannot be taken now; without a server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import pytest
from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.web.http_headers import Headers

from chatflow.contracts.identity import ANYONE, Identity
from chatflow.edge.publishing import Publishing
from chatflow.edge.refusals import RequestRefused
from chatflow.errors import NotStored, Unavailable
from chatflow.rooms.messages import Ack
from testbed.client import message
from tests.edge.rig import EdgeRig, rigged


@define
class Request:
    """What is looked at of one."""

    content: BytesIO = field(factory=lambda: BytesIO(json.dumps(message()).encode()))
    requestHeaders: Headers = field(factory=lambda: Headers({"content-type": ["application/json"]}))
    client_ip: str | None = "192.0.2.1"
    identity: Identity = ANYONE


class Outcome:
    """Of one request: the acknowledgement, or status and code of its refusal."""

    def __init__(self, rig: EdgeRig, request: Request | None = None) -> None:
        self.value: Any = None
        deferred = Deferred.fromCoroutine(Publishing(rig.edge).publish(1, request or Request()))
        deferred.addBoth(lambda value: setattr(self, "value", value))

    @property
    def refused(self) -> RequestRefused:
        error = self.value.value
        assert isinstance(error, RequestRefused), error
        return error

    @property
    def told(self) -> tuple[int, str, str | None]:
        return self.refused.status, self.refused.code, self.refused.headers.get("retry-after")


@pytest.fixture
def rig() -> Iterator[EdgeRig]:
    with rigged() as rig:
        yield rig


def fail(rig: EdgeRig, error: Exception) -> None:
    """What was published is not stored."""
    rig.clock.advance(0)
    ((_, durable),) = rig.queue.published
    durable.errback(error)


def test_it_is_answered_once_it_is_durable_and_not_before(rig: EdgeRig) -> None:
    one = Outcome(rig)
    assert one.value is None
    rig.store_published(1)
    assert isinstance(one.value, Ack)
    assert rig.edge.counters.acks_sent == 1


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (Unavailable("away"), (503, "unavailable", "1")),
        (NotStored("no"), (500, "not_stored", None)),
        (KeyError("a fault"), (500, "internal_error", None)),
    ],
)
def test_one_that_is_not_stored_says_whether_to_come_again(
    rig: EdgeRig, error: Exception, told: tuple[int, str, str | None]
) -> None:
    one = Outcome(rig)
    fail(rig, error)
    assert one.told == told


def test_an_instance_that_stops_takes_none_and_answers_those_it_has_taken(rig: EdgeRig) -> None:
    before = Outcome(rig)
    drained = rig.edge.ingress.drain()
    assert Outcome(rig).told == (503, "draining", "1")
    rig.store_published(1)
    assert isinstance(before.value, Ack) and drained.called


def test_one_whose_clock_is_wrong_takes_none(rig: EdgeRig) -> None:
    rig.edge.ingress.close("the clock of this server is wrong")
    assert Outcome(rig).told == (503, "unavailable", "1")


def test_an_instance_with_too_much_under_way_takes_none(rig: EdgeRig) -> None:
    taken = [Outcome(rig, Request(client_ip=None)) for _ in range(101)]
    assert [one.value is None for one in taken] == [True] * 100 + [False]
    assert taken[-1].told == (503, "overloaded", "1")


def test_an_address_has_its_share_of_what_is_under_way(rig: EdgeRig) -> None:
    taken = [Outcome(rig) for _ in range(51)]
    assert taken[-1].told == (503, "overloaded", "1")
    assert Outcome(rig, Request(client_ip="198.51.100.1")).value is None
    rig.store_published(1)
    for _ in range(3):
        assert [Outcome(rig).value for _ in range(50)] == [None] * 50, "what was answered is under way no more"
        rig.store_published(100)


def test_who_has_a_token_speaks_for_its_user_alone_and_where_it_may(rig: EdgeRig) -> None:
    own = Identity(user_id=12345, username="user12345")
    assert Outcome(rig, Request(identity=own)).value is None
    assert Outcome(rig, Request(identity=Identity(user_id=7))).told == (403, "wrong_user", None)
    assert Outcome(rig, Request(identity=Identity(user_id=12345, writable=()))).told == (403, "read_only", None)


def test_an_address_that_sends_too_often_is_told_when_to_come_again() -> None:
    with rigged(messages_per_second_per_address=5) as rig:
        taken = [Outcome(rig) for _ in range(11)]
        assert [one.value is None for one in taken] == [True] * 10 + [False]
        assert taken[-1].told == (429, "rate_limited", "1")
        assert taken[-1].refused.retry_after_ms in (200, 201)  # sums of fractions
        again = [Outcome(rig).refused.retry_after_ms for _ in range(3)]
        assert again == [taken[-1].refused.retry_after_ms] * 3, "no place is kept for any of them"


def test_a_user_who_sends_too_often_by_requests_is_told_so_wherever_from() -> None:
    own = Identity(user_id=12345)
    with rigged(messages_per_second_per_user=5) as rig:
        taken = [Outcome(rig, Request(client_ip=f"192.0.2.{number}", identity=own)) for number in range(11)]
        assert [one.value is None for one in taken] == [True] * 10 + [False]
        assert taken[-1].told == (429, "rate_limited", "1")
