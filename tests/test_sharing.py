"""One call under way for all who need its result."""

from __future__ import annotations

import pytest
from twisted.internet.defer import CancelledError, Deferred, fail, succeed

from chatflow.lifecycle.sharing import SharedCall


class Calls:
    """Calls that the test ends, of what is shared; what they were begun with, in order."""

    def __init__(self) -> None:
        self.shared: SharedCall[str] = SharedCall()
        self.begun: list[tuple[str, Deferred[str]]] = []

    async def _call(self, name: str) -> str:
        self.begun.append((name, Deferred()))
        return await self.begun[-1][1]

    def join(self, name: str = "") -> list[object]:
        return _told(self.shared.join(lambda: self._call(name)))

    def next(self, name: str = "") -> list[object]:
        return _told(self.shared.next(lambda: self._call(name)))


def _told(answer: Deferred[str]) -> list[object]:
    """What it is told, once it is: a result, or the exception."""
    told: list[object] = []
    answer.addCallbacks(told.append, lambda failure: told.append(failure.value))
    return told


def test_who_joins_a_call_under_way_has_its_result_and_begins_none() -> None:
    calls = Calls()
    told = [calls.join("first"), calls.join("second")]
    assert [name for name, _ in calls.begun] == ["first"]
    calls.begun[0][1].callback("result")
    assert told == [["result"], ["result"]]
    assert not calls.shared.under_way


def test_who_wants_the_next_call_shares_it_with_the_others_who_do() -> None:
    calls = Calls()
    first, *others = calls.next("first"), calls.next("second"), calls.next("third")
    calls.begun[0][1].callback("old")
    assert (first, others) == (["old"], [[], []])
    assert [name for name, _ in calls.begun] == ["first", "second"]
    joined = calls.join("fourth")
    calls.begun[1][1].callback("new")
    assert (*others, joined) == (["new"], ["new"], ["new"])
    assert len(calls.begun) == 2


def test_a_failure_is_that_of_all_who_share_it_and_of_nobody_else() -> None:
    calls = Calls()
    first, joined, later = calls.join(), calls.join(), calls.next()
    error = ValueError("away")
    calls.begun[0][1].errback(error)
    calls.begun[1][1].callback("back")
    assert (first, joined, later) == ([error], [error], ["back"])


def test_a_call_that_is_over_at_once_is_answered_at_once() -> None:
    shared: SharedCall[str] = SharedCall()

    async def answer() -> str:
        return await succeed("now")

    assert _told(shared.join(answer)) == ["now"]
    assert _told(shared.next(answer)) == ["now"]


def test_who_is_cancelled_hears_nothing_more_and_the_call_goes_on_for_the_others() -> None:
    calls = Calls()
    one, other = (calls.shared.join(lambda: calls._call("")) for _ in range(2))
    one.cancel()
    told = _told(other)
    (cancelled,) = _told(one)
    assert isinstance(cancelled, CancelledError)
    assert calls.shared.wanted
    calls.begun[0][1].callback("result")
    assert told == ["result"]


def test_a_call_that_nobody_waits_for_any_more_is_not_wanted_and_its_failure_is_dropped() -> None:
    calls = Calls()
    asked = calls.shared.join(lambda: calls._call(""))
    asked.cancel()
    _told(asked)
    assert calls.shared.under_way
    assert not calls.shared.wanted
    calls.begun[0][1].errback(ValueError("of no interest"))
    assert not calls.shared.under_way


def test_the_next_call_is_not_begun_when_nobody_waits_for_it_any_more() -> None:
    calls = Calls()
    calls.join()
    asked = calls.shared.next(lambda: calls._call(""))
    asked.cancel()
    _told(asked)
    calls.begun[0][1].callback("result")
    assert len(calls.begun) == 1
    assert not calls.shared.under_way


def test_who_asks_again_when_it_is_answered_begins_a_call_that_those_who_wait_share() -> None:
    calls = Calls()
    again: list[list[object]] = []
    first = calls.shared.join(lambda: calls._call("first"))
    first.addCallback(lambda _: again.append(calls.join("again")))
    later = calls.next("later")
    calls.begun[0][1].callback("result")
    assert [name for name, _ in calls.begun] == ["first", "again"]
    calls.begun[1][1].callback("new")
    assert (again, later) == ([["new"]], ["new"])


def test_who_is_answered_may_cancel_another() -> None:
    calls = Calls()
    first, other = (calls.shared.join(lambda: calls._call("")) for _ in range(2))
    first.addCallback(lambda _: other.cancel())
    told = _told(other)
    calls.begun[0][1].callback("result")
    (cancelled,) = told
    assert isinstance(cancelled, CancelledError)


@pytest.mark.parametrize("ask", ["join", "next"])
def test_a_call_that_fails_before_it_has_begun_is_a_failure_like_any_other(ask: str) -> None:
    shared: SharedCall[str] = SharedCall()
    told = _told(getattr(shared, ask)(lambda: fail(ValueError("broken"))))
    assert [str(each) for each in told] == ["broken"]
    assert not shared.under_way
