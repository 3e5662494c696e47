"""What is at a URL of http or https, bounded in size and, whatever the server does, in time."""

from __future__ import annotations

import contextlib
import socket
import threading
import urllib.request
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any


class TooSlow(Exception):
    """It takes longer than it may."""


class _Deadline:
    """Ends connections when the time is over. A time-out of a socket is one of a single call: who sends a byte now and
    then, of an answer or its headers, holds the thread for as long as he likes.

    :param seconds: for all, from the beginning of the ``with`` block to its end.
    """

    def __init__(self, seconds: float) -> None:
        self._timer = threading.Timer(seconds, self._end_in_thread)
        self._timer.daemon = True
        self._lock = threading.Lock()
        self._connected: list[socket.socket] = []
        self.is_over = False

    def __enter__(self) -> _Deadline:
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        for each in self._connected:
            each.close()

    def connect(self, *arguments: Any, **options: Any) -> socket.socket:
        """As :func:`socket.create_connection`."""
        connection = socket.create_connection(*arguments, **options)
        with self._lock:
            # Another descriptor of the same connection: TLS takes the first one away from its socket.
            self._connected.append(connection.dup())
        if self.is_over:
            self._end_in_thread()
        return connection

    def _end_in_thread(self) -> None:
        self.is_over = True
        with self._lock, contextlib.suppress(OSError):
            for each in self._connected:
                each.shutdown(socket.SHUT_RDWR)


class _Handler(urllib.request.HTTPSHandler, urllib.request.HTTPHandler):
    def __init__(self, deadline: _Deadline) -> None:
        super().__init__()
        self._deadline = deadline

    def http_open(self, req: urllib.request.Request) -> Any:
        return self.do_open(self._watched(HTTPConnection), req)

    def https_open(self, req: urllib.request.Request) -> Any:
        return self.do_open(self._watched(HTTPSConnection), req)

    def _watched(self, kind: type[HTTPConnection]) -> Any:
        def connection(host: str, **options: Any) -> HTTPConnection:
            made = kind(host, **options)
            # http.client has no public way to hand it the socket before TLS, and a proxy, are spoken on it.
            made._create_connection = self._deadline.connect  # type: ignore[attr-defined]
            return made

        return connection


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Where it is fetched from is in the settings, and nowhere else."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def _is_timeout(error: Exception) -> bool:
    """Whether a single call has had all of the time, such as that of TLS's handshake."""
    return isinstance(error, TimeoutError) or isinstance(getattr(error, "reason", None), TimeoutError)


def fetch_in_thread(url: str, accept: str, max_bytes: int, seconds: float) -> bytes:
    """The body of the answer, of which at most ``max_bytes`` and one more are read.

    :param seconds: for all but the look-up of the name, which the system bounds.
    :raises TooSlow: it takes longer.
    :raises OSError: it cannot be had, or the answer is not 2xx.
    :raises HTTPException: the answer is none of HTTP.
    :raises ValueError: the URL is none.
    """
    request = urllib.request.Request(url, headers={"Accept": accept})
    # One that the environment names for http is not for what is on this machine.
    proxies = {scheme: proxy for scheme, proxy in urllib.request.getproxies().items() if scheme == "https"}
    with _Deadline(seconds) as deadline:
        opener = urllib.request.build_opener(_NoRedirects(), urllib.request.ProxyHandler(proxies), _Handler(deadline))
        try:
            with opener.open(request, timeout=seconds) as answer:
                data: bytes = answer.read(max_bytes + 1)
        except (OSError, HTTPException) as error:
            if deadline.is_over or _is_timeout(error):
                raise TooSlow from error
            raise
        if deadline.is_over:  # what came by then may look whole
            raise TooSlow
        return data
