"""What one connection may send, by its own rates and those of its address and user: messages, frames, bytes."""

from __future__ import annotations

import math

from chatflow.contracts.identity import Identity
from chatflow.edge.accounts import LOOKS_PER_MESSAGE, LOOKS_PER_SECOND, ROUNDING_SECONDS, Account, Bucket
from chatflow.edge.pace import charge_address, charge_connection
from chatflow.edge.services import EdgeServices
from chatflow.errors import Refused

#: So many refusals in a row, and the connection is closed: each costs this instance nearly what a message does.
MAX_REFUSALS_IN_A_ROW = 500

_TOO_OFTEN = "{whose} sends messages too often: send this one again later"
_SHARE = "your address has its share of the messages under way: send this one again later"


def quota_of(services: EdgeServices, client_ip: str | None, identity: Identity) -> Quota | None:
    """That of a new connection or request; None if nothing limits it but the limits of all: of an unlimited address.

    A user is limited whom a token names; not whom a message names, or anybody could use up what another one may.
    """
    account = services.accounts.of_address(client_ip)
    if account is None:
        return None
    user = None if identity.user_id is None else services.accounts.of_user(identity.user_id)
    return Quota(services, account, user)


class _Turn:
    """A place among those of all connections of an address, kept for one who has to wait.

    Otherwise as many connections as there are would come back for the next free one at the same moment, and all but one
    be refused again, at what that costs.
    """

    __slots__ = ("_at",)

    def __init__(self) -> None:
        self._at: float | None = None

    def take(self, bucket: Bucket, now: float, rate: float, *, keep: bool = True) -> float:
        """0 if it may go on now; else the seconds until it may, for which a place is kept.

        :param keep: False for one who may never come back.
        """
        if self._at is not None:
            wait = self._at - now
            if wait > ROUNDING_SECONDS:
                return wait
            self._at = None
            return 0.0
        wait = bucket.take(now, rate)
        if wait and keep:
            wait = bucket.charge(now, rate)
            self._at = now + wait
        return wait


class Quota:
    """Runs on the reactor thread.

    :param account: of its address.
    :param user: the account of its user, if it is known who that is.
    """

    __slots__ = ("_account", "_is_open", "_look", "_messages", "_octets", "_refusals", "_services", "_turn", "_user")

    def __init__(self, services: EdgeServices, account: Account, user: Account | None) -> None:
        self._services = services
        self._account = account
        self._user = user
        self._messages = Bucket()
        self._octets = Bucket()
        self._refusals = 0
        self._is_open = False
        self._turn = _Turn()
        self._look = _Turn()

    def opened(self) -> None:
        """The connection is open."""
        self._is_open = True
        self._account.connections += 1

    def closed(self) -> None:
        """It is not any more. Only after :meth:`opened`."""
        self._account.connections -= 1

    def accepted(self) -> None:
        """A message waits for its answer now."""
        self._account.pending += 1
        self._refusals = 0

    def answered(self, count: int) -> None:
        """So many of them have it."""
        self._account.pending -= count

    @property
    def is_abused(self) -> bool:
        """Whether the client goes on sending although nothing of it is accepted."""
        return self._refusals >= MAX_REFUSALS_IN_A_ROW

    def take_message(self) -> Refused | None:
        """Take the place of a message; why not, if there is none."""
        services, account = self._services, self._account
        limits, now = services.limits, services.clock.seconds()
        ingress, wait = services.ingress, 0.0
        # However many addresses there are, each leaves as much as it has for the next one.
        if account.pending >= max(1, ingress.max_pending_messages - ingress.pending):
            return self._refused("pending", Refused("overloaded", _SHARE))
        if limits.messages_per_second:
            wait = self._messages.take(now, limits.messages_per_second)
        if wait:
            return self._too_often("message_rate", "this connection", wait)
        if limits.messages_per_second_per_address:
            rate = limits.messages_per_second_per_address
            wait = self._turn.take(account.messages, now, rate, keep=self._is_open)
        if wait:
            return self._too_often("address_message_rate", "your address", wait)
        if self._user is not None and limits.messages_per_second_per_user:
            wait = self._user.messages.take(now, limits.messages_per_second_per_user)
        return self._too_often("user_message_rate", "this user", wait) if wait else None

    def look(self) -> float:
        """Take the turn of this connection to have read what it sent, among those of its address.

        :return: the seconds until it is; 0 if it was taken.
        """
        messages = self._services.limits.messages_per_second_per_address
        if not messages:
            return 0.0
        rate = max(LOOKS_PER_SECOND, LOOKS_PER_MESSAGE * messages)
        return self._look.take(self._account.looks, self._services.clock.seconds(), rate)

    def charge_frame(self) -> float:
        """A frame has come that is no message, such as a ping. :return: seconds for which to read nothing more."""
        limits, now = self._services.limits, self._services.clock.seconds()
        wait = 0.0
        if limits.messages_per_second:
            wait = self._messages.charge(now, limits.messages_per_second)
        if limits.messages_per_second_per_address:
            wait = max(wait, self._account.messages.charge(now, limits.messages_per_second_per_address))
        return self._rests("control_frames", wait)

    def charge_bytes(self, size: int) -> float:
        """So many bytes have come. :return: seconds for which to read nothing more."""
        wait = charge_connection(self._services, self._octets, size)
        return max(wait, charge_address(self._services, self._account, size))

    def _rests(self, reason: str, wait: float) -> float:
        if wait:
            self._services.accounts.limited[reason] += 1
        return wait

    def _too_often(self, reason: str, whose: str, wait: float) -> Refused:
        text = _TOO_OFTEN.format(whose=whose)
        return self._refused(reason, Refused("rate_limited", text, retry_after_ms=math.ceil(wait * 1000)))

    def _refused(self, reason: str, refused: Refused) -> Refused:
        self._services.accounts.limited[reason] += 1
        self._refusals += 1
        return refused
