"""The proof over all connections and processes."""

from __future__ import annotations

from collections import Counter

import msgspec
import pytest

from chatflow.load.proof import MAX_SEQ_JUMP, Arrivals, Ledger, SeqJump, Stored, causes_to_fail
from chatflow.load.tally import PhaseTally, RoomTally, acknowledged, decode_counter, merge, merge_processes


def _arrivals(*seqs: int, tally: PhaseTally | None = None) -> Arrivals:
    arrivals = Arrivals(tally or PhaseTally())
    for seq in seqs:
        arrivals.note(seq)
    return arrivals


@pytest.mark.parametrize(
    ("seqs", "missing", "duplicated", "out_of_order"),
    [
        ((5, 6, 7), 0, 0, 0),
        ((5, 7), 1, 0, 0),
        ((5, 6), 1, 0, 0),
        ((6, 7), 1, 0, 0),
        ((5, 6, 6, 7), 0, 1, 0),
        ((5, 7, 6), 0, 0, 1),
        ((6, 5, 7), 0, 0, 1),
        ((7, 5, 5), 1, 1, 1),
        ((), 3, 0, 0),
    ],
)
def test_what_one_connection_received(seqs: tuple[int, ...], missing: int, duplicated: int, out_of_order: int) -> None:
    tally = PhaseTally()
    expected, received = _arrivals(*seqs, tally=tally).judge(5, 7)
    assert (expected, expected - received) == (3, missing)
    assert (tally.duplicated, tally.out_of_order) == (duplicated, out_of_order)


def test_messages_of_others_before_and_behind_count_once_a_connection_has_seen_them() -> None:
    assert _arrivals(3, 4, 5, 6, 7, 8).judge(5, 7) == (6, 6)
    assert _arrivals(3, 5, 6, 7, 9).judge(5, 7) == (7, 5), "holes are holes, whose messages they may be"


@pytest.mark.parametrize("seq", [7 + 2 * MAX_SEQ_JUMP, -2 * MAX_SEQ_JUMP])
def test_an_absurd_seq_is_not_kept_count_of(seq: int) -> None:
    with pytest.raises(SeqJump, match=f"seq {seq} came where 8 was due"):
        _arrivals(5, 6, 7, seq)


def test_a_long_phase_may_be_doubled_from_its_start() -> None:
    tally = PhaseTally()
    arrivals = Arrivals(tally)
    arrivals.first, arrivals.next = 1, 3 * MAX_SEQ_JUMP
    arrivals.note(2)
    assert tally.duplicated == 1


def test_an_ack_and_its_broadcast_meet_in_either_order() -> None:
    tally = PhaseTally()
    ledger = Ledger(tally)
    ledger.pair(0, "a")
    ledger.pair(1, "b")
    assert ledger.never_broadcast() == 2
    ledger.pair(1, "b")
    ledger.pair(0, "a")
    assert (ledger.never_broadcast(), tally.changed_ids, ledger.halves) == (0, 0, {})


def test_what_was_broadcast_but_not_acknowledged_is_not_never_broadcast() -> None:
    ledger = Ledger(PhaseTally())
    ledger.in_flight[0] = 1
    ledger.pair(0, "a")
    assert ledger.never_broadcast() == 0
    assert ledger.waiting == 1


def _room(first: int, last: int, *unseen: int, digest: int = 1) -> PhaseTally:
    room = RoomTally(connections=1, acked=10, first=first, last=last, unseen=list(unseen), digest=digest, ids=b"x")
    return PhaseTally(name="main", rooms={7: room})


def test_figures_of_processes_add_up() -> None:
    one = PhaseTally(
        name="main", sent=3, start_us=10, end_us=50, types=Counter(TEXT=2), ack_ticks=Counter({1: 1, 2: 2})
    )
    two = PhaseTally(
        name="main", sent=4, start_us=9, end_us=40, types=Counter(TEXT=1, JOIN=1), ack_ticks=Counter({2: 3})
    )
    whole = merge([one, two])
    assert (whole.sent, whole.start_us, whole.end_us) == (7, 9, 50)
    assert (whole.types, whole.ack_ticks) == ({"TEXT": 3, "JOIN": 1}, {1: 1, 2: 5})
    assert one.types == {"TEXT": 2}, "merging changes no part"


def test_a_seq_is_a_hole_only_if_no_process_received_it() -> None:
    whole = merge_processes([_room(1, 9, 3, 5), _room(1, 9, 4, 5)])
    assert whole.room_seq_holes == 1
    assert whole.rooms[7] == RoomTally(connections=2, acked=20, first=1, last=9, unseen=[5], ids=b"xx")


def test_what_lies_outside_of_what_a_process_saw_is_unseen_by_it() -> None:
    assert merge_processes([_room(1, 4), _room(7, 9)]).rooms[7].unseen == [5, 6]


def test_a_process_that_saw_nothing_of_a_room_says_nothing_about_it() -> None:
    assert merge_processes([_room(1, 9), _room(0, 0)]).room_seq_holes == 0


def test_processes_that_received_different_messages_are_told() -> None:
    whole = merge_processes([_room(1, 9, digest=1), _room(1, 9, digest=2)])
    assert whole.conflicting == 1
    assert "room 7" in whole.causes[0]


def test_digests_of_what_is_not_complete_are_not_compared() -> None:
    assert merge_processes([_room(1, 9, digest=1), _room(1, 8, digest=2)]).conflicting == 0


def test_acknowledged_messages_of_all_phases_are_looked_up_together() -> None:
    found = acknowledged([_room(3, 5), _room(6, 9), PhaseTally(rooms={8: RoomTally(connections=1)})])
    assert found == {7: RoomTally(first=3, last=9, ids=b"xx")}


# What must be 0 for a pass; all other figures say how much was done, not what went wrong.
_HARMLESS = {
    "name", "connections", "messages", "sent", "acked", "delivered", "expected", "received", "foreign", "start_us",
    "end_us", "cpu_seconds", "waited_seconds", "rooms", "refusals", "losses", "types", "acked_in_second",
    "delivered_in_second", "ack_ticks", "ack_buckets", "delivery_ticks", "causes", "returns", "resent",
    "returns_refused", "away_ticks",
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(set(PhaseTally.__struct_fields__) - _HARMLESS))
def test_each_figure_that_is_a_fault_is_a_cause_to_fail(name: str) -> None:
    causes = causes_to_fail([msgspec.structs.replace(PhaseTally(name="main"), **{name: 3})], None)
    assert len(causes) == 1
    assert causes[0].startswith("main: ")
    assert causes[0].endswith(": 3")


def test_a_missing_delivery_is_a_cause_to_fail() -> None:
    assert causes_to_fail([PhaseTally(name="main", expected=5, received=3)], None) == ["main: deliveries missing: 2"]


def test_of_how_the_server_ended_connections_only_codes_out_of_order_are_causes_to_fail() -> None:
    losses = Counter({"no close frame": 1, "1001": 2, "1012": 3, "1011": 4})
    causes = causes_to_fail([PhaseTally(name="main", losses=losses)], None)
    assert causes == ["main: connections that the server closed with 1011: 4"]


def test_a_code_of_refusal_is_told() -> None:
    causes = causes_to_fail([PhaseTally(name="main", refused=2, refusals=Counter({"overloaded": 2}))], None)
    assert causes == ["main: messages refused: 2", "main: refused as overloaded: 2"]


@pytest.mark.parametrize("name", ["missing", "duplicated", "holes"])
def test_each_fault_in_the_database_is_a_cause_to_fail(name: str) -> None:
    assert causes_to_fail([], Stored(checked=9)) == []
    (cause,) = causes_to_fail([], Stored(checked=9, **{name: 1}))
    assert cause.startswith("database: ")


def test_a_tally_survives_the_way_from_a_worker() -> None:
    tally = _room(1, 9, 3)
    tally.ack_ticks = Counter({5: 6})
    assert msgspec.json.decode(msgspec.json.encode(tally), type=PhaseTally, dec_hook=decode_counter) == tally
