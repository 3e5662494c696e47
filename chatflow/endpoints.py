"""How a place to listen at is written: a port number, or a Twisted server endpoint."""

from __future__ import annotations

import re

import attrs
from twisted.internet.endpoints import serverFromString

from chatflow.dualstack import parse_both
from chatflow.options.kinds import Plain


@attrs.frozen
class Endpoint(Plain):
    """A port number, or a Twisted server endpoint. Checked as far as that goes without touching a file or a socket."""

    placeholder: str = "ENDPOINT"
    allowed: str = (
        "a port such as 8080 or localhost:8080, or a Twisted server endpoint such as tcp:8080:interface=127.0.0.1 "
        "or unix:/run/chatflow"
    )

    def parse(self, text: str) -> str:
        if parse_both(text):
            return text
        if text.startswith("ssl:"):  # to make this one means to read its certificate
            return text
        if text.partition(":")[0] == "systemd":  # which sockets there are is known when they are taken over
            return text
        try:
            serverFromString(None, text)
        except Exception:  # of any kind: RuntimeError for a lone backslash, whatever a plugin's parser raises
            raise ValueError from None
        port = re.match(r"tcp6?:(?:port=)?([^:=]*)(?::|$)", text)
        if port and not (re.fullmatch("[0-9]{1,5}", port[1]) and int(port[1]) <= 65535):
            raise ValueError("a port is a number from 0 to 65535")
        return text
