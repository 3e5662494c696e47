"""What each address has and takes: connections, messages, bytes, requests; and what that may be.

Rates are token buckets on a clock that nobody sets. A bucket holds some seconds of its rate: so much may come at once,
and what is used comes back at the rate. ``--unlimited-address`` names those who have no account.
"""

from __future__ import annotations

from collections import Counter
from functools import cache, lru_cache

from twisted.internet.interfaces import IReactorTime

from chatflow.edge.limits import LimitsInForce
from chatflow.networks import Network, is_within, parse_network, site_of

#: For so long somebody who was quiet may go on at once with what a rate allows. All that comes at once is in the way of
#: others at once: longer than this they would notice.
BURST_SECONDS = 2.0
#: What many connections of an address bring at the same moment is read one after the other, beyond the first few: all
#: at once would be in the way of others. At this rate, or at a multiple of that at which messages may come.
LOOKS_PER_SECOND = 100.0
LOOKS_PER_MESSAGE = 2
LOOKS_BURST_SECONDS = 0.1
#: An address that makes this instance say no more often than this, beyond a burst, is shut out for a while: an answer
#: that refuses costs as much as many messages do, and a connection that is closed unheard almost nothing.
REFUSALS_PER_SECOND = 5.0
SHUT_OUT_SECONDS = 5.0
#: Sums of fractions: 200 times 0.05 is a little more than 10.
ROUNDING_SECONDS = 1e-6

#: So many new accounts between two looks for those that can be forgotten.
_FORGET_EVERY = 1000

#: Why something was refused, delayed or ended: the label of the metric ``chatflow_limited_total``.
REASONS = (
    "accept_rate",
    "address_bytes",
    "address_message_rate",
    "buffered_bytes",
    "bytes",
    "connection_rate",
    "connections",
    "control_frames",
    "message_rate",
    "pending",
    "proxy",
    "public_host",
    "request_rate",
    "request_time",
    "resume_rate",
    "unfinished",
    "user_message_rate",
)


class Bucket:
    """What is left of a rate. The rate is given at each call, so that it may change.

    :param burst_seconds: how much of it a bucket holds.
    """

    __slots__ = ("_burst_seconds", "_full_at")

    def __init__(self, burst_seconds: float = BURST_SECONDS) -> None:
        self._burst_seconds = burst_seconds
        self._full_at = float("-inf")

    def take(self, now: float, rate: float, cost: float = 1.0) -> float:
        """Take so much if it is there. What costs more than there can ever be needs a full bucket.

        :param now: seconds.
        :return: 0 if it was taken; else the seconds until it could be, and nothing was.
        """
        needed = cost / rate
        full_at = (self._full_at if self._full_at > now else now) + needed
        wait = full_at - now - (needed if needed > self._burst_seconds else self._burst_seconds)
        if wait > ROUNDING_SECONDS:
            return wait
        self._full_at = full_at
        return 0.0

    def charge(self, now: float, rate: float, cost: float = 1.0) -> float:
        """Take so much of what has come already, whether or not it is there.

        :return: the seconds until what is owed has come back; 0 if nothing is.
        """
        self._full_at = (self._full_at if self._full_at > now else now) + cost / rate
        return self.owed(now)

    def owed(self, now: float) -> float:
        """The seconds until what is owed has come back; 0 if nothing is."""
        return max(0.0, self._full_at - now - self._burst_seconds - ROUNDING_SECONDS)

    def is_full(self, now: float) -> bool:
        """Whether nothing was taken that has not come back."""
        return self._full_at <= now


class Account:
    """Of one address, or of one user; of IPv6 an address is a network of 64 bits.

    :ivar connections: of WebSocket, open now.
    :ivar pending: messages that are accepted and not yet answered.
    """

    __slots__ = (
        "_shut_out_until",
        "accepts",
        "connections",
        "handshakes",
        "looks",
        "messages",
        "octets",
        "pending",
        "refusals",
        "requests",
        "resumes",
    )

    def __init__(self) -> None:
        self.connections = 0
        self.pending = 0
        self.accepts = Bucket()
        self.handshakes = Bucket()
        self.resumes = Bucket()
        self.requests = Bucket()
        self.messages = Bucket()
        self.looks = Bucket(LOOKS_BURST_SECONDS)
        self.octets = Bucket()
        self.refusals = Bucket()
        self._shut_out_until = float("-inf")

    def refused(self, now: float) -> None:
        """A connection or request was refused, with an answer or after work: who goes on is shut out."""
        if self.refusals.take(now, REFUSALS_PER_SECOND):
            self.shut_out(now)

    def shut_out(self, now: float) -> None:
        """From now on no connection is taken, for :data:`SHUT_OUT_SECONDS`."""
        self._shut_out_until = now + SHUT_OUT_SECONDS

    def is_shut_out(self, now: float) -> bool:
        """Whether no connection is taken."""
        return now < self._shut_out_until

    def is_idle(self, now: float) -> bool:
        """Whether a new one would be the same."""
        buckets = (
            self.accepts,
            self.handshakes,
            self.resumes,
            self.requests,
            self.messages,
            self.looks,
            self.octets,
            self.refusals,
        )
        return not (self.connections or self.pending or self.is_shut_out(now)) and all(
            bucket.is_full(now) for bucket in buckets
        )


class Accounts:
    """The accounts of all who have been here lately. Runs on the reactor thread.

    Bounded by what the limits let through: who has nothing open, owes nothing and is not shut out is forgotten.

    :ivar limited: how often which limit took effect, by its reason.
    """

    def __init__(self, clock: IReactorTime, in_force: LimitsInForce) -> None:
        self._clock = clock
        self._in_force = in_force
        self._accounts: dict[str | int, Account] = {}
        self._until_forgetting = _FORGET_EVERY
        self.limited: Counter[str] = Counter(dict.fromkeys(REASONS, 0))

    def __len__(self) -> int:
        return len(self._accounts)

    def of_address(self, ip: str | None) -> Account | None:
        """That of an address as :func:`chatflow.edge.addresses.client_ip` gives it; None if it has no limits.

        Who comes without an address, by a UNIX socket, comes from this machine, and has none.
        """
        return None if ip is None or self.is_unlimited(ip) else self._of(site_of(ip))

    def of_user(self, user_id: int) -> Account:
        """That of a user who has shown to be the one."""
        return self._of(user_id)

    def is_unlimited(self, ip: str) -> bool:
        """Whether no limit of addresses holds for this one."""
        return _is_unlimited(ip, self._in_force.limits.unlimited_address)

    def _of(self, key: str | int) -> Account:
        account = self._accounts.get(key)
        if account is None:
            self._until_forgetting -= 1
            if not self._until_forgetting:
                self._forget()
            account = self._accounts[key] = Account()
        return account

    def _forget(self) -> None:
        now = self._clock.seconds()
        self._accounts = {key: account for key, account in self._accounts.items() if not account.is_idle(now)}
        # In proportion to what a look costs.
        self._until_forgetting = max(_FORGET_EVERY, len(self._accounts))


# A flood asks this of the same address for each of its connections.
@lru_cache(maxsize=4096)
def _is_unlimited(ip: str, texts: tuple[str, ...]) -> bool:
    return is_within(ip, _networks(texts))


@cache
def _networks(texts: tuple[str, ...]) -> tuple[Network, ...]:
    return tuple(parse_network(text) for text in texts if text != "none")
