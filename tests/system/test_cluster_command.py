"""``scripts/cluster``: it comes up by one command, says where, and leaves nothing behind, however it is ended."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from testbed.client import ChatClient
from testbed.daemon import clean_environment, processes_in
from testbed.http_client import request
from testbed.run_cluster import main

_OPTIONS = ("--instances", "1", "--rooms", "2", "--port", "0", "--faults", "*:delay_ms=1")
_OF_THE_DAEMONS = ("--long-poll-seconds", "1")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_says_where_and_leaves_nothing_behind(number: signal.Signals) -> None:
    with tempfile.TemporaryDirectory(prefix="chatflow-") as directory:
        process = subprocess.Popen(
            [sys.executable, "-m", "testbed.run_cluster", *_OPTIONS, "--", *_OF_THE_DAEMONS],
            cwd=directory,
            env=clean_environment() | {"TMPDIR": directory, "PYTHONPATH": str(Path(__file__).parents[2])},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,  # a process group of its own, as at a terminal
        )
        guard = threading.Timer(90, process.kill)
        guard.start()
        try:
            assert process.stdout is not None
            said = ""
            while "load it:" not in said:
                line = process.stdout.readline()
                assert line, f"it ended: {said}"
                said += line
            ports = [int(port) for port in re.findall(r"^node-\d: +http://127.0.0.1:(\d+)", said, re.MULTILINE)]
            assert len(ports) == 1
            chat = re.search(r"^load it: .* --url (ws://127.0.0.1:\d+/chat)", said, re.MULTILINE)
            assert chat is not None
            with ChatClient(f"{chat[1]}/2") as client:
                client.send("Hello")
                assert client.receive_kind("broadcast")["message"] == "Hello"
            if number == signal.SIGINT:
                os.killpg(process.pid, number)  # Ctrl-C reaches the whole group
            else:
                process.send_signal(number)
            said += process.communicate()[0]
            assert process.returncode == 0, said
            assert "ended with status" not in said
        finally:
            process.terminate()  # it has gone, or has something to take down
            process.wait()
            guard.cancel()
        assert processes_in(Path(directory)) == []
        assert list(Path(directory).iterdir()) == []
    for port in ports:
        with pytest.raises(OSError):
            request(port, "GET", "/health")


def test_a_rule_that_is_none_is_refused_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["scripts/cluster", "--faults", "*:dorp=0.1"])
    with pytest.raises(SystemExit):
        main()
    assert "'dorp'" in capsys.readouterr().err
