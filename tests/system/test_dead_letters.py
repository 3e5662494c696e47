"""A dead letter's way through a running cluster: refused, set aside, replayed, delivered to who listens."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from chatflow import admin
from chatflow.broker.names import Names
from testbed.client import ChatClient
from testbed.daemon import Daemon
from testbed.emulator import shared_emulator
from testbed.recounting import recount
from testbed.waiting import eventually
from tests.support.cloud import direct_client, make_objects


@pytest.fixture(scope="module")
def names() -> Names:
    return make_objects(rooms=1)


@pytest.fixture(scope="module")
def member(names: Names, module_database_url: str) -> Iterator[Daemon]:
    """An instance of a cluster."""
    options = ("--broker", "sqs", "--queue-prefix", names.prefix, "--rooms", "1", "--long-poll-seconds", "1")
    environment = shared_emulator().environment()
    with Daemon(*options, database=module_database_url, environment=environment) as daemon:
        yield daemon.start()


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, names: Names, module_database_url: str) -> None:
    """For commands: the cluster's."""
    for name in os.environ:
        if name.startswith("CHATFLOW_"):
            monkeypatch.delenv(name)
    cluster = {"BROKER": "sqs", "QUEUE_PREFIX": names.prefix, "ROOMS": "1", "DATABASE": module_database_url}
    for name, value in cluster.items():
        monkeypatch.setenv(f"CHATFLOW_{name}", value)
    for name, value in shared_emulator().environment().items():
        monkeypatch.setenv(name, value)


def test_what_the_database_refuses_does_not_block_its_room_and_is_delivered_once_it_is_replayed(
    member: Daemon, capsys: pytest.CaptureFixture[str]
) -> None:
    member.sql("ALTER TABLE messages ADD CONSTRAINT no_poison CHECK (message_text <> 'poison')")
    with ChatClient(member.chat_url(1)) as client:
        client.send("poison")
        client.receive_kind("ack")  # SQS has it
        eventually(lambda: member.get("/db-metrics").json()["persistence"]["insert_errors"] == 1, "it is refused")
        client.send("later")
        assert client.receive_kind("broadcast")["message"] == "later"

        assert admin.main(["dlq", "replay", "--all"]) == 1
        assert "no_poison" in capsys.readouterr().out
        member.sql("ALTER TABLE messages DROP CONSTRAINT no_poison")
        assert admin.main(["dlq", "replay", "--all"]) == 0
        assert capsys.readouterr().out.rstrip().endswith("in room 1 as seq 2 to 2 (messages: 1)")

        # By itself the instance learns of it when it next compares its heads with the database; or by what comes next.
        client.send("last")
        broadcasts = [client.receive_kind("broadcast") for _ in range(2)]
        assert [(one["seq"], one["message"]) for one in broadcasts] == [(2, "poison"), (3, "last")]
    assert admin.main(["dlq", "list"]) == 0
    assert capsys.readouterr().out == "there are no dead letters\n"
    assert recount(member.database_url) == {}


def test_what_is_no_envelope_does_not_block_its_room(
    member: Daemon, names: Names, capsys: pytest.CaptureFixture[str]
) -> None:
    client = direct_client("sqs")
    url = client.get_queue_url(QueueName=names.room_queue(1))["QueueUrl"]
    client.send_message(QueueUrl=url, MessageBody="rubbish", MessageGroupId="1", MessageDeduplicationId="rubbish")
    with ChatClient(member.chat_url(1)) as chat:
        chat.send("after it")
        assert chat.receive_kind("broadcast")["message"] == "after it"
    assert admin.main(["dlq", "list"]) == 0
    (line,) = capsys.readouterr().out.splitlines()[1:]
    assert "not an envelope" in line
    assert admin.main(["dlq", "show", line.split()[0]]) == 0
    assert '"payload": "rubbish"' in capsys.readouterr().out
