"""Keeps out, and keeps silent, whom the mutes and bans in force concern."""

from __future__ import annotations

from collections.abc import Collection

from chatflow.contracts.moderation import Action
from chatflow.rooms.rules import Party, Rules, refusal


class Moderator:
    """Runs on the reactor thread. While nobody is muted or banned, who asks pays for one look at :attr:`rules`.

    :ivar rules: None if there are none.
    :ivar refused: messages and entries, by the code of their error.
    """

    def __init__(self) -> None:
        self.rules: Rules | None = None
        self.refused: dict[str, float] = {"muted": 0, "banned": 0}

    def check_message(self, room: int, user_id: int, address: str | None) -> None:
        """A user is about to say something.

        :param address: of the client, as text.
        :raises Refused: ``banned`` or ``muted``.
        """
        if self.rules is not None:
            self._check(self.rules, Party(room, (user_id,), address), "ban", "mute")

    def check_entry(self, room: int, user_ids: Collection[int], address: str | None) -> None:
        """Somebody is about to enter a room, or to read what was said there.

        :param user_ids: whom it says to be.
        :raises Refused: ``banned``.
        """
        if self.rules is not None:
            self._check(self.rules, Party(room, user_ids, address), "ban")

    def _check(self, rules: Rules, party: Party, *actions: Action) -> None:
        concerning = {sanction.action: sanction for sanction in rules.concerning(party)}
        for action in actions:
            if action in concerning:
                refused = refusal(concerning[action])
                self.refused[refused.code] += 1
                raise refused
