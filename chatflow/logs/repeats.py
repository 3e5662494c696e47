"""What says the same again and again is counted instead of repeated."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from attrs import define, field
from twisted.logger import ILogObserver, LogLevel
from zope.interface import implementer

from chatflow.logs.formats import message

_COUNTED = (LogLevel.warn, LogLevel.error)
_WINDOW_SECONDS = 10.0
#: So many different texts of one kind are written within a window; then, of these too, the number.
_DIFFERENT = 10
_MAX_KINDS = 500

Write = Callable[[dict[str, Any]], object]


@define
class _Window:
    """What was said of one kind since ``began``."""

    began: float
    texts: set[str] = field(factory=set)
    repeated: int = 0
    last: dict[str, Any] = field(factory=dict)


@implementer(ILogObserver)
class Repeats:
    """Passes events on; of warnings and errors, a text that was there within the last ten seconds is only counted.

    A kind is a place in the code: namespace, level and format. Of one kind, ten different texts are passed on within
    ten seconds. When they are over, one line tells how many more there were: "repeated 120 times in 10 s: …". Critical
    events and those below a warning always pass. May be called from any thread.

    :param seconds: a monotonic clock.
    :param write: called with each event that is to be seen, while a lock is held.
    """

    def __init__(self, write: Write, seconds: Callable[[], float]) -> None:
        self._write = write
        self._seconds = seconds
        self._windows: dict[object, _Window] = {}
        self._lock = threading.RLock()  # to write may log

    def __call__(self, event: dict[str, Any]) -> None:
        with self._lock:
            self._sum_up(_WINDOW_SECONDS)
            if event.get("log_level") not in _COUNTED or not self._is_repeated(event):
                self._write(event)

    def sum_up(self) -> None:
        """Tell what was counted in windows that are over; to be called now and then, since silence would keep it."""
        with self._lock:
            self._sum_up(_WINDOW_SECONDS)

    def close(self) -> None:
        """Tell whatever was counted."""
        with self._lock:
            self._sum_up(0)

    def _is_repeated(self, event: dict[str, Any]) -> bool:
        kind = (event.get("log_namespace"), event["log_level"], event.get("log_format"))
        text = message(event)
        if kind not in self._windows and len(self._windows) >= _MAX_KINDS:
            self._sum_up(0)
        window = self._windows.setdefault(kind, _Window(self._seconds()))
        if text not in window.texts and len(window.texts) < _DIFFERENT:
            window.texts.add(text)
            return False
        window.repeated += 1
        window.last = event
        return True

    def _sum_up(self, older_than_seconds: float) -> None:
        if not self._windows:
            return
        now = self._seconds()
        for kind, window in list(self._windows.items()):
            lasted = now - window.began
            if lasted >= older_than_seconds:
                del self._windows[kind]
                if window.repeated:
                    self._write(_summary(window, lasted))


def _summary(window: _Window, seconds: float) -> dict[str, Any]:
    last = window.last
    return {
        "log_format": "repeated {repeated} times in {seconds:.0f} s: {last}",
        "log_level": last["log_level"],
        "log_namespace": last.get("log_namespace", "-"),
        "log_time": last["log_time"],
        "repeated": window.repeated,
        "seconds": round(max(seconds, 1.0), 1),
        "last": message(last),
    }
