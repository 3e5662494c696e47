"""Envelopes are sent again under the same id for as long as SQS recognises that, and no longer."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.task import Clock

from chatflow.broker.aws import AwsError
from chatflow.broker.sending import SendCounters, Sender
from chatflow.errors import Unavailable
from chatflow.lifecycle import Outstanding
from tests.support.chat import make_envelope
from tests.support.deferreds import result_of

_PUBLISH_SECONDS = 60.0


class Throttling:
    """SQS that refuses every call, until it is told not to."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.refuses = True

    async def sqs(self, operation: str, **asked: Any) -> dict[str, Any]:
        self.batches.append([entry["MessageDeduplicationId"] for entry in asked["Entries"]])
        if self.refuses:
            raise AwsError(operation, "ThrottlingException", "injected", certain=True)
        return {"Successful": [{"Id": entry["Id"]} for entry in asked["Entries"]]}

    async def sns(self, operation: str, **asked: Any) -> dict[str, Any]:
        raise NotImplementedError


class TestSender:
    @pytest.fixture(autouse=True)
    def make(self) -> None:
        self.clock = Clock()
        self.clock.advance(1e9)
        self.calls = Throttling()
        self.outstanding = Outstanding()
        self.sizes: list[float] = []
        self.sender = Sender(
            clock=self.clock,
            calls=self.calls,
            counters=SendCounters(),
            outstanding=self.outstanding,
            publish_seconds=_PUBLISH_SECONDS,
            observe_bytes=self.sizes.append,
        )

    def turn(self) -> None:
        self.clock.advance(0)

    def test_it_is_tried_for_as_long_as_it_may_be_and_then_refused_at_once(self) -> None:
        published = self.sender.publish(make_envelope(1))
        for _ in range(int(_PUBLISH_SECONDS * 10) - 1):
            self.clock.advance(0.1)
        assert not published.called
        tries = len(self.calls.batches)
        assert tries > 10
        self.clock.advance(0.2)
        with pytest.raises(Unavailable, match="ThrottlingException"):
            result_of(published)
        assert len(self.calls.batches) <= tries + 1
        result_of(self.outstanding.drain())

    def test_a_process_that_was_paused_does_not_send_under_an_id_that_sqs_has_forgotten(self) -> None:
        published = self.sender.publish(make_envelope(1))
        self.turn()
        self.calls.refuses = False
        self.clock.advance(301)
        with pytest.raises(Unavailable):
            result_of(published)
        assert len(self.calls.batches) == 1

    def test_then_the_rooms_next_is_sent(self) -> None:
        late = self.sender.publish(make_envelope(1))
        self.turn()
        self.calls.refuses = False
        self.sender.publish(make_envelope(2))  # of another room, which goes on
        self.turn()
        following = make_envelope(1)
        published = self.sender.publish(following)
        self.turn()
        assert not published.called
        self.clock.advance(301)
        with pytest.raises(Unavailable):
            result_of(late)
        result_of(published)
        assert self.calls.batches[-1] == [following.envelope_id]

    def test_the_size_of_each_body_is_told_once(self) -> None:
        self.sender.publish(make_envelope(1))
        self.sender.publish(make_envelope(2, "x" * 500))
        self.turn()
        assert self.sizes == []
        self.calls.refuses = False
        self.clock.advance(1)
        assert len(self.sizes) == 2
        assert all(100 < size < 65_536 for size in self.sizes)
