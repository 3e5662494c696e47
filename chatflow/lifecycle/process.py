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
  :meth:`RootService.fatal`.
- It does nothing about other signals, which kill at once and leave children behind. Here, each that would is an
  orderly end, but for SIGHUP when there are settings to read again, and SIGUSR1, which begins the log file anew.
- It makes the log's observer, unless the application has one. Here, it has.
"""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import functools
import os
import signal
import sys
from collections.abc import Iterator
from threading import Thread
from types import FrameType, TracebackType
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ReactorNotRunning
from twisted.internet.task import LoopingCall
from twisted.logger import ILogObserver, Logger
from twisted.python.components import Componentized

from chatflow.errors import ChatFlowError, StartupError
from chatflow.lifecycle.grace import Grace
from chatflow.lifecycle.manager import ServiceManager
from chatflow.lifecycle.ordered_services import OrderedServices
from chatflow.lifecycle.reload import Reloads
from chatflow.lifecycle.supervision import Supervision
from chatflow.lifecycle.tty import has_terminal
from chatflow.logs import Log
from chatflow.passwords import without_passwords
from chatflow.text import visible

_log = Logger()
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
#: What else would end the process at once, unless it is ignored (``nohup``) or somebody handles it.
_WOULD_END = (
    *(signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM),
    *(signal.SIGVTALRM, signal.SIGPROF, signal.SIGXCPU, signal.SIGIO),
)
_SUM_UP_SECONDS = 5.0


class RootService(OrderedServices):
    """:class:`OrderedServices` that also rule how the process ends. One per process, given to twistd.

    :param reactor: the real one; see :class:`OrderedServices` for this and ``deadline_seconds``.
    :param program: opens the line on stderr.
    :param supervision: who is told how it goes.
    :param log: where the process shall log; None leaves it to twistd.
    :param reloads: what SIGHUP applies; None if there is nothing to read again, and SIGHUP ends the process.
    :param grace: comes before the stop and its deadline, not when a failure is the reason. A further signal ends it.
    """

    def __init__(
        self,
        reactor: Any,
        *,
        deadline_seconds: float,
        program: str = "chatflow",
        supervision: Supervision | None = None,
        log: Log | None = None,
        reloads: Reloads | None = None,
        grace: Grace | None = None,
    ) -> None:
        super().__init__(reactor, deadline_seconds=deadline_seconds)
        self._grace = grace or Grace(reactor, 0.0, lambda: None)
        self._program = program
        self._supervision = supervision or Supervision(reactor, ServiceManager())
        self._log_observer = log
        self._reloads = reloads
        self._had_terminal = False
        # What a signal asked for during the start is done after it: a handler may interrupt the log in mid-line.
        self._shall_reload = False
        self._shall_reopen = False
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

    def reload(self) -> None:
        """Read the settings again and apply what can be applied. Reactor thread."""
        if self._reloads is not None and not self._is_ending:
            self._supervision.reload(self._reloads.reload)

    def setServiceParent(self, parent: Any) -> None:
        """Given to twistd's application, it brings the log's observer along, which twistd then takes.

        :raises SystemExit: the log cannot be opened; told in one line.
        """
        if self._log_observer is not None and isinstance(parent, Componentized):
            try:
                self._log_observer.open()
            except OSError as error:
                _print_line(self._program, f"cannot open the log file {error.filename}: {error.strerror}")
                raise SystemExit(1) from None
            parent.setComponent(ILogObserver, self._log_observer)
        super().setServiceParent(parent)

    def on_start(self, name: str) -> None:
        self._supervision.starting(name)

    def on_stop(self, name: str) -> None:
        self._supervision.stopping(name)

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
        self._had_terminal = has_terminal()
        # When the watchdog ends a process that hangs (SIGABRT), its last words are where the reactor was. Not the other
        # threads: they run meanwhile, and to read their stacks has been seen to end in SIGSEGV.
        with contextlib.suppress(OSError, ValueError, AttributeError):  # no stderr
            faulthandler.enable(sys.__stderr__, all_threads=False)  # type: ignore[arg-type]
        signals = (*_SIGNALS, *(number for number in _WOULD_END if signal.getsignal(number) == signal.SIG_DFL))
        with self._failure_as_one_line():
            for number in signals:
                signal.signal(number, self._on_signal_while_starting)
            super().startService()
        self._has_started = True
        for number in signals:
            signal.signal(number, self._on_signal)
        # The reactor leaves our SIGINT handler in place, but sets its own for SIGTERM when it begins to run. It must be
        # this one from the first moment on: to replace it afterwards leaves a gap that signals have been seen to hit.
        self._reactor.sigTerm = self._on_signal
        self._reactor.callWhenRunning(self._is_up)

    def stopService(self) -> Deferred[None]:
        if not self._has_started:
            _ignore_signals()  # or one would interrupt what undoes a failed start
        has_grace = self._has_started and not self._exit_status
        self._supervision.ending(self._deadline_seconds + (self._grace.seconds if has_grace else 0.0))
        return Deferred.fromCoroutine(self._stop_after_grace(has_grace))

    async def _stop_after_grace(self, has_grace: bool) -> None:
        if has_grace:
            await self._grace.wait()
        await super().stopService()
        if self._log_observer is not None:
            self._log_observer.close()

    def _is_up(self) -> None:
        """The reactor runs."""
        if self._log_observer is not None:
            summing_up = LoopingCall(self._log_observer.sum_up)
            summing_up.clock = self._reactor
            summing_up.start(_SUM_UP_SECONDS, now=False)
        if not self._is_ending:
            self._supervision.started()
        if self._shall_reopen:
            self._reopen()
        if self._shall_reload:
            self.reload()

    def _on_signal_while_starting(self, number: int, frame: FrameType | None) -> None:
        """Ends the start in an orderly way, or is put off."""
        if number == signal.SIGUSR1 and self._log_observer is not None:
            self._shall_reopen = True
        elif number == signal.SIGHUP and self._can_reload():
            self._shall_reload = True
        else:
            _ignore_signals()
            raise StartupError(f"ended by {signal.Signals(number).name} while starting")

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._reactor.callFromThread(self._obey, signal.Signals(number))

    def _obey(self, number: signal.Signals) -> None:
        if number == signal.SIGUSR1 and self._log_observer is not None:
            self._reopen()
        elif number == signal.SIGHUP and self._can_reload() and not self._is_ending:
            _log.info("received SIGHUP, reading settings again")
            self.reload()
        else:
            self._end_on_signal(number.name)

    def _reopen(self) -> None:
        assert self._log_observer is not None
        self._log_observer.reopen()
        _log.info("received SIGUSR1, the log file is begun anew")

    def _can_reload(self) -> bool:
        """Whether SIGHUP means that: there is something to read again, and no terminal was closed."""
        return self._reloads is not None and not (self._had_terminal and not has_terminal())

    def _end_on_signal(self, name: str) -> None:
        _log.info("received {signal}, {what}", signal=name, what="is ending" if self._is_ending else "ending")
        if self._is_ending:
            self._grace.end()
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


def _ignore_signals() -> None:
    for number in (*_SIGNALS, *(number for number in _WOULD_END if callable(signal.getsignal(number)))):
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
        with contextlib.suppress(OSError, ValueError):  # its terminal was closed
            print(f"{program}: {visible(' '.join(text.split()))}", file=sys.__stderr__, flush=True)
