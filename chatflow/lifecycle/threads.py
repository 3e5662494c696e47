"""Threads of one's own: the reactor's few are shared with DNS look-ups and whatever else Twisted does."""

from __future__ import annotations

import functools
from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread
from typing import Any, ParamSpec, TypeVar

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


class QuickThreads:
    """So many threads for calls that are short and many.

    Twisted's pool hands each call over by a team of workers, a lock and a condition in Python, and takes half as long
    again until the result is back. This has a queue in C, and keeps all of its threads. They are daemon threads.
    """

    def __init__(self, reactor: IReactorFromThreads, size: int) -> None:
        self._reactor = reactor
        self._size = size
        self._calls: SimpleQueue[tuple[Deferred[Any], Callable[..., Any], Any, Any] | None] = SimpleQueue()
        self._threads: list[Thread] = []

    def start(self) -> None:
        """Begin with what was called before. Harmless a second time."""
        if not self._threads:
            self._threads = [Thread(target=self._work_in_thread, daemon=True) for _ in range(self._size)]
            for thread in self._threads:
                thread.start()

    def run(self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> Deferred[_T]:
        """Call ``function`` in one of the threads, in the order of the calls to this method.

        Reactor thread. Fires there with what the function returned, and fails with what it raised.
        """
        done: Deferred[_T] = Deferred()
        self._calls.put((done, function, args, kwargs))
        return done

    def stop(self) -> None:
        """Returns when the calls made before are done and the threads are gone. Any thread."""
        threads, self._threads = self._threads, []
        for _ in threads:
            self._calls.put(None)
        for thread in threads:
            thread.join()

    def _work_in_thread(self) -> None:
        while (call := self._calls.get()) is not None:
            done, function, args, kwargs = call
            try:
                self._reactor.callFromThread(done.callback, function(*args, **kwargs))
            except BaseException:
                self._reactor.callFromThread(done.errback, Failure())
            del call, done, function, args, kwargs  # nothing of it is kept while there is nothing to do


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
