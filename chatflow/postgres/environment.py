"""The environment must not matter to the embedded PostgreSQL: neither to the server nor to who connects to it."""

from __future__ import annotations

import os

from twisted.logger import Logger

_log = Logger()


def forget_variables() -> None:
    """Remove libpq's and PostgreSQL's variables (``PG...``) from this process's environment, and from its children's.

    They are made for other servers: ``PGHOSTADDR``, ``PGSERVICE`` or ``PGSSLMODE`` would lead elsewhere,
    ``PGCLIENTENCODING`` and ``PGDATESTYLE`` even keep the server from starting. Call it before the first connection.
    """
    names = sorted(name for name in os.environ if name.startswith("PG") and name[2:3] != "_")
    for name in names:
        del os.environ[name]
    if names:
        _log.info("{names} do not count for the embedded PostgreSQL", names=", ".join(names))
