"""Connections that talk at the same time, each in a thread, and remember everything they sent and got."""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections import Counter
from collections.abc import Iterable
from typing import Self

from websockets.exceptions import ConnectionClosed

from testbed.client import ChatClient, kind
from testbed.daemon import Daemon
from testbed.recounting import recount
from testbed.waiting import eventually

_SECONDS = 60.0

_serials = itertools.count(1)


class Speaker(threading.Thread):
    """One connection that always has ``window`` messages unanswered, until it is told to stop or is closed.

    :ivar sent: texts; each is unique in the whole test.
    :ivar acks: text of each acknowledged message -> its id.
    :ivar errors: codes of the refusals.
    :ivar seqs: of the broadcasts, as they came; ``heard`` are their ids.
    :ivar close_code: of the server's close frame, None without one.
    :ivar failure: what should not have happened.
    """

    def __init__(self, url: str, room: int, name: str, window: int) -> None:
        super().__init__(name=name, daemon=True)
        self.room = room
        self.sent: list[str] = []
        self.acks: dict[str, str] = {}
        self.errors: list[str] = []
        self.seqs: list[int] = []
        self.heard: list[str] = []
        self.close_code: int | None = None
        self.failure: BaseException | None = None
        self._url = url
        self._window = window
        self._silent = threading.Event()
        self._connected = threading.Event()

    def connect(self) -> None:
        """Begin, and return once it is in its room."""
        self.start()
        assert self._connected.wait(_SECONDS), f"{self.name} found no connection: {self.failure}"

    def stop(self) -> None:
        """Say nothing new; wait for the answers and close."""
        self._silent.set()

    def run(self) -> None:
        try:
            with ChatClient(self._url) as client:
                self._connected.set()
                with contextlib.suppress(ConnectionClosed):
                    self._talk(client)
                received = client.socket.protocol.close_rcvd
                self.close_code = received.code if received is not None else None
        except BaseException as failure:
            self.failure = failure

    def _talk(self, client: ChatClient) -> None:
        unanswered = 0
        while True:
            while unanswered < self._window and not self._silent.is_set():
                text = f"{self.name} {len(self.sent)}"
                number = len(self.sent)
                self.sent.append(text)
                unanswered += 1
                try:
                    client.send(text, userId=str(1 + number % 300), messageType=("TEXT", "JOIN", "LEAVE")[number % 3])
                except ConnectionClosed:
                    self._silent.set()  # what came before that is still to be read
            if not unanswered:
                return
            frame = client.receive(_SECONDS)
            match kind(frame):
                case "broadcast":
                    self.seqs.append(frame["seq"])
                    self.heard.append(frame["messageId"])
                    continue
                case "ack":
                    text = frame["originalMessage"]["message"]
                    assert text not in self.acks, f"acknowledged twice: {text}"
                    self.acks[text] = frame["messageId"]
                case "error":
                    self.errors.append(frame["code"])
            unanswered -= 1


class Crowd:
    """Speakers in some rooms. Leaving the ``with`` block stops them."""

    def __init__(self, daemon: Daemon, *, rooms: Iterable[int] = (1, 2), each: int = 2, window: int = 50) -> None:
        self._daemon = daemon
        serial = next(_serials)
        self.speakers = [
            Speaker(daemon.chat_url(room), room, f"crowd {serial} room {room} speaker {number}", window)
            for room in rooms
            for number in range(each)
        ]

    def __enter__(self) -> Self:
        for speaker in self.speakers:
            speaker.connect()
        return self

    def __exit__(self, *_: object) -> None:
        for speaker in self.speakers:
            speaker.stop()
        for speaker in self.speakers:
            speaker.join(_SECONDS)

    @property
    def acknowledged(self) -> int:
        """How many messages were, until now."""
        return sum(len(speaker.acks) for speaker in self.speakers)

    def wait_for(self, more: int) -> None:
        """Return once so many further messages are acknowledged."""
        goal = self.acknowledged + more
        eventually(lambda: self.acknowledged >= goal, f"{more} more acknowledgements", _SECONDS)

    def wait_until_closed(self) -> None:
        """Return once every connection has ended by itself."""
        for speaker in self.speakers:
            speaker.join(_SECONDS)
            assert not speaker.is_alive(), f"{speaker.name} is still connected"

    def finish(self) -> None:
        """Stop, wait for all answers; every message had exactly one, and nobody was disconnected."""
        self.__exit__()
        for speaker in self.speakers:
            assert speaker.failure is None, f"{speaker.name}: {speaker.failure!r}"
            answers = len(speaker.acks) + len(speaker.errors)
            assert answers == len(speaker.sent), f"{speaker.name}: {answers} answers to {len(speaker.sent)} messages"


def check_stored(daemon: Daemon, *crowds: Crowd) -> None:
    """Every acknowledged message is stored once, none twice, all are counted, and what was heard is what is stored."""
    stored: dict[str, str] = {}
    places: dict[tuple[int, int], str] = {}
    for text, room, seq, message_id in daemon.sql(
        "SELECT message_text, room_id, seq, message_id::text FROM messages WHERE message_text LIKE 'crowd %%'"
    ):
        assert text not in stored, f"stored twice: {text}"
        stored[text] = message_id
        places[room, seq] = message_id
    for speaker in (speaker for crowd in crowds for speaker in crowd.speakers):
        assert speaker.failure is None, f"{speaker.name}: {speaker.failure!r}"
        lost = [text for text in speaker.acks if text not in stored]
        assert not lost, f"{speaker.name}: {len(lost)} acknowledged messages are not stored, such as {lost[0]}"
        other = [text for text, message_id in speaker.acks.items() if stored[text] != message_id]
        assert not other, f"{speaker.name}: stored under another id: {other[0]}"
        holes = [(one, two) for one, two in itertools.pairwise(speaker.seqs) if two != one + 1]
        assert not holes, f"{speaker.name} heard these one after the other: {holes}"
        for seq, message_id in zip(speaker.seqs, speaker.heard, strict=True):
            assert places.get((speaker.room, seq)) == message_id, f"{speaker.name}: {seq} is stored as something else"
    wrong = recount(daemon.database_url)
    assert not wrong, f"other than a recount: {wrong}"


def error_codes(crowd: Crowd) -> Counter[str]:
    """How often each was given."""
    return Counter(code for speaker in crowd.speakers for code in speaker.errors)
