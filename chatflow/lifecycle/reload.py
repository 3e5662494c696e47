"""What can change while the process runs: settings are read again, and what changed is applied or needs a restart."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from twisted.logger import Logger

from chatflow.errors import ChatFlowError
from chatflow.options import Setting, Table

Apply = Callable[[Any], object]


class Reloads:
    """The settings in force, and who takes a new value of which one.

    :param table: of the settings.
    :param settings: those in force, from all sources.
    :param read: reads all sources again; raises :class:`~chatflow.errors.ConfigError` when one is wrong.
    """

    _log = Logger()

    def __init__(
        self, table: Table, settings: Mapping[str, Setting], read: Callable[[], Mapping[str, Setting]]
    ) -> None:
        self._table = table
        self._in_force = dict(settings)
        self._read = read
        self._applies: dict[str, Apply] = {}

    def add(self, name: str, apply: Apply) -> None:
        """Have ``apply`` called with each new value of the option ``name``.

        :param apply: on the reactor thread. What it raises is logged, and then the old value must still be in force.
        """
        self._applies[name] = apply

    def reload(self) -> str:
        """Read again and apply what has changed; one line in the log for each change. Never raises.

        When any setting is wrong, all of them stay as they were. What needs a restart, or was refused, is said again at
        the next reload.

        :return: what came of it, in a few words.
        """
        try:
            settings = self._read()
        except ChatFlowError as error:
            self._log.error("reload: {reason}; every setting stays as it was", reason=str(error))
            return "a setting is wrong, all stay as they were"
        outcomes = {"applied": 0, "waiting for a restart": 0, "refused": 0}
        for option in self._table.options:
            new, old = settings[option.name], self._in_force[option.name]
            if new.value != old.value and option.name not in self._table.kept_in_file():
                outcomes[self._change(option.name, option.show(new.value), new)] += 1
        told = ", ".join(f"{count} {outcome}" for outcome, count in outcomes.items() if count) or "nothing has changed"
        self._log.info("reload: {told}", told=told)
        return told

    def _change(self, name: str, shown: str, new: Setting) -> str:
        apply = self._applies.get(name)
        fields = {"setting": name, "value": shown, "source": new.source}
        if apply is None:
            self._log.warn("reload: {setting} = {value} ({source}) needs a restart", **fields)
            return "waiting for a restart"
        try:
            apply(new.value)
        except Exception as error:
            if not isinstance(error, ChatFlowError):
                self._log.failure("reload: {setting} was not applied", setting=name)
            self._log.error(
                "reload: {setting} = {value} ({source}) is refused and stays as it was: {reason}",
                reason=str(error) or type(error).__name__,
                **fields,
            )
            return "refused"
        self._in_force[name] = new
        self._log.info("reload: {setting} = {value} ({source}) is applied", **fields)
        return "applied"
