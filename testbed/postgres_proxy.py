"""A proxy before PostgreSQL that loses answers and cuts connections: what a network does at the worst moment.

It knows as much of PostgreSQL's protocol (version 3, "Message Formats" in its documentation) as tells it where a
message ends.
"""

from __future__ import annotations

import contextlib
import selectors
import shutil
import socket
import tempfile
import threading
from pathlib import Path
from typing import Self
from urllib.parse import quote

from psycopg2.extensions import parse_dsn

_PORT = 5432
_READY = b"Z\x00\x00\x00\x05I"  # ReadyForQuery, no transaction open: what ends the answer to COMMIT


class PostgresProxy:
    """Runs in threads of its own while it is a context. Its methods may be called from any thread.

    :param url: where PostgreSQL is.
    :ivar url: where this is.
    """

    def __init__(self, url: str) -> None:
        self._target = parse_dsn(url)
        self._directory = Path(tempfile.mkdtemp(prefix="chatflow-proxy-"))
        self._listener = socket.socket(socket.AF_UNIX)
        self._pairs: set[_Pair] = set()
        self._guard = threading.Lock()
        self._lost_commits = 0
        self._away = False
        self.url = (
            f"postgresql://{quote(self._target['user'])}:{quote(self._target.get('password', 'none'))}@/"
            f"{quote(self._target['dbname'])}?host={quote(str(self._directory))}&sslmode=disable&gssencmode=disable"
        )

    def __enter__(self) -> Self:
        self._listener.bind(str(self._directory / f".s.PGSQL.{_PORT}"))
        self._listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.cut()
        # Closing alone does not wake the thread that accepts.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        shutil.rmtree(self._directory)

    def lose_answers_to_commits(self, count: int = 1) -> None:
        """The next so many COMMITs, and statements that are a transaction of their own, reach PostgreSQL and are done;
        instead of the answer the connection is cut.
        """
        with self._guard:
            self._lost_commits += count

    def cut(self) -> None:
        """PostgreSQL is away: no connection lives, and new ones are closed at once."""
        with self._guard:
            self._away = True
            pairs, self._pairs = self._pairs, set()
        for pair in pairs:
            pair.close()

    def heal(self) -> None:
        """It is back."""
        with self._guard:
            self._away = False

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with self._guard:
                if self._away:
                    client.close()
                    continue
                pair = _Pair(self, client, self._connect())
                self._pairs.add(pair)
            threading.Thread(target=pair.run, daemon=True).start()

    def _connect(self) -> socket.socket:
        host, port = self._target.get("host", "localhost"), int(self._target.get("port", _PORT))
        if not host.startswith("/"):
            return socket.create_connection((host, port))
        server = socket.socket(socket.AF_UNIX)
        server.connect(f"{host}/.s.PGSQL.{port}")
        return server

    def take_commit_to_lose(self) -> bool:
        """Whether the answer to this COMMIT is to be lost."""
        with self._guard:
            lost = self._lost_commits > 0
            self._lost_commits -= lost
            return lost


class _Pair:
    """A client's connection and the one to the server that belongs to it."""

    def __init__(self, proxy: PostgresProxy, client: socket.socket, server: socket.socket) -> None:
        self._proxy = proxy
        self._client = client
        self._server = server
        self._incoming = b""
        self._started = False

    def run(self) -> None:
        with contextlib.suppress(OSError, ValueError), selectors.DefaultSelector() as selector:
            selector.register(self._client, selectors.EVENT_READ, self._from_client)
            selector.register(self._server, selectors.EVENT_READ, self._from_server)
            while all(key.data() for key, _ in selector.select()):
                pass
        self.close()

    def close(self) -> None:
        for end in (self._client, self._server):
            # Shutting down wakes a thread that waits for it; closing alone does not.
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _from_server(self) -> bool:
        data = self._server.recv(65536)
        self._client.sendall(data)
        return bool(data)

    def _from_client(self) -> bool:
        data = self._client.recv(65536)
        self._incoming += data
        while message := self._take_message():
            self._server.sendall(message)
            if message[:1] == b"Q" and _commits(message[5:-1]) and self._proxy.take_commit_to_lose():
                self._swallow_answer()
                return False
        return bool(data)

    def _take_message(self) -> bytes:
        """The next complete one; the first of a connection has no type before its length."""
        type_bytes = 1 if self._started else 0
        if len(self._incoming) < type_bytes + 4:
            return b""
        end = type_bytes + int.from_bytes(self._incoming[type_bytes : type_bytes + 4], "big")
        if len(self._incoming) < end:
            return b""
        self._started = True
        message, self._incoming = self._incoming[:end], self._incoming[end:]
        return message

    def _swallow_answer(self) -> None:
        answer = b""
        while not answer.endswith(_READY):
            data = self._server.recv(65536)
            if not data:
                return
            answer += data


def _commits(sql: bytes) -> bool:
    """Whether it ends a transaction: by COMMIT, or by being one as :meth:`.SessionLimits.alone` begins them."""
    return sql.strip().upper().endswith(b"COMMIT") or sql.startswith(b"SET TRANSACTION ")
