"""``reap``: what dead instances have left behind."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from chatflow.admin.settings import add_settings, read_settings
from chatflow.lifecycle.blocking import at_once
from chatflow.persistence.membership import open_membership
from chatflow.text import visible

_REAP = """\
Removes the fan-out queues and subscriptions of instances that have not been heard of for
--reap-after-seconds, and subscriptions whose queues are gone. The running instances do the same by
themselves, every half minute; this is for when none runs, or to look at it (--dry-run).

An instance that is wrongly taken for dead, because the database was away for so long, makes itself a new
queue at its next heartbeat.
"""


def add_to(add_command: Callable[..., argparse.ArgumentParser]) -> None:
    """Register the command; see :func:`chatflow.admin.make_parser`."""
    reap = add_command("reap", help="remove what dead instances left in AWS", description=_REAP)
    reap.add_argument("--dry-run", action="store_true", help="only say what would be removed")
    add_settings(reap, "queue-prefix", "database", "data-dir", "reap-after-seconds")
    reap.set_defaults(run=_reap)


def _reap(arguments: argparse.Namespace) -> None:
    from chatflow.broker.calls import blocking_calls
    from chatflow.broker.reaping import find_leftovers, remove_leftovers

    settings = read_settings(arguments)
    calls = blocking_calls()
    with open_membership(settings.database_url()) as table:
        look = table.dead if arguments.dry_run else table.claim_dead
        dead = at_once(look(settings.reap_after_seconds))
        found = at_once(find_leftovers(calls, settings.names, table, dead))
        if not arguments.dry_run:
            at_once(remove_leftovers(calls, table, found))
    verb = "would remove" if arguments.dry_run else "removed"
    for instance in found.dead:
        gone = "" if instance.fanout_queue in found.queue_urls else ", whose queue is gone already"
        print(f"{verb} instance {visible(instance.server_id)} (queue {visible(instance.fanout_queue)}{gone})")
    for subscription in found.subscriptions:
        print(f"{verb} the subscription of {visible(subscription.queue)}")
    if not (found.dead or found.subscriptions):
        print("nothing was left behind")
