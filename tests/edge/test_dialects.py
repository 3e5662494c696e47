"""How clients are spoken to: which dialect is chosen, and what each has no frame for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from zope.interface.verify import verifyClass

from chatflow.contracts.identity import ANYONE
from chatflow.contracts.members import Reset, Resumed
from chatflow.edge.connections import IConnection
from chatflow.edge.dialects import PLAIN, V2, IDialect, Plain, choose_dialect
from chatflow.edge.room_session import ISessionMember
from chatflow.edge.websocket import ChatProtocol
from chatflow.errors import Refused
from tests.edge.rig import EdgeRig, rigged


@pytest.fixture
def rig() -> Iterator[EdgeRig]:
    with rigged() as rig:
        yield rig


def content(frame: bytes | None) -> dict[str, Any]:
    """What is in a text frame of a server."""
    assert frame is not None
    found: dict[str, Any] = json.loads(frame[frame.index(b"{") :])
    return found


@pytest.mark.parametrize(
    ("interface", "implementer"),
    [(IDialect, Plain), (IDialect, V2), (IConnection, ChatProtocol), (ISessionMember, ChatProtocol)],
)
def test_who_says_that_it_is_one_is_one(interface: Any, implementer: Any) -> None:
    assert verifyClass(interface, implementer)


@pytest.mark.parametrize("offered", [[], ["chatflow.v999"], ["mqtt", ""], ["CHATFLOW.V2"]], ids=str)
def test_who_offers_nothing_that_is_spoken_here_is_spoken_to_plainly(offered: list[str]) -> None:
    assert choose_dialect(offered) is PLAIN


@pytest.mark.parametrize("offered", [["chatflow.v2"], ["mqtt", "chatflow.v2"], ["chatflow.v2", "chatflow.v9"]], ids=str)
def test_the_best_that_is_offered_is_chosen(offered: list[str]) -> None:
    assert choose_dialect(offered).subprotocol == "chatflow.v2"


def test_a_plain_client_is_told_nothing_that_it_did_not_ask_for(rig: EdgeRig) -> None:
    assert PLAIN.welcome(rig.edge, 1, ANYONE) is None
    assert PLAIN.heartbeat(7) is None
    assert PLAIN.goodbye(100) is None
    assert PLAIN.set_back(3) is None
    assert PLAIN.resuming(Resumed(1, 2, 2), 0) is None


@pytest.mark.parametrize(("reason", "code"), [("beyond_head", "since_beyond_head"), ("expired", "since_expired")])
def test_a_plain_client_is_told_in_an_error_that_its_history_is_not_there(reason: Any, code: str) -> None:
    told = content(PLAIN.resuming(Reset(reason, 42), 0))
    assert (told["status"], told["code"]) == ("ERROR", code)
    assert "seq 42" in told["errorMessage"]


def test_v2_has_a_frame_for_everything(rig: EdgeRig) -> None:
    dialect = V2()
    welcome = dialect.welcome(rig.edge, 1, ANYONE)
    assert welcome is not None
    told = content(welcome(9, 4))
    assert (told["type"], told["head"], told["first"], told["serverId"]) == ("welcome", 9, 4, "s1")
    assert content(dialect.heartbeat(7)) == {"type": "heartbeat", "head": 7}
    assert content(dialect.goodbye(100))["retryAfterMs"] == 100
    assert content(dialect.set_back(3)) == {"type": "reset", "reason": "restored", "from": 3}
    assert content(dialect.resuming(Resumed(1, 2, 2), 0)) == {"type": "resumed", "from": 1, "to": 2, "count": 2}
    assert content(dialect.resuming(Reset("expired", 5), 0)) == {"type": "reset", "reason": "expired", "from": 5}


def test_an_error_and_an_acknowledgement_are_the_same_in_both() -> None:
    refused = Refused("invalid_field", "username must be so", "username")
    assert PLAIN.error(refused, 10**15) == V2().error(refused, 10**15)
