"""Mutes and bans, to be found by whom they concern. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address

import msgspec
from attrs import frozen

from chatflow.contracts.moderation import Sanction
from chatflow.errors import ErrorCode, Refused
from chatflow.rooms.messages import iso_timestamp

_CODES: dict[str, ErrorCode] = {"mute": "muted", "ban": "banned"}


@frozen
class Party:
    """Somebody, as far as sanctions are concerned.

    :ivar user_ids: whom it speaks for.
    :ivar address: of its client, in the one form of :mod:`chatflow.edge.addresses`; None if it has none.
    """

    room: int
    user_ids: Collection[int]
    address: str | None


class Rules:
    """Sanctions, each kept under the most telling part of its subject: a look costs as much with one as with thousands.

    Does not change.
    """

    def __init__(self, sanctions: Iterable[Sanction]) -> None:
        self._of_users: dict[int, list[Sanction]] = {}
        # By version of IP and length of prefix; then by the prefix.
        self._of_networks: dict[tuple[int, int], dict[int, list[Sanction]]] = {}
        self._of_rooms: dict[int, list[Sanction]] = {}
        for sanction in sanctions:
            subject = sanction.subject
            if subject.user_id is not None:
                self._of_users.setdefault(subject.user_id, []).append(sanction)
            elif subject.network is not None:
                network = subject.network
                prefixes = self._of_networks.setdefault((network.version, network.prefixlen), {})
                prefixes.setdefault(_prefix(network.network_address, network.prefixlen), []).append(sanction)
            elif subject.room is not None:
                self._of_rooms.setdefault(subject.room, []).append(sanction)

    def concerning(self, party: Party) -> Iterator[Sanction]:
        """Those that mean this party."""
        address = None if party.address is None else _parse(party.address)
        for sanction in self._candidates(party, address):
            room, network = sanction.subject.room, sanction.subject.network
            if room in (None, party.room) and (network is None or (address is not None and address in network)):
                yield sanction

    def _candidates(self, party: Party, address: IPv4Address | IPv6Address | None) -> Iterator[Sanction]:
        if self._of_users:
            for user_id in party.user_ids:
                yield from self._of_users.get(user_id, ())
        if address is not None:
            for (version, length), prefixes in self._of_networks.items():
                if version == address.version:
                    yield from prefixes.get(_prefix(address, length), ())
        yield from self._of_rooms.get(party.room, ())


def _prefix(address: IPv4Address | IPv6Address, length: int) -> int:
    return int(address) >> (address.max_prefixlen - length)


_parse = lru_cache(4096)(ip_address)


class ShownSanction(msgspec.Struct, frozen=True):
    """A mute or ban as operators are shown it, by commands and over HTTP. ``until``: null if it has no end."""

    action: str
    userId: str | None
    address: str | None
    roomId: str | None
    since: str
    until: str | None
    by: str
    reason: str

    @classmethod
    def of(cls, sanction: Sanction) -> ShownSanction:
        """The same as texts."""
        subject = sanction.subject
        return cls(
            sanction.action,
            None if subject.user_id is None else str(subject.user_id),
            None if subject.network is None else str(subject.network),
            None if subject.room is None else str(subject.room),
            iso_timestamp(sanction.ordered_at_us),
            iso_timestamp(sanction.ends_at_us) if sanction.lasts and sanction.ends_at_us is not None else None,
            sanction.by,
            sanction.reason,
        )


def refusal(sanction: Sanction) -> Refused:
    """What whoever it concerns is told."""
    code = _CODES[sanction.action]
    where = "" if sanction.subject.room is None else " in this room"
    until = "" if sanction.ends_at_us is None else f" until {iso_timestamp(sanction.ends_at_us)}"
    reason = f": {sanction.reason}" if sanction.reason else ""
    return Refused(code, f"{code}{where}{until}{reason}")
