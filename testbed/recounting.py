"""A recount: every count that the daemons keep beside the messages, made anew from the messages themselves."""

from __future__ import annotations

from contextlib import closing

import psycopg2

from chatflow.persistence.recount import recount_in_thread


def recount(url: str) -> dict[str, list[str]]:
    """What differs: some rows for each count that is wrong, so nothing at all if every count is right."""
    with closing(psycopg2.connect(url)) as connection:
        checks = list(recount_in_thread(connection))
    return {check.name: list(check.differences) for check in checks if check.differences}
