"""``chatflow-client`` as a shell uses it: a real daemon, real pipes, a real terminal."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from chatflow.client.command import parse
from chatflow.client.lines import MAX_LINE_BYTES, BadLine, Draft, LineSplitter, understand
from testbed import forkserver
from testbed.daemon import Daemon, clean_environment, running_daemon
from testbed.waiting import eventually

CLIENT = [sys.executable, "-m", "chatflow.client"]
NOBODY = "ws://127.0.0.1:9"

_rooms = iter(range(1, 100))


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with running_daemon("--rooms", "99") as daemon:
        yield daemon


@pytest.fixture
def room() -> str:
    """One of one's own."""
    return str(next(_rooms))


@pytest.fixture
def url(daemon: Daemon) -> str:
    return f"ws://127.0.0.1:{daemon.port}"


def run(*arguments: str, given: bytes = b"") -> tuple[int, str, str]:
    """Status, standard output and standard error."""
    ended = forkserver.run([*CLIENT, *arguments], given=given, env=clean_environment())
    return ended.returncode, ended.stdout, ended.stderr


def texts(daemon: Daemon, room: str) -> list[str]:
    """What is stored, in order."""
    return [text for (text,) in daemon.sql(f"SELECT message_text FROM messages WHERE room_id = {room} ORDER BY seq")]


class TestInAPipe:
    def test_a_line_is_sent_and_acknowledged_before_it_ends_without_a_word(
        self, daemon: Daemon, url: str, room: str
    ) -> None:
        assert run(url, room, "--name", "bob", given=b"deploy done\n") == (0, "", "")
        assert texts(daemon, room) == ["deploy done"]

    def test_one_line_is_one_message_in_order_whatever_ends_it(self, daemon: Daemon, url: str, room: str) -> None:
        given = b"\xef\xbb\xbfone\r\n\n  \n\r\n two \nthree\tfour\n" + "\N{SNOWMAN} last without an end".encode()
        assert run(url, room, "--name", "bob", given=given) == (0, "", "")
        assert texts(daemon, room) == ["one", " two ", "three\tfour", "\N{SNOWMAN} last without an end"]

    def test_many_lines_at_once_keep_their_order(self, daemon: Daemon, url: str, room: str) -> None:
        lines = [f"line {number}" for number in range(2000)]
        assert run(url, room, "--name", "bob", given="\n".join(lines).encode()) == (0, "", "")
        assert texts(daemon, room) == lines

    def test_lines_that_cannot_be_sent_are_named_the_others_are_sent_and_the_status_is_1(
        self, daemon: Daemon, url: str, room: str
    ) -> None:
        long = b"q" * (3 * MAX_LINE_BYTES)
        given = b"a\nx\x00y\n\xff\xfe\n" + b"z" * 501 + b"\n" + long + b"\nb\n" + b"\x00\n" * 5000 + b"c"
        status, out, err = run(url, room, "--name", "bob", given=given)
        assert status == 1
        # So much input is not over when the first of it is stored, and comes back.
        assert {line[9:] for line in out.splitlines()} <= {"bob: a", "bob: b", "bob: c"}
        lines = err.splitlines()
        rule = "message must be 1-500 characters, without NUL"
        assert lines[:4] == [
            f"chatflow-client: line 2 was not sent: {rule}",
            "chatflow-client: line 3 was not sent: is not UTF-8",
            f"chatflow-client: line 4 was not sent: {rule}",
            f"chatflow-client: line 5 was not sent: is longer than {MAX_LINE_BYTES} bytes",
        ]
        assert len(lines) == 5004
        assert texts(daemon, room) == ["a", "b", "c"]

    @pytest.mark.parametrize("given", [b"", b"hello\n"])
    def test_a_server_that_is_down_is_one_line_and_status_1(self, given: bytes) -> None:
        status, out, err = run(NOBODY, "1", "--name", "bob", given=given)
        assert (status, out, err.count("\n")) == (1, "", 1)
        assert err.startswith(f"chatflow-client: cannot connect to {NOBODY}: ")

    def test_a_room_that_there_is_not_is_one_line_and_status_1(self, url: str) -> None:
        assert run(url, "100", "--name", "bob", given=b"hello\n") == (
            1,
            "",
            "chatflow-client: the server does not let this client in: rooms are /chat/1 to /chat/99\n",
        )

    def test_without_an_acknowledgement_it_gives_up_with_status_1(self, daemon: Daemon, url: str, room: str) -> None:
        with daemon.held_database():
            status, out, err = run(url, room, "--name", "bob", "--timeout-seconds", "1", given=b"a\nb\n")
        assert (status, out) == (1, "")
        assert err == "chatflow-client: 2 lines have no acknowledgement, and for 1 s none had: given up\n"

    def test_without_input_or_output_it_ends_as_with_none(self, url: str, room: str) -> None:
        command = " ".join([*CLIENT, url, room, "<&- >&-"])
        ended = subprocess.run(["sh", "-c", command], stderr=subprocess.PIPE, timeout=60)
        assert (ended.returncode, ended.stderr) == (0, b"")

    def test_files_are_read_and_written_too(self, daemon: Daemon, url: str, room: str, tmp_path: Path) -> None:
        (tmp_path / "in").write_text('{"message": "from a file"}\n')
        with (tmp_path / "in").open() as given, (tmp_path / "out").open("w") as out:
            ended = subprocess.run([*CLIENT, url, room, "--json"], stdin=given, stdout=out, timeout=60)
        assert ended.returncode == 0
        kinds = [json.loads(line)["type"] for line in (tmp_path / "out").read_text().splitlines()]
        assert "ack" in kinds
        assert texts(daemon, room) == ["from a file"]


class TestListening:
    """``--follow``."""

    @contextlib.contextmanager
    def listener(self, *arguments: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        with subprocess.Popen([*CLIENT, *arguments, "--follow"], stdin=subprocess.DEVNULL, text=True, **options) as one:
            try:
                yield one
            finally:
                one.kill()

    def test_what_others_say_is_a_line_each_with_escapes_for_what_would_act_on_a_terminal(
        self, url: str, room: str
    ) -> None:
        evil = "a\n00:00:00 admin: forged\r\x1b[2J\x1b]0;title\x07\u202edcba\u2028\x9b1m\x7f"
        assert run(url, room, "--name", "eve", "--json", given=json.dumps({"message": evil}).encode())[0] == 0
        with self.listener(url, room, "--last", "5") as listener:
            assert listener.stdout is not None
            line = listener.stdout.readline()
        assert line[9:] == (r"eve: a\n00:00:00 admin: forged\r\x1b[2J\x1b]0;title\x07\u202edcba\u2028\x9b1m\x7f" + "\n")

    def test_json_has_every_character_in_ascii(self, url: str, room: str) -> None:
        text = "\x1b[2J\n\u202e\U0001f642\x9b"
        assert run(url, room, "--name", "eve", "--json", given=json.dumps({"message": text}).encode())[0] == 0
        with self.listener(url, room, "--last", "5", "--json") as listener:
            assert listener.stdout is not None
            line = listener.stdout.readline()
        assert line.isascii()
        message = json.loads(line)
        assert (message["type"], message["message"], message["username"]) == ("message", text, "eve")
        assert (message["seq"], message["messageType"]) == (1, "TEXT")

    @pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
    def test_a_signal_ends_it_at_once_without_a_traceback(
        self, daemon: Daemon, url: str, room: str, number: signal.Signals, status: int
    ) -> None:
        before = daemon.counter("chatflow_connections")
        with self.listener(url, room) as listener:
            eventually(lambda: daemon.counter("chatflow_connections") > before, "it is connected")
            listener.send_signal(number)
            out, err = listener.communicate(timeout=20)
            assert (listener.returncode, out, err) == (status, "", "")
        eventually(lambda: daemon.counter("chatflow_connections") == before, "the server has noticed")

    def test_when_who_reads_the_output_ends_it_ends_too(self, url: str, room: str) -> None:
        assert run(url, room, "--name", "bob", given=b"line\n" * 300)[0] == 0
        reading, writing = os.pipe()
        with self.listener(url, room, "--last", "300", stdout=writing) as listener:
            os.close(writing)
            assert os.read(reading, 10)
            os.close(reading)
            run(url, room, "--name", "bob", given=b"more\n")
            assert listener.wait(20) == 141
            assert listener.stderr is not None
            assert listener.stderr.read() == ""


class TestJson:
    def test_each_line_in_has_its_ack_or_error_with_its_number(self, daemon: Daemon, url: str, room: str) -> None:
        given = b'{"message": "one"}\nnonsense\n\n{"message": "in", "messageType": "JOIN"}\n[1]\n{"message": ""}\n'
        given += b'{"message": "x", "messageType": 7}\n{"message": "\\ud800"}\n'
        status, out, err = run(url, room, "--name", "bob", "--json", given=given)
        assert status == 1
        answers = [json.loads(line) for line in out.splitlines()]
        acks = [answer["line"] for answer in answers if answer["type"] == "ack"]
        errors = {answer["line"]: answer["code"] for answer in answers if answer["type"] == "error"}
        assert sorted(acks) == [1, 4]
        assert set(errors) == {2, 5, 6, 7, 8}
        assert err.count("was not sent") == 5
        ids = daemon.sql(f"SELECT message_id::text FROM messages WHERE room_id = {room} ORDER BY seq")
        assert [answer["messageId"] for answer in answers if answer["type"] == "ack"] == [one for (one,) in ids]


class TestAtATerminal:
    def test_what_is_typed_is_sent_and_what_comes_is_seen_until_ctrl_d(
        self, daemon: Daemon, url: str, room: str
    ) -> None:
        ours, theirs = pty.openpty()
        seen = b""

        def shows(text: bytes) -> bool:
            nonlocal seen
            with contextlib.suppress(BlockingIOError, OSError):
                seen += os.read(ours, 65536)
            return text in seen

        os.set_blocking(ours, False)
        command = [*CLIENT, url, room, "--name", "bob"]
        with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True) as client:
            try:
                eventually(lambda: shows(b"* open"), "it says that it is connected")
                os.write(ours, b"hello\n")
                eventually(lambda: shows(b"bob: hello"), "it shows what was said")
                assert os.get_blocking(theirs) is False
                os.write(ours, b"\x04")
                assert client.wait(20) == 0
            finally:
                client.kill()
        assert os.get_blocking(theirs) is True, "the shell gets the terminal back as it was"
        os.close(ours)
        os.close(theirs)


class TestCommandLine:
    @pytest.mark.parametrize(
        "arguments",
        [
            ["ws://h"],
            ["h:8080", "1"],
            ["ws://", "1"],
            ["ws://h:x", "1"],
            ["ws://ann:hunter2@h", "1"],
            ["ws://h", "one"],
            ["ws://h", "-1"],
            ["ws://h", "1", "--name", "b"],
            ["ws://h", "1", "--name", "bo b"],
            ["ws://h", "1", "--name", ""],
            ["ws://h", "1", "--name", "b\x1b[2J"],
            ["ws://h", "1", "--user-id", "0"],
            ["ws://h", "1", "--user-id", "100001"],
            ["ws://h", "1", "--last", "1001"],
            ["ws://h", "1", "--timeout-seconds", "nan"],
            ["ws://h", "1", "--token", "hunter2"],
            ["ws://h", "1", "--tokenfile=hunter2"],
        ],
    )
    def test_a_wrong_one_is_status_2_and_told(self, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as caught:
            parse(arguments)
        assert caught.value.code == 2
        out, err = capsys.readouterr()
        assert (out, "\x1b" in err, "hunter2" in err) == ("", False, False)
        assert "chatflow-client: error: " in err

    @pytest.mark.parametrize(
        ("given", "url"),
        [
            ("ws://h:1", "ws://h:1"),
            ("ws://h:1/", "ws://h:1"),
            ("ws://h:1/chat/", "ws://h:1"),
            ("http://h", "ws://h"),
            ("https://h/a/chat", "wss://h/a"),
            ("wss://[::1]:8080", "wss://[::1]:8080"),
        ],
    )
    def test_the_server_may_be_named_as_people_do(self, given: str, url: str) -> None:
        assert parse([given, "1"]).url == url


class TestLines:
    def test_lines_are_the_same_however_the_bytes_come(self) -> None:
        data = b"a\r\n\nb" + b"x" * (MAX_LINE_BYTES + 1) + b"\nc\rd\n\r\ne"
        whole = LineSplitter()
        expected = [*whole.feed(data), *whole.end()]
        assert expected == [(1, b"a"), (2, b""), (3, None), (4, b"c\rd"), (5, b""), (6, b"e")]
        for size in (7, 4096):
            splitter = LineSplitter()
            pieces = [data[begin : begin + size] for begin in range(0, len(data), size)]
            found = [line for piece in pieces for line in splitter.feed(piece)]
            assert found + list(splitter.end()) == expected

    @pytest.mark.parametrize("line", [None, b"\xff", b"caf\xe9", "\ud800".encode(errors="surrogatepass")])
    def test_what_is_no_text_is_refused(self, line: bytes | None) -> None:
        with pytest.raises(BadLine):
            understand(line, as_json=False)

    def test_text_stays_as_it_is_and_blank_lines_are_nothing(self) -> None:
        assert understand(b" a ", as_json=False) == Draft(" a ")
        assert understand(b'{"message": "a"}', as_json=False) == Draft('{"message": "a"}')
        for blank in (b"", b" ", b"\t\r"):
            assert understand(blank, as_json=False) is None
