"""``chatflow-admin dlq``: the life of a dead letter, in SQS and in the table."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from chatflow import admin
from chatflow.broker.deadletters import SqsDeadLetterBox, SqsDeadLetters
from chatflow.broker.names import Names
from chatflow.contracts.envelopes import Envelope
from chatflow.persistence.deadletters import keep_in_thread
from chatflow.persistence.replay import replay
from testbed.postgres import execute
from tests.admin.conftest import Run
from tests.support.chat import make_envelope, make_message
from tests.support.cloud import shared_aws
from tests.support.reactor import on_reactor, reactor

Fail = Callable[..., tuple[str, str]]
Keep = Callable[[Envelope], None]


def dlq(action: str, names: Names, url: str, *more: str) -> Sequence[str]:
    return ("dlq", action, "--broker", "sqs", "--queue-prefix", names.prefix, "--database", url, *more)


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def texts(url: str) -> list[tuple[Any, ...]]:
    return execute(url, "SELECT room_id, seq, message_text FROM messages ORDER BY room_id, seq")


def make_keeper(names: Names) -> SqsDeadLetters:
    keeper = SqsDeadLetters(clock=reactor, now=time.time, aws=shared_aws(), names=names)
    keeper.start()
    return keeper


@pytest.fixture(autouse=True)
def one_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """The emulator has a single server, which knows every letter at once."""
    monkeypatch.setattr(SqsDeadLetterBox, "wait_seconds", 0)


class TestSqs:
    @on_reactor
    async def test_letters_are_listed_shown_replayed_and_then_gone(
        self, names: Names, database_url: str, run: Run
    ) -> None:
        keeper = make_keeper(names)
        first, second = make_envelope(1, "a", "b\x1b[31m"), make_envelope(2, "c")
        await keeper.keep(first, "too long\x1b[2J\nCONTEXT: row 1")
        await keeper.keep(second, "refused")
        title, *lines = run(*dlq("list", names, database_url)).splitlines()
        assert title.split("  ")[0] == "id"
        assert [line.split()[:4] for line in lines] == [
            [first.envelope_id, "1", "2", "1"],
            [second.envelope_id, "2", "1", "1"],
        ]
        assert lines[0].endswith(r"too long\u001b[2J\nCONTEXT: row 1")

        shown = json.loads(run(*dlq("show", names, database_url, first.envelope_id)))
        assert (shown["room"], shown["attempts"], shown["serverId"]) == (1, 1, "s1")
        assert [message["text"] for message in shown["messages"]] == ["a", "b\x1b[31m"]

        assert run(*dlq("replay", names, database_url, "--all")).splitlines() == [
            f"stored {first.envelope_id} in room 1 as seq 1 to 2 (messages: 2)",
            f"stored {second.envelope_id} in room 2 as seq 1 to 1 (messages: 1)",
        ]
        assert texts(database_url) == [(1, 1, "a"), (1, 2, "b\x1b[31m"), (2, 1, "c")]
        assert run(*dlq("list", names, database_url)) == "there are no dead letters\n"
        assert run(*dlq("replay", names, database_url, "--all")) == "there are no dead letters\n"

    @on_reactor
    async def test_what_was_stored_before_a_crash_is_not_stored_again(
        self, names: Names, database_url: str, run: Run
    ) -> None:
        envelope = make_envelope(1, "a", "b")
        await make_keeper(names).keep(envelope, "refused")
        with closing(psycopg2.connect(database_url)) as connection:
            replay(connection, envelope)  # and then its command died, before it deleted the letter
        assert run(*dlq("replay", names, database_url, "--all")).splitlines() == [
            f"{envelope.envelope_id} was stored already in room 1"
        ]
        assert texts(database_url) == [(1, 1, "a"), (1, 2, "b")]
        assert run(*dlq("list", names, database_url)) == "there are no dead letters\n"

    @on_reactor
    async def test_a_command_that_dies_after_it_stored_leaves_the_letter(
        self, names: Names, database_url: str, run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        envelope = make_envelope(1, "a")
        await make_keeper(names).keep(envelope, "refused")
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(SqsDeadLetterBox, "remove", interrupted)
            admin.main(dlq("replay", names, database_url, "--all"))
        assert texts(database_url) == [(1, 1, "a")]
        assert run(*dlq("replay", names, database_url, "--id", envelope.envelope_id)).splitlines() == [
            f"{envelope.envelope_id} was stored already in room 1"
        ]
        assert texts(database_url) == [(1, 1, "a")]

    @on_reactor
    async def test_what_is_refused_again_stays_with_the_new_reason_and_hinders_no_other(
        self, names: Names, database_url: str, run: Run, fail: Fail
    ) -> None:
        keeper = make_keeper(names)
        poison, good = make_envelope(1, "\0"), make_envelope(1, "good")
        await keeper.keep(poison, "first reason")
        await keeper.keep_body("no envelope", "bad base64")
        await keeper.keep(good, "a passing fault")
        output, error = fail(*dlq("replay", names, database_url, "--all"))
        assert error == "2 of 3 dead letters were refused again, and stay"
        refused, no_envelope, stored = output.splitlines()
        assert refused.startswith(f"refused {poison.envelope_id} again: ")
        assert "no envelope" not in stored
        assert stored == f"stored {good.envelope_id} in room 1 as seq 1 to 1 (messages: 1)"
        assert "not an envelope" in no_envelope
        _, first, second = run(*dlq("list", names, database_url)).splitlines()
        assert first.split()[:4] == [poison.envelope_id, "1", "1", "2"]
        assert "0x00" in first
        assert second.split()[1:4] == ["-", "-", "2"]
        assert texts(database_url) == [(1, 1, "good")]

    @on_reactor
    async def test_the_database_is_needed_for_a_replay_only_and_not_reaching_it_changes_nothing(
        self, names: Names, run: Run, fail: Fail
    ) -> None:
        envelope = make_envelope()
        await make_keeper(names).keep(envelope, "refused")
        sqs = ("--broker", "sqs", "--queue-prefix", names.prefix)
        _, error = fail("dlq", "replay", "--all", *sqs)
        assert "give its --data-dir, or another --database" in error
        _, error = fail("dlq", "replay", "--all", *sqs, "--database", "postgresql://127.0.0.1:1/none")
        assert error.startswith("cannot connect to the database")
        assert envelope.envelope_id in run("dlq", "list", *sqs)
        assert run("dlq", "purge", "--all", "--yes", *sqs) == f"deleted {envelope.envelope_id} (messages: 1)\n"
        assert run("dlq", "list", *sqs) == "there are no dead letters\n"

    def test_without_its_queue_it_says_what_to_do(self, emulator: None, fail: Fail) -> None:
        _, error = fail("dlq", "list", "--broker", "sqs", "--queue-prefix", "nobodys")
        assert error == "there is no queue nobodys-db-dlq.fifo: run `chatflow-admin setup`"


class TestTable:
    @pytest.fixture
    def keep(self, database_url: str) -> Keep:
        def keep(envelope: Envelope) -> None:
            with closing(psycopg2.connect(database_url)) as connection, connection, connection.cursor() as cursor:
                keep_in_thread(cursor, envelope, "refused")

        return keep

    @pytest.fixture(autouse=True)
    def data_directory(self, database_url: str, tmp_path: Path) -> None:
        """Of a daemon with its embedded database, in the working directory."""
        (tmp_path / "chatflow-data").mkdir()
        (tmp_path / "chatflow-data/database.url").write_text(database_url + "\n")

    def test_beside_a_daemon_no_option_is_needed(self, run: Run, keep: Keep, database_url: str) -> None:
        envelopes = [make_envelope(1, str(number)) for number in range(12)]
        for envelope in envelopes:
            keep(envelope)
        listed = run("dlq", "list").splitlines()[1:]
        assert [line.split()[0] for line in listed] == [envelope.envelope_id for envelope in envelopes]
        assert len(run("dlq", "replay", "--all").splitlines()) == 12
        assert texts(database_url) == [(1, number + 1, str(number)) for number in range(12)]
        assert run("dlq", "list") == "there are no dead letters\n"

    def test_of_several_those_are_taken_that_were_named(self, run: Run, keep: Keep, database_url: str) -> None:
        a, b, c = (make_envelope(1, text) for text in "abc")
        for envelope in (a, b, c):
            keep(envelope)
        run("dlq", "replay", "--id", c.envelope_id, "--id", a.envelope_id)
        assert texts(database_url) == [(1, 1, "a"), (1, 2, "c")]
        assert run("dlq", "list").splitlines()[1].split()[0] == b.envelope_id

    def test_one_that_is_not_there_ends_it_before_anything_is_done(
        self, fail: Fail, keep: Keep, database_url: str
    ) -> None:
        envelope = make_envelope()
        keep(envelope)
        for action in ("replay", "purge"):
            _, error = fail("dlq", action, "--id", envelope.envelope_id, "--id", "x")
            assert error.startswith("there is no dead letter x")
        assert fail("dlq", "show", "x")[1].startswith("there is no dead letter x")
        assert texts(database_url) == []

    def test_a_refusal_counts_an_attempt(self, fail: Fail, keep: Keep, database_url: str) -> None:
        keep(make_envelope(1, "\0"))
        fail("dlq", "replay", "--all")
        ((reason, attempts, later),) = execute(
            database_url, "SELECT reason, attempts, last_failed_at > first_failed_at FROM dead_letters"
        )
        assert ("0x00" in reason, attempts, later) == (True, 2, True)

    def test_purging_asks_for_yes(self, run: Run, fail: Fail, keep: Keep) -> None:
        envelope = make_envelope(1, "a", "b")
        keep(envelope)
        output, error = fail("dlq", "purge", "--all")
        assert output == f"would delete {envelope.envelope_id} (messages: 2)\n"
        assert error == "nothing was deleted: --yes is needed for that"
        assert run("dlq", "purge", "--all", "--yes") == f"deleted {envelope.envelope_id} (messages: 2)\n"
        assert run("dlq", "purge", "--all", "--yes") == "there are no dead letters\n"

    def test_what_is_shown_controls_no_terminal(self, run: Run, keep: Keep) -> None:
        text = "\x1b]0;x\x07\x9b31m\u202e"
        envelope = make_envelope(1, messages=(make_message(text),))
        keep(envelope)
        shown = run("dlq", "show", envelope.envelope_id)
        assert all(line.isprintable() for line in shown.splitlines())
        assert json.loads(shown)["messages"][0]["text"] == text

    @pytest.mark.parametrize("arguments", [["replay"], ["purge", "--yes"], ["replay", "--all", "--id", "x"], []])
    def test_which_letters_must_be_said(self, arguments: list[str]) -> None:
        with pytest.raises(SystemExit) as caught:
            admin.main(["dlq", *arguments])
        assert caught.value.code == 2
