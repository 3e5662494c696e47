"""The roll: one instance at a time gets the new release, while the others serve its clients.

It is a loop that looks at all instances and takes the next step of the one that is farthest on its way. So a roll that
was interrupted, wherever that was, goes on when it is repeated; and what happens meanwhile to other instances, such as
the death of one, is seen before the next is taken out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from attrs import define, field, frozen

from scripts.deployment.errors import Stopped
from scripts.deployment.fleet import Fleet, Instance, State
from scripts.deployment.progress import Progress


@frozen
class Patience:
    """How long a roll waits before it gives up, in seconds.

    :ivar ready: for a new instance, from its start until it is ready.
    :ivar stop: from the order to stop until the instance has drained and gone.
    :ivar lag: for the lag to fall below ``max_lag``.
    """

    ready: float
    stop: float
    lag: float
    max_lag: float


_BALANCER_SECONDS = 60.0


@define
class Roll:
    """One run of it.

    :param clock: seconds that only grow; ``sleep`` waits for some.
    :param again: the command that goes on after an end before time.
    """

    fleet: Fleet
    patience: Patience
    progress: Progress
    clock: Callable[[], float]
    sleep: Callable[[float], None]
    poll_seconds: float
    again: str = ""
    _touched: set[str] = field(factory=set)
    _started: set[str] = field(factory=set)
    _ready_by: float | None = None

    def run(self) -> int:
        """Roll until there is nothing left to do.

        :return: how many instances were given the release.
        :raises Stopped: an instance does not get on. It is left as it is; the others serve.
        """
        outdated = {one.name for one in self.fleet.instances() if not one.current}
        while (found := self._next()) is not None:
            take, instance = found
            if not instance.current and instance.name not in outdated:
                raise Stopped(
                    f"{instance.name} is new, and yet it runs {instance.release}, not what all are to run",
                    "is somebody else changing it? Look: scripts/deploy status",
                )
            take(self, instance)
        self._await_lag()
        return len(self._touched)

    def run_and_tell(self) -> int:
        """The same for people, as a command.

        :return: the exit status.
        """
        began = self.clock()
        touched = self.run()
        instances = self.fleet.instances()
        releases = " and ".join(sorted({one.release for one in instances}))
        what = "nothing was to be done" if not touched else f"the roll took {self.clock() - began:.0f} s"
        self.progress.say(f"All {len(instances)} instances run {releases}: {what}")
        return 0

    def _next(self) -> tuple[Callable[[Roll, Instance], None], Instance] | None:
        """The next step, and the instance that takes it; None once all run the current release and serve."""
        instances = self.fleet.instances()
        for take, wanted in _STEPS:
            for instance in instances:
                if wanted(instance):
                    return take, instance
        return None

    # The steps

    def _take_out(self, instance: Instance) -> None:
        self._touched.add(instance.name)
        self._ready_by = None
        self._await_lag()
        # Read again: the lag may have taken its time.
        if not any(one.serves and one.name != instance.name for one in self.fleet.instances()):
            raise Stopped(
                f"{instance.name} is the only instance that serves clients: they would be refused while it restarts",
                "bring another one up first, so that at least two are ready",
            )
        with self.progress.step(instance.name, "out of the balancer") as step:
            self.fleet.take_out(instance)
            self._wait(
                lambda: not self._find(instance).in_balancer,
                _BALANCER_SECONDS,
                f"{instance.name} stays in the balancer",
            )
            self.sleep(self.fleet.settle_seconds)
            clients = self._find(instance).clients
            step.note = "" if clients is None else f"{clients} clients stay until it drains"

    def _stop(self, instance: Instance) -> None:
        with self.progress.step(instance.name, f"drained and stopped, was {instance.release}") as step:
            self.fleet.stop(instance)
            step.note = self._await_gone(instance)

    def _await_end(self, instance: Instance) -> None:
        with self.progress.step(instance.name, "drained and stopped") as step:
            step.note = self._await_gone(instance)

    def _await_gone(self, instance: Instance) -> str:
        """:return: what there is to say of its end."""

        def gone() -> bool:
            return (one := self._look_up(instance)) is None or one.state is State.STOPPED

        self._wait(
            gone, self.patience.stop, f"{instance.name} has not ended, {self.patience.stop:g} s after it was told"
        )
        left = self._look_up(instance)
        return left.note if left is not None else ""

    def _start(self, instance: Instance) -> None:
        if instance.name in self._started:
            self._give_up(instance, f"{instance.name} does not become ready: it {instance.note or 'has stopped again'}")
        self._started.add(instance.name)
        self._touched.add(instance.name)
        self._ready_by = self.clock() + self.patience.ready
        self.fleet.start(instance)
        self._await_ready(self._find(instance))

    def _await_ready(self, instance: Instance) -> None:
        """Also of one that is gone meanwhile: an auto scaling group puts another one into its place."""
        if self._ready_by is None:
            self._ready_by = self.clock() + self.patience.ready
        with self.progress.step(instance.name, f"ready with {instance.release}"):
            while (one := self._look_up(instance)) is not None and one.state is State.STARTING:
                if self.clock() > self._ready_by:
                    note = f": it {one.note}" if one.note else ""
                    self._give_up(one, f"{one.name} is not ready after {self.patience.ready:g} s{note}")
                self.sleep(self.poll_seconds)
            if one is not None and one.state is State.STOPPED:
                self._give_up(one, f"{one.name} does not become ready: it {one.note or 'has stopped again'}")

    def _put_back(self, instance: Instance) -> None:
        with self.progress.step(instance.name, "back in the balancer"):
            self.fleet.put_back(instance)
            self._wait(
                lambda: self._find(instance).in_balancer, _BALANCER_SECONDS, f"{instance.name} is sent no clients"
            )

    def _await_lag(self) -> None:
        limit = self.patience.max_lag
        lag = self.fleet.lag_seconds()
        with self.progress.step("", "lag is normal") as step:
            deadline = self.clock() + self.patience.lag
            while lag is not None and lag > limit:
                if self.clock() > deadline:
                    raise Stopped(
                        f"the oldest message waits for {lag:.1f} s, more than the {limit:g} s of --max-lag-seconds",
                        "look at the queues and the database first: chatflow-admin queues; docs/operations.rst",
                        *self._go_on(),
                    )
                self.sleep(self.poll_seconds)
                lag = self.fleet.lag_seconds()
            step.note = "not known" if lag is None else f"{lag:.1f} s"

    # Looking and waiting

    def _look_up(self, instance: Instance) -> Instance | None:
        return next((one for one in self.fleet.instances() if one.name == instance.name), None)

    def _find(self, instance: Instance) -> Instance:
        found = self._look_up(instance)
        if found is None:
            raise Stopped(f"{instance.name} has gone", *self._go_on())
        return found

    def _wait(self, until: Callable[[], bool], seconds: float, otherwise: str) -> None:
        deadline = self.clock() + seconds
        while not until():
            if self.clock() > deadline:
                raise Stopped(otherwise, *self._go_on())
            self.sleep(self.poll_seconds)

    def _give_up(self, instance: Instance, why: str) -> None:
        others = [one.name for one in self.fleet.instances() if not one.current]
        untouched = f"; {', '.join(others)} not touched" if others else ""
        raise Stopped(why, f"{instance.name} is sent no clients{untouched}", *self._go_on())

    def _go_on(self) -> Sequence[str]:
        if not self.again:
            return ()
        return (f"mend the cause and repeat the command, it goes on from here; or go back: {self.again} --rollback",)


# What is under way comes first, then what does not run at all or is of no use: while that is missing, no other instance
# may be taken out.
_STEPS: Sequence[tuple[Callable[[Roll, Instance], None], Callable[[Instance], bool]]] = (
    (Roll._await_end, lambda one: one.state is State.STOPPING),
    (Roll._await_ready, lambda one: one.current and one.state is State.STARTING),
    (Roll._put_back, lambda one: one.current and one.state is State.READY and not one.in_balancer),
    (Roll._start, lambda one: one.state is State.STOPPED),
    (Roll._stop, lambda one: not one.current and not one.in_balancer),
    (Roll._take_out, lambda one: not one.current and one.state is State.STARTING),
    (Roll._take_out, lambda one: not one.current),
)
