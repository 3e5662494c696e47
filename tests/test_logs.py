"""The daemon's log: what a line looks like, what is counted instead of written, and that no file grows without end."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.logger import Logger, LogLevel
from twisted.python.failure import Failure

from chatflow.logs import Log, LogSettings, is_journal, log_for
from chatflow.logs.formats import as_json, as_text
from chatflow.logs.repeats import Repeats
from chatflow.logs.sinks import FileSink, JournalSink, StreamSink

_ANY_TEXT = st.text(st.characters(codec=None))


def event(format_: str = "{text}", level: LogLevel = LogLevel.info, **fields: Any) -> dict[str, Any]:
    """As a Logger makes it."""
    seen: list[dict[str, Any]] = []
    Logger(namespace="here", observer=seen.append).emit(level, format_, **fields)  # type: ignore[arg-type]  # any callable is one
    seen[0]["log_time"] = 1_764_230_415.1234
    return seen[0]


def failure(text: str) -> Failure:
    try:
        raise ValueError(text)
    except ValueError:
        return Failure()


class TestText:
    def test_a_line_names_time_place_and_level(self) -> None:
        line = as_text(event("{count} are lost", LogLevel.warn, count=3))
        assert line[:10].count("-") == 2
        assert line.endswith(" [here#warn] 3 are lost")

    @given(_ANY_TEXT)
    def test_whatever_a_stranger_writes_begins_no_line(self, text: str) -> None:
        assert len(as_text(event(text=text)).splitlines()) == 1
        lines = as_text(event("{text}", text=text, log_failure=failure(text))).splitlines()
        assert all(line.startswith("    ") for line in lines[1:])

    def test_a_bare_failure_says_what_failed(self) -> None:
        assert "[here#critical] ValueError: broken\n    Traceback" in as_text(
            event("", LogLevel.critical, log_failure=failure("broken"))
        )


class TestJson:
    def test_it_is_one_object_with_the_named_fields(self) -> None:
        line = json.loads(as_json(event("{count} in {room}", LogLevel.error, count=3, room="1", ratio=0.5, no=None)))
        assert line == {
            "time": "2025-11-27T08:00:15.123Z",
            "level": "error",
            "namespace": "here",
            "message": "3 in 1",
            "count": 3,
            "room": "1",
            "ratio": 0.5,
            "no": None,
        }

    def test_a_failure_has_error_and_traceback(self) -> None:
        line = json.loads(as_json(event("it failed", LogLevel.critical, log_failure=failure("broken"))))
        assert (line["message"], line["error"]) == ("it failed", "ValueError: broken")
        assert line["traceback"].startswith("Traceback")

    def test_fields_of_reserved_names_are_kept_apart(self) -> None:
        line = json.loads(as_json(event("x", time=1, namespace="mine", error="e")))
        assert (line["time_"], line["namespace_"], line["error_"], line["namespace"]) == (1, "mine", "e", "here")

    @given(st.dictionaries(st.from_regex("[a-z]{1,9}", fullmatch=True), _ANY_TEXT | st.floats() | st.binary()))
    def test_every_value_becomes_json_that_others_read(self, fields: dict[str, Any]) -> None:
        line = as_json(event("x", **fields))
        assert line.isascii()
        assert "\n" not in line

        def refuse(constant: str) -> None:
            raise AssertionError(constant)

        json.dumps(json.loads(line, parse_constant=refuse), ensure_ascii=False).encode()

    def test_what_cannot_be_shown_loses_no_line(self) -> None:
        class Broken:
            def __str__(self) -> str:
                raise RuntimeError

        assert json.loads(as_json(event("x", it=Broken())))["it"] == "(cannot be shown: RuntimeError)"


class TestRepeats:
    def setup_method(self) -> None:
        self.now = 0.0
        self.seen: list[str] = []
        self.repeats = Repeats(lambda each: self.seen.append(as_text(each)[25:]), lambda: self.now)

    def test_the_same_warning_is_written_once_and_then_counted(self) -> None:
        for _ in range(121):
            self.repeats(event("{reason}", LogLevel.warn, reason="no route"))
        self.now = 9.9
        self.repeats.sum_up()
        assert self.seen == ["[here#warn] no route"]
        self.now = 10.0
        self.repeats.sum_up()
        assert self.seen[1:] == ["[here#warn] repeated 120 times in 10 s: no route"]

    def test_a_kind_with_ever_new_texts_is_counted_too(self) -> None:
        for number in range(1000):
            self.repeats(event("room {room} failed", LogLevel.error, room=number))
        assert len(self.seen) == 10
        self.repeats.close()
        assert self.seen[10:] == ["[here#error] repeated 990 times in 1 s: room 999 failed"]

    def test_another_kind_is_not_held_back(self) -> None:
        self.repeats(event("a", LogLevel.error))
        self.repeats(event("b", LogLevel.error))
        self.repeats(event("a", LogLevel.warn))
        assert len(self.seen) == 3

    @pytest.mark.parametrize("level", [LogLevel.debug, LogLevel.info, LogLevel.critical])
    def test_what_is_no_warning_always_passes(self, level: LogLevel) -> None:
        for _ in range(20):
            self.repeats(event("x", level))
        assert len(self.seen) == 20

    def test_after_the_window_it_is_written_again(self) -> None:
        self.repeats(event("x", LogLevel.error))
        self.now = 11.0
        self.repeats(event("x", LogLevel.error))
        assert self.seen == ["[here#error] x"] * 2

    def test_kinds_without_end_need_no_memory_without_end(self) -> None:
        for number in range(5000):
            self.repeats(event(f"kind {number}", LogLevel.error))
        assert len(self.repeats._windows) <= 500
        assert len(self.seen) == 5000


class TestFile:
    def test_all_files_together_stay_within_the_limit(self, tmp_path: Path) -> None:
        sink = FileSink(tmp_path / "log", 1000, 2)
        for number in range(500):
            sink.write(f"line {number:050}", "info")
        files = sorted(tmp_path.iterdir())
        assert [file.name for file in files] == ["log", "log.1", "log.2"]
        assert sum(file.stat().st_size for file in files) <= 3 * 1100
        assert files[0].read_text().endswith(f"line {499:050}\n")

    def test_a_limit_that_became_smaller_removes_the_rest(self, tmp_path: Path) -> None:
        for number in range(1, 7):
            (tmp_path / f"log.{number}").write_text("old")
        sink = FileSink(tmp_path / "log", 100, 2)
        for _ in range(5):
            sink.write("x" * 60, "info")
        assert sorted(file.name for file in tmp_path.iterdir()) == ["log", "log.1", "log.2"]

    def test_a_file_that_was_moved_is_begun_anew(self, tmp_path: Path) -> None:
        sink = FileSink(tmp_path / "log", 1000, 2)
        sink.write("before", "info")
        (tmp_path / "log").rename(tmp_path / "moved")
        sink.write("still there", "info")
        sink.reopen()
        sink.write("after", "info")
        assert (tmp_path / "moved").read_text() == "before\nstill there\n"
        assert (tmp_path / "log").read_text() == "after\n"

    def test_a_full_disk_raises_nothing(self) -> None:
        StreamSink(open("/dev/full", "w")).write("x", "info")  # noqa: SIM115, PTH123 - closed with the process

    def test_others_cannot_read_it(self, tmp_path: Path) -> None:
        FileSink(tmp_path / "log", 1000, 2)
        assert (tmp_path / "log").stat().st_mode & 0o007 == 0


class TestStandardOutput:
    def test_what_its_encoding_lacks_is_escaped(self) -> None:
        raw = io.BytesIO()
        stream = io.TextIOWrapper(raw, "ascii")
        StreamSink(stream).write("größer 🙂", "info")
        assert raw.getvalue() == b"gr\\xf6\\xdfer \\U0001f642\n"

    def test_each_line_for_the_journal_has_its_priority(self) -> None:
        stream = io.StringIO()
        JournalSink(stream).write("one\n    two", "error")
        assert stream.getvalue() == "<3>one\n<3>    two\n"

    def test_the_journal_is_known_by_the_file_behind_the_stream(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with (tmp_path / "a").open("w") as journal, (tmp_path / "b").open("w") as other:
            status = os.fstat(journal.fileno())
            monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
            assert is_journal(journal)
            assert not is_journal(other)
        assert not is_journal(None)
        assert not is_journal(io.StringIO())


class TestWhereItGoes:
    SETTINGS = LogSettings("info", "text", None, 1000, 1)

    def test_the_level_can_change(self, tmp_path: Path) -> None:
        log = Log(LogSettings("warn", "text", tmp_path / "log", 10_000, 1))
        log.open()
        logger = Logger(namespace="here", observer=log)
        logger.info("left out")
        log.set_level("debug")
        logger.debug("seen")
        assert [line.split("] ")[1] for line in (tmp_path / "log").read_text().splitlines()] == ["seen"]

    @pytest.mark.parametrize("told", [{"syslog": True}, {"logger": object()}])
    def test_who_tells_twistd_how_to_log_is_obeyed(self, told: dict[str, object]) -> None:
        assert log_for(self.SETTINGS, {"nodaemon": True, **told}) is None

    @pytest.mark.parametrize(
        ("told", "file"),
        [
            ({"nodaemon": True, "logfile": None}, None),
            ({"nodaemon": True, "logfile": "-"}, None),
            ({"nodaemon": True, "logfile": "x.log"}, Path("x.log")),
            ({"nodaemon": False, "logfile": None}, Path("twistd.log")),
        ],
    )
    def test_twistds_own_option_says_where(self, told: dict[str, object], file: Path | None) -> None:
        log = log_for(self.SETTINGS, told)
        assert log is not None
        assert log._settings.file == file
