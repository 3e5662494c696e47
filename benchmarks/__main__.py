"""``python -m benchmarks`` lists the benchmarks, ``python -m benchmarks NAME`` runs one."""

from __future__ import annotations

import argparse
import signal
import sys
from functools import partial

from benchmarks import (
    archive,
    clock_steps,
    cluster,
    commit_sizes,
    endurance,
    floods,
    micro,
    one_node,
    recovery,
    resume,
    scale,
    slow_clients,
)
from benchmarks.faults import command as faults
from benchmarks.peers import command as peers

_DESCRIPTION = """\
Measures ChatFlow. Each benchmark starts what it needs, on this machine and for itself alone, and takes it down again.
Figures are printed with the goal that they should reach; the raw numbers go to benchmarks/results as JSON.
"""


def main() -> int:
    """Run what the command line names.

    :return: the exit status: 1 if the run proved nothing, because something was lost, doubled or failed.
    """
    parser = argparse.ArgumentParser(prog="scripts/benchmark", description=_DESCRIPTION)
    commands = parser.add_subparsers(title="benchmarks", metavar="NAME")
    add = partial(commands.add_parser, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    for module in (
        micro,
        commit_sizes,
        one_node,
        clock_steps,
        resume,
        archive,
        cluster,
        recovery,
        endurance,
        faults,
        slow_clients,
        floods,
        scale,
        peers,
    ):
        module.add_to(add)
    arguments = parser.parse_args()
    if "run" not in arguments:
        parser.print_help()
        return 0
    # So that everything that was started is ended.
    usual = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        status: int = arguments.run(arguments).tell()
    finally:
        signal.signal(signal.SIGTERM, usual)
    return status


if __name__ == "__main__":
    sys.exit(main())
