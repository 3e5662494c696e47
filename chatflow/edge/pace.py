"""What reading costs: bytes, and each time that something is read, however little; and how much is read at once."""

from __future__ import annotations

from typing import Any

from chatflow.edge.accounts import Account, Bucket
from chatflow.edge.services import EdgeServices
from chatflow.edge.transports import innermost

#: To read a single byte costs this instance more than the bytes of a message do: who drips is charged for that.
READ_BYTES = 1024
#: Who is not read any more is not for shorter: what drips comes together meanwhile, and is read at once.
SHORTEST_REST_SECONDS = 0.2
#: So much of a stranger's connection is read at a time. 64 KiB, as Twisted reads, may be hundreds of messages, which
#: are unpacked for one that is accepted; and that for each of hundreds of connections in one turn of the reactor.
READ_AT_ONCE_BYTES = 4096


def read_little(transport: Any) -> None:
    """Read no more than :data:`READ_AT_ONCE_BYTES` of this connection at a time."""
    innermost(transport).bufferSize = READ_AT_ONCE_BYTES


def charge_address(services: EdgeServices, account: Account, size: int) -> float:
    """So many bytes were read from one address.

    :return: seconds for which to read nothing more, by ``--bytes-per-second-per-address``.
    """
    rate = services.limits.bytes_per_second_per_address
    return _rest(services, "address_bytes", account.octets, rate, size) if rate else 0.0


def charge_connection(services: EdgeServices, octets: Bucket, size: int) -> float:
    """The same of one connection, by ``--bytes-per-second``.

    :param octets: what it has sent.
    """
    rate = services.limits.bytes_per_second
    return _rest(services, "bytes", octets, rate, size) if rate else 0.0


def _rest(services: EdgeServices, reason: str, octets: Bucket, rate: float, size: int) -> float:
    wait = octets.charge(services.clock.seconds(), rate, size if size > READ_BYTES else READ_BYTES)
    if not wait:
        return 0.0
    services.accounts.limited[reason] += 1
    # What an address owes grows from one of its connections to the next, and so they come back one after the other.
    return wait + SHORTEST_REST_SECONDS
