"""``scripts/jmeter``: the plans, with a real JMeter against a real daemon where Java and Maven are."""

from __future__ import annotations

import csv
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from testbed.daemon import Daemon, running_daemon
from testbed.postgres import fresh_database

_ROOT = Path(__file__).parents[1]
_JMETER = _ROOT / "scripts/jmeter"
_PLANS = _ROOT / "benchmarks/jmeter"
_FETCH_SECONDS = 240
#: A short run is over before the second compiler pays off: half the processor time.
_JAVA = {"JAVA_TOOL_OPTIONS": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"}

_missing = [program for program in ("java", "mvn") if shutil.which(program) is None]
with_java = pytest.mark.skipif(bool(_missing), reason=f"there is no {' and no '.join(_missing)} on the PATH")


def jmeter(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [_JMETER, *map(str, arguments)],
        env={**os.environ, **_JAVA, **environment},
        capture_output=True,
        text=True,
        timeout=_FETCH_SECONDS,
    )


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with fresh_database() as url, running_daemon(database=url) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def fetched() -> None:
    """JMeter is there; without a way to Maven Central the tests that need it are skipped."""
    ended = jmeter("--fetch")
    if ended.returncode:
        pytest.skip(f"JMeter cannot be had: {ended.stderr.strip()[-200:]}")


@pytest.fixture(scope="module")
def runs(
    fetched: None, daemon: Daemon, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, subprocess.CompletedProcess[str]]]:
    """Two runs at once, since a JMeter takes its time to start: a good one, and one with a user that is refused."""
    directory = tmp_path_factory.mktemp("jmeter")
    (directory / "nobody.csv").write_text("userId,username\n0,x\n")
    values = {"port": daemon.port, "users": 5, "duration": 3, "ramp": 1, "think_ms": 100, "messages": 3}
    shared = ["baseline", *(f"-J{name}={value}" for name, value in values.items())]
    arguments = {
        "good": shared,
        "refused": [*shared, f"-Jusers_csv={directory}/nobody.csv", "-Jusers=1", "-Jduration=2"],
    }
    with ThreadPoolExecutor() as threads:
        ended = {
            name: threads.submit(jmeter, *words, "--output", directory / name) for name, words in arguments.items()
        }
        return directory, {name: each.result() for name, each in ended.items()}


@with_java
def test_a_short_baseline_reads_and_writes_without_an_error_and_leaves_its_report(
    runs: tuple[Path, dict[str, subprocess.CompletedProcess[str]]], daemon: Daemon
) -> None:
    output, ended = runs[0] / "good", runs[1]["good"]
    assert ended.returncode == 0, ended.stdout + ended.stderr
    with (output / "samples.csv").open() as file:
        samples = list(csv.DictReader(file))
    names = {sample["label"] for sample in samples}
    assert {"Read core queries", "Read all metrics", "Read history", "Open WebSocket", "Write and read ack"} <= names
    writes = [sample for sample in samples if sample["label"] == "Write and read ack"]
    assert {sample["success"] for sample in samples} == {"true"}
    assert max(int(sample["allThreads"]) for sample in samples) <= 5, "-Jusers has effect"
    first, last = int(samples[0]["timeStamp"]), max(int(sample["timeStamp"]) for sample in samples)
    assert last - first < 6000, "-Jduration has effect"
    stored = daemon.metric("handler", "messagesPublished")
    assert stored >= len(writes) > 0, "what was acknowledged is stored"
    assert "Read history" in ended.stdout
    assert (output / "report/index.html").is_file()


@with_java
def test_a_refused_message_is_a_failed_sample_and_status_1(
    runs: tuple[Path, dict[str, subprocess.CompletedProcess[str]]],
) -> None:
    ended = runs[1]["refused"]
    assert ended.returncode == 1, ended.stdout + ended.stderr
    assert re.search(r"x Write and read ack: .*SUCCESS", ended.stdout)


def test_both_plans_do_the_same_and_differ_only_in_their_numbers() -> None:
    texts = []
    for name in ("baseline", "stress"):
        text = (_PLANS / f"{name}.jmx").read_text()
        text = re.sub(r'testname="ChatFlow \w+"|(?<=TestPlan.comments">)[^<]*users for[^<]*', "", text)
        texts.append(re.sub(r"(__P\((?:users|duration|think_ms)),\d+\)", r"\1)", text))
    assert texts[0] == texts[1]


@pytest.mark.parametrize(
    ("plan", "defaults"),
    [
        ("baseline", {"users": "1000", "duration": "300"}),
        ("stress", {"users": "500", "duration": "1800"}),
    ],
)
def test_every_number_of_a_plan_is_a_property(plan: str, defaults: dict[str, str]) -> None:
    text = (_PLANS / f"{plan}.jmx").read_text()
    found = dict(re.findall(r"\$\{__P\((\w+),([^)]*)\)\}", text))
    assert found | defaults == found
    assert set(found) == {
        *("host", "port", "users", "duration", "ramp", "think_ms", "rooms", "messages", "users_csv"),
    }
    readme = (_PLANS / "README.rst").read_text()
    for name in found:
        assert f"``-J{name}``" in readme


def test_users_are_those_that_the_server_takes() -> None:
    for count in (1, 7, 1000):
        command = [sys.executable, str(_PLANS / "users.py"), str(count)]
        header, *lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
        assert header == "userId,username"
        assert len(set(lines)) == count
        for line in lines:
            user_id, username = line.split(",")
            assert 1 <= int(user_id) <= 100_000
            assert re.fullmatch("[A-Za-z0-9]{3,20}", username)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["nonsense"], "there is no plan nonsense: baseline, stress"),
        (["baseline", "-Jusers=none"], "-Jusers=none: must be a whole number"),
        (["baseline", "-Jusers"], "-Jusers: must be -JNAME=VALUE"),
        ([], "which plan?"),
    ],
)
@with_java
def test_what_cannot_be_run_is_said_with_status_2(
    fetched: None, tmp_path: Path, arguments: list[str], complaint: str
) -> None:
    ended = jmeter(*arguments, "--output", tmp_path / "run")
    assert ended.returncode == 2
    assert complaint in ended.stderr


@pytest.mark.parametrize("lacking", ["java", "mvn"])
def test_what_is_missing_is_named_with_how_to_get_it(tmp_path: Path, lacking: str) -> None:
    for program in ("java", "mvn"):
        if program != lacking:
            (tmp_path / program).symlink_to("/bin/true")
    for program in ("bash", "dirname", "env", "python3", "cat", "cksum"):
        found = shutil.which(program)
        if found:
            (tmp_path / program).symlink_to(found)
    ended = jmeter("baseline", PATH=str(tmp_path), XDG_CACHE_HOME=str(tmp_path / "none"), PYTHON=sys.executable)
    assert ended.returncode == 2
    assert f"there is no {lacking} on the PATH (Debian: apt install" in ended.stderr
