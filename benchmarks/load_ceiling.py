"""What the load client itself can do: against a server that only acknowledges and broadcasts (``null_server.py``).

    python benchmarks/load_ceiling.py [--json PATH] [--repeat 3] [--only mixed|fan-out]

Two workloads: that of the reference's run, 64 connections in 20 rooms with 50 messages in flight each; and a fan-out,
1,000 connections in 10 rooms with one sender each. Client and server have a processor each, if there are two. Besides
the rates it prints what one message and one frame cost the client: on a machine that it shares with the server, that
is what it takes away from it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_TWISTD = Path(sysconfig.get_path("scripts")) / "twistd"
_COMMON = ("--warmup-messages", "20000", "--seed", "5")
_WORKLOADS = {
    "mixed": ("--connections", "64", "--rooms", "20", "--in-flight", "50", "--messages", "400000"),
    "fan-out": (
        *("--connections", "1000", "--rooms", "10", "--even-rooms", "--senders", "10"),
        *("--in-flight", "200", "--messages", "100000"),
    ),
}


@contextmanager
def null_server() -> Iterator[str]:
    """The URL of a null server, which runs until the block is left."""
    script = Path(__file__).with_name("null_server.py")
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            yield f"ws://127.0.0.1:{server.stdout.readline().strip()}/chat"
        finally:
            server.kill()


def measure(workload: str) -> dict[str, Any]:
    """The load client's report of one run.

    :raises RuntimeError: its verdict is not *pass*, so that its figures mean nothing.
    """
    with null_server() as url, tempfile.TemporaryDirectory() as directory:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("CHATFLOW_")}
        subprocess.run(
            [
                *(_TWISTD, "-n", "--pidfile=", "chatflow-load", "--url", url, "--output", directory),
                *(*_COMMON, *_WORKLOADS[workload]),
            ],
            cwd=directory,
            env={**environment, "PYTHONPATH": str(Path(__file__).parent.parent)},
            stdout=subprocess.DEVNULL,
            check=False,
        )
        report: dict[str, Any] = json.loads((Path(directory) / "report.json").read_text())
    if report["verdict"] != "pass":
        raise RuntimeError(f"{workload}: {report['causes']}")
    return report


def figures(report: dict[str, Any]) -> dict[str, float]:
    """Rates in 1/s, costs in µs of processor time, busy as a share of a processor."""
    main = report["phases"][-1]
    busy = sum(report["client"]["busy"])
    cpu_us = busy * main["seconds"] * 1e6
    frames = main["acked"] + main["delivered"]
    return {
        "messages_per_second": main["acked_per_second"],
        "frames_per_second": round(frames / main["seconds"], 1),
        "busy": busy,
        "us_per_message": round(cpu_us / main["acked"], 3),
        "us_per_frame": round(cpu_us / frames, 4),
    }


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="PATH", help="keep the reports of all runs in this file")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--only", choices=list(_WORKLOADS))
    arguments = parser.parse_args()
    kept: dict[str, list[dict[str, Any]]] = {}
    for workload in [arguments.only] if arguments.only else _WORKLOADS:
        for _ in range(arguments.repeat):
            report = measure(workload)
            found = figures(report)
            kept.setdefault(workload, []).append({"figures": found, "report": report})
            print(
                f"{workload:>8}: {found['messages_per_second']:>9,.0f} messages/s, "
                f"{found['frames_per_second']:>11,.0f} frames/s, client {found['busy']:.0%} busy: "
                f"{found['us_per_message']:.2f} µs/message, {found['us_per_frame']:.3f} µs/frame",
                flush=True,
            )
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
