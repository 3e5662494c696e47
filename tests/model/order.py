"""One room, two instances, a few envelopes: what each step of the protocol does to the state of the whole cluster.

What is modelled is what the promises hang on: the queue that gives a room to one consumer at a time until its lease
runs out, the commit under the lock of the room's head, the fan-out that loses, doubles and reorders, the hub that drops
what it has seen and reads what it missed, a client that comes back with its last seq. An envelope holds one message;
ids count up. :mod:`tests.model.exploring` tries every order of steps, and asks :func:`broken_promise` after each.

A design may be spoiled on purpose by a :class:`Fault`: a model that does not notice would prove nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum, auto
from typing import Any, NamedTuple, TypeAlias

NOBODY = -1

#: What a head remembers, and what a consumer is given at once: 64 and 10 in ChatFlow. That the first is no smaller than
#: the second is all that matters.
REMEMBERED = 2
RECEIVED = 2


class Fault(Enum):
    """One rule of the design left out."""

    ACKNOWLEDGED_BEFORE_DURABLE = auto()
    REPEATED_UNDER_ANOTHER_ID = auto()
    DELIVERED_BEFORE_COMMIT = auto()
    DELETED_BEFORE_COMMIT = auto()
    ENVELOPES_NOT_REMEMBERED = auto()
    LEASE_NOT_CHECKED = auto()
    LEASE_CHECKED_BEFORE_THE_LOCK = auto()
    SEEN_NOT_DROPPED = auto()
    GAP_NOT_READ = auto()
    HEADS_NOT_COMPARED = auto()
    RESUMED_FROM_THE_HUB_ALONE = auto()


class Stage(Enum):
    """How far an instance has come with the envelopes that it received."""

    IDLE = auto()
    RECEIVED = auto()
    LOCKED = auto()
    STORED = auto()
    ANNOUNCED = auto()


Stored: TypeAlias = tuple[int, int]
"""A seq and the envelope that was stored under it."""


class Instance(NamedTuple):
    """:ivar publishing: the envelope that it tries to publish, or 0.
    :ivar published: whether it knows that the queue has that.
    :ivar hand: what it received and has not settled.
    :ivar leased: what it was told of its lease, if it asked already.
    :ivar stored: what it stored of that.
    :ivar seq: the last one that its hub delivered.
    :ivar fanned_out: what was fanned out to it and may still come, in any order, more than once, or never.
    """

    publishing: int = 0
    published: bool = False
    stage: Stage = Stage.IDLE
    hand: tuple[int, ...] = ()
    leased: bool = True
    stored: tuple[Stored, ...] = ()
    seq: int = 0
    fanned_out: frozenset[Stored] = frozenset()


class Client(NamedTuple):
    """:ivar at: the instance that it is connected to, or :data:`NOBODY`.
    :ivar got: what it was given, in that order.
    """

    at: int
    got: tuple[Stored, ...] = ()


class State(NamedTuple):
    """:ivar accepted: envelopes 1 to this were begun.
    :ivar arrived: those that reached the queue, in that order.
    :ivar queue: those of them that were not deleted.
    :ivar holder: the instance that has the lease of the room.
    :ivar log: the room in the database: the envelope under each seq.
    :ivar locker: the instance that has locked the room's head.
    :ivar crashes: how many may still happen; so with ``losses`` (of answers, of what is fanned out) and ``expiries``.
    """

    instances: tuple[Instance, ...] = (Instance(), Instance())
    clients: tuple[Client, ...] = (Client(0), Client(1))
    accepted: int = 0
    acknowledged: frozenset[int] = frozenset()
    arrived: tuple[int, ...] = ()
    queue: tuple[int, ...] = ()
    holder: int = NOBODY
    log: tuple[int, ...] = ()
    locker: int = NOBODY
    crashes: int = 1
    losses: int = 1
    expiries: int = 2

    def put(self, index: int, **changes: Any) -> State:
        """The same with an instance changed."""
        instances = list(self.instances)
        instances[index] = instances[index]._replace(**changes)
        return self._replace(instances=tuple(instances))


Step: TypeAlias = tuple[str, State]


def steps(state: State, envelopes: int, fault: Fault | None = None) -> Iterator[Step]:
    """Everything that can happen next, each with its name and the state after it.

    :param envelopes: how many there are in all.
    """
    # The queue makes one order of what several publish: one that does is enough.
    yield from _publish(state, 0, envelopes, fault)
    for index in range(len(state.instances)):
        yield from _consume(state, index, fault)
        yield from _hear(state, index, fault)
        if state.crashes:
            yield f"{index} crashes", _crash(state, index)
    if state.holder != NOBODY and state.expiries:
        yield f"the lease of {state.holder} runs out", state._replace(holder=NOBODY, expiries=state.expiries - 1)
    for number, client in enumerate(state.clients):
        if client.at == NOBODY:
            for index in range(len(state.instances)):
                yield f"client {number} resumes at {index}", _resume(state, number, index, fault)


def _publish(state: State, index: int, envelopes: int, fault: Fault | None) -> Iterator[Step]:
    one = state.instances[index]
    if not one.publishing:
        if state.accepted < envelopes:
            number = state.accepted + 1
            after = state._replace(accepted=number).put(index, publishing=number, published=False)
            if fault is Fault.ACKNOWLEDGED_BEFORE_DURABLE:
                after = after._replace(acknowledged=after.acknowledged | {number})
            yield f"{index} accepts {number}", after
    elif one.published:
        after = state._replace(acknowledged=state.acknowledged | {one.publishing})
        yield f"{index} acknowledges {one.publishing}", after.put(index, publishing=0, published=False)
    else:
        after = state
        # Within five minutes SQS knows a repetition by its deduplication id.
        if one.publishing not in state.arrived or fault is Fault.REPEATED_UNDER_ANOTHER_ID:
            after = state._replace(arrived=(*state.arrived, one.publishing), queue=(*state.queue, one.publishing))
        yield f"{index} publishes {one.publishing}", after.put(index, published=True)
        if state.losses:
            yield f"{index} publishes {one.publishing} without an answer", after._replace(losses=state.losses - 1)


def _consume(state: State, index: int, fault: Fault | None) -> Iterator[Step]:
    one = state.instances[index]
    if one.stage is Stage.IDLE:
        if state.holder == NOBODY and state.queue:
            hand = state.queue[:RECEIVED]
            after = state._replace(holder=index).put(index, stage=Stage.RECEIVED, hand=hand, leased=True)
            if fault is Fault.DELETED_BEFORE_COMMIT:
                after = after._replace(queue=state.queue[len(hand) :])
            if fault is Fault.DELIVERED_BEFORE_COMMIT:
                for number in hand:
                    after = _deliver(after, index, (after.instances[index].seq + 1, number), fault)
            yield f"{index} receives {hand}", after
    elif one.stage is Stage.RECEIVED:
        if state.locker == NOBODY:
            leased = state.holder == index or fault is Fault.LEASE_NOT_CHECKED
            yield (
                f"{index} locks the head",
                state._replace(locker=index).put(index, stage=Stage.LOCKED, leased=leased),
            )
        if fault is Fault.LEASE_CHECKED_BEFORE_THE_LOCK and state.holder == index and state.locker != NOBODY:
            yield f"{index} waits for the lock, its lease checked", state.put(index, stage=Stage.LOCKED, leased=True)
    elif one.stage is Stage.LOCKED:
        if state.locker == NOBODY and fault is Fault.LEASE_CHECKED_BEFORE_THE_LOCK:
            yield f"{index} locks the head", state._replace(locker=index)
        if state.locker == index:
            after, stored = _commit(state, index, fault)
            yield f"{index} commits {stored}", after.put(index, stage=Stage.STORED, stored=stored)
            if state.losses:
                # It cannot know, and gives everything back.
                after = after._replace(losses=state.losses - 1)
                yield f"{index} commits {stored} without an answer", _give_back(after, index)
    elif one.stage is Stage.STORED:
        yield from _fan_out(state, index, fault)
    else:
        known = {number for number in one.hand if number in state.log}
        queue = tuple(number for number in state.queue if number not in known)
        yield f"{index} deletes {sorted(known)}", _give_back(state._replace(queue=queue), index)


def _commit(state: State, index: int, fault: Fault | None) -> tuple[State, tuple[Stored, ...]]:
    one, log, stored = state.instances[index], state.log, []
    for number in one.hand:
        remembered = () if fault is Fault.ENVELOPES_NOT_REMEMBERED else log[-REMEMBERED:]
        if number not in remembered and one.leased:
            log = (*log, number)
            stored.append((len(log), number))
    return state._replace(log=log, locker=NOBODY), tuple(stored)


def _fan_out(state: State, index: int, fault: Fault | None) -> Iterator[Step]:
    one = state.instances[index]
    after = state
    for seq, number in one.stored:
        after = _deliver(after, index, (seq, number), fault)
    lost = after.put(index, stage=Stage.ANNOUNCED, stored=())
    sent = lost
    for other in range(len(state.instances)):
        if other != index:
            there = sent.instances[other]
            new = {entry for entry in one.stored if entry[0] > there.seq or fault is Fault.SEEN_NOT_DROPPED}
            sent = sent.put(other, fanned_out=there.fanned_out | new)
    yield f"{index} fans out {one.stored}", sent
    if one.stored and state.losses:
        yield f"{index} fans out {one.stored}, which is lost", lost._replace(losses=state.losses - 1)


def _give_back(state: State, index: int) -> State:
    holder = NOBODY if state.holder == index else state.holder
    return state._replace(holder=holder).put(index, stage=Stage.IDLE, hand=(), stored=(), leased=True)


def _hear(state: State, index: int, fault: Fault | None) -> Iterator[Step]:
    one = state.instances[index]
    for seq, number in sorted(one.fanned_out):
        if seq == one.seq + 1 or fault in (Fault.SEEN_NOT_DROPPED, Fault.GAP_NOT_READ):
            after = state.put(index, fanned_out=one.fanned_out - {(seq, number)})
            yield f"{index} hears {seq}", _deliver(after, index, (seq, number), fault)
    # What is ahead of a gap makes it read; and so does the comparison of heads at times.
    ahead = any(seq > one.seq + 1 for seq, _ in one.fanned_out)
    if one.seq < len(state.log) and (ahead or fault is not Fault.HEADS_NOT_COMPARED):
        after = state
        for seq in range(one.seq + 1, len(state.log) + 1):
            after = _deliver(after, index, (seq, state.log[seq - 1]), fault)
        yield f"{index} reads up to {len(state.log)}", after


def _deliver(state: State, index: int, entry: Stored, fault: Fault | None) -> State:
    """The hub of an instance gives its members a message, which is the next one or one beyond it."""
    seq, _ = entry
    one = state.instances[index]
    if seq <= one.seq and fault is not Fault.SEEN_NOT_DROPPED:
        return state
    if seq > one.seq + 1 and fault is not Fault.GAP_NOT_READ:
        # The hub waits until it has read what is missing.
        return state.put(index, fanned_out=one.fanned_out | {entry})
    clients = tuple(
        client._replace(got=(*client.got, entry))
        if client.at == index and (seq > _has(client) or fault is Fault.SEEN_NOT_DROPPED)
        else client
        for client in state.clients
    )
    seq = max(seq, one.seq)
    # What it has seen it will drop, so that is no different from never coming.
    fanned_out = (
        one.fanned_out
        if fault is Fault.SEEN_NOT_DROPPED
        else frozenset(later for later in one.fanned_out if later[0] > seq)
    )
    return state._replace(clients=clients).put(index, seq=seq, fanned_out=fanned_out)


def _has(client: Client) -> int:
    return client.got[-1][0] if client.got else 0


def _crash(state: State, index: int) -> State:
    """It is gone, and a new one stands in its place, which begins at the room's head. Its lease lives on."""
    clients = tuple(client._replace(at=NOBODY) if client.at == index else client for client in state.clients)
    locker = NOBODY if state.locker == index else state.locker
    after = state._replace(clients=clients, locker=locker, crashes=state.crashes - 1)
    instances = list(after.instances)
    instances[index] = Instance(seq=len(state.log))
    # The dead one's envelopes stay leased until that runs out.
    return after._replace(instances=tuple(instances), expiries=after.expiries + (state.holder == index))


def _resume(state: State, number: int, index: int, fault: Fault | None) -> State:
    """A client comes back: history from its last seq up to now, then what is live beyond that."""
    client, end = state.clients[number], len(state.log)
    if fault is Fault.RESUMED_FROM_THE_HUB_ALONE:
        end = _has(client)
    history = tuple((seq, state.log[seq - 1]) for seq in range(_has(client) + 1, end + 1))
    clients = list(state.clients)
    clients[number] = Client(index, client.got + history)
    return state._replace(clients=tuple(clients))


def broken_promise(state: State) -> str | None:
    """Which promise this state breaks, in words; None if all hold."""
    kept = set(state.log) | set(state.queue)
    if not state.acknowledged <= kept:
        return f"P1: {sorted(state.acknowledged - kept)} acknowledged, and neither queued nor stored"
    for number, client in enumerate(state.clients):
        for place, (seq, envelope) in enumerate(client.got, 1):
            if seq > len(state.log) or state.log[seq - 1] != envelope:
                return f"P2: client {number} was given {envelope} under {seq}, which is not what is stored"
            if seq != place:
                return f"P3: client {number} was given {seq} in place {place}"
    if len(set(state.log)) < len(state.log):
        return f"P4: an envelope is stored twice: {state.log}"
    if state.log != state.arrived[: len(state.log)]:
        return f"P3: stored as {state.log}, published as {state.arrived}"
    return None


def lacking(state: State) -> str | None:
    """What a state lacks in which nothing more can happen but faults: everything published, given to everybody."""
    if state.log != state.arrived:
        return f"P1: {state.arrived} were published, {state.log} are stored for ever"
    for number, client in enumerate(state.clients):
        if len(client.got) < len(state.log):
            return f"P5: client {number} is never given more than {len(client.got)} of {len(state.log)}"
    return None
