"""The design keeps its promises in every order of steps, and without any one of its rules it does not."""

from __future__ import annotations

import pytest

from tests.model.exploring import explore, main
from tests.model.order import Fault, State

#: Three envelopes that were published before anything else happens.
QUEUED = State(accepted=3, arrived=(1, 2, 3), queue=(1, 2, 3), crashes=0, losses=0)

#: Envelopes, and how many crashes, losses and lost leases: what is explored to its end in seconds.
SIZES = {
    "two envelopes, a crash": (2, State(crashes=1, losses=0, expiries=0)),
    "two envelopes, a loss and a lost lease": (2, State(crashes=0, losses=1, expiries=1)),
    "three envelopes, queued before, and lost leases": (3, QUEUED._replace(expiries=2)),
}

#: The smallest size at which a fault shows.
SHOWS = {
    Fault.ACKNOWLEDGED_BEFORE_DURABLE: (1, State(crashes=1, losses=0, expiries=0), "P1"),
    Fault.REPEATED_UNDER_ANOTHER_ID: (1, State(crashes=0, losses=1, expiries=0), "P1"),
    Fault.DELIVERED_BEFORE_COMMIT: (1, State(crashes=0, losses=0, expiries=0), "P2"),
    Fault.DELETED_BEFORE_COMMIT: (1, State(crashes=1, losses=0, expiries=0), "P1"),
    Fault.ENVELOPES_NOT_REMEMBERED: (1, State(crashes=0, losses=0, expiries=1), "P4"),
    Fault.LEASE_NOT_CHECKED: (3, QUEUED._replace(expiries=1), "P4"),
    Fault.LEASE_CHECKED_BEFORE_THE_LOCK: (3, QUEUED._replace(expiries=2), "P4"),
    Fault.SEEN_NOT_DROPPED: (1, State(crashes=0, losses=0, expiries=0), "P3"),
    Fault.GAP_NOT_READ: (2, State(crashes=0, losses=0, expiries=0), "P3"),
    Fault.HEADS_NOT_COMPARED: (1, State(crashes=0, losses=1, expiries=0), "P5"),
    Fault.RESUMED_FROM_THE_HUB_ALONE: (1, State(crashes=1, losses=0, expiries=0), "P5"),
}


@pytest.mark.parametrize("size", SIZES)
def test_every_promise_holds_in_every_order_of_steps(size: str) -> None:
    envelopes, begin = SIZES[size]
    found = explore(begin, envelopes)
    assert found.broken is None, found.path
    assert found.states > 1000, "too few: steps are missing from the model"


@pytest.mark.parametrize("fault", Fault, ids=lambda fault: fault.name.lower())
def test_a_rule_that_is_left_out_breaks_a_promise(fault: Fault) -> None:
    envelopes, begin, promise = SHOWS[fault]
    found = explore(begin, envelopes, fault)
    assert found.broken is not None
    assert found.broken.startswith(promise)


def test_the_command_prints_the_steps_to_a_broken_promise_and_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--envelopes", "1", "--fault", "DELIVERED_BEFORE_COMMIT"]) == 1
    assert "P2: client 0 was given 1 under 1" in capsys.readouterr().out


def test_the_command_succeeds_with_the_design_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--envelopes", "1", "--losses", "0", "--expiries", "0"]) == 0
    assert "every promise holds" in capsys.readouterr().out
