"""Each fault that a server may have turns the verdict to *fail*, with the figure that names it and with no other."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from pytest_twisted import ensureDeferred

from benchmarks.null_server import NullConnection, NullServer, frame
from tests.load.running import faults, run_against

# The warm-up has 20 messages, the main phase 120; so this one is in the main phase.
_CULPRIT = 60
_OTHER_ID = b"018f3c5e-7b1a-7c3d-9e4f-ffffffffffff"


class Acks(NullServer):
    """Acknowledges one message otherwise. :param ack: makes what is sent from (server, messageId, message, ack)."""

    def __init__(self, reactor: Any, ack: Callable[[NullServer, bytes, bytes, bytes], bytes]) -> None:
        super().__init__(reactor)
        self._ack = ack

    def ack(self, message_id: bytes, message: bytes) -> bytes:
        honest = super().ack(message_id, message)
        return self._ack(self, message_id, message, honest) if self.received == _CULPRIT else honest


class Broadcasts(NullServer):
    """Broadcasts one message otherwise. :param make: makes what all are sent, from (server, room, seq, id, message)."""

    def __init__(self, reactor: Any, make: Callable[[NullServer, str, int, bytes, bytes], bytes]) -> None:
        super().__init__(reactor)
        self._make = make

    def broadcast(self, room: str, seq: int, message_id: bytes, message: bytes) -> bytes:
        make = self._make if self.received == _CULPRIT else NullServer.broadcast
        return make(self, room, seq, message_id, message)


class Delivers(NullServer):
    """Delivers otherwise, once, to one member of a room. :param change: changes its frames, which are at least 3."""

    def __init__(self, reactor: Any, change: Callable[[list[bytes]], Any]) -> None:
        super().__init__(reactor)
        self._change: Callable[[list[bytes]], Any] | None = change

    def deliver(self, room: str, frames: list[bytes]) -> None:
        for member in self.members[room]:
            theirs = list(frames)
            if self.received > _CULPRIT and len(frames) > 2 and self._change and member is self.members[room][1]:
                self._change(theirs)
                self._change = None
            member.transport.write(b"".join(theirs))


class Greets(NullServer):
    def response(self, accept: bytes) -> bytes:
        return super().response(accept) + frame(b'{"hello":"there"}')


class Vanishes(NullServer):
    """Closes a connection in mid-run. :param how: called with it."""

    def __init__(self, reactor: Any, how: Callable[[NullConnection], None]) -> None:
        super().__init__(reactor)
        self._how: Callable[[NullConnection], None] | None = how

    def take(self, sender: NullConnection, messages: list[bytes]) -> None:
        if self.received >= _CULPRIT and self._how is not None:
            self._how(sender)
            self._how = None
        else:
            super().take(sender, messages)


class ToldApart(NullServer):
    """To the last member of each room it broadcasts another message under the seq of each tenth."""

    def deliver(self, room: str, frames: list[bytes]) -> None:
        *others, last = self.members[room]
        for member in others:
            member.transport.write(b"".join(frames))
        last.transport.write(b"".join(self._other(index, each) for index, each in enumerate(frames)))

    @staticmethod
    def _other(index: int, sent: bytes) -> bytes:
        return sent if index else sent.replace(b'"messageType":"TEXT"', b'"messageType":"JOIN"')


class ToldOtherwise(NullServer):
    """One member of each room gets every frame with another value of one field, as from a history that is not true.

    :param was, is_now: of the field.
    """

    def __init__(self, reactor: Any, was: bytes, is_now: bytes) -> None:
        super().__init__(reactor)
        self._was, self._is_now = was, is_now

    def deliver(self, room: str, frames: list[bytes]) -> None:
        *others, last = self.members[room]
        block = b"".join(frames)
        assert self._was in block
        for member in others:
            member.transport.write(block)
        last.transport.write(block.replace(self._was, self._is_now))


class Replays(NullServer):
    """Broadcasts a message of the warm-up again in the main phase, as a queue may that delivers late."""

    old = b""

    def broadcast(self, room: str, seq: int, message_id: bytes, message: bytes) -> bytes:
        self.old = self.old or message
        honest = super().broadcast(room, seq, message_id, message)
        if self.received != _CULPRIT:
            return honest
        self.seqs[room] += 1
        return honest + super().broadcast(room, self.seqs[room], _OTHER_ID, self.old)


def _not_broadcast(server: NullServer, room: str, seq: int, message_id: bytes, message: bytes) -> bytes:
    server.seqs[room] -= 1
    return b""


def _with_a_hole(server: NullServer, room: str, seq: int, message_id: bytes, message: bytes) -> bytes:
    server.seqs[room] += 1
    return NullServer.broadcast(server, room, seq + 1, message_id, message)


def _under_two_seqs(server: NullServer, room: str, seq: int, message_id: bytes, message: bytes) -> bytes:
    server.seqs[room] += 1
    send = partial(NullServer.broadcast, server, room)
    return send(seq, message_id, message) + send(seq + 1, message_id, message)


def _altered(server: NullServer, room: str, seq: int, message_id: bytes, message: bytes) -> bytes:
    changed = message.replace(b'"username":"user', b'"username":"resu')
    return NullServer.broadcast(server, room, seq, message_id, changed)


def _jump(server: NullServer, room: str, seq: int, message_id: bytes, message: bytes) -> bytes:
    return NullServer.broadcast(server, room, seq + 10**9, message_id, message)


def _error(server: NullServer, message_id: bytes, message: bytes, ack: bytes) -> bytes:
    return frame(b'{"status":"ERROR","code":"overloaded","errorMessage":"later"}')


class Refuses(Acks):
    def __init__(self, reactor: Any) -> None:
        super().__init__(reactor, _error)

    def broadcast(self, room: str, seq: int, message_id: bytes, message: bytes) -> bytes:
        if self.received == _CULPRIT:
            return _not_broadcast(self, room, seq, message_id, message)
        return super().broadcast(room, seq, message_id, message)


class DropsTheFirst(NullServer):
    """The first message of the main phase does not reach one member of its room."""

    dropped = False

    def deliver(self, room: str, frames: list[bytes]) -> None:
        for member in self.members[room]:
            drop = len(self.members[room]) == 3 and not self.dropped  # there are no such rooms in the warm-up
            self.dropped = self.dropped or drop
            member.transport.write(b"".join(frames[1:] if drop else frames))


class DoublesLate(NullServer):
    """The last message of the run reaches one member of its room again when all is over."""

    def deliver(self, room: str, frames: list[bytes]) -> None:
        super().deliver(room, frames)
        if (room, self.seqs[room]) == ("1", 70):
            self._reactor.callLater(0.05, self.members[room][0].transport.write, frames[-1])


class DropsTheLast(NullServer):
    """The last message of the run does not reach one member of its room."""

    def deliver(self, room: str, frames: list[bytes]) -> None:
        drop = (room, self.seqs[room]) == ("1", 70)  # 10 in the warm-up, 60 in the main phase
        for index, member in enumerate(self.members[room]):
            member.transport.write(b"".join(frames[:-1] if drop and index == 0 else frames))


def _acks(ack: Callable[[NullServer, bytes, bytes, bytes], bytes]) -> Callable[[Any], NullServer]:
    return partial(Acks, ack=ack)


def _broadcasts(make: Callable[[NullServer, str, int, bytes, bytes], bytes]) -> Callable[[Any], NullServer]:
    return partial(Broadcasts, make=make)


def _delivers(change: Callable[[list[bytes]], Any]) -> Callable[[Any], NullServer]:
    return partial(Delivers, change=change)


_FAULTS: dict[str, tuple[Callable[[Any], NullServer], dict[str, int], str]] = {
    # acks
    "no answer": (_acks(lambda server, id, message, ack: b""), {"failed": 1}, "messages without an answer: 1"),
    "two acks": (_acks(lambda server, id, message, ack: ack * 2), {"unexpected_acks": 1}, "nothing that was in flight"),
    "an ack with an id that is not broadcast": (
        _acks(lambda server, id, message, ack: NullServer.ack(server, _OTHER_ID, message)),
        {"changed_ids": 1},
        "messages broadcast with another messageId than their ack's: 1",
    ),
    "a refusal": (Refuses, {"refused": 1}, "refused as overloaded: 1"),
    # broadcasts, to all
    "an acknowledged message is never broadcast": (
        _broadcasts(_not_broadcast),
        {"never_broadcast": 1},
        "acknowledged messages that were never broadcast: 1",
    ),
    "a hole": (
        _broadcasts(_with_a_hole),
        {"room_seq_holes": 1, "missing": 3},
        "seqs that no connection received: 1",
    ),
    "a message under two seqs": (_broadcasts(_under_two_seqs), {"repeated": 3}, "under another seq: 3"),
    "a changed message": (_broadcasts(_altered), {"altered": 1}, "not what was sent: 1"),
    "a message of the warm-up in the main phase": (Replays, {"misrouted": 1}, "where they do not belong: 1"),
    # deliveries, to one
    "missing": (_delivers(lambda frames: frames.pop(1)), {"missing": 1}, "deliveries missing: 1"),
    "the first is missing": (DropsTheFirst, {"missing": 1}, "deliveries missing: 1"),
    "the last is missing": (DropsTheLast, {"missing": 1}, "no progress for 1.5 s; deliveries to come: 1"),
    "twice": (_delivers(lambda frames: frames.insert(1, frames[0])), {"duplicated": 1}, "came twice: 1"),
    "swapped": (_delivers(lambda frames: frames.insert(0, frames.pop(1))), {"out_of_order": 1}, "out of order: 1"),
    # frames
    "a greeting": (Greets, {"unexpected_frames": 8}, "neither ack, error nor broadcast: 6"),
}


@pytest.mark.parametrize("name", _FAULTS)
@ensureDeferred
async def test_a_planted_fault_is_found_and_named(name: str) -> None:
    server, figures, cause = _FAULTS[name]
    outcome = await run_against(server)
    assert outcome.verdict == "fail"
    assert faults(outcome) == figures
    assert cause in "\n".join(outcome.causes)


@ensureDeferred
async def test_a_delivery_that_comes_twice_when_all_is_over_is_found() -> None:
    outcome = await run_against(DoublesLate, timeout_seconds=1.0)
    assert faults(outcome) == {"duplicated": 1}


@ensureDeferred
async def test_without_a_fault_the_verdict_is_pass() -> None:
    outcome = await run_against(NullServer)
    assert (outcome.verdict, outcome.causes, faults(outcome)) == ("pass", [], {})
    warm_up, main = outcome.phases
    assert (warm_up.acked, main.acked) == (20, 120)
    assert (main.expected, main.received) == (360, 360)
    assert sum(main.ack_ticks.values()) == 120
    assert sum(main.delivery_ticks.values()) == 360


@ensureDeferred
async def test_different_messages_under_the_same_seq_are_found() -> None:
    outcome = await run_against(ToldApart)
    assert outcome.verdict == "fail"
    assert faults(outcome)["conflicting"] > 0


@pytest.mark.parametrize(
    ("was", "is_now"),
    [
        (b'"roomId":"1"', b'"roomId":"2"'),
        (b'Z","messageType"', b'X","messageType"'),  # the end of the timestamp
        (b'"serverId":"null"', b'"serverId":"nill"'),
    ],
    ids=["roomId", "timestamp", "serverId"],
)
@ensureDeferred
async def test_a_receiver_whose_frames_differ_in_one_field_only_is_found(was: bytes, is_now: bytes) -> None:
    outcome = await run_against(
        partial(ToldOtherwise, was=was, is_now=is_now), rooms=1, connections=2, warmup_messages=0
    )
    assert outcome.verdict == "fail"
    assert faults(outcome)["conflicting"] == 120


@ensureDeferred
async def test_a_seq_that_is_absurd_loses_the_connections() -> None:
    outcome = await run_against(_broadcasts(_jump))
    assert faults(outcome)["connections_lost"] == 3
    assert "was due" in "\n".join(outcome.causes)


def _close_with_a_code(connection: NullConnection) -> None:
    connection.transport.write(frame(b"\x03\xf4restart", 0x8))
    connection.transport.loseConnection()


@pytest.mark.parametrize(
    ("how", "cause"),
    [
        (lambda connection: connection.transport.loseConnection(), "lost: Connection was closed cleanly"),
        (lambda connection: connection.transport.abortConnection(), "lost: Connection to the other side was lost"),
        (_close_with_a_code, "the server closed it: 1012 restart"),
    ],
)
@ensureDeferred
async def test_a_lost_connection_is_found_and_its_messages_are_accounted_for(
    how: Callable[[NullConnection], None], cause: str
) -> None:
    outcome = await run_against(partial(Vanishes, how=how))
    assert outcome.verdict == "fail"
    assert faults(outcome)["connections_lost"] == 1
    assert "main: connections lost: 1" in outcome.causes
    assert cause in "\n".join(outcome.causes)
    main = outcome.phases[-1]
    assert main.sent == main.acked + main.refused + main.failed
    assert main.messages == main.sent + main.unsent
