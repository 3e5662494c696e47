"""From where a member left off to the live messages: history in pages, then the hub's replay buffer, then it joins.

A resuming member is not in the hub yet, so it holds up nobody. It reads pages until its seq has reached the room's
replay buffer, is given the rest of that and joins in the same turn of the reactor: nothing can come in between.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from chatflow.contracts.history import Page
from chatflow.contracts.members import IResumingMember, Reset, Resumed
from chatflow.lifecycle import in_a_turn
from chatflow.rooms.hub import Hub
from chatflow.rooms.pages import Pages

# Bytes that wait in the transports of those who resume, divided among them.
_WAITING_BYTES = 64 * 1024 * 1024
_MAX_WRITE_BYTES = 512 * 1024
_MIN_WRITE_BYTES = 64 * 1024

# After that long the reactor has its turn for everybody else.
_TURN_SECONDS = 0.003
_MAX_TURN_WRITES = 32

# A page that brought nothing new is not read again at once.
_PAUSE_SECONDS = 0.1


@define(eq=False)
class _Course:
    """How far a resuming member is.

    :ivar seq: it has everything up to there that there is.
    :ivar given: the same, as far as it was told: behind ``seq`` once retention turns out to have dropped something.
    :ivar target: the head when it came, so the end of what it is told as history.
    :ivar forgiving: whether it wants what there is, wherever that begins.
    """

    room: int
    member: IResumingMember
    seq: int
    target: int
    forgiving: bool
    given: int = field(init=False)
    told: bool = False
    joined: bool = False

    def __attrs_post_init__(self) -> None:
        self.given = self.seq

    def tell(self, first: int) -> None:
        """The next message will be ``first``: say so if the member cannot know it."""
        expected = first == self.given + 1
        if self.told and expected:
            return
        if not (expected or self.forgiving):
            self.member.resuming(Reset("expired", first))
        self.told, self.forgiving = True, False
        last = max(self.target, first - 1)
        self.member.resuming(Resumed(first, last, last - first + 1))

    def reached(self, seq: int) -> None:
        """It was given everything up to ``seq``."""
        self.seq = self.given = seq


class Resumer:
    """Leads members of all rooms of this instance. Runs on the reactor thread.

    :param max_write_bytes: what a member is given at once, at most, besides a single block.
    """

    def __init__(self, *, clock: IReactorTime, hub: Hub, pages: Pages, max_write_bytes: int = _MAX_WRITE_BYTES) -> None:
        self._clock = clock
        self._hub = hub
        self._pages = pages
        self._max_write_bytes = min(max_write_bytes, _MAX_WRITE_BYTES)
        self._turns: deque[Deferred[None]] = deque()
        self._turning = False
        #: Since the start, and now.
        self.resumes = 0
        self.resuming = 0

    def start(self, room: int, member: IResumingMember, *, since: int | None, last: int | None) -> Deferred[None]:
        """Give ``member`` what follows ``since``, or the ``last`` so many messages; then it is a member of the room.

        :returns: fires once it has joined the hub. Cancel it when the member leaves; then it has not joined. Fails only
            by a defect.
        """
        return Deferred.fromCoroutine(self._resume(room, member, since, last))

    async def first_seq(self, room: int) -> int:
        """See :meth:`Pages.first_seq`. The head is :meth:`Hub.head`."""
        return await self._pages.first_seq(room)

    async def _resume(self, room: int, member: IResumingMember, since: int | None, last: int | None) -> None:
        self.resumes += 1
        self.resuming += 1
        try:
            came_at = self._hub.last_seq(room)
            await self._turn()
            course = await self._plan(room, member, came_at, since, last)
            while True:
                if not self._give_from_replay(course):
                    await self._give_from_page(course)
                if course.joined:
                    return
                await member.drained()
                await self._turn()
        finally:
            self.resuming -= 1

    async def _plan(
        self, room: int, member: IResumingMember, came_at: int, since: int | None, last: int | None
    ) -> _Course:
        if since is None:
            return _Course(room, member, max(0, came_at - (last or 0)), came_at, forgiving=True)
        # Another instance may have been faster.
        head = came_at if since <= came_at else await self._pages.head(room)
        if since > head:
            # From when it came, and not from now: what it has sent meanwhile it gets.
            course = _Course(room, member, came_at, came_at, forgiving=False, told=True)
            member.resuming(Reset("beyond_head", came_at + 1))
            return course
        course = _Course(room, member, since, head, forgiving=since == 0)
        if since == head:
            course.tell(head + 1)
        return course

    def _give_from_replay(self, course: _Course) -> bool:
        """Give what the hub still has of what the member lacks, and if that is all, it joins; False without any."""
        found = self._hub.replay(course.room, course.seq, self._write_bytes())
        if found is None:
            return False
        data, seq = found
        course.tell(course.seq + 1)
        course.reached(seq)
        if seq >= self._hub.last_seq(course.room):
            course.joined = True
            self._hub.join(course.room, course.member, seq)  # first, since it may leave when it is given something
        if data:
            course.member.deliver(data)
        return True

    async def _give_from_page(self, course: _Course) -> None:
        """Give as much of one page as may be written at once."""
        answer = self._pages.get(course.room, course.seq + 1)
        at_hand = answer.called
        page = await answer
        if not at_hand:
            await self._turn()  # many may have waited for the same page
        begin = bisect_right(page.seqs, course.seq)
        if begin < len(page.seqs):
            end = _end_of_write(page, begin, self._write_bytes())
            course.tell(page.seqs[begin])
            course.reached(page.seqs[end - 1])
            course.member.deliver(page.data[page.ends[begin - 1] if begin else 0 : page.ends[end - 1]])
            self._pages.expect(course.room, page.last + 1, self._hub.last_seq(course.room))
        elif page.head > course.seq:
            course.seq = _end_of_hole(page)
        else:
            await deferLater(self._clock, _PAUSE_SECONDS)  # it was read before the messages of the buffer were stored

    def _write_bytes(self) -> int:
        return min(self._max_write_bytes, max(_MIN_WRITE_BYTES, _WAITING_BYTES // max(1, self.resuming)))

    def _turn(self) -> Deferred[None]:
        """Fires when it is this member's turn: in the order of asking, and only so many before the reactor's others."""
        turn: Deferred[None] = Deferred()
        self._turns.append(turn)
        if not self._turning:
            self._turning = True
            self._clock.callLater(0, self._take_turns)
        return turn

    def _take_turns(self) -> None:
        for _ in in_a_turn(self._clock.seconds, min(len(self._turns), _MAX_TURN_WRITES), _TURN_SECONDS):
            turn = self._turns.popleft()
            if not turn.called:  # it has left
                turn.callback(None)
        self._turning = bool(self._turns)
        if self._turning:
            self._clock.callLater(0, self._take_turns)


def _end_of_write(page: Page, begin: int, max_bytes: int) -> int:
    """Behind the last message of those from ``begin`` on that have no hole between them and fit; at least one."""
    start = page.ends[begin - 1] if begin else 0
    end = max(begin + 1, bisect_right(page.ends, start + max_bytes))
    offset = page.seqs[begin] - begin
    # Without a hole, seq and index grow together.
    return begin + bisect_right(range(begin, end), offset, key=lambda index: page.seqs[index] - index)


def _end_of_hole(page: Page) -> int:
    """Of a page that has nothing more: up to where everything is gone."""
    if not page.complete:
        return page.head
    if page.seqs:
        return page.last
    return page.head if page.next_seq is None else page.next_seq - 1
