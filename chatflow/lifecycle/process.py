"""The service that twistd runs: signals, the exit status, and failures as one line on stderr.

What twistd does by itself (Twisted 24.3 to 26.10, ``twisted/scripts/_twistd_unix.py``,
``application/app.py``):

- It calls ``startService`` after the fork and before the reactor runs. An exception out of it ends the
  process with status 1 and removes the pid file, in the background told to the parent process; but in the
  foreground it prints a traceback. Here, it is one line.
- After SIGTERM and SIGINT it stops the reactor, and then kills itself with the same signal again, so that the
  exit status is never 0. Here, an orderly end after a signal has status 0.
- Between the start and that moment a signal kills at once. Here, it ends the start like any failure.
- It has no way to say that the process failed later, and exits with 0. Here, there is
  :meth:`TopService.fatal`.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import signal
import sys
from collections.abc import Iterator
from threading import Thread
from types import FrameType, TracebackType
from typing import Any, NoReturn

from twisted.internet.defer import Deferred
from twisted.internet.error import ReactorNotRunning
from twisted.logger import Logger

from chatflow.errors import ChatFlowError, StartupError
from chatflow.lifecycle.services import OrderedServices
from chatflow.passwords import without_passwords
from chatflow.text import visible

_log = Logger()
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class TopService(OrderedServices):
    """:class:`OrderedServices` that also rule how the process ends. One per process, given to twistd.

    :param reactor: the real one; see :class:`OrderedServices` for this and ``deadline_seconds``.
    :param program: opens the line on stderr.
    """

    def __init__(self, reactor: Any, *, deadline_seconds: float, program: str = "chatflow") -> None:
        super().__init__(reactor, deadline_seconds=deadline_seconds)
        self._program = program
        self._exit_status = 0
        self._has_started = False
        self._is_ending = False

    def fatal(self, reason: str) -> None:
        """Something that the process needs failed after the start: say so and stop, with status 1.

        Reactor thread. Of several reasons, the first one is printed, and all are logged.

        :param reason: one line for the operator.
        """
        _log.critical("fatal: {reason}", reason=reason)
        if not self._is_ending:
            _print_line(self._program, reason)
        self.end(exit_status=1)

    def end(self, exit_status: int = 0) -> None:
        """Stop the reactor, and so all services in order; exit with the highest status asked for.

        Reactor thread, before or after the reactor runs.
        """
        self._exit_status = max(self._exit_status, exit_status)
        if not self._is_ending:
            self._is_ending = True
            self._reactor.callWhenRunning(self._stop_reactor)

    def privilegedStartService(self) -> None:
        with self._failure_as_one_line():
            super().privilegedStartService()

    def startService(self) -> None:
        # First of all: what is registered later, by libraries, runs before it, and it ends the process.
        atexit.register(self._exit_with_status)
        # Until the reactor runs its threads would not; but when a start fails, something may need one to stop.
        threads = self._reactor.getThreadPool()
        threads.threadFactory = functools.partial(Thread, daemon=True)  # and none may keep the process
        threads.start()
        with self._failure_as_one_line():
            for number in _SIGNALS:
                signal.signal(number, _end_start)
            super().startService()
        self._has_started = True
        for number in _SIGNALS:
            signal.signal(number, self._on_signal)
        # The reactor leaves our SIGINT handler in place, but sets its own for SIGTERM when it begins to run. It must be
        # this one from the first moment on: to replace it afterwards leaves a gap that signals have been seen to hit.
        self._reactor.sigTerm = self._on_signal

    def stopService(self) -> Deferred[None]:
        if not self._has_started:
            _ignore_signals()  # or one would interrupt what undoes a failed start
        return super().stopService()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._reactor.callFromThread(self._end_on_signal, signal.Signals(number).name)

    def _end_on_signal(self, name: str) -> None:
        _log.info("received {signal}, {what}", signal=name, what="is ending" if self._is_ending else "ending")
        self.end()

    def _stop_reactor(self) -> None:
        with contextlib.suppress(ReactorNotRunning):  # someone else has stopped it already
            self._reactor.stop()

    def _exit_with_status(self) -> None:
        """twistd returns normally from a stopped reactor; by now it has removed its pid file."""
        if self._exit_status:
            for stream in (sys.__stdout__, sys.__stderr__):
                with contextlib.suppress(OSError, ValueError, AttributeError):  # closed, or none at all
                    stream.flush()  # type: ignore[union-attr]
            os._exit(self._exit_status)

    @contextlib.contextmanager
    def _failure_as_one_line(self) -> Iterator[None]:
        """Whatever goes wrong becomes a StartupError, which is printed as one line instead of a traceback."""
        try:
            yield
        except Exception as error:
            if isinstance(error, ChatFlowError):
                reason = str(error)
            else:
                _log.failure("cannot start")
                reason = without_passwords(f"{type(error).__name__}: {error}")
            _print_startup_errors(self._program)
            raise StartupError(" ".join(reason.split())) from error


def _end_start(number: int, frame: FrameType | None) -> NoReturn:
    """While services start: end that in an orderly way."""
    _ignore_signals()
    raise StartupError(f"ended by {signal.Signals(number).name} while starting")


def _ignore_signals() -> None:
    for number in _SIGNALS:
        # Not SIG_IGN, which programs that are started from now on would inherit.
        signal.signal(number, lambda _number, _frame: None)


def _print_startup_errors(program: str) -> None:
    """From now on, the interpreter prints a StartupError that nobody caught as one line."""
    otherwise = sys.excepthook

    def print_line(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        if isinstance(error, StartupError):
            _log.critical("cannot start: {reason}", reason=str(error))
            _print_line(program, str(error))
        else:
            otherwise(kind, error, traceback)

    sys.excepthook = print_line


def _print_line(program: str, text: str) -> None:
    # twistd has made sys.stderr a part of the log. In the background the real one is /dev/null.
    if sys.__stderr__ is not None:
        print(f"{program}: {visible(' '.join(text.split()))}", file=sys.__stderr__, flush=True)
