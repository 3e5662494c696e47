"""Instances say that they live, and remove what the dead left behind: neither more nor less."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from attrs import define, field
from twisted.internet.task import Clock

from chatflow.broker.membership import Membership, beat_seconds
from chatflow.broker.names import Names
from chatflow.broker.reaping import Reaper, find_leftovers
from chatflow.contracts.membership import RoomPresence, Run
from chatflow.errors import Unavailable
from chatflow.persistence.database import Database, SessionLimits
from chatflow.persistence.membership import MembershipTable, open_membership
from testbed.fault_proxy import FaultProxy
from testbed.postgres import execute
from tests.support.cloud import direct_client, make_objects, shared_aws
from tests.support.reactor import on_reactor, reactor

SILENT_SECONDS = 60.0
#: Less often than the daemon does, and often enough.
BEAT_SECONDS = 5.0


@define
class Cluster:
    """Objects in AWS, a table, and instances on a clock of their own."""

    names: Names
    table: MembershipTable
    url: str
    clock: Clock = field(factory=Clock)
    #: When the database's clock was set, by the other clock.
    set_at: float = float("-inf")
    taken_for_dead: list[str] = field(factory=list)

    def instance(self, server_id: str, table: MembershipTable | None = None) -> Membership:
        return Membership(
            clock=self.clock,
            table=table or self.table,
            open_table=lambda: open_membership(self.url),
            server_id=server_id,
            silent_seconds=SILENT_SECONDS,
            on_taken_for_dead=lambda: self.taken_for_dead.append(server_id),
        )

    async def start(self, server_id: str, start: str = "1") -> tuple[Membership, str]:
        """One that has registered and attached its queue; the queue's name."""
        instance, queue = self.instance(server_id), self.names.fanout_queue(server_id, start)
        await instance.register(start, queue)
        self.attach(queue)
        return instance, queue

    async def steady_reaper(self) -> Reaper:
        """Of an instance whose heartbeats have come for long enough."""
        instance = self.instance("reaper")
        await instance.register("1", self.names.fanout_queue("reaper", "1"))
        reaper = Reaper(
            clock=self.clock,
            calls=shared_aws(),
            names=self.names,
            table=self.table,
            membership=instance,
            silent_seconds=SILENT_SECONDS,
            is_steady=self._is_steady,
        )
        await self.beat(instance, SILENT_SECONDS)
        return reaper

    async def _is_steady(self, seconds: float) -> bool:
        return self.clock.seconds() - self.set_at >= seconds

    async def beat(self, instance: Membership, seconds: float) -> None:
        """Let its heartbeats come for so long."""
        assert await instance.beat() is not None
        for _ in range(round(seconds / BEAT_SECONDS)):
            self.clock.advance(BEAT_SECONDS)
            assert await instance.beat() is not None

    def silence(self, server_id: str) -> None:
        """Let its last heartbeat be old."""
        self.sql("UPDATE instances SET heartbeat_at = now() - interval '61 seconds' WHERE server_id = %s", server_id)

    def sql(self, statement: str, *arguments: object) -> list[tuple[Any, ...]]:
        return execute(self.url, statement, arguments)

    def entries(self) -> set[str]:
        return {server_id for (server_id,) in self.sql("SELECT server_id FROM instances")}

    def queues(self) -> set[str]:
        """The names of its fan-out queues that there are."""
        response = direct_client("sqs").list_queues(QueueNamePrefix=self.names.fanout_prefix)
        return {url.rsplit("/", 1)[-1] for url in response.get("QueueUrls", ())}

    def subscribed(self) -> set[str]:
        """The names of the queues that are subscribed."""
        response = direct_client("sns").list_subscriptions_by_topic(TopicArn=self.topic_arn())
        return {one["Endpoint"].rsplit(":", 1)[-1] for one in response["Subscriptions"]}

    def topic_arn(self) -> str:
        return self.names.topic_arn("arn:aws:sqs:us-east-1:000000000000:any")

    def attach(self, queue: str) -> None:
        """Make a queue and subscribe it."""
        direct_client("sqs").create_queue(QueueName=queue, Attributes={"FifoQueue": "true"})
        endpoint = f"arn:aws:sqs:us-east-1:000000000000:{queue}"
        direct_client("sns").subscribe(TopicArn=self.topic_arn(), Protocol="sqs", Endpoint=endpoint)

    def delete_queue(self, name: str) -> None:
        client = direct_client("sqs")
        client.delete_queue(QueueUrl=client.get_queue_url(QueueName=name)["QueueUrl"])


@pytest.fixture
def cluster(database_url: str) -> Iterator[Cluster]:
    database = Database(reactor=reactor, url=database_url, connections=2, limits=SessionLimits())
    database.start()
    yield Cluster(make_objects(rooms=1), MembershipTable(database), database_url)
    database.stop()


class TestHeartbeats:
    @on_reactor
    async def test_one_that_is_taken_for_dead_learns_it_and_may_take_part_again(self, cluster: Cluster) -> None:
        paused, _ = await cluster.start("paused")
        assert await paused.beat() is not None
        cluster.silence("paused")
        await (await cluster.steady_reaper()).reap()
        assert cluster.queues() == set()
        assert await paused.beat() is None
        assert cluster.taken_for_dead == ["paused"]
        await paused.register("2", cluster.names.fanout_queue("paused", "2"))
        assert await paused.beat() is not None
        assert cluster.entries() == {"paused", "reaper"}

    @on_reactor
    async def test_so_it_does_while_its_queue_is_being_removed(self, cluster: Cluster) -> None:
        paused, _ = await cluster.start("paused")
        cluster.silence("paused")
        await cluster.table.claim_dead(SILENT_SECONDS)
        assert await paused.beat() is None

    @on_reactor
    async def test_while_the_database_is_away_nobody_is_taken_for_dead_nor_does_leaving_fail(
        self, cluster: Cluster
    ) -> None:
        away = Database(reactor=reactor, url="postgresql://127.0.0.1:1/none", connections=1, limits=SessionLimits())
        away.start()
        instance = cluster.instance("a", MembershipTable(away))
        with pytest.raises(Unavailable):
            await instance.register("1", "queue")
        instance.register_now("1", "queue")
        with pytest.raises(Unavailable):
            await instance.beat()
        assert cluster.taken_for_dead == []
        assert instance.steady_seconds() == 0
        await instance.leave()
        await away.stop()

    @on_reactor
    async def test_one_that_leaves_is_not_known_any_more(self, cluster: Cluster) -> None:
        instance, _ = await cluster.start("a")
        await instance.leave()
        assert cluster.entries() == set()
        assert await instance.beat() is None  # there is nothing to say any more
        assert cluster.taken_for_dead == []
        assert cluster.entries() == set()

    @on_reactor
    async def test_what_was_registered_before_the_reactor_runs_has_heartbeats_too(self, cluster: Cluster) -> None:
        instance = cluster.instance("a")
        instance.register_now("1", "queue")
        assert await instance.beat() is not None
        cluster.sql("DELETE FROM instances")
        assert await instance.beat() is None

    @on_reactor
    async def test_with_another_queue_members_are_known_of_the_new_run_and_the_former_is_left_to_be_reaped(
        self, cluster: Cluster
    ) -> None:
        instance, _ = await cluster.start("a", "1")
        other, _ = await cluster.start("b")
        await instance.tell({7: RoomPresence(3)})
        await instance.register("2", cluster.names.fanout_queue("a", "2"))
        assert await other.others() == {7: RoomPresence(3)}, "they count once, and without a break"
        assert await instance.beat() == [7]
        assert cluster.sql("SELECT start FROM instances WHERE server_id = 'a' ORDER BY 1") == [("1",), ("2",)]

    @on_reactor
    async def test_steady_are_heartbeats_without_a_pause(self, cluster: Cluster) -> None:
        instance, _ = await cluster.start("a")
        assert instance.steady_seconds() == 0
        await cluster.beat(instance, 30)
        assert instance.steady_seconds() == 30
        cluster.clock.advance(2 * BEAT_SECONDS + 1)
        assert instance.steady_seconds() == 0
        await cluster.beat(instance, 15)
        assert instance.steady_seconds() == 15

    def test_they_are_frequent_enough_for_whoever_is_impatient(self) -> None:
        assert beat_seconds(60) == 1.5
        assert beat_seconds(5) == 1.25


class TestReaper:
    @on_reactor
    async def test_the_dead_ones_queue_subscription_and_entry_go_and_all_others_stay(self, cluster: Cluster) -> None:
        await cluster.start("dead")
        _, living_queue = await cluster.start("living")
        reaper = await cluster.steady_reaper()
        cluster.silence("dead")
        await reaper.reap()
        assert cluster.queues() == cluster.subscribed() == {living_queue}
        assert cluster.entries() == {"living", "reaper"}
        assert reaper.reaped == 1

    @on_reactor
    async def test_an_earlier_start_of_a_living_server_is_dead(self, cluster: Cluster) -> None:
        await cluster.start("a", "1")
        cluster.silence("a")
        _, queue = await cluster.start("a", "2")
        await (await cluster.steady_reaper()).reap()
        assert cluster.queues() == cluster.subscribed() == {queue}

    @on_reactor
    async def test_one_that_died_before_it_made_its_queue_is_forgotten(self, cluster: Cluster) -> None:
        await cluster.instance("dead").register("1", cluster.names.fanout_queue("dead", "1"))
        cluster.silence("dead")
        await (await cluster.steady_reaper()).reap()
        assert cluster.entries() == {"reaper"}

    @on_reactor
    async def test_after_a_pause_of_its_own_it_takes_nobody_for_dead(self, cluster: Cluster) -> None:
        _, queue = await cluster.start("living")
        reaper = await cluster.steady_reaper()
        # The database was away: all heartbeats are old, and only then come again.
        cluster.clock.advance(3 * BEAT_SECONDS)
        cluster.silence("living")
        await reaper.reap()
        membership = reaper._membership
        await cluster.beat(membership, SILENT_SECONDS - BEAT_SECONDS)
        await reaper.reap()
        assert cluster.queues() == {queue}
        await cluster.beat(membership, BEAT_SECONDS)
        cluster.clock.advance(BEAT_SECONDS)
        await reaper.reap()
        assert cluster.queues() == set()

    @on_reactor
    async def test_after_the_databases_clock_was_set_it_takes_nobody_for_dead_before_all_have_beaten(
        self, cluster: Cluster
    ) -> None:
        _, queue = await cluster.start("living")
        reaper = await cluster.steady_reaper()
        cluster.silence("living")  # as if an hour had passed at once
        cluster.set_at = cluster.clock.seconds()
        await reaper.reap()
        assert cluster.queues() == {queue}

    @on_reactor
    async def test_it_makes_no_calls_while_nobody_is_dead(self, cluster: Cluster) -> None:
        await cluster.start("living")
        reaper = await cluster.steady_reaper()
        calls = shared_aws().counters.total
        await reaper.reap()
        assert shared_aws().counters.total == calls

    @pytest.mark.parametrize("operation", ["GetQueueUrl", "ListSubscriptionsByTopic", "Unsubscribe", "DeleteQueue"])
    @on_reactor
    async def test_what_fails_is_done_later(self, cluster: Cluster, proxy: FaultProxy, operation: str) -> None:
        await cluster.start("dead")
        reaper = await cluster.steady_reaper()
        cluster.silence("dead")
        proxy.set_rules(f"{operation}:fail=1,times=1")
        with pytest.raises(Unavailable):
            await reaper.reap()
        assert "dead" in cluster.entries()
        cluster.sql("UPDATE instances SET claimed_at = claimed_at - interval '121 seconds'")
        await reaper.reap()
        assert cluster.queues() == cluster.subscribed() == set()
        assert cluster.entries() == {"reaper"}

    @on_reactor
    async def test_a_subscription_without_its_queue_is_swept_from_time_to_time(self, cluster: Cluster) -> None:
        _, gone = await cluster.start("gone")
        _, elsewhere = await cluster.start("elsewhere")
        _, away = await cluster.start("the-one-away")
        await cluster.instance("another").register("1", cluster.names.fanout_queue("another", "1"))
        for name in (gone, away):
            cluster.delete_queue(name)
        cluster.sql("DELETE FROM instances WHERE server_id IN ('gone', 'elsewhere')")
        reaper = await cluster.steady_reaper()
        await reaper.reap()
        assert cluster.subscribed() == {gone, elsewhere, away}
        await cluster.beat(reaper._membership, 600)
        await reaper.reap()
        assert cluster.subscribed() == {gone, elsewhere, away}, "another instance does it"
        cluster.sql("DELETE FROM instances WHERE server_id = 'another'")
        await cluster.beat(reaper._membership, 600)
        await reaper.reap()
        # `away` has an entry, and attaches anew by itself. `elsewhere` has a queue, so somebody may want it.
        assert cluster.subscribed() == {elsewhere, away}

    @on_reactor
    async def test_what_others_subscribed_to_the_topic_is_left_alone(self, cluster: Cluster) -> None:
        archive = f"{cluster.names.prefix}-archive.fifo"
        cluster.attach(archive)
        cluster.delete_queue(archive)
        await cluster.start("dead")
        reaper = await cluster.steady_reaper()
        cluster.silence("dead")
        await reaper.reap()
        assert cluster.subscribed() == {archive}


class Pages:
    """SNS with more subscriptions than a page has; the emulator knows no pages."""

    def __init__(self, queues: list[str], page: int) -> None:
        self.queues, self.page = queues, page

    async def sqs(self, operation: str, **arguments: Any) -> dict[str, Any]:
        answers: dict[str, Callable[[], dict[str, Any]]] = {
            "get_queue_url": lambda: {"QueueUrl": f"http://sqs/0/{arguments['QueueName']}"},
            "get_queue_attributes": lambda: {"Attributes": {"QueueArn": "arn:aws-cn:sqs:cn-north-1:7:dlq"}},
        }
        return answers[operation]()

    async def sns(self, operation: str, **arguments: Any) -> dict[str, Any]:
        assert operation == "list_subscriptions_by_topic"
        assert arguments["TopicArn"] == "arn:aws-cn:sns:cn-north-1:7:p-fanout.fifo"
        begin = int(arguments.get("NextToken", 0))
        end = begin + self.page
        found = [
            {"SubscriptionArn": f"arn:{queue}", "Endpoint": f"arn:aws-cn:sqs:cn-north-1:7:{queue}"}
            for queue in self.queues[begin:end]
        ]
        return {"Subscriptions": found, **({"NextToken": str(end)} if end < len(self.queues) else {})}


@on_reactor
async def test_subscriptions_are_found_on_every_page_and_in_every_partition(cluster: Cluster) -> None:
    names = Names("p", 1)
    queues = [names.fanout_queue(f"s{number}", "1") for number in range(7)]
    dead = [Run(f"s{number}", "1", queue) for number, queue in enumerate(queues)]
    found = await find_leftovers(Pages(queues, 3), names, cluster.table, dead)
    assert [one.queue for one in found.subscriptions] == queues
    assert set(found.queue_urls) == set(queues)
