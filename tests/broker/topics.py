"""Instances that tell each other through a topic of the emulator, for tests: and fixtures that make them."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

import pytest_twisted
from attrs import define, field

from chatflow.broker.calls import BlockingCalls
from chatflow.broker.lookup import require_topic
from chatflow.broker.pacing import Pace
from chatflow.broker.probing import ProbeTimes
from chatflow.broker.sns import SnsFanout
from chatflow.lifecycle.blocking import at_once
from testbed.fault_proxy import FaultProxy
from tests.broker.contract_fanout import Instance
from tests.support.chat import make_stored
from tests.support.cloud import direct_client, make_objects, shared_aws
from tests.support.reactor import reactor, until


@define(eq=False)
class Peer(Instance):
    """An instance, with the queues that it registered."""

    registered: list[str] = field(factory=list)
    latencies: list[float] = field(factory=list)

    @property
    def queue(self) -> str:
        """Its present fan-out queue."""
        return self.registered[-1]

    async def is_live(self) -> None:
        await until(lambda: self.fanout.is_subscribed, "the probe comes back")


def steady_pace(gap_seconds: float) -> Pace:
    """A pace whose gap stays as it is: instances that poll briefly and often end soon."""
    pace = Pace(clock=reactor, max_gap_seconds=gap_seconds, calls_per_second=1e-9)
    pace.gap_seconds = gap_seconds
    return pace


class Topic:
    """The topic of a prefix, with its instances."""

    def __init__(self) -> None:
        self.names = make_objects(rooms=1)
        self.peers: list[Peer] = []
        #: Probes are repeated soon.
        self.probe_times = ProbeTimes(repeat_seconds=0.2)

    def make(self, **options: Any) -> Peer:
        """An instance that is not started."""
        peer = Peer(None)

        def register_now(start: str, queue: str) -> None:
            assert start in queue
            assert queue in peer.registered or queue not in self.queues(), "it was made before it was registered"
            peer.registered.append(queue)

        async def register(start: str, queue: str) -> None:
            register_now(start, queue)

        usual: dict[str, Any] = {
            "aws": shared_aws(),
            "names": self.names,
            "pace": steady_pace(gap_seconds=0.04),
            "server_id": f"server{len(self.peers)}",
            "register": register,
            "register_now": register_now,
            "long_poll_seconds": 0,
            "probe_times": self.probe_times,
        }
        peer.fanout = SnsFanout(
            clock=reactor,
            now=time.time,
            deliver=peer.heard.extend,
            observe_latency=peer.latencies.append,
            **usual | options,
        )
        self.peers.append(peer)
        return peer

    def start(self, **options: Any) -> Peer:
        """An instance that is started, and may not hear yet."""
        peer = self.make(**options)
        peer.fanout.start()
        return peer

    async def start_live(self, **options: Any) -> Peer:
        """An instance that hears."""
        peer = self.start(**options)
        await peer.is_live()
        return peer

    async def start_pair(self) -> tuple[Peer, Peer]:
        """Two instances that hear each other, with nothing in their queues."""
        one, two = self.start(), self.start()
        await one.is_live()
        await two.is_live()
        await until(lambda: not any(self.count(peer.queue) for peer in (one, two)), "all probes are deleted")
        return one, two

    def queues(self) -> list[str]:
        """All fan-out queues that there are."""
        found = direct_client("sqs").list_queues(QueueNamePrefix=self.names.fanout_prefix)
        return [url.rsplit("/", 1)[-1] for url in found.get("QueueUrls", ())]

    def url(self, queue: str) -> str:
        """Where a queue is."""
        return str(direct_client("sqs").get_queue_url(QueueName=queue)["QueueUrl"])

    def count(self, queue: str) -> int:
        """How many messages a queue has, in flight or not."""
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        got = direct_client("sqs").get_queue_attributes(QueueUrl=self.url(queue), AttributeNames=names)
        return sum(int(number) for number in got["Attributes"].values())

    def arn(self) -> str:
        """Of the topic."""
        return at_once(require_topic(BlockingCalls(shared_aws().clients), self.names))

    def subscribed(self) -> list[str]:
        """The queues that are subscribed, whether they exist or not."""
        found = direct_client("sns").list_subscriptions_by_topic(TopicArn=self.arn())["Subscriptions"]
        return [one["Endpoint"].rsplit(":", 1)[-1] for one in found]

    async def stop(self) -> None:
        """Stop every instance."""
        for peer in self.peers:
            await peer.fanout.detach()
        for peer in self.peers:
            await peer.fanout.stop()


@pytest_twisted.async_yield_fixture
async def topic(proxy: FaultProxy) -> AsyncIterator[Topic]:
    """A topic of the test's own."""
    topic = Topic()
    yield topic
    proxy.set_rules()
    await topic.stop()


@pytest_twisted.async_fixture
async def peers(topic: Topic) -> tuple[Peer, Peer]:
    """Two instances that hear each other, with nothing in their queues."""
    return await topic.start_pair()


async def reaches(one: Peer, two: Peer) -> None:
    """What the one publishes, the other hears."""
    message = make_stored(1)
    await one.fanout.publish([message])
    await until(lambda: message in two.heard, "it is heard")
