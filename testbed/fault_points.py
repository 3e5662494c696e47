"""``twistd`` with a daemon that can be made to die at a named point of a message's way, and with planted faults.

ChatFlow itself knows nothing of this: what implements one of its contracts is wrapped before the daemon is made. ::

    python -m testbed.fault_points -n chatflow ...

A file ``fault-point`` in the process's directory that holds the name of one of :data:`POINTS` ends the process with
SIGKILL the next time that it gets there; the file is then called ``fault-point.reached``. Variables of the environment:
``TESTBED_PLANT``, one of :data:`PLANTS`, is a defect for laboratories to find; ``TESTBED_NAMESPACE`` is the path of a
network namespace to live in.
"""

from __future__ import annotations

import inspect
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import wraps
from importlib import import_module
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import deferLater
from zope.interface import Interface

from testbed.namespaces import enter

ARMED = "fault-point"
REACHED = "fault-point.reached"

#: Where an instance can be made to die.
POINTS = {
    "after-publish": "the queue has the envelope, no sender is told",
    "before-commit": "in the transaction, the rooms' heads are locked",
    "after-commit": "committed, not announced to anybody",
    "after-fanout": "announced to the other instances, not deleted from the queue",
}

#: Defects that break a promise. None shows before something else fails.
PLANTS = {
    "ack-before-publish": "senders are told a second before their messages go to the queue",
    "delete-before-commit": "what is received is deleted from the queue at once",
    "no-dedupe": "heads do not remember envelopes",
}

_IMPLEMENTATIONS = (
    "chatflow.broker.embedded_queue",
    "chatflow.broker.sns",
    "chatflow.broker.sqs",
    "chatflow.persistence.writer",
)
_LATE_SECONDS = 1.0

Method = Callable[..., Any]


class _Points:
    """Looked at each time that one is passed."""

    def __init__(self, directory: Path) -> None:
        self._armed = directory / ARMED
        self._reached = directory / REACHED

    def pass_by(self, point: str) -> None:
        """Die here, if that is wanted. Called in any thread."""
        try:
            if self._armed.read_text() != point:
                return
            self._armed.rename(self._reached)
        except FileNotFoundError:
            return
        os.kill(os.getpid(), signal.SIGKILL)


def install(directory: Path) -> None:
    """Wrap what implements the contracts, in this process.

    :param directory: where the file is looked for.
    """
    from chatflow.contracts.fanout import IFanout
    from chatflow.contracts.room_queue import IRoomQueue
    from chatflow.contracts.writer import IBatchWriter

    points = _Points(directory)

    def after(point: str) -> Callable[[Method], Method]:
        def wrapper(method: Method) -> Method:
            @wraps(method)
            def wrapped(*args: Any, **kwargs: Any) -> Any:
                def reached(result: Any) -> Any:
                    points.pass_by(point)
                    return result

                return method(*args, **kwargs).addCallback(reached)

            return wrapped

        return wrapper

    def within_commit(method: Method) -> Method:
        """:meth:`IBatchWriter.write` asks whether envelopes are held while it has the heads locked."""

        @wraps(method)
        def wrapped(self: Any, envelopes: Sequence[Any], are_held: Callable[[], bool]) -> Any:
            def asked() -> bool:
                points.pass_by("before-commit")
                return are_held()

            return method(self, envelopes, asked)

        return wrapped

    _wrap(IRoomQueue, "publish", after("after-publish"))
    _wrap(IBatchWriter, "write", within_commit)
    _wrap(IBatchWriter, "write", after("after-commit"))
    _wrap(IFanout, "publish", after("after-fanout"))


def plant(name: str) -> None:
    """Break a promise in this process."""
    from chatflow.contracts.room_queue import IRoomQueue

    def publish_late(method: Method) -> Method:
        def publish(self: Any, envelope: Any) -> Deferred[Any]:
            from twisted.internet import reactor  # not before twistd has chosen one

            deferLater(reactor, _LATE_SECONDS, method, self, envelope)
            return succeed(())

        return publish

    def receive_and_delete(method: Method) -> Method:
        def receive(self: Any, shard: object) -> Deferred[Any]:
            def delete(deliveries: Any) -> Any:
                return self.ack(deliveries).addCallback(lambda _: deliveries) if deliveries else deliveries

            received: Deferred[Any] = method(self, shard)
            return received.addCallback(delete)

        return receive

    match name:
        case "ack-before-publish":
            _wrap(IRoomQueue, "publish", publish_late)
        case "delete-before-commit":
            _wrap(IRoomQueue, "receive", receive_and_delete)
        case "no-dedupe":
            _forget_envelopes()
        case _:
            raise SystemExit(f"TESTBED_PLANT: {name!r} is none of {', '.join(PLANTS)}")


def _forget_envelopes() -> None:
    from chatflow.persistence import commit
    from chatflow.persistence.driver import Cursor

    usual = commit._lock_heads

    def lock_heads(cursor: Cursor, rooms: list[int]) -> dict[int, commit._Head]:
        heads = usual(cursor, rooms)
        for head in heads.values():
            head.recent = []
        return heads

    commit._lock_heads = lock_heads


def _wrap(contract: type[Interface], name: str, wrapper: Callable[[Method], Method]) -> None:
    for implementation in implementations(contract):
        setattr(implementation, name, wrapper(getattr(implementation, name)))


def implementations(contract: type[Interface]) -> Iterator[type]:
    """The classes that say they implement it."""
    for module_name in _IMPLEMENTATIONS:
        module = import_module(module_name)
        for _, one in inspect.getmembers(module, inspect.isclass):
            if one.__module__ == module_name and contract.implementedBy(one):
                yield one


def main() -> None:
    """Become ``twistd``."""
    namespace = os.environ.pop("TESTBED_NAMESPACE", "")
    if namespace:
        enter(Path(namespace))
    planted = os.environ.pop("TESTBED_PLANT", "")
    install(Path.cwd())
    if planted:
        plant(planted)
    from twisted.scripts.twistd import run

    sys.argv[0] = "twistd"
    run()


if __name__ == "__main__":
    main()
