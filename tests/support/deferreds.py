"""What a Deferred has come to, for tests in which time stands still."""

from __future__ import annotations

from typing import TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

T = TypeVar("T")


def result_of(deferred: Deferred[T]) -> T:
    """What it has fired with; or raises what it has failed with."""
    results: list[T | Failure] = []
    deferred.addBoth(results.append)
    assert results, "it has not fired"
    (result,) = results
    if isinstance(result, Failure):
        result.raiseException()
    return result
