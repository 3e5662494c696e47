"""Who of the cluster lives, and the removal of what the dead left behind in AWS.

An instance registers before it makes its fan-out queue and says every few seconds that it lives. The others remove
queue and subscription of one that has been silent for too long. One that was only paused learns by its next heartbeat
that it was taken for dead, and attaches anew.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence

from attrs import frozen
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from chatflow.broker.aws import AwsError
from chatflow.broker.interfaces import Calls
from chatflow.broker.names import Names
from chatflow.contracts.membership import IInstanceTable, InstanceStart
from chatflow.errors import Unavailable

_HEARTBEAT_SECONDS = 5.0
#: Orphaned subscriptions cost one of the topic's 100 places and money, but no message; looking for them costs calls.
_SWEEP_SECONDS = 600.0


def heartbeat_seconds(silent_seconds: float) -> float:
    """How often to say that one lives, if others take one for dead after ``silent_seconds``."""
    return min(_HEARTBEAT_SECONDS, silent_seconds / 4)


class Instances:
    """This instance's own entry. Runs on the reactor thread.

    :param interval_seconds: between two calls of :meth:`heartbeat`; see :func:`heartbeat_seconds`.
    """

    _log = Logger()

    def __init__(
        self, *, clock: IReactorTime, table: IInstanceTable, server_id: str, interval_seconds: float = 5.0
    ) -> None:
        self._clock = clock
        self._table = table
        self._server_id = server_id
        # Of two heartbeats that are further apart, the database was away between them.
        self._pause_seconds = 2 * interval_seconds
        self._own: InstanceStart | None = None
        self._beaten_at = self._steady_since = float("-inf")

    def entry(self, start: str, fanout_queue: str) -> InstanceStart:
        """From now on, heartbeats are for this one. For who registers it by other means than :meth:`register`."""
        self._own = InstanceStart(self._server_id, start, fanout_queue)
        return self._own

    @property
    def fanout_queue(self) -> str | None:
        """The name of this instance's queue, if it takes part."""
        return self._own.fanout_queue if self._own else None

    async def register(self, start: str, fanout_queue: str) -> None:
        """Take part with this queue, which is about to be made. An earlier entry falls silent, and is reaped.

        :raises Unavailable: the database does not answer; nothing has changed.
        """
        instance = InstanceStart(self._server_id, start, fanout_queue)
        await self._table.register(instance)
        self._own = instance

    async def heartbeat(self) -> bool:
        """Say that this instance lives. Call it every ``interval_seconds``.

        :returns: False when it was taken for dead: its queue is gone or about to go, attach anew. While the database
            is away nobody says so, and this is True.
        """
        own = self._own
        if own is None:
            return True
        try:
            known = await self._table.heartbeat(own)
        except Unavailable as error:
            self._log.warn("no heartbeat: {reason}", reason=str(error))
            return True
        now = self._clock.seconds()
        if now - self._beaten_at > self._pause_seconds:
            self._steady_since = now
        self._beaten_at = now
        if not known:
            self._log.error("this instance was taken for dead, and {queue} for left behind", queue=own.fanout_queue)
        return known

    def steady_seconds(self) -> float:
        """How long heartbeats have come without a pause.

        After an outage of the database everybody's last heartbeat is old: an instance that has just had a pause
        itself must not take the others for dead.
        """
        now = self._clock.seconds()
        return now - self._steady_since if now - self._beaten_at <= self._pause_seconds else 0.0

    async def leave(self) -> None:
        """This instance has removed its queue and stops. Does not fail: the others would notice."""
        own, self._own = self._own, None
        if own is None:
            return
        try:
            await self._table.leave(own)
        except Unavailable as error:
            self._log.warn("the entry of this instance stays: {reason}", reason=str(error))


@frozen
class Subscription:
    """A fan-out queue's subscription to the topic."""

    arn: str
    queue: str


@frozen
class Leftovers:
    """What nobody needs any more.

    :ivar dead: instances.
    :ivar queue_urls: the queues they left, by name.
    :ivar subscriptions: of these queues, and of queues that do not exist.
    """

    dead: Sequence[InstanceStart]
    queue_urls: dict[str, str]
    subscriptions: list[Subscription]


class Reaper:
    """Removes what dead instances left. Of several, one at a time has something to do.

    :param silent_seconds: an instance whose heartbeat is older is dead.
    :param is_steady: whether the database's clock was not set for so many seconds: otherwise heartbeats look old, or
        young, that are not.
    """

    _log = Logger()

    def __init__(
        self,
        *,
        clock: IReactorTime,
        calls: Calls,
        names: Names,
        table: IInstanceTable,
        instances: Instances,
        is_steady: Callable[[float], Awaitable[bool]],
        silent_seconds: float = 60.0,
    ) -> None:
        self._clock = clock
        self._calls = calls
        self._names = names
        self._table = table
        self._instances = instances
        self._is_steady = is_steady
        self._silent_seconds = silent_seconds
        self._swept_at = clock.seconds()
        self.reaped = 0

    async def reap(self) -> None:
        """Look for the dead; call it from time to time. It costs AWS calls only when there are some.

        Fails with :class:`chatflow.errors.Unavailable`; the rest is then done some minutes later.
        """
        if self._instances.steady_seconds() < self._silent_seconds:
            return
        if not await self._is_steady(self._silent_seconds):
            return
        dead = await self._table.claim_dead(self._silent_seconds)
        if not dead and not await self._is_to_sweep():
            return
        found = await find_leftovers(self._calls, self._names, self._table, dead)
        for instance in found.dead:
            self._log.warn(
                "instance {server_id} is dead: removing {queue}",
                server_id=instance.server_id,
                queue=instance.fanout_queue,
            )
        await remove_leftovers(self._calls, self._table, found)
        self.reaped += len(found.dead)

    async def _is_to_sweep(self) -> bool:
        """Of all instances, the one whose queue's name comes first sweeps from time to time."""
        if self._clock.seconds() - self._swept_at < _SWEEP_SECONDS:
            return False
        self._swept_at = self._clock.seconds()
        return self._instances.fanout_queue == min(await self._table.fanout_queues(), default=None)


async def find_leftovers(calls: Calls, names: Names, table: IInstanceTable, dead: Sequence[InstanceStart]) -> Leftovers:
    """What the dead left, and subscriptions whose queues are gone.

    :raises chatflow.broker.aws.AwsError: a call failed.
    """
    subscriptions = await _subscriptions(calls, names)
    # Read after the subscriptions: whoever has one by now had registered before.
    registered = await table.fanout_queues()
    of_the_dead = {instance.fanout_queue for instance in dead}
    urls = await _existing(calls, of_the_dead)
    unknown = {one.queue for one in subscriptions} - set(registered) - of_the_dead
    gone = unknown - (await _existing(calls, unknown)).keys()
    return Leftovers(dead, urls, [one for one in subscriptions if one.queue in of_the_dead | gone])


async def remove_leftovers(calls: Calls, table: IInstanceTable, found: Leftovers) -> None:
    """Remove it: subscriptions first, so that SNS delivers to nothing that is gone, and at last the entries.

    :raises chatflow.broker.aws.AwsError: a call failed; the same again goes on.
    """
    for subscription in found.subscriptions:
        await calls.sns("unsubscribe", SubscriptionArn=subscription.arn)
    for url in found.queue_urls.values():
        try:
            await calls.sqs("delete_queue", QueueUrl=url)
        except AwsError as error:
            if not error.queue_is_missing:
                raise
    for instance in found.dead:
        await table.forget(instance)


async def _subscriptions(calls: Calls, names: Names) -> list[Subscription]:
    """Those of the topic whose endpoints are fan-out queues by their names."""
    url = await _queue_url(calls, names.dead_letters)
    if url is None:
        return []
    attributes = await calls.sqs("get_queue_attributes", QueueUrl=url, AttributeNames=["QueueArn"])
    topic_arn = names.topic_arn(attributes["Attributes"]["QueueArn"])
    found: list[Subscription] = []
    more: dict[str, str] = {}
    while True:
        try:
            page = await calls.sns("list_subscriptions_by_topic", TopicArn=topic_arn, **more)
        except AwsError as error:
            if error.queue_is_missing:
                return []
            raise
        for one in page.get("Subscriptions", ()):
            queue = one["Endpoint"].rsplit(":", 1)[-1]
            # One that waits for its confirmation has no ARN.
            if queue.startswith(names.fanout_prefix) and one["SubscriptionArn"].startswith("arn:"):
                found.append(Subscription(one["SubscriptionArn"], queue))
        if not page.get("NextToken"):
            return found
        more = {"NextToken": page["NextToken"]}


async def _existing(calls: Calls, names: Iterable[str]) -> dict[str, str]:
    """The URLs of those queues that there are, by name."""
    urls = {name: await _queue_url(calls, name) for name in sorted(names)}
    return {name: url for name, url in urls.items() if url is not None}


async def _queue_url(calls: Calls, name: str) -> str | None:
    try:
        return str((await calls.sqs("get_queue_url", QueueName=name))["QueueUrl"])
    except AwsError as error:
        if error.queue_is_missing:
            return None
        raise
