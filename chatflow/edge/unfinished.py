"""Connections that owe the rest of a request: for how long, and how many of one address."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from chatflow.edge.addresses import client_ip
from chatflow.edge.services import EdgeServices
from chatflow.networks import site_of


class Unfinished:
    """Those of one port, by the addresses from which they came, oldest first. Runs on the reactor thread.

    A channel of HTTP belongs to it while nothing is being answered. What comes through a proxy counts as the proxy's,
    and is limited by time and by what there is for all.
    """

    def __init__(self, services: EdgeServices) -> None:
        self._services = services
        # What each channel counts as, and until when it may stay; of each address in the order in which they came.
        self._whose: dict[Any, str] = {}
        self._until: dict[str, dict[Any, float]] = {}

    def __len__(self) -> int:
        return len(self._whose)

    def add(self, channel: Any, idle_seconds: float = 0.0) -> None:
        """A request is awaited.

        :param idle_seconds: how long nothing need come.
        """
        limits = self._services.limits
        ip = client_ip(channel.transport.getPeer())
        whose = _whose(ip)
        self._whose[channel] = whose
        mine = self._until.setdefault(whose, {})
        mine[channel] = self._services.clock.seconds() + limits.request_seconds + idle_seconds
        most = limits.max_unfinished_per_address
        if most and len(mine) > most and not self._is_unlimited(channel, ip):
            self._end_oldest(mine)
            account = self._services.accounts.of_address(ip)
            if account is not None:
                account.refused(self._services.clock.seconds())

    def forget(self, channel: Any) -> None:
        """Its request is whole, or it is gone."""
        whose = self._whose.pop(channel, None)
        if whose is not None:
            mine = self._until[whose]
            del mine[channel]
            if not mine:
                del self._until[whose]

    def end_one(self) -> bool:
        """End the oldest of the address that has the most; whether there was one."""
        if not self._until:
            return False
        self._end_oldest(max(self._until.values(), key=len))
        return True

    def end_all_of(self, peer: Any) -> None:
        """End those of one address of Twisted's."""
        mine = self._until.get(_whose(client_ip(peer)))
        while mine:
            self._end_oldest(mine)

    def end_late(self) -> None:
        """End those whose time is over. To be called every second or so."""
        now = self._services.clock.seconds()
        for channel in [channel for mine in self._until.values() for channel in _late(mine, now)]:
            self.forget(channel)
            self._services.accounts.limited["request_time"] += 1
            channel.refuse(b"408 Request Timeout")

    def _is_unlimited(self, channel: Any, ip: str | None) -> bool:
        return ip is None or channel.is_of_proxy or self._services.accounts.is_unlimited(ip)

    def _end_oldest(self, mine: dict[Any, float]) -> None:
        oldest = next(iter(mine))
        self.forget(oldest)
        self._services.accounts.limited["unfinished"] += 1
        oldest.transport.abortConnection()


def _whose(ip: str | None) -> str:
    return "" if ip is None else site_of(ip)


def _late(mine: dict[Any, float], now: float) -> Iterable[Any]:
    return [channel for channel, until in mine.items() if until <= now and not channel.is_slow]
