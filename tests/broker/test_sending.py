"""Envelopes are sent again under the same id for as long as SQS recognises that, and no longer."""

from __future__ import annotations

from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from chatflow.broker.aws import AwsError
from chatflow.broker.sending import SendCounters, Sender
from chatflow.errors import Unavailable
from chatflow.lifecycle import Outstanding
from tests.support.chat import make_envelope

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


class SenderTests(SynchronousTestCase):
    def setUp(self) -> None:
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
        self.assertNoResult(published)
        tries = len(self.calls.batches)
        self.assertGreater(tries, 10)
        self.clock.advance(0.2)
        self.assertIn("ThrottlingException", str(self.failureResultOf(published, Unavailable).value))
        self.assertLessEqual(len(self.calls.batches), tries + 1)
        self.successResultOf(self.outstanding.drain())

    def test_a_process_that_was_paused_does_not_send_under_an_id_that_sqs_has_forgotten(self) -> None:
        published = self.sender.publish(make_envelope(1))
        self.turn()
        self.calls.refuses = False
        self.clock.advance(301)
        self.failureResultOf(published, Unavailable)
        self.assertEqual(len(self.calls.batches), 1)

    def test_then_the_rooms_next_is_sent(self) -> None:
        late = self.sender.publish(make_envelope(1))
        self.turn()
        self.calls.refuses = False
        self.sender.publish(make_envelope(2))  # of another room, which goes on
        self.turn()
        following = make_envelope(1)
        published = self.sender.publish(following)
        self.turn()
        self.assertNoResult(published)
        self.clock.advance(301)
        self.failureResultOf(late, Unavailable)
        self.successResultOf(published)
        self.assertEqual(self.calls.batches[-1], [following.envelope_id])

    def test_the_size_of_each_body_is_told_once(self) -> None:
        self.sender.publish(make_envelope(1))
        self.sender.publish(make_envelope(2, "x" * 500))
        self.turn()
        self.assertEqual(self.sizes, [])
        self.calls.refuses = False
        self.clock.advance(1)
        self.assertEqual(len(self.sizes), 2)
        self.assertTrue(all(100 < size < 65_536 for size in self.sizes))
