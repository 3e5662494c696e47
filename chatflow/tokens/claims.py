"""What a token says of whoever carries it (RFC 7519, 4), once its signature is known to be good. Pure functions."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Literal

import msgspec
from attrs import frozen
from msgspec import Meta

from chatflow.contracts.identity import Identity
from chatflow.contracts.messages import MAX_USER_ID, USERNAME
from chatflow.errors import TokenRefused
from chatflow.validation import field_at_fault

#: Seconds since 1970, until the year 9999.
_Time = Annotated[int, Meta(ge=0, le=253_402_300_799)] | Annotated[float, Meta(ge=0, le=253_402_300_799)]
_Room = Annotated[int, Meta(ge=1, le=10_000)] | Annotated[str, Meta(pattern=r"^[1-9][0-9]{0,4}\Z")]
_RoomList = list[_Room] | Literal["*"]


class _Rooms(msgspec.Struct, forbid_unknown_fields=True):
    """What is not named is not allowed; ``*`` is all."""

    read: _RoomList = []
    write: _RoomList = []


class _Claims(msgspec.Struct):
    sub: Annotated[str, Meta(pattern=r"^[1-9][0-9]{0,5}\Z")]
    exp: _Time
    nbf: _Time = 0
    iat: _Time = 0
    aud: str | list[str] | None = None
    iss: str | None = None
    name: Annotated[str, Meta(pattern=rf"^{USERNAME}\Z")] | None = None
    rooms: _Rooms | None = None


_decoder = msgspec.json.Decoder(_Claims)

_RULES = {
    "sub": f"sub must be a userId, a string of digits from 1 to {MAX_USER_ID}",
    "exp": "exp must be a time in seconds since 1970",
    "nbf": "nbf must be a time in seconds since 1970",
    "iat": "iat must be a time in seconds since 1970",
    "aud": "aud must be a string or a list of strings",
    "iss": "iss must be a string",
    "name": "name must be a username, 3-20 letters and digits",
    "rooms": 'rooms must be such as {"read": [1, 2], "write": "*"}',
}


@frozen(kw_only=True)
class Expected:
    """What this server asks of a token.

    :ivar audiences: ``aud`` must name one of them; if there are none, it must be absent.
    :ivar issuer: what ``iss`` must be; None if that does not matter.
    :ivar leeway_seconds: by how much clocks may differ.
    """

    audiences: Collection[str] = ()
    issuer: str | None = None
    leeway_seconds: float = 0.0


def judge_claims(payload: bytes, expected: Expected, now: float) -> Identity:
    """Who it is.

    :param now: seconds since the epoch.
    :raises TokenRefused: the claims are not what they must be; or not now, or not for this server.
    """
    try:
        claims = _decoder.decode(payload)
    except msgspec.ValidationError as error:
        raise TokenRefused("claims", _broken_rule(str(error))) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise TokenRefused("claims", "the token's payload must be one JSON object") from None
    if int(claims.sub) > MAX_USER_ID:
        raise TokenRefused("claims", _RULES["sub"])
    expires_at = claims.exp + expected.leeway_seconds
    if now >= expires_at:
        raise TokenRefused("expired", "the token has expired: get a new one")
    if max(claims.nbf, claims.iat) > now + expected.leeway_seconds:
        raise TokenRefused("early", "the token is of the future: its nbf or iat is yet to come")
    if expected.issuer is not None and claims.iss != expected.issuer:
        raise TokenRefused("issuer", "the token is of another issuer: iss is not the one of --jwt-issuer")
    audiences = [claims.aud] if isinstance(claims.aud, str) else claims.aud
    # RFC 7519, 4.1.3: who does not find itself among them must refuse it.
    if (audiences is not None or expected.audiences) and not set(audiences or ()) & set(expected.audiences):
        raise TokenRefused("audience", "the token is not for this server: aud names none of --jwt-audience")
    rooms = claims.rooms
    return Identity(
        user_id=int(claims.sub),
        username=claims.name,
        expires_at=expires_at,
        readable=None if rooms is None else _numbers(rooms.read),
        writable=None if rooms is None else _numbers(rooms.write),
    )


def _numbers(rooms: _RoomList) -> frozenset[int] | None:
    return None if isinstance(rooms, str) else frozenset(map(int, rooms))


def _broken_rule(error: str) -> str:
    place = field_at_fault(error)
    if place is None or place[0] not in _RULES:
        return "the token's payload must be one JSON object"
    name, is_missing = place
    return f"the claim {name} is missing: {_RULES[name]}" if is_missing else _RULES[name]
