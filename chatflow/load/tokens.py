"""The tokens of the load client's connections, where the server asks for them (``--auth jwt``)."""

from __future__ import annotations

from chatflow.load.scenario import HIGHEST_USER, Settings
from chatflow.tokens.signing import claims_of, sign

_LIFETIME_SECONDS = 86_400.0


def user_of(connection: int) -> int:
    """Whom a connection speaks for, if it has to be one user."""
    return 1 + connection % HIGHEST_USER


def token_for(settings: Settings, connection: int, now: float) -> str | None:
    """What a connection shows when it is opened; None if there is no key to sign it with.

    :param now: seconds since the epoch.
    """
    if settings.token_key is None:
        return None
    user = user_of(connection)
    claims = claims_of(
        user,
        f"user{user}",
        now=now,
        lifetime_seconds=_LIFETIME_SECONDS,
        audience=settings.token_audience,
        issuer=settings.token_issuer,
    )
    return sign(settings.token_key, claims)
