"""Prints a template as JSON. ``python -m scripts.aws --help`` says how."""

from __future__ import annotations

import argparse
import json
import sys

from scripts.aws import artefacts, template


def main(arguments: list[str]) -> None:
    """Print what the arguments ask for."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.aws", description="Print a CloudFormation template as JSON."
    )
    parser.add_argument("--rooms", type=int, default=20, help="as of the daemon; default: %(default)s")
    parser.add_argument("--room-queues", type=int, default=0, help="as of the daemon; default: one for each room")
    parser.add_argument("--drain-seconds", type=int, default=60, help="as of the daemon; default: %(default)s")
    parser.add_argument("--artefacts", action="store_true", help="the stack of the artefact bucket instead")
    options = parser.parse_args(arguments)
    try:
        made = (
            artefacts.render()
            if options.artefacts
            else template.render(options.rooms, options.room_queues, options.drain_seconds)
        )
    except ValueError as error:
        parser.error(str(error))
    json.dump(made, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main(sys.argv[1:])
