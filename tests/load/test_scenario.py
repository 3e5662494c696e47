"""Who sends what, and when."""

from __future__ import annotations

from collections import Counter
from typing import Any

import attrs
import pytest

from chatflow.load.scenario import (
    MAIN,
    PHRASES,
    WARM_UP,
    MessageWriter,
    Schedule,
    Settings,
    kinds,
    phases,
)
from chatflow.rooms.messages import decode

_SETTINGS = Settings(
    connections=10,
    rooms=4,
    messages=103,
    warmup_connections=3,
    warmup_messages=7,
    urls=("ws://a", "ws://b"),
    seed=5,
)
_NOW = "2026-11-23T10:30:00.123456Z"


def test_each_phase_sends_exactly_its_messages() -> None:
    warm_up, main = phases(_SETTINGS)
    assert (warm_up.name, warm_up.messages, len(warm_up.clients)) == (WARM_UP, 7, 3)
    assert (main.name, main.messages, len(main.clients)) == (MAIN, 103, 10)


def test_shares_differ_by_one_at_most() -> None:
    shares = [client.messages for client in phases(_SETTINGS)[-1].clients]
    assert max(shares) - min(shares) == 1


@pytest.mark.parametrize("without", [{"warmup_messages": 0}, {"warmup_connections": 0}])
def test_the_warm_up_can_be_left_out(without: dict[str, Any]) -> None:
    assert [phase.name for phase in phases(attrs.evolve(_SETTINGS, **without))] == [MAIN]


def test_only_as_many_connections_as_are_senders_send() -> None:
    (main,) = phases(attrs.evolve(_SETTINGS, senders=2, warmup_messages=0))
    assert [client.messages for client in main.clients] == [52, 51] + [0] * 8


def test_no_two_connections_of_a_run_have_the_same_number() -> None:
    numbers = [client.number for phase in phases(_SETTINGS) for client in phase.clients]
    assert len(set(numbers)) == 13


def test_connections_take_turns_with_the_urls() -> None:
    assert [client.url for client in phases(_SETTINGS)[-1].clients[:3]] == ["ws://a", "ws://b", "ws://a"]


def test_the_same_seed_gives_the_same_load_and_another_one_another() -> None:
    assert phases(_SETTINGS) == phases(_SETTINGS)
    assert phases(_SETTINGS) != phases(attrs.evolve(_SETTINGS, seed=6))
    table = kinds(_SETTINGS.mix)
    first, same, other = (MessageWriter(seed, "run", 3, table).write(0, [1] * 5, _NOW) for seed in (5, 5, 6))
    assert first == same != other


def test_rooms_are_within_range_and_may_be_even() -> None:
    assert {client.room for client in phases(_SETTINGS)[-1].clients} <= {1, 2, 3, 4}
    (main,) = phases(attrs.evolve(_SETTINGS, even_rooms=True, warmup_messages=0))
    assert [client.room for client in main.clients] == [1, 2, 3, 4, 1, 2, 3, 4, 1, 2]


@pytest.mark.parametrize("rooms", [1, 2, 3, 4, 6, 20])
@pytest.mark.parametrize("choices", [1, 2, 3, 4, 5, 6, 8])
def test_even_rooms_have_equally_many_connections_to_each_url_and_in_each_process(rooms: int, choices: int) -> None:
    settings = attrs.evolve(
        _SETTINGS,
        rooms=rooms,
        connections=rooms * choices,
        urls=tuple(f"ws://{number}" for number in range(choices)),
        processes=choices,
        even_rooms=True,
    )
    clients = phases(settings)[-1].clients
    assert len({(client.room, client.url) for client in clients}) == len(clients)
    assert len({(client.room, client.process) for client in clients}) == len(clients)


def test_senders_of_even_rooms_are_spread_over_urls_and_processes() -> None:
    settings = attrs.evolve(_SETTINGS, connections=100, rooms=4, senders=4, even_rooms=True, processes=2)
    clients = [client for client in phases(settings)[-1].clients if client.messages]
    assert Counter(client.url for client in clients) == {"ws://a": 2, "ws://b": 2}
    assert Counter(client.process for client in clients) == {0: 2, 1: 2}


def test_processes_share_all_clients_without_overlap() -> None:
    (main,) = phases(attrs.evolve(_SETTINGS, warmup_messages=0, processes=3))
    shared = [client for index in range(3) for client in main.of_process(index)]
    assert sorted(shared, key=lambda client: client.number) == list(main.clients)


def test_kinds_have_exactly_the_mix() -> None:
    assert Counter(kind.type for kind in kinds((90, 5, 5))) == {"TEXT": 18 * 49, "JOIN": 49, "LEAVE": 49}
    assert Counter(kind.type for kind in kinds((1, 0, 0))) == {"TEXT": 49}


def test_there_are_as_many_phrases_as_the_reference_has() -> None:
    assert len(set(PHRASES)) == 49


def test_every_message_is_what_the_server_accepts_and_names_itself() -> None:
    table = kinds((1, 1, 1))
    written = MessageWriter(1, "k3f9a1", 17, table).write(40, list(range(1000, 1500)), _NOW)
    users = set()
    for index, payload in enumerate(written):
        message = decode(payload)
        text, _, tag = message.message.rpartition(" ~")
        run, connection, number, user, kind, at_us = tag.split(".")
        assert (run, connection, int(number), int(at_us)) == ("k3f9a1", "17", 40 + index, 1000 + index)
        assert message.userId == user
        assert message.username == f"user{user}"
        assert (text, message.messageType) == table[int(kind)]
        users.add(user)
    assert len(users) > 490, "each message has another user"


@pytest.mark.parametrize(("drawn", "user"), [(0.0, 1), (0.999_999, 100_000)])
def test_users_are_from_1_to_100000(drawn: float, user: int, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = MessageWriter(1, "run", 1, kinds((1, 1, 1)))
    monkeypatch.setattr(writer, "_random", lambda: drawn)
    assert decode(writer.write(0, [1], _NOW)[0]).userId == str(user)


def test_messages_are_about_as_long_as_the_references() -> None:
    written = MessageWriter(1, "k3f9a1", 17, kinds((90, 5, 5))).write(0, [81234567890] * 1000, _NOW)
    assert 170 < sum(map(len, written)) / 1000 < 210


def test_a_schedule_hands_out_each_message_once_when_it_is_due() -> None:
    schedule = Schedule(start_us=1_000_000, rate=100, messages=4)
    assert schedule.due(999_999) == []
    assert schedule.due(1_000_000) == [1_000_000]
    assert schedule.due(1_009_999) == []
    assert schedule.due(1_010_000) == [1_010_000]
    assert schedule.issued == 2


def test_a_late_schedule_keeps_the_times_at_which_messages_were_due() -> None:
    schedule = Schedule(start_us=0, rate=100, messages=4)
    assert schedule.due(5_000_000) == [0, 10_000, 20_000, 30_000]
    assert schedule.due(6_000_000) == []
