"""The client of ``benchmarks peers`` counts right wherever a stream is cut, and notices what is lost or doubled."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from benchmarks import null_server
from benchmarks.peers import servers
from benchmarks.peers.client import Finding, Plan, talk
from benchmarks.peers.command import tables
from benchmarks.peers.programs import Absent, find_node_module, find_program
from benchmarks.peers.wires import CHATFLOW, MARK, WIRES, Wire
from benchmarks.usage import cpu_seconds
from testbed.waiting import eventually

Answer = Callable[[int, bytes], list[bytes]]


def answers(number: int, message: bytes) -> list[bytes]:
    """What a server that loses nothing sends for the message of that number."""
    ack = b'{"status":"SUCCESS","messageId":"1","originalMessage":%s}' % message
    return [null_server.frame(ack), null_server.frame(b'{"roomId":"1","seq":%d,"message":"%s"}' % (number, MARK))]


@contextmanager
def server_of_one(answer: Answer, cut_bytes: int = 1 << 16) -> Iterator[int]:
    """The port of a server for one connection that answers each message by ``answer``, in pieces of ``cut_bytes``.

    An :class:`EOFError` of it closes the connection.
    """
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve_in_thread() -> None:
            connection, _ = listening.accept()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with suppress(ConnectionError), connection, connection.makefile("rb") as received:
                while received.readline() != b"\r\n":
                    pass
                connection.sendall(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
                number = 0
                while head := received.read(4):
                    assert head[:2] == b"\x81\xfe"
                    mask = received.read(4)
                    message = null_server.unmask(mask, received.read(int.from_bytes(head[2:], "big")))
                    number += 1
                    try:
                        data = b"".join(answer(number, message))
                    except EOFError:
                        return
                    for at in range(0, len(data), cut_bytes):
                        connection.sendall(data[at : at + cut_bytes])

        thread = threading.Thread(target=serve_in_thread, daemon=True)
        thread.start()
        yield listening.getsockname()[1]
        thread.join(20)
        assert not thread.is_alive()


def plan(port: int, **options: float) -> Plan:
    usual = {"connections": 1, "rooms": 1, "seconds": 0.1, "warmup_seconds": 0.0, "patience_seconds": 20.0, **options}
    return Plan("chatflow", port, (("server", os.getpid()),), **usual)  # type: ignore[arg-type]


@pytest.mark.parametrize("cut_bytes", [1, 7, 11, 13, 17, 1 << 16])
@pytest.mark.parametrize("pace", [{"window": 3}, {"rate": 100.0}, {}], ids=["flood", "rate", "one by one"])
def test_each_message_is_counted_wherever_the_stream_is_cut(pace: dict[str, float], cut_bytes: int) -> None:
    with server_of_one(answers, cut_bytes) as port:
        finding = talk(plan(port, **pace))
    assert not finding.faults
    assert finding.figures["messages"] == finding.sent > 0
    assert set(finding.cpu_seconds) == {"server"}
    if "window" not in pace:
        assert 0 < finding.figures["ack_p50_ms"] <= finding.figures["ack_p99_ms"]


FAULTY: dict[str, tuple[Answer, str]] = {
    "a lost acknowledgement": (lambda n, m: answers(n, m)[n == 3 :], "acknowledgements came"),
    "a lost delivery": (lambda n, m: answers(n, m)[: 1 + (n != 3)], "messages of its room"),
    "a doubled delivery": (lambda n, m: answers(n, m) + answers(n, m)[1:] * (n == 3), "messages of its room"),
    "a doubled acknowledgement": (lambda n, m: answers(n, m)[:1] * (n == 3) + answers(n, m), "acknowledgements came"),
}


@pytest.mark.parametrize(("answer", "expected"), FAULTY.values(), ids=FAULTY)
def test_what_is_lost_or_doubled_is_a_fault(answer: Answer, expected: str) -> None:
    with server_of_one(answer) as port:
        finding = talk(plan(port, rate=100.0, patience_seconds=0.3))
    assert expected in " ".join(finding.faults)


def test_a_connection_that_is_closed_is_a_fault() -> None:
    def close(number: int, message: bytes) -> list[bytes]:
        raise EOFError

    with server_of_one(close) as port:
        finding = talk(plan(port, rate=100.0))
    (fault,) = finding.faults
    assert fault.startswith("Connection")


def test_a_frame_is_masked_and_holds_the_message() -> None:
    frame = CHATFLOW.message(3, "a", 7)
    length = int.from_bytes(frame[2:4], "big")
    assert frame[:2] == b"\x81\xfe" and len(frame) == 8 + length
    message = null_server.unmask(frame[4:8], frame[8:])
    assert MARK in message and b" 000007" in message


@pytest.mark.parametrize("wire", WIRES.values(), ids=WIRES)
def test_every_wire_tells_acknowledgements_from_deliveries_and_fills_in_its_names(wire: Wire) -> None:
    frame = wire.message(3, "a", 7)
    message = null_server.unmask(frame[4:8], frame[8:])
    assert message.count(MARK) == 1
    assert wire.ack not in message
    for left in (b"{room}", b"{member}", b"{id}", b"{bytes}"):
        assert left not in message
    if message.startswith(b"PUB "):
        line, body, end = message.split(b"\r\n")
        assert len(body) == int(line.split()[-1]) and not end
    if wire.path == "/connection/websocket":
        assert json.loads(message)["publish"]["channel"] == "room:3"


def test_what_is_not_on_this_machine_is_told_with_the_way_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setenv("NODE_PATH", "/nowhere")
    with pytest.raises(Absent, match="no no-such-program on the PATH: apt install it"):
        find_program("no-such-program", "apt install it")
    with pytest.raises(Absent, match="npm install --prefix DIRECTORY no-such-module"):
        find_node_module("no-such-module")


def test_the_table_has_medians_ratios_of_the_same_round_and_what_an_acknowledgement_means() -> None:
    def runs(*rates: float) -> list[Finding]:
        return [Finding(figures={"messages_per_second": rate}, cpu_seconds={"one": 1.0}) for rate in rates]

    lines = list(
        tables({"A": {"first": runs(100, 200, 400), "other": runs(300, 400, 800)}}, {"first": "x", "other": "y"})
    )
    assert "messages/s" in lines[1] and "acknowledged when" in lines[1]
    assert lines[2].split() == ["first", "200", "-", "-", "x"]
    assert lines[3].split() == ["other", "400", "x2.00", "-", "-", "y"]


def test_processor_time_counts_children_once_each_with_the_part_that_is_named_first() -> None:
    work = "import time\nwhile time.process_time() < 0.5: pass\ninput()"
    roots = (("this", os.getpid()),)
    before = cpu_seconds(roots)["this"]
    with subprocess.Popen([sys.executable, "-c", work], stdin=subprocess.PIPE) as child:
        apart = (("child", child.pid), *roots)
        eventually(lambda: cpu_seconds(apart)["child"] >= 0.3, "its time is counted apart")
        own = cpu_seconds(apart)["this"]
        assert cpu_seconds(roots)["this"] >= own + 0.3
        child.communicate(b"\n")
    assert cpu_seconds(roots)["this"] >= max(own, before) + 0.3, "it has ended, and still counts"


def test_checkouts_are_named_after_their_directory_and_commit_and_have_options_of_their_own(tmp_path: Path) -> None:
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/twistd").touch()
    here = servers.HERE
    found = servers.checkouts(f"{here},{tmp_path},{here} --max-linger-ms 5", ["--rooms", "30"])
    first, second, third = found
    assert third == f"{first} --max-linger-ms 5"
    assert second == f"{tmp_path.name}@unknown"
    assert found[second] == (tmp_path, ["--rooms", "30"])
    assert found[third] == (here, ["--rooms", "30", "--max-linger-ms", "5"])
    assert len(servers.checkouts(f"{here},{here}", [])) == 2
    with pytest.raises(ValueError, match=r"no .venv/bin/twistd in .*/nowhere"):
        servers.checkouts(f"{tmp_path}/nowhere", [])
