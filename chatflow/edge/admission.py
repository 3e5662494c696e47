"""Whether an address may connect, resume, ask, now. The answer to who may not is HTTP 429 (RFC 6585, 4)."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

from chatflow.edge.accounts import Account
from chatflow.edge.api import DEFAULT_PAGE, MAX_PAGE
from chatflow.edge.connect_parameters import ConnectParameters
from chatflow.edge.limits import EdgeLimits
from chatflow.edge.refusals import RequestRefused
from chatflow.edge.services import EdgeServices

# Whose answer says how this instance is: a load balancer's question is always answered.
_HEALTH = b"/health"
# Statistics count what a page only reads.
_COSTLY = (b"/api/metrics", b"/queue/all")
_COSTLY_REQUESTS = 10
# A page of history is read, encoded and sent whole.
_MESSAGES = re.compile(rb"/api/(?:rooms|users)/[0-9]+/messages")
_MESSAGES_PER_REQUEST = 100
_NUMBER = re.compile(rb"[0-9]{1,9}")
#: Who has missed more than this reads pages of history that few others share.
LONG_RESUME_MESSAGES = 1000


_NOTHING: Mapping[bytes, Sequence[bytes]] = {}


class Admission:
    """Judges handshakes and requests by the limits of their addresses. Runs on the reactor thread."""

    def __init__(self, services: EdgeServices) -> None:
        self._services = services

    def connect(self, client_ip: str | None) -> None:
        """Take the place of one more handshake.

        :raises RequestRefused: the address has all the connections it may, or opens them too quickly, or has sent more
            than it may and left before that was held against it.
        """
        account = self._services.accounts.of_address(client_ip)
        if account is None:
            return
        limits, now = self._services.limits, self._services.clock.seconds()
        most = limits.max_connections_per_address
        if most and account.connections >= most:
            raise self._refused(account, "connections", 1.0, f"there are {most} connections from your address already")
        wait = _owed(account, limits, now)
        if limits.connections_per_second_per_address:
            wait = wait or account.handshakes.take(now, limits.connections_per_second_per_address)
        if wait:
            raise self._refused(account, "connection_rate", wait, "your address connects too often")

    def resume(self, client_ip: str | None, room: int, parameters: ConnectParameters) -> None:
        """Take the place of a request for much history.

        :raises RequestRefused: the address asks for it too often.
        """
        account, rate = (
            self._services.accounts.of_address(client_ip),
            self._services.limits.resumes_per_second_per_address,
        )
        if account is None or not rate or parameters.since is None:
            return
        missed = self._services.hub.head(room) - parameters.since
        if parameters.since and missed <= LONG_RESUME_MESSAGES:
            return
        wait = account.resumes.take(self._services.clock.seconds(), rate)
        if wait:
            raise self._refused(account, "resume_rate", wait, "your address asks for much history too often")

    def request(self, client_ip: str | None, path: bytes, query: Mapping[bytes, Sequence[bytes]] = _NOTHING) -> bool:
        """Take the place of a request for anything but ``/chat``.

        :param path: as it is meant, with nothing in it that is percent-encoded.
        :param query: the parameters of its target, as Twisted gives them.
        :return: whether another one may come on the same connection.
        :raises RequestRefused: the address asks too much.
        """
        rate = self._services.limits.requests_per_second_per_address
        account = self._services.accounts.of_address(client_ip) if rate else None
        if account is None:
            return True
        wait = account.requests.take(self._services.clock.seconds(), rate, _cost(path, query))
        if not wait:
            return True
        if path == _HEALTH or path.startswith(_HEALTH + b"/"):
            return False  # what one connection brings at once, all others wait for
        raise self._refused(account, "request_rate", wait, "your address asks too often")

    def _refused(self, account: Account, reason: str, wait_seconds: float, text: str) -> RequestRefused:
        account.refused(self._services.clock.seconds())
        self._services.accounts.limited[reason] += 1
        return RequestRefused(
            429, "rate_limited", f"{text}: try again later", retry_after_ms=math.ceil(wait_seconds * 1000)
        )


def _owed(account: Account, limits: EdgeLimits, now: float) -> float:
    owed = 0.0
    if limits.messages_per_second_per_address:
        owed = account.messages.owed(now)
    if limits.bytes_per_second_per_address:
        owed = max(owed, account.octets.owed(now))
    return owed


def _cost(path: bytes, query: Mapping[bytes, Sequence[bytes]]) -> int:
    """As how many requests one counts."""
    if path.startswith(_COSTLY):
        return _COSTLY_REQUESTS
    if _MESSAGES.fullmatch(path):
        asked = [int(text) if _NUMBER.fullmatch(text) else MAX_PAGE for text in query.get(b"limit", ())]
        return math.ceil(min(MAX_PAGE, max(asked, default=DEFAULT_PAGE)) / _MESSAGES_PER_REQUEST) or 1
    return 1
