"""Who sends what, and when: pure. Same settings and same seed, same load, whichever process works out its part.

Every message names itself at the end of its text::

    See you at lunch ~k3f9a1.17.4711.12345.903.81234567890
                      run . connection . number . user . kind . intended send time, microseconds of CLOCK_MONOTONIC

so that whoever receives it can tell which message it is, that nothing in it was changed, and how long it took. That
clock is common to all processes of a machine.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import NamedTuple

import attrs

from chatflow.passwords import mask_password

TYPES = ("TEXT", "JOIN", "LEAVE")
HIGHEST_USER = 100_000
WARM_UP, MAIN = "warm-up", "main"

# 49, as many as the reference's client draws from. No character here needs escaping in JSON.
PHRASES = (
    "Hello everyone",
    "Hello World",
    "Good morning",
    "Good afternoon",
    "Good evening",
    "Good night all",
    "How are you today?",
    "How is it going?",
    "I am fine, thank you",
    "Nice to meet you",
    "Nice to see you again",
    "What are you working on?",
    "I am working on a project",
    "Does anybody have a question?",
    "I have a question",
    "That is a good question",
    "Let me think about it",
    "I will get back to you",
    "Thank you very much",
    "You are welcome",
    "No problem at all",
    "That sounds great",
    "That sounds interesting",
    "I agree with you",
    "I do not agree",
    "Let us talk about it later",
    "See you later",
    "See you tomorrow",
    "See you at lunch",
    "Have a nice day",
    "Have a great weekend",
    "The weather is nice today",
    "It is raining here",
    "The meeting starts at ten",
    "The meeting is over",
    "Can you hear me?",
    "Yes, I can hear you",
    "Can you send me the link?",
    "Here is the link",
    "Please have a look",
    "It works on my machine",
    "It does not work here",
    "I found the mistake",
    "The tests pass now",
    "The build is green",
    "Let us ship it",
    "Be right back",
    "I am back",
    "Welcome to the room",
)


@attrs.frozen(kw_only=True)
class Settings:
    """What was asked for.

    :ivar senders: how many of the connections send; None is all.
    :ivar in_flight: messages without an answer, per connection.
    :ivar rate: messages/s over all connections; None is as fast as acks allow.
    :ivar output: directory for the results, if any.
    :ivar reconnect: seconds after which a connection is cut, on average; None is never.
    :ivar token_key: what tokens are signed with; each connection is one user's then. None: there are none.
    :ivar keep_ids: remember what was acknowledged, for the database check.
    :ivar run: tells this run's messages from all others.
    """

    urls: tuple[str, ...] = attrs.field(
        default=("ws://127.0.0.1:8080/chat",), repr=lambda urls: repr([mask_password(url) for url in urls])
    )
    connections: int = 64
    senders: int | None = None
    rooms: int = 20
    even_rooms: bool = False
    messages: int = 500_000
    warmup_connections: int = 32
    warmup_messages: int = 32_000
    in_flight: int = 50
    rate: float | None = None
    mix: tuple[int, int, int] = (90, 5, 5)
    processes: int = 1
    seed: int = 0
    timeout_seconds: float = 30.0
    output: str | None = None
    reconnect: float | None = None
    token_key: str | None = attrs.field(default=None, repr=False)
    token_audience: str | None = None
    token_issuer: str | None = None
    keep_ids: bool = False
    run: str = "run"


@attrs.frozen
class VirtualClient:
    """One client of a phase: where it is connected to, how many messages it sends, and which process (from 0) runs it.

    Numbers are unique over all phases.
    """

    number: int
    url: str
    room: int
    messages: int
    process: int = 0


@attrs.frozen
class Phase:
    """Virtual clients that connect together, work, and leave together."""

    name: str
    clients: tuple[VirtualClient, ...]

    @property
    def messages(self) -> int:
        return sum(client.messages for client in self.clients)

    def of_process(self, index: int) -> tuple[VirtualClient, ...]:
        """Within a process, too, clients with one message more come first."""
        return tuple(client for client in self.clients if client.process == index)


def phases(settings: Settings) -> list[Phase]:
    """The warm-up, unless it has no messages, and the main phase."""
    warm_up = 0
    found = []
    if settings.warmup_messages and settings.warmup_connections:
        warm_up = settings.warmup_connections
        found.append(_phase(settings, WARM_UP, 0, warm_up, warm_up, settings.warmup_messages))
    senders = settings.connections if settings.senders is None else settings.senders
    found.append(_phase(settings, MAIN, warm_up, settings.connections, senders, settings.messages))
    return found


def _phase(settings: Settings, name: str, first: int, connections: int, senders: int, messages: int) -> Phase:
    choose = random.Random(f"{settings.seed} rooms {name}")
    clients = []
    for index in range(connections):
        room = index % settings.rooms + 1 if settings.even_rooms else choose.randint(1, settings.rooms)
        share = messages // senders + (index < messages % senders) if index < senders else 0
        url = settings.urls[_in_turn(index, settings.rooms, len(settings.urls))]
        process = _in_turn(index, settings.rooms, settings.processes)
        clients.append(VirtualClient(first + index, url, room, share, process))
    return Phase(name, tuple(clients))


def _in_turn(index: int, rooms: int, choices: int) -> int:
    """One of the choices for that connection: all equally often, and, with even rooms, in each room.

    Rooms are taken in turn as well. So when all pairs that two turns can make have been made, one turn is shifted.
    """
    return (index + index // math.lcm(rooms, choices)) % choices


class Kind(NamedTuple):
    """A phrase and a type: what a message's ``kind`` number stands for."""

    phrase: str
    type: str


def kinds(mix: Sequence[int]) -> list[Kind]:
    """All combinations, each type as often as the mix wants: drawing one evenly draws from the mix exactly."""
    divisor = math.gcd(*mix)
    types = [name for name, weight in zip(TYPES, mix, strict=True) for _ in range(weight // divisor)]
    return [Kind(phrase, name) for name in types for phrase in PHRASES]


class MessageWriter:
    """Writes the messages of one connection. The same seed and connection write the same users and texts.

    :param only_user: who sends all of them; by default each is anybody's.
    """

    def __init__(
        self, seed: int, run: str, connection: int, kinds: Sequence[Kind], only_user: int | None = None
    ) -> None:
        self._only_user = only_user
        self._random = random.Random(f"{seed} messages {connection}").random
        self._kinds = kinds
        self._prefix = f"{run}.{connection}."

    def write(self, number: int, intended_us: Sequence[int], timestamp: str) -> list[bytes]:
        """The messages *number*, *number* + 1, … as JSON, one for each intended send time."""
        draw, kinds, prefix, only_user = self._random, self._kinds, self._prefix, self._only_user
        count = len(kinds)
        out = []
        for at_us in intended_us:
            kind = int(draw() * count)
            phrase, type_name = kinds[kind]
            user = only_user or int(draw() * HIGHEST_USER) + 1
            out.append(
                f'{{"userId":"{user}","username":"user{user}",'
                f'"message":"{phrase} ~{prefix}{number}.{user}.{kind}.{at_us}",'
                f'"timestamp":"{timestamp}","messageType":"{type_name}"}}'.encode()
            )
            number += 1
        return out


class Schedule:
    """When messages are due at a fixed rate, whatever the server does: no coordinated omission.

    :ivar issued: how many were handed out; the next one's index.
    """

    def __init__(self, start_us: int, rate: float, messages: int) -> None:
        self._start_us = start_us
        self._gap_us = 1_000_000 / rate
        self._messages = messages
        self.issued = 0

    def due(self, now_us: int) -> list[int]:
        """The intended send times that have come since the last call, in order."""
        until = min(self._messages, math.floor((now_us - self._start_us) / self._gap_us) + 1)
        found = [self._start_us + int(index * self._gap_us) for index in range(self.issued, until)]
        self.issued = max(self.issued, until)
        return found
