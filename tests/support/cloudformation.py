"""A proxy in front of the emulator that completes templates on their way: programs send what AWS takes."""

from __future__ import annotations

import json
import threading
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from urllib.parse import urlsplit

from testbed.stack import emulable

_TIMEOUT_SECONDS = 60.0
# They are the body's, and would not fit another.
_OF_THE_BODY = ("content-length", "content-md5", "x-amz-checksum-", "x-amz-sdk-checksum-", "x-amz-content-sha256")


class CompletingProxy:
    """Passes everything on as it is, but for templates that are put into S3.

    :ivar url: for ``AWS_ENDPOINT_URL``.
    """

    def __init__(self, emulator_url: str) -> None:
        address = urlsplit(emulator_url)

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                headers = list(self.headers.items())
                if self.command == "PUT" and "/templates/" in self.path:
                    body = json.dumps(emulable(json.loads(body))).encode()
                    headers = [each for each in headers if not each[0].lower().startswith(_OF_THE_BODY)]
                    headers.append(("Content-Length", str(len(body))))
                connection = HTTPConnection(address.hostname or "", address.port, timeout=_TIMEOUT_SECONDS)
                try:
                    connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                    for name, value in headers:
                        connection.putheader(name, value)
                    connection.endheaders(body)
                    answer = connection.getresponse()
                    content = answer.read()
                finally:
                    connection.close()
                self.send_response_only(answer.status, answer.reason)
                given = answer.getheaders()
                for name, value in given:
                    if name.lower() not in ("transfer-encoding", "content-length", "connection"):
                        self.send_header(name, value)
                length = answer.headers.get("Content-Length", "0") if self.command == "HEAD" else str(len(content))
                self.send_header("Content-Length", length)
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_any

            def log_message(self, format: str, *arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> CompletingProxy:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()
