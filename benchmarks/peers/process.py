"""A process for the client, which imports no more than it needs."""

from __future__ import annotations

import gc
import os
import pickle
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.peers.client import Finding, Plan


def run_apart(work: Callable[[Plan], Finding], plan: Plan) -> Finding:
    """Do the work in a process of its own, with as many files as it may open and without garbage collection.

    :raises subprocess.CalledProcessError: it ended with an error, which it has told on stderr.
    """
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.peers.process"],
        input=pickle.dumps((work, plan)),
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (str(root), os.environ.get("PYTHONPATH"))))},
        check=True,
    )
    finding: Finding = pickle.loads(done.stdout)
    return finding


def _main() -> None:
    gc.disable()
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    work, plan = pickle.load(sys.stdin.buffer)
    sys.stdout.buffer.write(pickle.dumps(work(plan)))


if __name__ == "__main__":
    _main()
