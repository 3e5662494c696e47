"""The log says who ended a connection, whichever side closed first and for whatever reason."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from twisted.internet.error import ConnectionDone
from twisted.logger import LogEvent, globalLogPublisher
from twisted.python.failure import Failure

from testbed.client import CLOSE, TEXT, client_frame
from tests.edge.rig import EdgeRig, Peer, rigged


@pytest.fixture
def rig() -> Iterator[EdgeRig]:
    with rigged() as made:
        yield made


@pytest.fixture
def reasons() -> Iterator[list[str]]:
    """Why each connection ended, as the log has it."""
    found: list[str] = []

    def observe(event: LogEvent) -> None:
        if "why" in event:
            found.append(event["why"])

    globalLogPublisher.addObserver(observe)  # type: ignore[arg-type]  # any callable is one
    yield found
    globalLogPublisher.removeObserver(observe)  # type: ignore[arg-type]  # any callable is one


def closed_by_client(peer: Peer, code: int) -> None:
    peer.protocol.dataReceived(client_frame(CLOSE, code.to_bytes(2, "big")))


@pytest.mark.parametrize(
    ("code", "begin"),
    [
        (1007, lambda peer: peer.protocol.dataReceived(client_frame(TEXT, b"\xff"))),
        (1002, lambda peer: peer.protocol.dataReceived(client_frame(0x3, b""))),
        (1013, lambda peer: peer.protocol.leave(1013, "it reads too slowly")),
    ],
    ids=["no UTF-8", "an unknown opcode", "too slow"],
)
def test_what_this_side_closes_is_not_laid_on_the_client_that_answers(
    rig: EdgeRig, reasons: list[str], code: int, begin: Callable[[Peer], None]
) -> None:
    peer = rig.peer()
    begin(peer)
    assert peer.frames()[-1] == {"closed": code}
    closed_by_client(peer, code)
    peer.protocol.connectionLost(Failure(ConnectionDone()))
    (why,) = reasons
    assert why.startswith(f"{code}, ")


def test_what_the_client_closes_is_not_claimed_by_who_would_close_it_later(rig: EdgeRig, reasons: list[str]) -> None:
    peer = rig.peer()
    closed_by_client(peer, 1000)
    peer.protocol.leave(1012, "the server restarts")
    peer.protocol.connectionLost(Failure(ConnectionDone()))
    assert reasons == ["closed by the client with 1000"]
