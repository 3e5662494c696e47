"""``scripts/deploy roll --local`` on a cluster that is a process of its own, as people have it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from attrs import frozen

from testbed.daemon import clean_environment
from testbed.haproxy import HOW_TO_INSTALL, find_haproxy
from testbed.load_client import LoadClient
from testbed.waiting import eventually

pytestmark = pytest.mark.skipif(not find_haproxy() and "CI" not in os.environ, reason=HOW_TO_INSTALL)

_CHECKOUT = Path(__file__).parents[2]
_ROLL_SECONDS = 180.0
_NEWCOMERS_MESSAGES = 80  # some seconds, so that several come while one instance after the other is replaced
_NAMES = ["node-1", "node-2", "node-3"]
# A stop waits for a long poll that has just begun.
_OPTIONS = ("--instances", "3", "--rooms", "2", "--port", "0", "--", "--long-poll-seconds", "1")


@frozen
class Running:
    """A cluster, and what it said of itself."""

    url: str
    database_url: str
    environment: dict[str, str]

    def deploy(self, *words: object) -> subprocess.Popen[str]:
        """``scripts/deploy``, which begins to work; its output goes to a pipe."""
        return subprocess.Popen(
            [sys.executable, "-m", "scripts.deployment", *map(str, words)],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def told(self, *words: object, status: int = 0) -> str:
        """What ``scripts/deploy`` says on both streams, once it has ended with that status."""
        process = self.deploy(*words)
        said = "".join(process.communicate(timeout=_ROLL_SECONDS))
        assert process.returncode == status, said
        return said

    def instances(self) -> dict[str, dict[str, Any]]:
        """``status --json``, by name; whether or not all is well."""
        process = self.deploy("status", "--local", "--json")
        return {one["name"]: one for one in json.loads(process.communicate(timeout=60)[0])["instances"]}

    def pid(self, name: str) -> int:
        """The process of one, by the id that it is started with."""
        found = subprocess.run(["pgrep", "-f", f"server-id {name} --rooms 2 "], capture_output=True, text=True).stdout
        mine = [
            int(word)
            for word in found.split()
            if f"TMPDIR={self.environment['TMPDIR']}" in Path(f"/proc/{word}/environ").read_text()
        ]
        assert len(mine) == 1, found
        return mine[0]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Running]:
    with tempfile.TemporaryDirectory(prefix="chatflow-") as directory:
        environment = clean_environment() | {"TMPDIR": directory, "PYTHONPATH": str(_CHECKOUT)}
        process = subprocess.Popen(
            [sys.executable, "-m", "testbed.run_cluster", *_OPTIONS],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            assert process.stdout is not None
            said = ""
            while "load it:" not in said:
                line = process.stdout.readline()
                assert line, f"it ended: {said}"
                said += line
            chat = re.search(r"--url (\S+)", said)
            database = re.search(r"^database: +(\S+)", said, re.MULTILINE)
            assert chat is not None
            assert database is not None
            yield Running(chat[1], database[1], environment)
        finally:
            process.terminate()
            process.communicate()
        assert list(Path(directory).iterdir()) == [], "nothing is left behind"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This checkout as version 9.9.9."""
    source = tmp_path_factory.mktemp("source")
    for name in ("setup.py", "pyproject.toml", "README.rst"):
        shutil.copy(_CHECKOUT / name, source)
    text = (_CHECKOUT / "setup.cfg").read_text()
    (source / "setup.cfg").write_text(re.sub(r"^version = .*$", "version = 9.9.9", text, flags=re.MULTILINE))
    for name in ("chatflow", "twisted", "sql"):
        shutil.copytree(_CHECKOUT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "*.cache"))
    target = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet", "--no-deps"]
    subprocess.run([*pip, "--no-build-isolation", "--wheel-dir", str(target), str(source)], check=True)
    (made,) = target.iterdir()
    return made


def _load(cluster: Running, messages: int, *, endless: bool = False) -> LoadClient:
    size = ("--connections", 20, "--messages", messages, "--rate", 10, "--warmup-messages", 0, "--rooms", 2)
    away = ("--reconnect", 86_400, "--timeout-seconds", 60)
    return LoadClient(*size, *away, urls=[cluster.url], database_url=cluster.database_url, endless=endless)


def _newcomers(over: threading.Event, cluster: Running) -> list[dict[str, Any]]:
    """The reports of short runs, one after the other."""
    reports = []
    while not over.is_set():
        with _load(cluster, _NEWCOMERS_MESSAGES) as client:
            reports.append(client.report(120))
    return reports


def test_under_load_no_client_is_refused_and_each_is_back_within_5_seconds(cluster: Running, wheel: Path) -> None:
    """Neither who is there all the time, and has to return, nor who is new, and has to be taken."""
    before = {name: cluster.pid(name) for name in _NAMES}
    over = threading.Event()
    with ThreadPoolExecutor(1) as pool, _load(cluster, 1_000_000, endless=True) as staying:
        newcomers = pool.submit(_newcomers, over, cluster)
        try:
            eventually(lambda: staying.is_heard, "all who stay came", 60)
            # Killed in the middle: what it had begun goes on.
            roll = cluster.deploy("roll", "--local", "--wheel", wheel)
            assert roll.stdout is not None
            for line in roll.stdout:
                if "node-2" in line and "out of the balancer" in line:
                    break
            roll.kill()
            roll.communicate()
            first = cluster.pid("node-1")
            said = cluster.told("roll", "--local", "--wheel", wheel)
        finally:
            over.set()
            staying.finish()
        stayed = staying.report(120)
        came = newcomers.result()
    assert "node-1" not in said, "it does not begin again"
    assert all(report["acked"] == _NEWCOMERS_MESSAGES for report in came)
    for report in (stayed, *came):
        assert report["verdict"] == "pass", report["causes"]
        assert report["stored"]["checked"] == report["acked"] > 0
        assert report["losses"].keys() <= {"1012"}
        assert report["returns_refused"] == 0
        assert (report["away_ms"]["max"] or 0) < 5000
    assert stayed["reconnects"] >= 20, "each had to return"
    found = cluster.instances()
    assert {one["release"] for one in found.values()} == {"9.9.9#2"}
    assert all(one["state"] == "ready" and one["in_balancer"] for one in found.values())
    assert cluster.pid("node-1") == first
    after = {name: cluster.pid(name) for name in _NAMES}
    assert set(after.values()).isdisjoint(before.values())


def test_a_release_that_does_not_start_stops_it_and_rollback_brings_everybody_back(cluster: Running) -> None:
    before = {name: cluster.pid(name) for name in _NAMES}
    was = cluster.instances()["node-1"]["release"]
    said = cluster.told("roll", "--local", "--", "--max-connections", "0", status=1)
    assert "deploy: node-1 does not become ready: it ended with status 1:" in said
    assert "max-connections" in said.partition("deploy:")[2]
    assert "node-1 is sent no clients; node-2, node-3 not touched" in said
    assert {name: cluster.pid(name) for name in _NAMES[1:]} == {name: before[name] for name in _NAMES[1:]}

    status = cluster.told("status", "--local", status=1)
    assert "2 of 3 serve clients\n" in status
    os.kill(before["node-3"], signal.SIGKILL)
    said = cluster.told("roll", "--local", "--rollback")
    assert [line.split()[0] for line in said.splitlines() if " ready with " in line] == ["node-1", "node-3"]
    assert cluster.pid("node-2") == before["node-2"]
    assert {one["release"] for one in cluster.instances().values()} == {was}
    assert "3 of 3 serve clients, as they should" in cluster.told("status", "--local")


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("roll", "--local", "1"), "deploy: no cluster runs on this machine on port 1\n"),
        (("roll", "--local", "--wheel", "/none.whl"), "deploy: --wheel /none.whl: there is no such file\n"),
        (("roll", "--local", "--wheel", "setup.cfg"), "setup.cfg cannot be installed: "),
    ],
)
def test_what_cannot_be_rolled_is_told_in_a_line_with_the_remedy(
    cluster: Running, words: tuple[str, ...], why: str
) -> None:
    said = cluster.told(*words, status=1)
    assert why in said
    assert "Traceback" not in said
    assert {one["current"] for one in cluster.instances().values()} == {True}
