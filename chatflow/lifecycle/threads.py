"""Threads of one's own: the reactor's few are shared with DNS look-ups and whatever else Twisted does."""

from __future__ import annotations

import functools
from collections.abc import Callable
from threading import Thread
from typing import ParamSpec, TypeVar

from twisted.application.service import Service
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IReactorFromThreads
from twisted.internet.threads import deferToThreadPool
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

from chatflow.errors import Unavailable

_P = ParamSpec("_P")
_T = TypeVar("_T")


class NamedThreadPool(Service):
    """At most ``size`` threads, made when needed, named after ``name``; runs while the service does.

    They are daemon threads: one that is blocked for good does not keep the process from exiting.
    """

    def __init__(self, reactor: IReactorFromThreads, name: str, size: int) -> None:
        self.setName(name)
        self._reactor = reactor
        self._size = size

    def startService(self) -> None:
        super().startService()
        self._pool = _DaemonThreadPool(0, self._size, self.name)
        self._pool.start()

    def run(self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> Deferred[_T]:
        """Call ``function`` in one of the threads, in the order of the calls to this method.

        Reactor thread. Fires there with what the function returned, and fails with what it raised; or fails
        at once with :class:`Unavailable` while the service is not running (a ThreadPool would never answer).
        """
        if not self.running:
            return fail(Unavailable(f"the threads of {self.name} are not running"))
        return deferToThreadPool(self._reactor, self._pool, function, *args, **kwargs)

    def stopService(self) -> Deferred[None]:
        """Take no more calls. Fires when those made before are done and the threads are gone."""
        if not self.running:
            return succeed(None)
        super().stopService()
        # ThreadPool.stop joins its threads, which takes as long as they do: not on the reactor's thread.
        return run_in_own_thread(self._reactor, f"stop {self.name}", self._pool.stop)


class _DaemonThreadPool(ThreadPool):
    threadFactory = functools.partial(Thread, daemon=True)  # type: ignore[assignment]


def run_in_own_thread(reactor: IReactorFromThreads, name: str, function: Callable[[], _T]) -> Deferred[_T]:
    """Call ``function`` in a thread made for it, for which neither the reactor's end nor the process's waits.

    (Both wait for calls of ``deferToThread``, however long they take.)

    Reactor thread. Fires there with what the function returned, and fails with what it raised.
    """
    done: Deferred[_T] = Deferred()

    def call_in_thread() -> None:
        try:
            result = function()
        except BaseException:
            reactor.callFromThread(done.errback, Failure())
        else:
            reactor.callFromThread(done.callback, result)

    Thread(target=call_in_thread, name=name, daemon=True).start()
    return done
