"""Tells an instance what operators have ordered.

It asks the database for changes, and keeps what it knows while that is away: no LISTEN, which a pooler would lose.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from attrs import frozen
from twisted.application.service import Service
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from chatflow.contracts.moderation import Action, ISanctionTable, Sanction, Sanctions, Subject
from chatflow.errors import Unavailable
from chatflow.lifecycle import PeriodicService
from chatflow.lifecycle.blocking import at_once
from chatflow.lifecycle.callback_service import CallbackService
from chatflow.readings import Reading
from chatflow.rooms.messages import iso_timestamp
from chatflow.rooms.moderator import Moderator
from chatflow.rooms.rules import Rules
from chatflow.text import visible

#: How often changes are asked for: what is ordered is in force everywhere, and out of force, within seconds.
POLL_SECONDS = 1.5


@frozen
class _Known:
    """:ivar ends_at: by this instance's clock; None for no end."""

    sanction: Sanction
    ends_at: float | None


class SanctionWatch:
    """Runs on the reactor thread.

    :param moderator: is given the mutes and bans.
    :param table: asked while the instance runs; ``connection`` is started before.
    :param open_table: the same, with calls that block: for the start.
    :ivar on_orders: called with the bans and disconnections that have become known: they are to be carried out.
    """

    _log = Logger()

    def __init__(
        self,
        *,
        clock: IReactorTime,
        moderator: Moderator,
        table: ISanctionTable,
        open_table: Callable[[], AbstractContextManager[ISanctionTable]],
        connection: Service,
    ) -> None:
        self._clock = clock
        self._connection = connection
        self._open_table = open_table
        self._version: str | None = None
        self._known: dict[tuple[Action, Subject], _Known] = {}
        self._read_at = clock.seconds()
        self._is_failing = False
        self.moderator = moderator
        self.table = table
        self.on_orders: Callable[[Sequence[Sanction]], object] = lambda orders: None

    @property
    def services(self) -> Sequence[tuple[str, Service]]:
        """By name, in the order of their start; to be started before anybody is let in."""
        return [
            ("sanctions", CallbackService(self.load)),
            ("connection for sanctions", self._connection),
            ("changes of sanctions", PeriodicService(self._clock, "look for sanctions", POLL_SECONDS, self.refresh)),
        ]

    def load(self) -> None:
        """Learn what is in force. Blocks.

        :raises ChatFlowError: the database does not tell.
        """
        with self._open_table() as table:
            found = at_once(_read(table))
        assert found is not None
        self._take(found)
        if self.moderator.rules is not None:
            counts = self._counts()
            self._log.info("in force: {mutes:.0f} mutes, {bans:.0f} bans", mutes=counts["mute"], bans=counts["ban"])

    async def refresh(self) -> None:
        """Learn what has changed, and have it carried out."""
        self._end_what_is_over()
        try:
            found = await self.table.read(self._version)
        except Unavailable:
            return
        except Exception:
            # A table is missing, or a permission: somebody has to mend it, and need not be told each time.
            if not self._is_failing:
                self._log.failure("the sanctions cannot be read: what is known stays in force")
            self._is_failing = True
            return
        self._is_failing = False
        self._read_at = self._clock.seconds()
        if found is None:
            return
        lifted = [one for one in found.ended if one.lifted_by and (one.action, one.subject) in self._known]
        orders = self._take(found)
        for sanction in orders:
            self._log_order(sanction)
        for sanction in lifted:
            self._log_end(sanction, f"lifted by {visible(sanction.lifted_by or '')}")
        self.on_orders([sanction for sanction in orders if sanction.action != "mute"])

    def readings(self) -> list[Reading]:
        """For Prometheus."""
        refused, age = self.moderator.refused, lambda: self._clock.seconds() - self._read_at
        return [
            Reading("chatflow_sanctions", "Mutes and bans in force", self._counts, is_counter=False, label="action"),
            Reading("chatflow_sanctions_refused", "Messages and entries", lambda: refused, label="code"),
            Reading("chatflow_sanctions_age_seconds", "Since the database told what is in force", age, False),
        ]

    def _take(self, found: Sanctions) -> list[Sanction]:
        """What is in force from now on; of that, what was not known."""
        now = self._clock.seconds()
        before, self._known = self._known, {}
        self._version = found.version
        for sanction in found.in_force:
            ends_at = None if sanction.left_seconds is None else now + sanction.left_seconds
            self._known[sanction.action, sanction.subject] = _Known(sanction, ends_at)
        self._make_rules()
        former = {key: known.sanction.ordered_at_us for key, known in before.items()}
        return [known.sanction for key, known in self._known.items() if former.get(key) != known.sanction.ordered_at_us]

    def _end_what_is_over(self) -> None:
        now = self._clock.seconds()
        over = [key for key, known in self._known.items() if known.ends_at is not None and known.ends_at <= now]
        for key in over:
            sanction = self._known.pop(key).sanction
            if sanction.lasts:
                self._log_end(sanction, "over")
        if over:
            self._make_rules()

    def _make_rules(self) -> None:
        lasting = [known.sanction for known in self._known.values() if known.sanction.lasts]
        self.moderator.rules = Rules(lasting) if lasting else None

    def _counts(self) -> dict[str, float]:
        counts = Counter(action for action, _ in self._known)
        return {"mute": counts["mute"], "ban": counts["ban"]}

    def _log_order(self, sanction: Sanction) -> None:
        until = None if sanction.ends_at_us is None else iso_timestamp(sanction.ends_at_us)
        lasts = f" until {until or 'it is lifted'}" if sanction.lasts else ""
        self._log.info(
            "{action} of {subject}{lasts}, ordered by {by}: {reason}",
            **_fields(sanction),
            lasts=lasts,
            until=until,
            by=visible(sanction.by),
            reason=visible(sanction.reason) or "no reason is given",
        )

    def _log_end(self, sanction: Sanction, how: str) -> None:
        self._log.info("{action} of {subject} is {how}", **_fields(sanction), how=how)


def _fields(sanction: Sanction) -> dict[str, object]:
    subject = sanction.subject
    return {
        "action": sanction.action,
        "subject": str(subject),
        "user_id": subject.user_id,
        "network": None if subject.network is None else str(subject.network),
        "room": subject.room,
    }


async def _read(table: ISanctionTable) -> Sanctions | None:
    return await table.read(None)
