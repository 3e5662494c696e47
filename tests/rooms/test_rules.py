"""Whom mutes and bans concern."""

from __future__ import annotations

from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatflow.contracts.moderation import Action, Sanction, Subject
from chatflow.errors import Refused
from chatflow.networks import network_meant
from chatflow.rooms.moderator import Moderator
from chatflow.rooms.rules import Party, Rules, refusal

_UNTIL_US = 1_795_429_800_000_000


def order(
    action: Action = "ban",
    user: int | None = None,
    address: str | None = None,
    room: int | None = None,
    *,
    reason: str = "",
    until_us: int | None = None,
) -> Sanction:
    subject = Subject(user, None if address is None else network_meant(address), room)
    return Sanction(
        action=action,
        subject=subject,
        reason=reason,
        by="me",
        age_seconds=0,
        left_seconds=None if until_us is None else 60,
        ordered_at_us=0,
        ends_at_us=until_us,
    )


def concerns(sanction: Sanction, room: int = 1, users: tuple[int, ...] = (), address: str | None = None) -> bool:
    return list(Rules([sanction]).concerning(Party(room, users, address))) == [sanction]


@pytest.mark.parametrize(
    ("text", "network"),
    [
        ("192.0.2.7", "192.0.2.7/32"),
        ("192.0.2.0/24", "192.0.2.0/24"),
        ("::ffff:192.0.2.7", "192.0.2.7/32"),
        ("::ffff:192.0.2.0/120", "192.0.2.0/24"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8::6/128", "2001:db8::6/128"),
        ("2001:db8::/32", "2001:db8::/32"),
        ("::1", "::/64"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("::/0", "::/0"),
    ],
)
def test_an_address_is_the_network_that_an_operator_means(text: str, network: str) -> None:
    assert network_meant(text) == ip_network(network)


@pytest.mark.parametrize(
    "text",
    ["", " ", "localhost", "192.0.2", "192.0.2.256", "192.0.2.7/24", "fe80::1%eth0", "1/2/3", "::/129", "192.0.2.1 "],
)
def test_what_is_no_address_and_no_network_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        network_meant(text)


def test_a_user_is_concerned_wherever_it_comes_from() -> None:
    sanction = order(user=7)
    assert (
        concerns(sanction, 1, (7,), "192.0.2.1")
        and concerns(sanction, 2, (3, 7))
        and concerns(sanction, 2, (7,), "::1")
    )
    assert not concerns(sanction, 1, (8,)) and not concerns(sanction)


def test_an_address_is_concerned_whoever_it_is() -> None:
    sanction = order(address="192.0.2.0/24")
    assert concerns(sanction, address="192.0.2.255") and concerns(sanction, 9, (1, 2), "192.0.2.0")
    assert not concerns(sanction, address="192.0.3.0") and not concerns(sanction, address="::192.0.2.1")
    assert not concerns(sanction, address=None)


def test_an_address_of_ipv6_is_concerned_with_its_neighbours() -> None:
    sanction = order(address="2001:db8:1:2::7")
    assert concerns(sanction, address="2001:db8:1:2:ffff::") and not concerns(sanction, address="2001:db8:1:3::7")


def test_a_room_is_concerned_and_no_other() -> None:
    assert concerns(order(room=2), 2) and not concerns(order(room=2), 1, (2,))


def test_who_does_not_meet_all_of_a_subject_is_not_concerned() -> None:
    sanction = order(user=7, address="192.0.2.1", room=3)
    assert concerns(sanction, 3, (7,), "192.0.2.1")
    for room, users, address in (
        (2, (7,), "192.0.2.1"),
        (3, (8,), "192.0.2.1"),
        (3, (7,), "192.0.2.2"),
        (3, (7,), None),
    ):
        assert not concerns(sanction, room, users, address)


_users = st.none() | st.integers(1, 3)
_rooms = st.none() | st.integers(1, 3)
_networks = st.none() | st.sampled_from(
    ["0.0.0.0/0", "10.0.0.0/8", "10.1.0.0/16", "10.1.2.3", "::/0", "2001:db8::/32", "2001:db8::1", "2001:db8::1/128"]
)
_addresses = st.none() | st.sampled_from(["10.1.2.3", "10.1.2.4", "11.0.0.1", "2001:db8::1", "2001:db8::2", "2002::"])


@given(
    st.lists(st.tuples(_users, _networks, _rooms).filter(lambda parts: parts != (None, None, None)), max_size=8),
    st.builds(Party, st.integers(1, 4), st.lists(st.integers(1, 4), unique=True, max_size=3), _addresses),
)
def test_those_are_found_whose_every_part_is_met(
    subjects: list[tuple[int | None, str | None, int | None]], party: Party
) -> None:
    sanctions = [order("mute", *subject) for subject in subjects]

    def is_met(sanction: Sanction) -> bool:
        user, network, room = sanction.subject.user_id, sanction.subject.network, sanction.subject.room
        address = None if party.address is None else ip_network(party.address)
        within = network is None or (
            address is not None and address.version == network.version and address.subnet_of(network)  # type: ignore[arg-type]
        )
        return (user is None or user in party.user_ids) and within and room in (None, party.room)

    expected = [sanction for sanction in sanctions if is_met(sanction)]
    found = list(Rules(sanctions).concerning(party))
    assert sorted(found, key=str) == sorted(expected, key=str)


class TestModerator:
    def test_without_rules_everybody_may_enter_and_speak(self) -> None:
        moderator = Moderator()
        moderator.check_message(1, 7, "192.0.2.1")
        moderator.check_entry(1, (7,), None)

    def test_who_is_muted_may_enter_and_not_speak(self) -> None:
        moderator = Moderator()
        moderator.rules = Rules([order("mute", 7)])
        moderator.check_entry(1, (7,), None)
        with pytest.raises(Refused) as refused:
            moderator.check_message(1, 7, None)
        assert refused.value.code == "muted"
        moderator.check_message(1, 8, None)
        assert moderator.refused == {"muted": 1, "banned": 0}

    def test_who_is_banned_may_neither(self) -> None:
        moderator = Moderator()
        moderator.rules = Rules([order("mute", 7), order("ban", 7)])
        for check in (lambda: moderator.check_entry(1, (7,), None), lambda: moderator.check_message(1, 7, None)):
            with pytest.raises(Refused) as refused:
                check()
            assert refused.value.code == "banned"
        assert moderator.refused == {"muted": 0, "banned": 2}

    @pytest.mark.parametrize(
        ("sanction", "text"),
        [
            (order("mute", 7), "muted"),
            (order("ban", room=7, reason="closed for the night"), "banned in this room: closed for the night"),
            (order("ban", 7, reason="spam", until_us=_UNTIL_US), "banned until 2026-11-23T10:30:00.000000Z: spam"),
        ],
    )
    def test_it_is_told_for_how_long_and_why(self, sanction: Sanction, text: str) -> None:
        assert str(refusal(sanction)) == text
