"""What dead letters promise (IDeadLetters, IDeadLetterBox), as tests of any implementation.

Bind it with a subclass whose name begins with ``Test``.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from zope.interface.verify import verifyObject

from chatflow.codec.deadletters import envelope_in, failed_again
from chatflow.contracts.deadletters import IDeadLetterBox, IDeadLetters
from chatflow.contracts.envelopes import Envelope
from tests.support.chat import make_envelope
from tests.support.reactor import on_reactor


class DeadLettersContract:
    """Give the two fixtures."""

    @pytest.fixture
    def keeper(self) -> Any:
        """The daemon's side; nothing is kept yet."""
        raise NotImplementedError

    @pytest.fixture
    def box(self, keeper: Any) -> Any:
        """The commands' side of the same."""
        raise NotImplementedError

    def test_each_side_keeps_its_interface(self, keeper: Any, box: Any) -> None:
        assert verifyObject(IDeadLetters, keeper)
        assert verifyObject(IDeadLetterBox, box)

    @on_reactor
    async def test_nothing_is_kept_at_first(self, keeper: Any, box: Any) -> None:
        assert box.read() == []

    @on_reactor
    async def test_what_is_kept_is_read_with_its_story(self, keeper: Any, box: Any) -> None:
        envelope = make_envelope(7, '😀 "\\\n\x01', "x" * 500)
        before = datetime.now(UTC)
        await keeper.keep(envelope, "value too long: \x1b[31m \\ 😀")
        (letter,) = box.read()
        assert envelope_in(letter) == envelope
        assert (letter.id, letter.envelope_id, letter.room) == (envelope.envelope_id, envelope.envelope_id, 7)
        assert (letter.reason, letter.attempts) == ("value too long: \x1b[31m \\ 😀", 1)
        assert before <= datetime.fromisoformat(letter.first_failed_at) <= datetime.now(UTC)
        assert letter.last_failed_at == letter.first_failed_at

    @on_reactor
    async def test_all_of_a_room_are_read_in_the_order_in_which_they_failed(self, keeper: Any, box: Any) -> None:
        kept = [make_envelope(1) for _ in range(25)]
        for envelope in kept:
            await keeper.keep(envelope, "refused")
        assert [envelope_in(letter) for letter in box.read()] == kept

    @on_reactor
    async def test_the_same_envelope_twice_is_one_letter(self, keeper: Any, box: Any) -> None:
        envelope = make_envelope()
        await keeper.keep(envelope, "first")
        await keeper.keep(envelope, "second")
        assert ids(box) == [envelope.envelope_id]

    @on_reactor
    async def test_what_is_removed_is_gone_and_the_others_stay(self, keeper: Any, box: Any) -> None:
        kept = await keep_some(keeper, 3)
        letters = box.read()
        box.remove(letters[:1])
        box.remove([])
        box.release()
        assert ids(box) == [kept[1].envelope_id, kept[2].envelope_id]

    @on_reactor
    async def test_what_is_replaced_has_the_new_reason_and_the_old_beginning(self, keeper: Any, box: Any) -> None:
        kept = await keep_some(keeper, 2)
        for attempt in (2, 3):
            letter = box.read()[0]
            box.replace(letter, failed_again(letter, f"reason {attempt}", 4_000_000_000 + attempt))
            box.release()
        replaced, other = box.read()
        assert (replaced.reason, replaced.attempts) == ("reason 3", 3)
        assert replaced.last_failed_at == "2096-10-02T07:06:43.000000Z"
        assert replaced.first_failed_at == letter.first_failed_at
        assert [envelope_in(replaced), envelope_in(other)] == kept
        assert other.attempts == 1

    @on_reactor
    async def test_what_was_released_is_read_again(self, keeper: Any, box: Any) -> None:
        kept = await keep_some(keeper, 12)
        for _ in range(2):
            assert ids(box) == [envelope.envelope_id for envelope in kept]
            box.release()


async def keep_some(keeper: Any, count: int) -> list[Envelope]:
    """Envelopes of one room, kept."""
    kept = [make_envelope(1) for _ in range(count)]
    for envelope in kept:
        await keeper.keep(envelope, "refused")
    return kept


def ids(box: Any) -> list[str]:
    return [letter.id for letter in box.read()]
