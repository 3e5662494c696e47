"""``scripts/jmeter``: gets JMeter once, runs a plan without a window, and judges it by what the report says.

Needs nothing but Python: it runs outside the virtual environment.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
import zlib
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
import users  # type: ignore[import-not-found]  # noqa: E402  (beside this file, which is no package's)

_PLANS = ("baseline", "stress")
_FETCH_SECONDS = 900

#: JMeter's own answer to a machine without a screen.
_JAVA_OPTIONS = ("-Xms256m", "-Xmx1g", "-Djava.awt.headless=true")

#: Cases of wrong results that are listed.
_MAX_FAILURES = 10


class CannotRun(Exception):
    """One line that says what to do."""


def main() -> int:
    """0 if every sample succeeded, 1 if not, 2 if the plan did not run."""
    arguments = _parse(sys.argv[1:])
    try:
        for program, package in (("java", "default-jre-headless"), ("mvn", "maven")):
            if shutil.which(program) is None and (program == "java" or not _home().exists()):
                raise CannotRun(f"there is no {program} on the PATH (Debian: apt install {package})")
        jmeter = fetched()
        return 0 if arguments.fetch else _run(jmeter, arguments)
    except CannotRun as error:
        print(f"jmeter: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _parse(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/jmeter",
        description="Runs a JMeter plan against a server that is up, and leaves samples, log and an HTML report.",
        epilog="Properties of the plans: -Jhost -Jport -Jusers -Jduration (seconds) -Jramp -Jthink_ms -Jrooms "
        "-Jmessages; see benchmarks/jmeter/README.rst. Exit status: 0 all samples succeeded, 1 some failed, "
        "2 the plan did not run.",
    )
    parser.add_argument("plan", nargs="?", help="baseline, stress, or the path of a .jmx file")
    parser.add_argument(
        "-J", dest="properties", action="append", default=[], metavar="NAME=VALUE", help="a property of the plan"
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIRECTORY",
        help="new or empty; default: jmeter-PLAN-DATE-TIME in the working directory",
    )
    parser.add_argument("--fetch", action="store_true", help="only get JMeter, if it is not there yet")
    arguments = parser.parse_args(words)
    if not arguments.plan and not arguments.fetch:
        parser.error("which plan? baseline, stress, or a path")
    for each in arguments.properties:
        if not re.fullmatch(r"[\w.]+=.*", each):
            parser.error(f"-J{each}: must be -JNAME=VALUE")
    return arguments


# JMeter


def _home() -> Path:
    """Where JMeter is kept, for each version of what is asked for: outside the checkout."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "chatflow" / f"jmeter-{zlib.crc32((HERE / 'pom.xml').read_bytes()):08x}"


def fetched() -> Path:
    """The directory of a runnable JMeter, which the first call puts together.

    :raises CannotRun: it cannot be had.
    """
    home = _home()
    if home.exists():
        return home
    print(f"jmeter: getting JMeter from Maven Central into {home}, once", file=sys.stderr)
    try:
        home.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="jmeter-", dir=home.parent) as temporary:
            made = Path(temporary) / "jmeter"
            _assemble(_download(Path(temporary) / "jars"), made)
            try:
                made.rename(home)
            except OSError:
                if not home.exists():  # another has done the same meanwhile
                    raise
    except OSError as error:
        raise CannotRun(f"JMeter cannot be kept in {home.parent}: {error.strerror or error}") from error
    return home


def _download(jars: Path) -> Path:
    goal = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies"
    command = ["mvn", "-q", "-B", "-ntp", "--strict-checksums", "-f", str(HERE / "pom.xml"), goal]
    try:
        ended = subprocess.run(
            [*command, f"-DoutputDirectory={jars}"], capture_output=True, text=True, timeout=_FETCH_SECONDS
        )
    except subprocess.TimeoutExpired as error:
        raise CannotRun(f"Maven did not come to an end in {_FETCH_SECONDS} s") from error
    if ended.returncode:
        reason = next((line for line in ended.stdout.splitlines() if "ERROR" in line), ended.stderr.strip())
        raise CannotRun(f"Maven could not get it: {reason}")
    return jars


def _assemble(jars: Path, made: Path) -> None:
    """Put everything where JMeter looks for it: what has test elements in it below ``lib/ext``."""
    extensions = made / "lib/ext"
    extensions.mkdir(parents=True)
    for jar in jars.iterdir():
        if jar.name.startswith("ApacheJMeter_config-"):
            with zipfile.ZipFile(jar) as archive:
                archive.extractall(made, [name for name in archive.namelist() if name.startswith("bin/")])
        elif jar.name.startswith("ApacheJMeter-"):
            (made / "bin").mkdir(exist_ok=True)
            jar.rename(made / "bin/ApacheJMeter.jar")
        else:
            is_extension = jar.name.startswith(("ApacheJMeter_", "jmeter-websocket-samplers-"))
            jar.rename((extensions if is_extension else made / "lib") / jar.name)


# A run


def _run(jmeter: Path, arguments: argparse.Namespace) -> int:
    plan = HERE / f"{arguments.plan}.jmx" if arguments.plan in _PLANS else Path(arguments.plan)
    if not plan.is_file():
        raise CannotRun(f"there is no plan {arguments.plan}: baseline, stress, or the path of a .jmx file")
    output = arguments.output or Path(time.strftime(f"jmeter-{plan.stem}-%Y%m%d-%H%M%S"))
    given = dict(each.split("=", 1) for each in arguments.properties)
    try:
        output.mkdir(parents=True, exist_ok=True)
        if any(output.iterdir()):
            raise CannotRun(f"{output} is not empty: JMeter would add to what is there")
        if "users_csv" not in given:
            given["users_csv"] = str((output / "users.csv").resolve())
            with (output / "users.csv").open("w", encoding="ascii") as file:
                file.writelines(users.lines(_count(given.get("users", "1000"))))
        with (output / "stdout.txt").open("w") as stdout:
            status = subprocess.run(
                _command(jmeter, plan, output, given), stdin=subprocess.DEVNULL, stdout=stdout, stderr=stdout
            ).returncode
    except OSError as error:
        raise CannotRun(f"cannot write to {output}: {error.strerror or error}") from error
    statistics = output / "report/statistics.json"
    if status or not statistics.is_file():
        raise CannotRun(f"JMeter ended with status {status} and no report: see stdout.txt and jmeter.log in {output}")
    return _tell(json.loads(statistics.read_text()), output)


def _count(text: str) -> int:
    if not re.fullmatch(r"[1-9][0-9]{0,6}", text):
        raise CannotRun(f"-Jusers={text}: must be a whole number from 1")
    return int(text)


def _command(jmeter: Path, plan: Path, output: Path, given: dict[str, str]) -> list[str]:
    return [
        *("java", *_JAVA_OPTIONS, f"-Djava.util.prefs.userRoot={jmeter}", "-jar", str(jmeter / "bin/ApacheJMeter.jar")),
        *("-n", "-t", str(plan), "-j", str(output / "jmeter.log")),
        *("-l", str(output / "samples.csv"), "-e", "-o", str(output / "report")),
        # A connection that a stopped user leaves is closed, not left to the end of the process.
        "-Jwebsocket.thread.stop.policy=wsClose",
        # Broadcasts that were passed over would be samples of their own.
        "-Jjmeter.save.saveservice.subresults=false",
        # By default in the working directory, where several runs at once would spoil each other's.
        f"-Jjmeter.reportgenerator.temp_dir={output.resolve() / 'temp'}",
        # Nor need they a port to be stopped by.
        "-Jjmeterengine.nongui.port=0",
        *(f"-J{name}={value}" for name, value in given.items()),
    ]


def _tell(statistics: dict[str, dict[str, float]], output: Path) -> int:
    """A table for people. Returns 0 if there were samples, and all succeeded."""
    print(f"{'':<20}{'samples':>10}{'failed':>8}{'per s':>10}{'median ms':>11}{'p95 ms':>9}{'p99 ms':>9}{'max ms':>9}")
    for name in sorted(statistics, key=lambda name: (name == "Total", name)):
        row = statistics[name]
        times = f"{row['medianResTime']:>11,.0f}{row['pct2ResTime']:>9,.0f}{row['pct3ResTime']:>9,.0f}"
        print(
            f"{name:<20}{row['sampleCount']:>10,}{row['errorCount']:>8,}{row['throughput']:>10,.1f}{times}"
            f"{row['maxResTime']:>9,.0f}"
        )
    print(f"report: {output}/report/index.html")
    total = statistics.get("Total", {"sampleCount": 0, "errorCount": 0})
    if total["errorCount"]:
        print("failed:")
        for line in _failures(output / "samples.csv"):
            print(f"  {line}")
    return 0 if total["sampleCount"] and not total["errorCount"] else 1


def _failures(samples: Path) -> list[str]:
    found: dict[str, int] = {}
    with samples.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["success"] != "true":
                reason = f"{row['responseCode']} {row['responseMessage']} {row['failureMessage']}"
                line = f"{row['label']}: {' '.join(reason.split())[:200]}"
                found[line] = found.get(line, 0) + 1
    most = sorted(found.items(), key=lambda each: -each[1])[:_MAX_FAILURES]
    return [f"{count:,} x {line}" for line, count in most]


if __name__ == "__main__":
    sys.exit(main())
