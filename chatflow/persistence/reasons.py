"""Why there is no connection, in one line that everybody may read."""

from __future__ import annotations

import psycopg2

from chatflow.passwords import without_passwords
from chatflow.persistence.failures import one_line


def reason_of(error: psycopg2.Error, url: str) -> str:
    """What libpq or the server says, without the passwords of ``url``: libpq repeats the part that it cannot read."""
    if isinstance(error, psycopg2.ProgrammingError) and error.pgcode is None:
        return "the URL is malformed, or has a parameter that libpq does not know"
    return without_passwords(one_line(error), url)
