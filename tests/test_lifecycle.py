"""Start and stop in order, background work, threads; what becomes of the process is in ``test_root_service.py``."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import TypeVar

import pytest
from twisted.application.service import Service
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.logger import LogEvent, globalLogPublisher
from twisted.python.failure import Failure

from chatflow.errors import StartupError, Unavailable
from chatflow.lifecycle import Backoff, NamedThreadPool, OrderedServices, Outstanding, PeriodicService, QuickThreads
from tests.support.deferreds import result_of

_T = TypeVar("_T")


class IdleReactor(Clock):
    """A reactor that does not run; each iteration takes as long as it was allowed to."""

    running = False

    def iterate(self, delay: float = 0) -> None:
        self.advance(delay)


class Part(Service):
    """Writes down when it is started and stopped."""

    def __init__(
        self,
        events: list[str],
        start: Callable[[], object] = lambda: None,
        stop: Callable[[], Deferred[None] | None] = lambda: None,
    ) -> None:
        self.events, self.start, self.stop = events, start, stop

    def startService(self) -> None:
        self.events.append(f"start {self.name}")
        return self.start()  # type: ignore[return-value]  # what a service must not do

    def stopService(self) -> Deferred[None] | None:
        self.events.append(f"stop {self.name}")
        return self.stop()


class Logged:
    """Keeps what is logged."""

    @pytest.fixture(autouse=True)
    def log(self) -> Iterator[None]:
        self.logged: list[LogEvent] = []
        globalLogPublisher.addObserver(self.logged.append)  # type: ignore[arg-type]  # any callable is one
        yield
        globalLogPublisher.removeObserver(self.logged.append)  # type: ignore[arg-type]  # any callable is one

    def logged_failures(self, kind: type[Exception]) -> list[LogEvent]:
        return [event for event in self.logged if "log_failure" in event and event["log_failure"].check(kind)]

    def logged_about(self, key: str, name: str) -> list[LogEvent]:
        return [event for event in self.logged if event.get(key) == name and event["log_level"].name != "info"]


class TestOrderedServices(Logged):
    @pytest.fixture(autouse=True)
    def make(self) -> None:
        self.events: list[str] = []
        self.reactor = IdleReactor()
        self.services = OrderedServices(self.reactor, deadline_seconds=20, reserve_seconds=1)

    def test_children_start_in_order_and_stop_in_reverse_each_awaited(self) -> None:
        closing: dict[str, Deferred[None]] = {"database": Deferred(), "writer": Deferred()}
        self.services.add("database", Part(self.events, stop=lambda: closing["database"]))
        self.services.add("writer", Part(self.events, stop=lambda: closing["writer"]))
        self.services.add("port", Part(self.events))
        self.services.startService()
        assert self.events == ["start database", "start writer", "start port"]

        self.events.clear()
        stopped = self.services.stopService()
        assert self.events == ["stop port", "stop writer"]
        closing["writer"].callback(None)
        assert self.events == ["stop port", "stop writer", "stop database"]
        assert not stopped.called
        closing["database"].callback(None)
        result_of(stopped)
        assert self.reactor.getDelayedCalls() == []
        assert not self.services.running

    def test_a_child_that_fails_to_stop_is_logged_by_name_and_the_rest_still_stop(self) -> None:
        def explode() -> None:
            raise ValueError("at once")

        self.services.add("database", Part(self.events))
        self.services.add("writer", Part(self.events, stop=lambda: fail(ValueError("later"))))
        self.services.add("port", Part(self.events, stop=explode))
        self.services.startService()
        result_of(self.services.stopService())
        assert self.events[3:] == ["stop port", "stop writer", "stop database"]
        assert len(self.logged_about("service", "port")) == 1
        assert len(self.logged_about("service", "writer")) == 1
        assert len(self.logged_failures(ValueError)) == 2

    def test_a_late_child_leaves_the_reserved_time_to_those_behind_it(self) -> None:
        self.services.add("database", Part(self.events, stop=lambda: Deferred()))
        self.services.add("writer", Part(self.events, stop=lambda: Deferred()))
        self.services.add("port", Part(self.events, stop=lambda: Deferred()))
        self.services.startService()
        self.events.clear()
        stopped = self.services.stopService()
        self.reactor.advance(17.9)
        assert self.events == ["stop port"]
        self.reactor.advance(0.2)
        assert self.events == ["stop port", "stop writer"]
        self.reactor.advance(1)
        assert self.events == ["stop port", "stop writer", "stop database"]
        assert not stopped.called
        self.reactor.advance(0.8)
        assert not stopped.called
        self.reactor.advance(0.2)
        result_of(stopped)
        for name in ("port", "writer", "database"):
            assert len(self.logged_about("service", name)) == 1

    def test_a_late_child_that_fails_after_all_is_logged_and_disturbs_nobody(self) -> None:
        closing: Deferred[None] = Deferred()
        self.services.add("database", Part(self.events))
        self.services.add("port", Part(self.events, stop=lambda: closing))
        self.services.startService()
        stopped = self.services.stopService()
        self.reactor.advance(20)
        result_of(stopped)
        closing.errback(ValueError("too late"))
        assert len(self.logged_failures(ValueError)) == 1

    def test_the_reserve_takes_at_most_half_of_a_short_deadline(self) -> None:
        services = OrderedServices(self.reactor, deadline_seconds=4, reserve_seconds=100)
        services.add("database", Part(self.events))
        services.add("port", Part(self.events, stop=lambda: Deferred()))
        services.startService()
        self.events.clear()
        services.stopService()
        self.reactor.advance(2.9)
        assert self.events == ["stop port"]
        self.reactor.advance(0.2)
        assert self.events == ["stop port", "stop database"]

    def test_a_failing_start_stops_those_already_started_in_reverse_and_raises(self) -> None:
        def refuse() -> None:
            raise StartupError("port is in use")

        slow: Deferred[None] = Deferred()
        self.services.add("database", Part(self.events, stop=lambda: slow))
        self.services.add("writer", Part(self.events))
        self.services.add("port", Part(self.events, start=refuse))
        self.services.add("announcement", Part(self.events))
        self.reactor.callLater(3, slow.callback, None)
        with pytest.raises(StartupError, match="port is in use"):
            self.services.startService()
        assert self.events == ["start database", "start writer", "start port", "stop writer", "stop database"]
        assert slow.called, "the stop of the database was not awaited"
        assert not self.services.running
        assert len(self.logged_about("service", "port")) == 1

    def test_a_failing_start_waits_no_longer_than_the_deadline(self) -> None:
        self.services.add("database", Part(self.events, stop=lambda: Deferred()))
        self.services.add("port", Part(self.events, start=lambda: 1 / 0))
        with pytest.raises(ZeroDivisionError):
            self.services.startService()
        assert self.reactor.seconds() < 20.2
        assert len(self.logged_about("service", "database")) == 1

    def test_a_child_that_would_start_later_is_refused(self) -> None:
        self.services.add("late", Part(self.events, start=lambda: succeed(None)))
        with pytest.raises(TypeError, match="not later"):
            self.services.startService()

    def test_children_cannot_be_added_after_the_start(self) -> None:
        self.services.startService()
        with pytest.raises(RuntimeError):
            self.services.add("port", Part(self.events))

    def test_stopping_twice_stops_each_child_once(self) -> None:
        self.services.add("port", Part(self.events))
        self.services.startService()
        result_of(self.services.stopService())
        result_of(self.services.stopService())
        assert self.events == ["start port", "stop port"]


class TestOutstanding(Logged):
    def test_drain_fires_at_once_when_nothing_is_under_way(self) -> None:
        result_of(Outstanding().drain())

    def test_drain_waits_for_all_including_what_is_added_meanwhile(self) -> None:
        outstanding = Outstanding()
        first: Deferred[object] = Deferred()
        second: Deferred[object] = Deferred()
        outstanding.add("first", first)
        drained = [outstanding.drain(), outstanding.drain()]
        outstanding.add("second", second)
        assert outstanding.count == 2
        first.callback(None)
        assert not drained[0].called
        second.callback(None)
        assert outstanding.count == 0
        for each in drained:
            result_of(each)

    def test_a_failure_is_logged_once_with_its_name_and_counts_as_done(self) -> None:
        outstanding = Outstanding()
        work: Deferred[object] = Deferred()
        outstanding.add("refresh of views", work)
        drained = outstanding.drain()
        work.errback(ValueError())
        result_of(drained)
        assert len(self.logged_about("work", "refresh of views")) == 1
        assert len(self.logged_failures(Exception)) == 1


class TestRepeating(Logged):
    @pytest.fixture(autouse=True)
    def make(self) -> None:
        self.clock = Clock()
        self.runs: list[Deferred[None]] = []

    def run_until_fired(self) -> Deferred[None]:
        self.runs.append(Deferred())
        return self.runs[-1]

    def repeating(self, *, at_once: bool = False) -> PeriodicService:
        repeating = PeriodicService(self.clock, "beat", 10, self.run_until_fired, at_once=at_once)
        repeating.startService()
        return repeating

    def test_a_run_never_begins_while_another_is_under_way(self) -> None:
        self.repeating()
        self.clock.pump([9, 1, 10, 5])
        assert len(self.runs) == 1
        self.runs[0].callback(None)
        self.clock.pump([4, 0.9])
        assert len(self.runs) == 1
        self.clock.advance(0.1)
        assert len(self.runs) == 2

    def test_the_first_run_may_come_with_the_start(self) -> None:
        self.repeating(at_once=True)
        assert len(self.runs) == 1

    def test_a_failure_is_logged_and_the_next_run_comes(self) -> None:
        self.repeating()
        self.clock.advance(10)
        self.runs[0].errback(ValueError())
        self.clock.advance(10)
        assert len(self.runs) == 2
        assert len(self.logged_about("work", "beat")) == 1
        assert len(self.logged_failures(ValueError)) == 1

    def test_work_that_raises_before_it_returns_anything_is_a_failure_like_any(self) -> None:
        calls = []

        def work() -> Deferred[None]:
            calls.append(1)
            raise ValueError

        PeriodicService(self.clock, "beat", 10, work).startService()
        self.clock.pump([10, 10])
        assert len(calls) == 2
        assert len(self.logged_failures(ValueError)) == 2

    def test_stop_waits_for_the_run_under_way(self) -> None:
        repeating = self.repeating()
        self.clock.advance(10)
        stopped = repeating.stopService()
        assert not stopped.called
        self.runs[0].callback(None)
        result_of(stopped)
        self.clock.advance(100)
        assert len(self.runs) == 1

    def test_stop_between_two_runs_fires_at_once(self) -> None:
        repeating = self.repeating()
        result_of(repeating.stopService())
        assert self.clock.getDelayedCalls() == []

    def test_stop_without_start_is_harmless(self) -> None:
        result_of(PeriodicService(self.clock, "beat", 10, self.run_until_fired).stopService())


class TestBackoff:
    def test_the_bound_doubles_up_to_the_cap(self) -> None:
        backoff = Backoff(first_seconds=0.5, cap_seconds=3, random=lambda: 1.0)
        assert [backoff.next_delay_seconds() for _ in range(5)] == [0.5, 1, 2, 3, 3]

    def test_the_delay_is_a_random_part_of_the_bound(self) -> None:
        parts = iter([0.0, 0.25, 0.5])
        backoff = Backoff(first_seconds=8, cap_seconds=16, random=lambda: next(parts))
        assert [backoff.next_delay_seconds() for _ in range(3)] == [0, 4, 8]

    def test_it_stays_at_the_cap_however_often_one_tries(self) -> None:
        backoff = Backoff(first_seconds=1, cap_seconds=60, random=lambda: 1.0)
        for _ in range(5000):
            last = backoff.next_delay_seconds()
        assert last == 60

    def test_after_a_reset_the_bound_begins_anew(self) -> None:
        backoff = Backoff(first_seconds=1, cap_seconds=60, random=lambda: 1.0)
        backoff.next_delay_seconds()
        backoff.next_delay_seconds()
        backoff.reset()
        assert backoff.next_delay_seconds() == 1

    def test_a_first_bound_over_the_cap_is_cut(self) -> None:
        assert Backoff(first_seconds=9, cap_seconds=2, random=lambda: 1.0).next_delay_seconds() == 2


class MainThread:
    """What a reactor does for threads, without one: calls wait here until the test makes them."""

    def __init__(self) -> None:
        self.calls: SimpleQueue[tuple[Callable[..., object], tuple[object, ...]]] = SimpleQueue()

    def callFromThread(self, call: Callable[..., object], *arguments: object) -> None:
        self.calls.put((call, arguments))

    def wait_for(self, deferred: Deferred[_T]) -> _T:
        while not deferred.called:
            call, arguments = self.calls.get(timeout=30)
            call(*arguments)
        results: list[_T | Failure] = []
        deferred.addBoth(results.append)
        if isinstance(results[0], Failure):
            results[0].raiseException()
        return results[0]


class TestNamedThreadPool:
    @pytest.fixture(autouse=True)
    def make(self) -> None:
        self.main = MainThread()
        self.threads = NamedThreadPool(self.main, "librarian", 2)  # type: ignore[arg-type]

    def test_runs_in_a_named_daemon_thread_and_answers_in_the_reactors(self) -> None:
        self.threads.startService()
        answered_in: list[threading.Thread] = []
        call = self.threads.run(threading.current_thread)

        def answered(result: threading.Thread) -> threading.Thread:
            answered_in.append(threading.current_thread())
            return result

        call.addCallback(answered)
        thread = self.main.wait_for(call)
        assert "librarian" in thread.name
        assert thread.daemon, "a blocked thread would keep the process from exiting"
        assert answered_in == [threading.current_thread()]
        self.main.wait_for(self.threads.stopService())
        assert not thread.is_alive()

    def test_what_the_function_raises_arrives(self) -> None:
        self.threads.startService()
        with pytest.raises(ZeroDivisionError):
            self.main.wait_for(self.threads.run(lambda: 1 / 0))
        self.main.wait_for(self.threads.stopService())

    def test_a_pool_has_no_more_threads_than_its_size(self) -> None:
        self.threads.startService()
        go_on = threading.Event()
        calls = [self.threads.run(go_on.wait, 30) for _ in range(5)]
        alive = [thread for thread in threading.enumerate() if "PoolThread-librarian" in thread.name]
        assert len(alive) == 2
        go_on.set()
        assert all(self.main.wait_for(call) for call in calls)
        self.main.wait_for(self.threads.stopService())

    def test_stop_returns_at_once_and_fires_when_calls_running_and_waiting_are_done(self) -> None:
        self.threads.startService()
        go_on = threading.Event()
        calls = [self.threads.run(go_on.wait, 30) for _ in range(3)]
        stopped = self.threads.stopService()
        assert not stopped.called  # and we are here: the reactor's thread was not made to join
        go_on.set()
        self.main.wait_for(stopped)
        assert all(call.called and self.main.wait_for(call) for call in calls)

    def test_a_call_before_start_or_after_stop_fails_instead_of_waiting_for_ever(self) -> None:
        with pytest.raises(Unavailable):
            self.main.wait_for(self.threads.run(lambda: None))
        self.threads.startService()
        stopped = self.threads.stopService()
        with pytest.raises(Unavailable):
            self.main.wait_for(self.threads.run(lambda: None))
        self.main.wait_for(stopped)

    def test_stop_without_start_is_harmless(self) -> None:
        self.main.wait_for(self.threads.stopService())

    def test_it_can_be_started_again(self) -> None:
        for _ in range(2):
            self.threads.startService()
            assert self.main.wait_for(self.threads.run(lambda: 7)) == 7
            self.main.wait_for(self.threads.stopService())


class TestQuickThreads:
    @pytest.fixture(autouse=True)
    def make(self) -> Iterator[None]:
        self.main = MainThread()
        self.threads = QuickThreads(self.main, 2)  # type: ignore[arg-type]
        yield
        self.threads.stop()

    def test_calls_are_answered_with_what_they_return_or_raise(self) -> None:
        self.threads.start()
        assert self.main.wait_for(self.threads.run(divmod, 7, 2)) == (3, 1)
        with pytest.raises(ZeroDivisionError):
            self.main.wait_for(self.threads.run(divmod, 7, 0))
        assert self.main.wait_for(self.threads.run(threading.current_thread)).daemon

    def test_it_has_no_more_threads_if_it_is_started_twice(self) -> None:
        before = threading.active_count()
        for _ in range(2):
            self.threads.start()
        assert threading.active_count() == before + 2

    def test_a_call_that_exits_does_not_cost_a_thread(self) -> None:
        self.threads.start()
        for _ in range(5):
            with pytest.raises(SystemExit):
                self.main.wait_for(self.threads.run(sys.exit))
        assert self.main.wait_for(self.threads.run(int)) == 0

    def test_so_many_run_at_a_time_and_the_others_in_their_order(self) -> None:
        go_on, begun = threading.Event(), threading.Semaphore(0)
        order: list[int] = []

        def call_in_thread(number: int) -> None:
            order.append(number)
            begun.release()
            assert go_on.wait(30)

        calls = [self.threads.run(call_in_thread, number) for number in range(6)]
        self.threads.start()
        assert all(begun.acquire(timeout=30) for _ in range(2))
        assert sorted(order) == [0, 1]
        go_on.set()
        for call in calls:
            self.main.wait_for(call)
        assert sorted(order) == list(range(6))
        assert set(order[2:4]) <= {2, 3, 4}, "a call does not wait for those behind it"

    def test_stopping_waits_for_what_was_called_before(self) -> None:
        self.threads.start()
        calls = [self.threads.run(int) for _ in range(100)]
        self.threads.stop()
        assert [self.main.wait_for(call) for call in calls] == [0] * 100
        assert not [thread for thread in threading.enumerate() if "_work_in_thread" in thread.name]
