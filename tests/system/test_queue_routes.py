"""``/queue/{room}`` and ``/queue/all`` of running daemons, alone and in a cluster, in the reference's shape."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from chatflow.broker.names import Names
from testbed.daemon import Daemon
from testbed.emulator import shared_emulator
from tests.support.cloud import direct_client, make_objects

DAEMON_OPTIONS = ("--rooms", "3")
EMPTY = {"messages": "0", "notVisible": "0", "delayed": "0"}


def of_room(room: str, url: str | None) -> dict[str, str | None]:
    return {
        "roomId": room,
        "queueUrl": url,
        "approximateMessages": "0",
        "approximateNotVisible": "0",
        "approximateDelayed": "0",
    }


class TestAlone:
    def test_the_queue_of_a_room_is_told_in_the_references_shape(self, daemon: Daemon) -> None:
        answer = daemon.get("/queue/2")
        assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
        assert answer.json() == of_room("2", None)

    def test_what_is_no_room_has_an_empty_queue_as_in_the_reference(self, daemon: Daemon) -> None:
        for room in ("4", "01", "x"):
            answer = daemon.get(f"/queue/{room}")
            assert (answer.status, answer.json()) == (200, of_room(room, None))

    def test_the_queues_of_all_rooms_are_told_in_the_references_shape(self, daemon: Daemon) -> None:
        answer = daemon.get("/queue/all")
        assert (answer.status, answer.json()) == (200, {"room1": EMPTY, "room2": EMPTY, "room3": EMPTY})

    def test_only_reading_is_allowed(self, daemon: Daemon) -> None:
        assert daemon.get("/queue/1", method="HEAD").status == 200
        assert daemon.get("/queue/1", method="POST").status == 405
        assert daemon.get("/queue").status == 404


class TestInACluster:
    def test_a_room_has_its_queue(self, member: Daemon, names: Names) -> None:
        url = direct_client("sqs").get_queue_url(QueueName=names.room_queue(2))["QueueUrl"]
        account = url.split("/")[3]
        assert re.fullmatch("[0-9]{12}", account)
        answer = member.get("/queue/2")
        assert answer.json() == of_room("2", url.replace(account, "***"))
        assert account.encode() not in answer.body
        assert member.get("/queue/4").json() == of_room("4", None)

    def test_what_sqs_does_not_tell_is_said_to_be_unavailable(self, member: Daemon, names: Names) -> None:
        client = direct_client("sqs")
        client.delete_queue(QueueUrl=client.get_queue_url(QueueName=names.room_queue(3))["QueueUrl"])
        for path in ("/queue/3", "/queue/all"):
            answer = member.get(path)
            assert (answer.status, answer.json()["code"]) == (503, "unavailable")
        assert member.get("/queue/1").status == 200


@pytest.fixture(scope="module")
def names() -> Names:
    return make_objects(rooms=3)


@pytest.fixture(scope="module")
def member(names: Names, module_database_url: str) -> Iterator[Daemon]:
    """An instance of a cluster."""
    options = ("--broker", "sqs", "--queue-prefix", names.prefix, "--long-poll-seconds", "1", *DAEMON_OPTIONS)
    environment = shared_emulator().environment()
    with Daemon(*options, database=module_database_url, environment=environment) as daemon:
        yield daemon.start()
