"""What can change while the process runs: settings are read again, and what changed is applied or needs a restart."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from twisted.logger import Logger

from chatflow.errors import ChatFlowError
from chatflow.options import Setting, Table
from chatflow.options.table import CONFIG

Apply = Callable[[Any], object]
ReadAgain = Callable[[], str | None]


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
        self._parts: dict[str, ReadAgain] = {}

    def add(self, name: str, apply: Apply) -> None:
        """Have ``apply`` called with each new value of the option ``name``.

        :param apply: on the reactor thread. What it raises is logged, and then the old value must still be in force.
        """
        self._applies[name] = apply

    def add_part(self, name: str, read_again: ReadAgain) -> None:
        """Have something that settings name, such as a file, read again with each reload, behind all settings.

        :param name: for people. :param read_again: on the reactor thread. Returns what is new, or None if nothing is.
            What it raises is logged, and then what was read last must still be in force.
        """
        self._parts[name] = read_again

    @property
    def is_of_use(self) -> bool:
        """Whether there is anything to read again: the command line and the environment stay as they were."""
        return bool(self._parts or self._in_force[CONFIG.name].value)

    def reload(self) -> str:
        """Read again and apply what has changed. Never raises.

        The log has one line for each change that was tried, and one for all that need a restart.

        When any setting is wrong, all of them stay as they were, but parts are read again. What needs a restart, or was
        refused, is said again at the next reload.

        :return: what came of it, in a few words.
        """
        try:
            settings = self._read()
        except ChatFlowError as error:
            self._log.error("reload: {reason}; every setting stays as it was", reason=str(error))
            self._read_parts()
            return "a setting is wrong, all stay as they were"
        outcomes = {"applied": 0, "waiting for a restart": 0, "refused": 0}
        waiting: list[str] = []
        for option in self._table.options:
            new, old = settings[option.name], self._in_force[option.name]
            if new.value == old.value or option.name in self._table.kept_in_file():
                continue
            shown = option.show(new.value)
            if (apply := self._applies.get(option.name)) is None:
                waiting.append(f"{option.name} = {shown} ({new.source})")
            else:
                outcomes[self._change(option.name, shown, new, apply)] += 1
        if waiting:
            outcomes["waiting for a restart"] = len(waiting)
            self._log.warn("reload: a restart is needed for {settings}", settings=", ".join(waiting))
        for outcome in self._read_parts():
            outcomes[outcome] += 1
        told = ", ".join(f"{count} {outcome}" for outcome, count in outcomes.items() if count) or "nothing has changed"
        self._log.info("reload: {told}", told=told)
        return told

    def _read_parts(self) -> list[str]:
        outcomes = []
        for name, read_again in self._parts.items():
            try:
                told = read_again()
            except Exception as error:
                if not isinstance(error, ChatFlowError):
                    self._log.failure("reload: {part} was not read again", part=name)
                reason = str(error) or type(error).__name__
                self._log.error("reload: {part} stays as it was: {reason}", part=name, reason=reason)
                outcomes.append("refused")
                continue
            if told is not None:
                self._log.info("reload: {part}: {told}", part=name, told=told)
                outcomes.append("applied")
        return outcomes

    def _change(self, name: str, shown: str, new: Setting, apply: Apply) -> str:
        fields = {"setting": name, "value": shown, "source": new.source}
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
