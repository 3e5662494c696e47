"""``chatflow-admin reap``."""

from __future__ import annotations

from chatflow.broker.names import Names
from testbed.postgres import execute
from tests.admin.conftest import Run
from tests.support.cloud import direct_client


def start(names: Names, url: str, server_id: str, silent_seconds: int, *, queue: bool = True) -> str:
    """An instance that registered, and perhaps attached its queue; the queue's name."""
    name = names.fanout_queue(server_id, "1")
    execute(
        url,
        "INSERT INTO instances (server_id, start, fanout_queue, heartbeat_at)"
        " VALUES (%s, '1', %s, now() - make_interval(secs => %s))",
        (server_id, name, silent_seconds),
    )
    if queue:
        direct_client("sqs").create_queue(QueueName=name, Attributes={"FifoQueue": "true"})
        subscribe(names, name)
    return name


def subscribe(names: Names, queue: str) -> None:
    arn = f"arn:aws:sqs:us-east-1:000000000000:{queue}"
    direct_client("sns").subscribe(TopicArn=names.topic_arn(arn), Protocol="sqs", Endpoint=arn)


def left(names: Names, url: str) -> tuple[set[str], int, set[str]]:
    """Queues, number of subscriptions, entries."""
    queues = direct_client("sqs").list_queues(QueueNamePrefix=names.fanout_prefix).get("QueueUrls", ())
    topic = names.topic_arn("arn:aws:sqs:us-east-1:000000000000:any")
    subscriptions = direct_client("sns").list_subscriptions_by_topic(TopicArn=topic)["Subscriptions"]
    entries = execute(url, "SELECT server_id FROM instances")
    return {queue.rsplit("/", 1)[-1] for queue in queues}, len(subscriptions), {server_id for (server_id,) in entries}


def test_a_dry_run_says_what_would_go_and_then_it_goes(names: Names, database_url: str, run: Run) -> None:
    dead = start(names, database_url, "dead", 61)
    never = start(names, database_url, "never", 100, queue=False)
    living = start(names, database_url, "living", 30)
    orphan = names.fanout_queue("orphan", "1")
    subscribe(names, orphan)
    arguments = ("reap", "--queue-prefix", names.prefix, "--database", database_url)
    whats = [
        f"instance never (queue {never}, whose queue is gone already)",
        f"instance dead (queue {dead})",
        f"the subscription of {dead}",
        f"the subscription of {orphan}",
    ]
    before = left(names, database_url)
    assert run(*arguments, "--dry-run").splitlines() == [f"would remove {what}" for what in whats]
    assert left(names, database_url) == before
    assert sorted(run(*arguments).splitlines()) == sorted(f"removed {what}" for what in whats)
    assert left(names, database_url) == ({living}, 1, {"living"})
    assert run(*arguments) == "nothing was left behind\n"


def test_how_long_an_instance_may_be_silent_can_be_said(names: Names, database_url: str, run: Run) -> None:
    start(names, database_url, "living", 30)
    arguments = ("reap", "--queue-prefix", names.prefix, "--database", database_url)
    run(*arguments, "--reap-after-seconds", "29")
    assert left(names, database_url) == (set(), 0, set())
