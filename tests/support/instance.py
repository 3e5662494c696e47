"""The system around an instance's scripts: programs that only write down how they were called, and its metadata."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

_PROGRAM = """#!/bin/sh
echo "$(basename "$0") $*" >>{log}
exit {status}
"""


class Programs:
    """A directory for ``PATH`` with programs of these names, which succeed.

    :ivar directory: where they are.
    """

    def __init__(self, directory: Path, *names: str) -> None:
        self.directory = directory
        self._log = directory / "calls"
        directory.mkdir()
        self._log.touch()
        for name in names:
            self.add(name)

    def add(self, name: str, *, status: int = 0) -> None:
        """One more, or another in its place, that ends with this status."""
        path = self.directory / name
        path.write_text(_PROGRAM.format(log=self._log, status=status))
        path.chmod(0o755)

    @property
    def calls(self) -> list[str]:
        """The command lines, in order."""
        return self._log.read_text().splitlines()


class Metadata:
    """An instance metadata service of version 2: without a token it tells nothing.

    :ivar values: what there is, by path; may change at any time.
    """

    def __init__(self, values: Mapping[str, str]) -> None:
        self.values = dict(values)
        self.asked: list[str] = []
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_PUT(self) -> None:
                self._answer(200 if self.path == "/latest/api/token" else 404, "a-token")

            def do_GET(self) -> None:
                path = self.path.removeprefix("/latest/meta-data/")
                service.asked.append(path)
                if self.headers.get("X-aws-ec2-metadata-token") != "a-token":
                    self._answer(401, "")
                else:
                    value = service.values.get(path)
                    self._answer(404 if value is None else 200, value or "")

            def _answer(self, status: int, text: str) -> None:
                self.send_response(status)
                self.send_header("content-length", str(len(text)))
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, format: str, *arguments: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Metadata:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
