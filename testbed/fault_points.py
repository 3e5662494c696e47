"""``twistd`` with a daemon that can be made to die at a named point of a message's way, and with planted faults.

ChatFlow itself knows nothing of this: what implements one of its contracts is wrapped before the daemon is made. ::

    python -m testbed.fault_points -n chatflow ...

An empty file ``armed.POINT`` in the process's directory, with one of :data:`POINTS`, ends the process with SIGKILL the
next time that it gets there; the file is then called ``reached.POINT``. A file ``planted.DEFECT``, with one of
:data:`PLANTS`, gives it that defect for as long as the file is there. ``TESTBED_NAMESPACE`` in the environment is the
path of a network namespace to live in.
"""

from __future__ import annotations

import inspect
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import wraps
from importlib import import_module
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import deferLater
from zope.interface import Interface

from chatflow.contracts.writer import AreHeld
from testbed.namespaces import enter

# Beginnings of names. That a file is there can be seen without a file descriptor.
ARMED, REACHED, PLANTED = "armed.", "reached.", "planted."

#: Where an instance can be made to die.
POINTS = {
    "after-publish": "the queue has the envelope, no sender is told",
    "before-commit": "in the transaction, the rooms' heads are locked",
    "after-commit": "committed, not announced to anybody",
    "after-fanout": "announced to the other instances, not deleted from the queue",
}

#: Defects that break a promise. Of the first three none shows before something else fails.
PLANTS = {
    "ack-before-publish": "senders are told a second before their messages go to the queue",
    "delete-before-commit": "what is received is deleted from the queue at once",
    "no-dedupe": "heads do not remember envelopes",
    "leak": "of each publish, 10 KB stay in memory",
}

_IMPLEMENTATIONS = (
    "chatflow.broker.embedded_queue",
    "chatflow.broker.sns",
    "chatflow.broker.sqs",
    "chatflow.persistence.writer",
)
_LATE_SECONDS = 1.0
_LEAKED_BYTES = 10_000

Method = Callable[..., Any]


class _Orders:
    """What is wanted of this process, by files. Asked in any thread, each time that it matters.

    :param directory: where the files are.
    """

    def __init__(self, directory: Path) -> None:
        self._points = {name: (directory / f"{ARMED}{name}", directory / f"{REACHED}{name}") for name in POINTS}
        self._defects = {name: directory / f"{PLANTED}{name}" for name in PLANTS}

    def pass_by(self, point: str) -> None:
        """Die here, if that is wanted."""
        armed, reached = self._points[point]
        if armed.exists():
            armed.rename(reached)
            os.kill(os.getpid(), signal.SIGKILL)

    def is_planted(self, defect: str) -> bool:
        """Whether to have it."""
        return self._defects[defect].exists()


def install(directory: Path) -> None:
    """Wrap what implements the contracts, in this process.

    :param directory: where the files are looked for.
    """
    from chatflow.contracts.fanout import IFanout
    from chatflow.contracts.room_queue import IRoomQueue
    from chatflow.contracts.writer import IBatchWriter

    orders = _Orders(directory)
    _plant(orders)
    _wrap(IRoomQueue, "publish", _after("after-publish", orders))
    _wrap(IBatchWriter, "write", _within_commit(orders))
    _wrap(IBatchWriter, "write", _after("after-commit", orders))
    _wrap(IFanout, "publish", _after("after-fanout", orders))


def _after(point: str, orders: _Orders) -> Callable[[Method], Method]:
    def wrapper(method: Method) -> Method:
        @wraps(method)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            def reached(result: Any) -> Any:
                orders.pass_by(point)
                return result

            return method(*args, **kwargs).addCallback(reached)

        return wrapped

    return wrapper


def _within_commit(orders: _Orders) -> Callable[[Method], Method]:
    """``IBatchWriter.write`` asks whether envelopes are held while it has their rooms' heads locked."""

    def wrapper(method: Method) -> Method:
        @wraps(method)
        def write(self: Any, envelopes: Sequence[Any], are_held: AreHeld) -> Any:
            def asked(last_seqs: Mapping[int, int]) -> bool:
                orders.pass_by("before-commit")
                return are_held(last_seqs)

            return method(self, envelopes, asked)

        return write

    return wrapper


def _plant(orders: _Orders) -> None:
    from chatflow.contracts.room_queue import IRoomQueue
    from chatflow.persistence import commit
    from chatflow.persistence.driver import Cursor

    leaked: list[bytearray] = []

    def publishing(method: Method) -> Method:
        @wraps(method)
        def publish(self: Any, envelope: Any) -> Any:
            if orders.is_planted("leak"):
                leaked.append(bytearray(_LEAKED_BYTES))
            if not orders.is_planted("ack-before-publish"):
                return method(self, envelope)
            from twisted.internet import reactor  # not before twistd has chosen one

            deferLater(reactor, _LATE_SECONDS, method, self, envelope)
            return succeed(())

        return publish

    def receiving(method: Method) -> Method:
        @wraps(method)
        def receive(self: Any, shard: object) -> Deferred[Any]:
            def delete(deliveries: Any) -> Any:
                if not (deliveries and orders.is_planted("delete-before-commit")):
                    return deliveries
                return self.ack(deliveries).addCallback(lambda _: deliveries)

            received: Deferred[Any] = method(self, shard)
            return received.addCallback(delete)

        return receive

    lock_heads = commit._lock_heads

    def locking(cursor: Cursor, rooms: list[int]) -> dict[int, commit._Head]:
        heads = lock_heads(cursor, rooms)
        if orders.is_planted("no-dedupe"):
            # In the table as well, where the function that stores them looks once more.
            cursor.execute("UPDATE rooms SET recent_envelopes = '{}' WHERE room_id = ANY(%s)", (rooms,))
            for head in heads.values():
                head.recent = []
        return heads

    _wrap(IRoomQueue, "publish", publishing)
    _wrap(IRoomQueue, "receive", receiving)
    commit._lock_heads = locking


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
    install(Path.cwd())
    from twisted.scripts.twistd import run

    sys.argv[0] = "twistd"
    run()


if __name__ == "__main__":
    main()
