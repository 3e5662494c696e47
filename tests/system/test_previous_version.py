"""Schema migrations beside the previous version: it serves while they are applied, and is started again behind them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from chatflow.persistence import migrations
from testbed import previous_version
from testbed.client import ChatClient, Frame
from testbed.daemon import Daemon
from testbed.postgres import execute, migrate


def say(client: ChatClient, text: str) -> int:
    """Send a message and wait until it is acknowledged and broadcast; its seq."""
    client.send(text)
    kinds: dict[str, Frame] = {}
    while len(kinds) < 2:
        frame = client.receive()
        kinds["ack" if frame.get("status") == "SUCCESS" else "broadcast"] = frame
    assert kinds["broadcast"]["message"] == text
    return int(kinds["broadcast"]["seq"])


def history(daemon: Daemon) -> list[str]:
    answer: Any = daemon.get("/api/rooms/1/messages?limit=1000").json()
    assert not answer["previous"]
    return [one["message"] for one in answer["messages"]]


@pytest.fixture
def old_tree(tmp_path: Path) -> Path:
    if why_not := previous_version.why_not():
        pytest.skip(why_not)
    return tmp_path


@pytest.fixture
def old(old_tree: Path, empty_database_url: str) -> Iterator[Daemon]:
    environment = previous_version.unpack(old_tree)
    migrate(empty_database_url, old_tree / "sql")
    with Daemon("--rooms", "2", database=empty_database_url, environment=environment) as daemon:
        yield daemon.start()


def test_the_previous_version_serves_while_the_schema_is_migrated_and_the_new_one_goes_on(old: Daemon) -> None:
    said: list[str] = []
    with ChatClient(old.chat_url(1)) as client, ThreadPoolExecutor(1) as pool:
        for number in itertools.count(1):
            said.append(f"{number}")
            assert say(client, said[-1]) == number
            if number == 5:
                migrating = pool.submit(migrate, old.database)
            elif number > 10 and migrating.done():
                break
        migrating.result()
        said.append("behind it")
        say(client, said[-1])
    assert execute(old.database, "SELECT max(version) FROM schema_version") == [(len(migrations.load_migrations()),)]
    assert history(old) == said
    assert old.stop() == 0

    with Daemon("--rooms", "2", database=old.database) as new:
        new.start()
        with ChatClient(new.chat_url(1)) as client:
            said.append("of the new one")
            assert say(client, said[-1]) == len(said)
        assert history(new) == said
        assert new.stop() == 0

    # That version does not know yet whether a newer schema serves it.
    old.launch_again()
    assert old.wait() == 1
    assert "newer than this program's 11" in old.errors()


def test_a_daemon_is_started_again_behind_the_migrations_of_the_next_version(database_url: str, tmp_path: Path) -> None:
    for file in migrations.load_migrations():
        (tmp_path / file.name).write_text(file.sql)
    following = file.version + 1
    (tmp_path / f"{following:04}_of_the_next_version.sql").write_text("CREATE TABLE of_the_next_version ();")
    migrate(database_url, tmp_path)
    with Daemon("--rooms", "2", database=database_url) as daemon:
        daemon.start()
        with ChatClient(daemon.chat_url(1)) as client:
            assert say(client, "hello") == 1
        assert f"the database has schema version {following}: newer than this program" in daemon.output()
        assert daemon.stop() == 0
