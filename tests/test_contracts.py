"""Every contract between the packages, and who keeps it."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from typing import Any

import pytest
from zope.interface.interface import InterfaceClass
from zope.interface.verify import verifyClass

import chatflow
from chatflow import contracts

#: Interface → its implementers in the product; hand-written doubles of tests are verified where they are.
IMPLEMENTERS = {
    "archive.IArchive": {"persistence.archive.Archive"},
    "archive.ISeqLookup": {"persistence.history.History"},
    "analytics.IAnalytics": {"persistence.analytics_store.AnalyticsStore"},
    "broker.IBroker": {"broker.sqs_broker.SqsBroker", "broker.embedded_broker.EmbeddedBroker"},
    "deadletters.IDeadLetterBox": {"broker.deadletters.SqsDeadLetterBox", "persistence.deadletters.DeadLetterRows"},
    "deadletters.IDeadLetters": {"broker.deadletters.SqsDeadLetters", "persistence.deadletters.DeadLetterTable"},
    "fanout.IFanout": {"broker.embedded_queue.NoFanout", "broker.sns.SnsFanout"},
    "history.IHistory": {"persistence.history.History"},
    "history.IPageHistory": {"persistence.history.History"},
    "identity.ITokenVerifier": {"tokens.verifier.TokenVerifier"},
    "members.IMember": {"edge.websocket.ChatProtocol"},
    "members.IResumingMember": {"edge.websocket.ChatProtocol"},
    "members.ISender": {"edge.intake.Intake", "edge.publishing._Sender"},
    "membership.IMembershipTable": {"persistence.membership.MembershipTable"},
    "membership.IPresenceTable": {"broker.membership.Membership", "rooms.presence.NoOthers"},
    "moderation.ISanctionTable": {"persistence.sanctions.SanctionTable"},
    "room_queue.IPublish": {"broker.embedded_queue.EmbeddedRoomQueue", "broker.sqs.SqsRoomQueue"},
    "room_queue.IRoomQueue": {"broker.embedded_queue.EmbeddedRoomQueue", "broker.sqs.SqsRoomQueue"},
    "room_queue.IDepths": {"broker.depth.EmbeddedDepths", "broker.depth.SqsDepths"},
    "writer.IBatchWriter": {"persistence.writer.BatchWriter"},
}


def _modules(package: Any) -> Iterator[Any]:
    for found in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not found.name.endswith("__main__"):
            yield importlib.import_module(found.name)


def _contracts() -> dict[str, InterfaceClass]:
    return {
        f"{module.__name__.rsplit('.', 1)[-1]}.{name}": value
        for module in _modules(contracts)
        for name, value in vars(module).items()
        if isinstance(value, InterfaceClass) and value.__module__ == module.__name__
    }


def _implementers(contract: InterfaceClass) -> dict[str, type]:
    return {
        f"{module.__name__.removeprefix('chatflow.')}.{name}": value
        for module in _modules(chatflow)
        for name, value in vars(module).items()
        if isinstance(value, type) and value.__module__ == module.__name__ and contract.implementedBy(value)
    }


def test_every_contract_is_named_here() -> None:
    assert _contracts().keys() == IMPLEMENTERS.keys()


@pytest.mark.parametrize("name", IMPLEMENTERS)
def test_a_contract_is_kept_by_those_who_say_so(name: str) -> None:
    contract = _contracts()[name]
    found = _implementers(contract)
    assert found.keys() == IMPLEMENTERS[name]
    for implementer in found.values():
        verifyClass(contract, implementer)
