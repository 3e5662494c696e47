"""What a resuming member needs around it, for tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from chatflow.rooms.hub import Hub
from chatflow.rooms.pages import Pages
from chatflow.rooms.resume import Resumer
from tests.rooms.doubles import ResumingMember, Store, encode


class ResumerRig:
    """Hub, pages (of ten messages) and a resumer, on a clock of the test's and a store that the test fills."""

    def __init__(
        self,
        *,
        replay: int = 5,
        replays: int = 1000,
        write_bytes: int = 1000,
        reads: int = 2,
        cache: int = 100_000,
        page_messages: int = 10,
        others_work: Callable[[], int] = int,
    ) -> None:
        self.clock = Clock()
        self.store = Store()
        self.hub = Hub(
            clock=self.clock,
            history=self.store,
            encode=encode,
            max_replay_messages=replay,
            max_replays_messages=replays,
        )
        self.pages = Pages(
            clock=self.clock,
            history=self.store,
            concurrent_reads=reads,
            others_work=others_work,
            page_messages=page_messages,
            cache_bytes=cache,
        )
        self.resumer = Resumer(clock=self.clock, hub=self.hub, pages=self.pages, max_write_bytes=write_bytes)

    def deliver(self, first: int, last: int, room: int = 1) -> None:
        """The fan-out brings these messages, one by one; they are stored, since it comes after the commit."""
        self.store.commit(last, room)
        for seq in range(first, last + 1):
            self.hub.deliver(self.store.messages(seq, seq, room))

    def begin(
        self, since: int | None = None, last: int | None = None, *, room: int = 1, slow: bool = False
    ) -> tuple[ResumingMember, Deferred[None]]:
        """Somebody comes; nothing is done yet."""
        member = ResumingMember(slow=slow)
        return member, self.resumer.start(room, member, since=since, last=last)

    def resume(self, since: int | None = None, last: int | None = None, **options: Any) -> ResumingMember:
        """Somebody comes, and is given all that is at hand."""
        member, _ = self.begin(since, last, **options)
        self.clock.advance(0)
        return member
