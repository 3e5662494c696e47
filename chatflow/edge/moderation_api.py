"""``/api/moderation``: what ``chatflow-admin mute``, ``ban`` and ``disconnect`` do, over HTTP. For operators."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Any, cast

import msgspec
from msgspec import Meta

from chatflow.contracts.messages import MAX_USER_ID
from chatflow.contracts.moderation import MAX_REASON_CHARACTERS, MAX_SECONDS, Action, ISanctionTable, Subject
from chatflow.edge.operations import Operation, Parameter, check_json, integer
from chatflow.edge.refusals import RequestRefused
from chatflow.errors import TooManySanctions
from chatflow.networks import network_meant
from chatflow.rooms.rules import ShownSanction

_PATH = "/api/moderation"
_ACTIONS = ("mute", "ban", "disconnect")
_CLOSED = (401, 403)


class Sanctions(msgspec.Struct, frozen=True):
    """The mutes and bans in force, oldest first."""

    sanctions: list[ShownSanction]


class Order(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whom it concerns: who meets all that is given of ``userId``, ``address`` and ``roomId``; at least one is.

    ``forSeconds``: until it ends by itself; null for no end. Of no meaning to ``disconnect``.
    """

    userId: Annotated[int, Meta(ge=1, le=MAX_USER_ID)] | None = None
    address: Annotated[str, Meta(max_length=60)] | None = None
    roomId: Annotated[int, Meta(ge=1)] | None = None
    reason: Annotated[str, Meta(max_length=MAX_REASON_CHARACTERS)] = ""
    forSeconds: Annotated[int, Meta(ge=1, le=MAX_SECONDS)] | None = None


class ModerationApi:
    """Handlers of the operations. Runs on the reactor thread.

    :param rooms: rooms are numbered from 1 to this.
    :param refresh: has this instance learn at once of what was changed; the others do within seconds.
    """

    def __init__(self, *, rooms: int, table: ISanctionTable, refresh: Callable[[], Awaitable[None]]) -> None:
        self._rooms = rooms
        self._table = table
        self._refresh = refresh

    async def sanctions(self) -> Sanctions:
        """``GET /api/moderation``"""
        found = await self._table.read(None)
        in_force = found.in_force if found is not None else ()
        return Sanctions([ShownSanction.of(one) for one in in_force if one.lasts])

    async def order(self, action: Action, request: Any) -> ShownSanction:
        """``POST /api/moderation/{action}``"""
        check_json(request.requestHeaders)
        try:
            order = msgspec.json.decode(request.content.getvalue(), type=Order)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise RequestRefused(400, "invalid_parameter", f"the body is no order: {error}") from None
        subject = self._subject(order.userId, order.address, order.roomId)
        if "\0" in order.reason:
            raise RequestRefused(400, "invalid_parameter", "reason must be without NUL")
        by = f"the API, from {request.client_ip or 'this machine'}"
        try:
            ordered = await self._table.order(action, subject, reason=order.reason, by=by, for_seconds=order.forSeconds)
        except TooManySanctions as error:
            raise RequestRefused(409, "too_many", str(error)) from None
        await self._refresh()
        return ShownSanction.of(ordered)

    async def lift(
        self, action: Action, userId: int | None, address: str | None, roomId: int | None, request: Any
    ) -> ShownSanction:
        """``DELETE /api/moderation/{action}``"""
        subject = self._subject(userId, address, roomId)
        lifted = await self._table.lift(action, subject, by=f"the API, from {request.client_ip or 'this machine'}")
        if lifted is None:
            raise RequestRefused(404, "not_in_force", f"there is no {action} of {subject} in force")
        await self._refresh()
        return ShownSanction.of(lifted)

    def _subject(self, user_id: int | None, address: str | None, room: int | None) -> Subject:
        try:
            network = None if address is None else network_meant(address)
        except ValueError as error:
            raise RequestRefused(
                400, "invalid_parameter", f"address must be an IP address or a network: {error}"
            ) from None
        if room is not None and room > self._rooms:
            raise RequestRefused(400, "invalid_parameter", f"roomId must be at most {self._rooms}")
        subject = Subject(user_id, network, room)
        if subject == Subject():
            raise RequestRefused(400, "missing_parameter", "whom? Give userId, address or roomId")
        return subject

    def operations(self) -> Sequence[Operation]:
        """The operations, for the router and for OpenAPI."""
        return [
            Operation(
                path=_PATH,
                summary="The mutes and bans in force on all instances",
                answer=Sanctions,
                handler=self.sanctions,
                guarded=True,
                statuses=_CLOSED,
            ),
            Operation(
                path=_PATH + "/{action}",
                method="POST",
                summary="Mutes, bans or disconnects, on all instances within 5 seconds; replaces the same order",
                answer=ShownSanction,
                statuses=(*_CLOSED, 409, 413, 415),
                handler=self.order,
                guarded=True,
                parameters=[_action(_ACTIONS)],
                body=Order,
            ),
            Operation(
                path=_PATH + "/{action}",
                method="DELETE",
                summary="Lifts the mute or ban of just this subject",
                answer=ShownSanction,
                handler=self.lift,
                guarded=True,
                statuses=_CLOSED,
                wants_request=True,
                parameters=[
                    _action(_ACTIONS[:2]),
                    integer("userId", 1, MAX_USER_ID, "of the user"),
                    Parameter(
                        name="address",
                        help="an IP address, or a network",
                        parse=str,
                        allowed="an IP address, or a network",
                        schema={"type": "string"},
                    ),
                    integer("roomId", 1, self._rooms, "of the room"),
                ],
            ),
        ]


def _action(allowed: Sequence[str]) -> Parameter:
    def parse(text: str) -> Action:
        if text not in allowed:
            raise ValueError
        return cast(Action, text)

    return Parameter(
        name="action",
        help="what to do",
        parse=parse,
        allowed=" or ".join(allowed),
        schema={"type": "string", "enum": list(allowed)},
        in_path=True,
        required=True,
        status=404,
        code="not_found",
    )
