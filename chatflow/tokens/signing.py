"""Makes tokens of HS256: for trying, and for the load client. Whoever signs for people is somebody else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import jwt


def sign(secret: str, claims: Mapping[str, Any]) -> str:
    """A token with these claims.

    :param secret: of at least 32 characters, as the server's ``--jwt-key-file`` has it.
    """
    return jwt.encode(dict(claims), secret.encode(), algorithm="HS256")


def encode_claims(claims: Mapping[str, Any]) -> bytes:
    """As they are signed."""
    return json.dumps(claims).encode()


def claims_of(
    user_id: int | str,
    username: str | None,
    *,
    now: float,
    lifetime_seconds: float,
    audience: str | None = None,
    issuer: str | None = None,
    rooms: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Those that a server asks for; what is None is left out.

    :param now: seconds since the epoch.
    """
    claims = {
        "sub": str(user_id),
        "name": username,
        "iat": int(now),
        "exp": int(now + lifetime_seconds),
        "aud": audience,
        "iss": issuer,
        "rooms": rooms,
    }
    return {name: value for name, value in claims.items() if value is not None}
