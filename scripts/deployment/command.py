"""The command line of ``scripts/deploy``, its manual, and its exit statuses."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from botocore.exceptions import BotoCoreError, ClientError
from rich.console import Console

from scripts.deployment import aws, manual
from scripts.deployment.errors import Stopped
from scripts.deployment.local import LocalFleet
from scripts.deployment.progress import Progress
from scripts.deployment.roll import Patience, Roll
from scripts.deployment.session import explain
from scripts.deployment.status import as_lines, as_values, healthy

_ANY_CLUSTER = -1
_LOCAL_POLL_SECONDS = 0.1
_LOCAL_PATIENCE = Patience(ready=60.0, stop=90.0, lag=60.0, max_lag=5.0)


def main(words: Sequence[str]) -> int:
    """Do what the command line says.

    :return: the exit status.
    """
    arguments = _parse(words)
    progress = Progress(Console(), time.monotonic)
    try:
        status: int = arguments.run(arguments, progress)
    except Stopped as stopped:
        return _tell(stopped)
    except (BotoCoreError, ClientError) as error:
        return _tell(explain(error))
    except KeyboardInterrupt:
        print(
            "deploy: interrupted; what is under way goes on. Repeat the command: it goes on from there", file=sys.stderr
        )
        return 130
    except BrokenPipeError:  # `deploy plan | head`
        sys.stderr.close()
        return 1
    return status


def _tell(stopped: Stopped) -> int:
    print(f"deploy: {stopped}", file=sys.stderr)
    for line in stopped.remedy:
        print(f"        {line}", file=sys.stderr)
    return 1


def _parse(words: Sequence[str]) -> argparse.Namespace:
    options: list[str] | None = None
    if "--" in words:
        at = list(words).index("--")
        words, options = words[:at], list(words[at + 1 :])
    parser = argparse.ArgumentParser(
        prog="scripts/deploy",
        description=manual.DESCRIPTION,
        epilog=manual.EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(name: str, run: Callable[[argparse.Namespace, Progress], int]) -> argparse.ArgumentParser:
        short, long = manual.COMMANDS[name]
        formatter = argparse.RawDescriptionHelpFormatter
        added = commands.add_parser(
            name, help=short, description=f"{short[0].upper()}{short[1:]}.\n\n{long}", formatter_class=formatter
        )
        added.set_defaults(run=run)
        aws.add_place(added)
        return added

    aws.add_shape(command("plan", aws.plan))
    up = command("up", aws.up)
    aws.add_shape(up)
    up.add_argument("--replace-data", action="store_true", help=manual.REPLACE_DATA)
    roll = command("roll", _roll)
    status = command("status", _status)
    down = command("down", aws.down)
    for each in (roll, status):
        each.add_argument(
            "--local",
            nargs="?",
            type=int,
            const=_ANY_CLUSTER,
            metavar="PORT",
            help="the cluster of scripts/cluster on this machine; of several, the one whose HAProxy has this port",
        )
    which = roll.add_mutually_exclusive_group()
    which.add_argument("--wheel", type=Path, metavar="FILE", help="with --local: this wheel instead of the checkout")
    which.add_argument("--release", metavar="VERSION", help="on AWS: one that is in the bucket (this checkout's)")
    aws.add_archive(which)
    which.add_argument("--rollback", action="store_true", help="back to the release that ran before")
    roll.add_argument("--max-lag-seconds", type=_seconds, metavar="S", help=manual.MAX_LAG)
    roll.add_argument("--ready-seconds", type=_seconds, metavar="S", help=manual.READY)
    status.add_argument("--json", action="store_true", help="for programs; durations in seconds")
    down.add_argument("--yes", metavar="NAME", help="the stack's name, instead of being asked for it")
    arguments = parser.parse_args(words)
    _check(parser, arguments, options)
    arguments.options = options
    return arguments


def _check(parser: argparse.ArgumentParser, arguments: argparse.Namespace, options: list[str] | None) -> None:
    local = getattr(arguments, "local", None) is not None
    if options is not None and not (local and arguments.run is _roll):
        parser.error("options of the daemons, behind --, are for roll --local; on AWS they belong to the stack")
    if arguments.run is not _roll:
        return
    if arguments.wheel and not local:
        parser.error("--wheel is for --local; on AWS the release is packed from the checkout, or named by --release")
    if (arguments.release or arguments.archive) and local:
        parser.error("--release and --archive are for AWS; with --local say --wheel")
    if arguments.rollback and options is not None:
        parser.error("--rollback brings back the former options, too: leave out those behind --")


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds < 86_400:
        raise argparse.ArgumentTypeError(f"{text!r}: must be a number of seconds above 0, below a day")
    return seconds


def _roll(arguments: argparse.Namespace, progress: Progress) -> int:
    if arguments.local is None:
        return aws.roll(arguments, progress)
    fleet = _local(arguments)
    if arguments.rollback:
        fleet.roll_back()
    else:
        fleet.set_release(arguments.wheel, arguments.options)
    patience = Patience(
        ready=arguments.ready_seconds or _LOCAL_PATIENCE.ready,
        stop=_LOCAL_PATIENCE.stop,
        lag=_LOCAL_PATIENCE.lag,
        max_lag=arguments.max_lag_seconds or _LOCAL_PATIENCE.max_lag,
    )
    progress.say(f"Rolling {len(fleet.instances())} instances to {fleet.release}")
    again = f"scripts/deploy roll --local {fleet.port}"
    roll = Roll(fleet, patience, progress, time.monotonic, time.sleep, _LOCAL_POLL_SECONDS, again)
    return roll.run_and_tell()


def _status(arguments: argparse.Namespace, progress: Progress) -> int:
    if arguments.local is None:
        return aws.status(arguments, progress)
    fleet = _local(arguments)
    instances = fleet.instances()
    if arguments.json:
        print(json.dumps({"release": fleet.release, "instances": as_values(instances)}, indent=2))
    else:
        progress.say(f"The cluster on port {fleet.port} is to run {fleet.release}")
        for line in as_lines(instances):
            progress.say(line)
    return 0 if healthy(instances) else 1


def _local(arguments: argparse.Namespace) -> LocalFleet:
    return LocalFleet(None if arguments.local == _ANY_CLUSTER else arguments.local)
