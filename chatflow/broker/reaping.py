"""The removal of what dead instances left behind in AWS: their fan-out queues and subscriptions."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence

from attrs import frozen
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from chatflow.broker.aws import AwsError
from chatflow.broker.interfaces import Calls
from chatflow.broker.lookup import queue_url, topic_arn
from chatflow.broker.membership import Membership
from chatflow.broker.names import Names
from chatflow.contracts.membership import IMembershipTable, Run

#: Orphaned subscriptions cost one of the topic's 100 places and money, but no message; looking for them costs calls.
_SWEEP_SECONDS = 600.0


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

    dead: Sequence[Run]
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
        table: IMembershipTable,
        membership: Membership,
        is_steady: Callable[[float], Awaitable[bool]],
        silent_seconds: float = 60.0,
    ) -> None:
        self._clock = clock
        self._calls = calls
        self._names = names
        self._table = table
        self._membership = membership
        self._is_steady = is_steady
        self._silent_seconds = silent_seconds
        self._swept_at = clock.seconds()
        self.reaped = 0

    async def reap(self) -> None:
        """Look for the dead; call it from time to time. It costs AWS calls only when there are some.

        Fails with :class:`chatflow.errors.Unavailable`; the rest is then done some minutes later.
        """
        if self._membership.steady_seconds() < self._silent_seconds:
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
        return self._membership.fanout_queue == min(await self._table.fanout_queues(), default=None)


async def find_leftovers(calls: Calls, names: Names, table: IMembershipTable, dead: Sequence[Run]) -> Leftovers:
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


async def remove_leftovers(calls: Calls, table: IMembershipTable, found: Leftovers) -> None:
    """Remove it: subscriptions first, so that SNS delivers to nothing that is gone, and at last the entries.

    :raises chatflow.broker.aws.AwsError: a call failed; the same again goes on.
    """
    for subscription in found.subscriptions:
        await calls.sns("unsubscribe", SubscriptionArn=subscription.arn)
    for url in found.queue_urls.values():
        try:
            await calls.sqs("delete_queue", QueueUrl=url)
        except AwsError as error:
            if not error.is_missing:
                raise
    for instance in found.dead:
        await table.forget(instance)


async def _subscriptions(calls: Calls, names: Names) -> list[Subscription]:
    """Those of the topic whose endpoints are fan-out queues by their names."""
    arn = await topic_arn(calls, names)
    if arn is None:
        return []
    found: list[Subscription] = []
    more: dict[str, str] = {}
    while True:
        try:
            page = await calls.sns("list_subscriptions_by_topic", TopicArn=arn, **more)
        except AwsError as error:
            if error.is_missing:
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
    urls = {name: await queue_url(calls, name) for name in sorted(names)}
    return {name: url for name, url in urls.items() if url is not None}
