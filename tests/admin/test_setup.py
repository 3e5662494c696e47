"""``chatflow-admin setup`` and ``teardown``."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from chatflow.broker.names import Names
from testbed.emulator import fresh_prefix
from tests.admin.conftest import Run
from tests.support.cloud import direct_client

Fail = Callable[..., tuple[str, str]]


def queues(prefix: str) -> set[str]:
    answer = direct_client("sqs").list_queues(QueueNamePrefix=prefix + "-")
    return {url.rsplit("/", 1)[-1].removeprefix(prefix + "-") for url in answer.get("QueueUrls", ())}


@pytest.mark.usefixtures("emulator")
class TestSetUp:
    def test_it_makes_the_rooms_queues_once_and_says_the_second_time_that_they_exist(self, run: Run) -> None:
        prefix = fresh_prefix()
        arguments = ("setup", "--queue-prefix", prefix, "--rooms", "2")
        whats = [f"queue {prefix}-{name}.fifo" for name in ("db-dlq", "room-1", "room-2")]
        whats.append(f"topic {prefix}-fanout.fifo")
        assert run(*arguments).splitlines() == [f"made {what}" for what in whats]
        assert run(*arguments).splitlines() == [f"{what} exists" for what in whats]

    def test_room_queues_of_the_environment_are_shared(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        prefix = fresh_prefix()
        monkeypatch.setenv("CHATFLOW_QUEUE_PREFIX", prefix)
        monkeypatch.setenv("CHATFLOW_ROOM_QUEUES", "2")
        run("setup")
        assert queues(prefix) == {"db-dlq.fifo", "rooms-1of2.fifo", "rooms-2of2.fifo"}


class TestTearDown:
    def test_it_asks_for_yes(self, names: Names, run: Run, fail: Fail) -> None:
        arguments = ("teardown", "--queue-prefix", names.prefix, "--rooms", "2")
        output, error = fail(*arguments)
        assert error == "nothing was removed: --yes is needed for that"
        assert f"would remove queue {names.prefix}-room-2.fifo" in output.splitlines()
        assert len(queues(names.prefix)) == 3
        assert f"removed queue {names.prefix}-room-2.fifo" in run(*arguments, "--yes").splitlines()
        assert queues(names.prefix) == set()
        assert run(*arguments).splitlines() == [f"there is nothing of {names.prefix}"]

    def test_what_it_leaves_alone_it_says(self, names: Names, run: Run) -> None:
        line = f"leaves queue {names.prefix}-room-2.fifo alone: it is not of these settings"
        assert line in run("teardown", "--queue-prefix", names.prefix, "--rooms", "1", "--yes").splitlines()
        assert queues(names.prefix) == {"room-2.fifo"}


def test_without_a_region_it_says_what_to_set(fail: Fail, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    _, error = fail("setup")
    assert "AWS_REGION" in error
