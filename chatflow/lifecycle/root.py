"""The root service of a daemon, with what its options and the service manager ask of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from chatflow.lifecycle.grace import Grace
from chatflow.lifecycle.manager import ServiceManager
from chatflow.lifecycle.process import RootService
from chatflow.lifecycle.reload import Apply, Reloads
from chatflow.lifecycle.supervision import Supervision
from chatflow.logs import log_for
from chatflow.options import CommandLine


def make_root_service(
    reactor: Any,
    options: CommandLine,
    describe: Callable[[], str],
    grace: Grace | None = None,
    changes: Mapping[str, Apply] | None = None,
) -> RootService:
    """With a log of its own, unless twistd was given one; a reload where there is a file to read again.

    :param options: their ``config`` has ``log_settings`` and ``drain_seconds``.
    :param describe: what is going on, in a line for the operator.
    :param changes: what puts a new value of an option in force, by the option's name; beside the log's own.
    :param grace: see :class:`.RootService`.
    """
    log = log_for(options.config.log_settings, options.parent)
    reloads = Reloads(options.table, options.settings, options.read_again)
    for name, change in (changes or {}).items():
        reloads.add(name, change)
    if log is not None:
        reloads.add("log-level", log.set_level)
    return RootService(
        reactor,
        deadline_seconds=options.config.drain_seconds,
        supervision=Supervision(reactor, ServiceManager.from_environment(os.environ), describe),
        log=log,
        grace=grace,
        reloads=reloads if options.settings["config"].value else None,
    )
