"""Why a command ends before its time."""

from __future__ import annotations


class Stopped(Exception):
    """The command cannot go on.

    :param why: one line: what is wrong, with what.
    :param remedy: what to do about it, a line each.
    """

    def __init__(self, why: str, *remedy: str) -> None:
        super().__init__(why)
        self.remedy = remedy
