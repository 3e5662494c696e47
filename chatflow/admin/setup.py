"""``setup`` and ``teardown``: the queues and the topic of a prefix."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from chatflow.admin.settings import add_settings, read_settings
from chatflow.errors import ChatFlowError
from chatflow.lifecycle.blocking import at_once
from chatflow.text import visible

_SETUP = """\
Makes what `--broker sqs` needs in AWS: an SQS FIFO queue for each room (or --room-queues of them), one for
dead letters, and an SNS FIFO topic, all tagged project=chatflow and prefix=PREFIX.

What exists is left as it is, but for attributes and tags that differ: these are set. So run it again after
an upgrade, or for more rooms. Endpoint, region and credentials are those of the AWS tools (AWS_ENDPOINT_URL,
AWS_REGION, AWS_PROFILE, roles).
"""

_TEARDOWN = """\
Removes what `setup` made with the same settings, and fan-out queues and subscriptions of the prefix that
instances have left behind. Stop the instances first: room queues may hold messages that were acknowledged
and are not stored yet. Without --yes it only says what it would remove.

AWS lets a queue of the same name be made again after a minute.
"""


def add_to(add_command: Callable[..., argparse.ArgumentParser]) -> None:
    """Register the commands; see :func:`chatflow.admin.make_parser`."""
    setup = add_command("setup", help="make the queues and the topic in AWS", description=_SETUP)
    add_settings(setup, "queue-prefix", "rooms", "room-queues")
    setup.set_defaults(run=_setup)
    teardown = add_command("teardown", help="remove the queues and the topic from AWS", description=_TEARDOWN)
    teardown.add_argument("--yes", action="store_true", help="remove them, with all messages in them")
    add_settings(teardown, "queue-prefix", "rooms", "room-queues")
    teardown.set_defaults(run=_teardown)


def _setup(arguments: argparse.Namespace) -> None:
    from chatflow.broker import setup
    from chatflow.broker.calls import blocking_calls

    names = read_settings(arguments).names
    at_once(setup.set_up(blocking_calls(), names, _say))


def _teardown(arguments: argparse.Namespace) -> None:
    from chatflow.broker import setup
    from chatflow.broker.calls import blocking_calls

    names = read_settings(arguments).names
    calls = blocking_calls()
    found = at_once(setup.find(calls, names))
    if not (found.queues or found.topic_arn):
        _say(f"there is nothing of {names.prefix}")
    elif arguments.yes:
        at_once(setup.tear_down(calls, found, _say))
    else:
        for line in found.lines():
            _say(line)
        raise ChatFlowError("nothing was removed: --yes is needed for that")
    for line in found.lines_about_others():
        _say(line)


def _say(line: str) -> None:
    print(visible(line), flush=True)
