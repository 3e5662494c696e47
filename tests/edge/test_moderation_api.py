"""Orders over HTTP: what is taken, what is refused, what is told; on the real table."""

from __future__ import annotations

import json
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import pytest
from twisted.web.http_headers import Headers

from chatflow.contracts import moderation
from chatflow.edge.moderation_api import ModerationApi
from chatflow.edge.refusals import RequestRefused
from chatflow.lifecycle.blocking import at_once
from chatflow.persistence.sanctions import open_sanctions
from chatflow.rooms.rules import ShownSanction
from testbed.postgres import execute
from tests.edge.test_publishing import Request


class Rig:
    """The handlers, called as the router calls them."""

    def __init__(self, table: Any) -> None:
        self.refreshed = 0
        self.api = ModerationApi(rooms=20, table=table, refresh=self._refresh)

    async def _refresh(self) -> None:
        self.refreshed += 1

    def order(self, action: Any, **order: Any) -> ShownSanction:
        return at_once(self.api.order(action, Request(BytesIO(json.dumps(order).encode()))))

    def lift(self, action: Any, **subject: Any) -> ShownSanction:
        whole = {"userId": None, "address": None, "roomId": None} | subject
        return at_once(self.api.lift(action, **whole, request=Request()))

    def listed(self) -> list[tuple[str, str | None, str | None, str | None]]:
        return [(one.action, one.userId, one.address, one.roomId) for one in at_once(self.api.sanctions()).sanctions]


@pytest.fixture
def rig(database_url: str) -> Iterator[Rig]:
    with open_sanctions(database_url) as table:
        yield Rig(table)


def refusal(call: Any, *arguments: Any, **named: Any) -> tuple[int, str, str]:
    with pytest.raises(RequestRefused) as refused:
        call(*arguments, **named)
    return refused.value.status, refused.value.code, str(refused.value)


def test_what_is_ordered_is_listed_until_it_is_lifted_and_this_instance_learns_at_once(rig: Rig) -> None:
    ban = rig.order("ban", userId=7, reason="spam")
    assert (ban.action, ban.userId, ban.until, ban.reason, ban.by) == (
        "ban",
        "7",
        None,
        "spam",
        "the API, from 192.0.2.1",
    )
    mute = rig.order("mute", address="2001:db8::1", roomId=3, forSeconds=60)
    assert mute.until is not None
    rig.order("disconnect", roomId=3)
    assert rig.listed() == [("ban", "7", None, None), ("mute", None, "2001:db8::/64", "3")]
    assert rig.refreshed == 3
    rig.lift("mute", address="2001:db8::2", roomId=3)
    assert rig.listed() == [("ban", "7", None, None)] and rig.refreshed == 4
    assert refusal(rig.lift, "mute", address="2001:db8::2", roomId=3)[:2] == (404, "not_in_force")


@pytest.mark.parametrize(
    ("order", "told"),
    [
        ({}, "whom? Give userId, address or roomId"),
        ({"reason": "x"}, "whom?"),
        ({"userId": 0}, "`$.userId`"),
        ({"userId": "7"}, "`$.userId`"),
        ({"roomId": 21}, "roomId must be at most 20"),
        ({"address": "10.0.0.1/8"}, "has host bits set"),
        ({"address": "x"}, "address must be an IP address or a network"),
        ({"userId": 7, "forSeconds": 0}, "`$.forSeconds`"),
        ({"userId": 7, "reason": "x" * 201}, "`$.reason`"),
        ({"userId": 7, "reason": "\0"}, "without NUL"),
        ({"user": 7}, "unknown field `user`"),
    ],
)
def test_an_order_that_is_wrong_is_refused_with_what_is_wrong(rig: Rig, order: dict[str, Any], told: str) -> None:
    status, _, text = refusal(rig.order, "ban", **order)
    assert status == 400 and told in text
    assert rig.listed() == [] and rig.refreshed == 0


@pytest.mark.parametrize("body", [b"", b"[]", b"\xff", b"[" * 5000, b'{"userId": 7} x'])
def test_a_body_that_is_no_order_is_refused(rig: Rig, body: bytes) -> None:
    with pytest.raises(RequestRefused) as refused:
        at_once(rig.api.order("ban", Request(BytesIO(body))))
    assert refused.value.status == 400


def test_a_form_of_a_foreign_page_is_no_order(rig: Rig) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded"):
        request = Request(BytesIO(b'{"userId": 7}'), Headers({"content-type": [kind]}))
        with pytest.raises(RequestRefused) as refused:
            at_once(rig.api.order("ban", request))
        assert refused.value.status == 415


def test_there_is_a_limit(rig: Rig, database_url: str) -> None:
    execute(
        database_url,
        "INSERT INTO sanctions SELECT 'ban', user_id, NULL, NULL, '', 'me', now(), NULL, NULL,"
        " now() + user_id * interval '1 microsecond' FROM generate_series(1, %s) AS user_id",
        (moderation.MAX_SANCTIONS,),
    )
    assert refusal(rig.order, "mute", userId=7)[:2] == (409, "too_many")
