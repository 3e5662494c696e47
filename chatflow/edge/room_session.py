"""One connection's way into its room and out of it: the welcome, history, what is live; and what is set back."""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from chatflow.contracts.members import IResumingMember
from chatflow.edge.close_codes import SERVICE_RESTART, TRY_AGAIN_LATER
from chatflow.edge.handshake import Handshake
from chatflow.edge.outgoing import Outgoing
from chatflow.edge.services import EdgeServices


class ISessionMember(IResumingMember):
    """A connection that is to be a member of its room."""

    def write(frame: bytes) -> None:
        """Send it a frame; nothing once it is being closed."""

    def leave(code: int, reason: str) -> None:
        """Send a close frame and take nothing more."""

    def drop(why: str) -> None:
        """End the connection at once."""


class RoomSession:
    """From the handshake until the connection is being closed. Runs on the reactor thread.

    Who asks for history is given it first, and is a member of the room at the end of that. What is written to one that
    is to be welcomed waits, so that its welcome comes first.
    """

    _log = Logger()
    __slots__ = (
        "_dialect",
        "_head",
        "_is_open",
        "_member",
        "_outgoing",
        "_parameters",
        "_replay",
        "_room",
        "_services",
        "_welcome",
        "_welcoming",
    )

    def __init__(self, services: EdgeServices, handshake: Handshake, member: ISessionMember) -> None:
        self._services = services
        self._room = handshake.room
        self._parameters = handshake.parameters
        self._dialect = handshake.dialect
        self._member = member
        self._outgoing: Outgoing
        self._welcome = handshake.dialect.welcome(services, handshake.room, handshake.identity)
        # Until the welcome is written.
        self._welcoming: Deferred[None] | None = None
        # While history is read.
        self._replay: Deferred[None] | None = None
        self._head = 0
        self._is_open = False

    def open(self, outgoing: Outgoing) -> None:
        """The handshake is done.

        :param outgoing: the member's, which holds back what comes ahead of the welcome.
        """
        services, room = self._services, self._room
        self._outgoing = outgoing
        self._is_open = True
        services.presence.joined(room, self._parameters.who)
        # Before the welcome, whose head is of this moment: all that is beyond it follows.
        self._head = services.hub.head(room)
        if not self._parameters.resumes:
            services.hub.join(room, self._member, 0 if self._welcome is None else self._head)
        if self._welcome is None:
            self._enter()
        else:
            outgoing.hold()
            self._welcoming = Deferred.fromCoroutine(self._greet())
            self._welcoming.addErrback(self._greeting_failed)

    def close(self) -> None:
        """Nothing more for the member. Harmless a second time, or if it was never open."""
        if not self._is_open:
            return
        self._is_open = False
        services, room, member = self._services, self._room, self._member
        if self._welcoming is not None:
            self._welcoming.cancel()
        services.presence.unwatch(room, member)
        services.stored.forget(member)
        services.presence.left(room, self._parameters.who)
        services.hub.leave(room, member)
        replay = self._replay
        if replay is not None and not replay.called:
            # It may be the replay itself that has just written too much, and what runs cannot be cancelled; nor is it
            # certain that it does not join before it ends.
            services.clock.callLater(0, replay.cancel)
            replay.addCallback(lambda _: services.hub.leave(room, member))

    def release(self) -> None:
        """Send what waits for the welcome, with one that knows no better: no answer and no goodbye may be lost."""
        if self._is_open and self._outgoing.holds:
            self._send_welcome(1)  # where the room begins is not known now, and nobody resumes here any more

    def tell_head(self) -> None:
        """Say up to where the member has everything, if its dialect can and it has."""
        if self._is_open and not self._outgoing.holds and not self._replays:
            frame = self._dialect.heartbeat(self._services.hub.last_seq(self._room))
            if frame is not None:
                self._member.write(frame)

    def set_back(self, room: int, first: int) -> None:
        """The room, if it is this one, has other messages from ``first`` on: begin anew there.

        A member that cannot be told so, or is given history just now, has to come back for it.
        """
        if room != self._room or not self._is_open:
            return
        self._head = min(self._head, first - 1)
        frame = None if self._replays else self._dialect.set_back(first)
        if frame is None:
            self._member.leave(SERVICE_RESTART, "the room was set back to an earlier state: reconnect")
        else:
            self._member.write(frame)

    @property
    def _replays(self) -> bool:
        """Whether history is on its way."""
        return self._replay is not None and not self._replay.called

    async def _greet(self) -> None:
        self._send_welcome(await self._services.resumer.first_seq(self._room))
        self._enter()

    def _send_welcome(self, first: int) -> None:
        welcome, self._welcome = self._welcome, None
        assert welcome is not None
        self._outgoing.release(welcome(self._head, first))

    def _greeting_failed(self, failure: Failure) -> None:
        if not failure.check(CancelledError):
            self._log.failure("a welcome to room {room} failed", failure, room=self._room)
            self._member.drop("its welcome failed")

    def _enter(self) -> None:
        parameters = self._parameters
        if parameters.resumes:
            self._replay = self._services.resumer.start(
                self._room, self._member, since=parameters.since, last=parameters.last
            )
            self._replay.addErrback(self._replay_failed)
        self._dialect.entered(self._services, self._room, parameters, self._member)

    def _replay_failed(self, failure: Failure) -> None:
        if not failure.check(CancelledError):
            self._log.failure("resuming in room {room} failed", failure, room=self._room)
            self._member.leave(TRY_AGAIN_LATER, "history cannot be read now: reconnect and resume")
