"""Single steps of a message's way: µs per message, and a commit against the least that PostgreSQL could do."""

from __future__ import annotations

import argparse
import io
import itertools
import random
import shutil
import statistics
import tempfile
import time
import timeit
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg2

from benchmarks.results import Result
from chatflow.codec import envelopes
from chatflow.contracts.envelopes import Envelope
from chatflow.contracts.messages import Message, StoredMessage
from chatflow.edge.compression import Compressor
from chatflow.edge.frames import broadcast_block, json_frames, take_text_frames
from chatflow.load.wire import masked_frames
from chatflow.persistence import migrations, partitions
from chatflow.persistence.commit import commit_alone_in_thread
from chatflow.persistence.driver import Connection, Cursor, only_row
from chatflow.persistence.rows import statement
from chatflow.persistence.sessions import SessionLimits
from chatflow.persistence.transactions import Transaction
from chatflow.postgres.embedded import EmbeddedPostgres
from chatflow.rooms.identifiers import uuid7
from chatflow.rooms.messages import acknowledgement, decode, iso_timestamp

_ROOMS = 20
_BATCH = 1000
_MESSAGES_PER_ENVELOPE = _BATCH // _ROOMS
USERS = 100_000
_CLIENT_TIMESTAMP = "2026-11-23T10:30:00.123456789Z"


def add_to(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Register the benchmarks; see :mod:`benchmarks.__main__`."""
    steps = add("steps", help="decode, frame, envelope: microseconds per message")
    steps.add_argument("--seconds", type=float, default=1.0, help="how long each step is repeated")
    steps.set_defaults(run=_steps)
    commit = add("commit", help="1,000 rows with rollups, as a ratio to a bare COPY plus the same upserts")
    commit.add_argument("--batches", type=int, default=200, help="how many transactions of each kind")
    commit.set_defaults(run=_commit)


def _steps(arguments: argparse.Namespace) -> Result:
    make = Maker()
    now_us = time.time_ns() // 1000  # of all that one read of a socket brought
    batch = [make.message(now_us) for _ in range(_MESSAGES_PER_ENVELOPE)]
    stored = [StoredMessage(1, seq, "server-1", message) for seq, message in enumerate(batch, 1)]
    blocks = [broadcast_block([each]) for each in stored]
    envelope = Envelope(make.id(), 1, "server-1", tuple(batch))
    body = envelopes.encode(envelope)
    payloads = [_client_payload(message) for message in batch]
    received = masked_frames(payloads)
    original = decode(payloads[0])
    count = len(batch)
    steps: dict[str, tuple[int, Callable[[], object]]] = {
        "take_text_frames, unmasked": (count, lambda: take_text_frames(received, 16_384)),
        "decode and validate": (count, lambda: [decode(payload) for payload in payloads]),
        "identifier": (1, lambda: uuid7(1_790_000_000_000)),
        "time stamp": (count, lambda: [iso_timestamp(message.created_at_us) for message in batch]),
        "encode and frame acks": (count, lambda: json_frames([acknowledgement(each, original) for each in batch])),
        "encode and frame broadcasts": (count, lambda: broadcast_block(stored)),
        "compress broadcasts": (count, lambda: [Compressor().compressed(block) for block in blocks]),
        "arguments of a commit": (count, lambda: statement({1: [(envelope, batch)]})),
        "encode an envelope": (count, lambda: envelopes.encode(envelope)),
        "decode an envelope": (count, lambda: envelopes.decode(body)),
    }
    assert take_text_frames(received, 16_384) == (payloads, len(received))
    result = Result("steps", raw={"messages_per_call": count, "envelope_body_bytes": len(body), "microseconds": {}})
    for name, (messages, step) in steps.items():
        samples = [each * 1e6 / messages for each in _samples(step, arguments.seconds)]
        result.raw["microseconds"][name] = samples
        result.add(name, min(samples), "µs/message")  # what is above that is the machine's
    return result


def _samples(step: Callable[[], object], seconds: float) -> list[float]:
    """Seconds of processor time per call, 20 times."""
    timer = timeit.Timer(step, timer=time.thread_time)
    repeats = max(1, round(seconds / 20 / max(timer.timeit(1), 1e-6)))
    return [each / repeats for each in timer.repeat(20, repeats)]


def _client_payload(message: Message) -> bytes:
    return (
        f'{{"userId":"{message.user_id}","username":"{message.username}","message":"{message.text}",'
        f'"timestamp":"{message.client_timestamp}","messageType":"{message.message_type}"}}'
    ).encode()


class Maker:
    """Messages of random users, created now."""

    def __init__(self) -> None:
        self._random = random.Random(1)
        self._serial = itertools.count()

    def id(self) -> str:
        return uuid7(time.time_ns() // 1_000_000, next(self._serial))

    def message(self, now_us: int | None = None) -> Message:
        user = self._random.randint(1, USERS)
        text = f"The build is green, let us ship it ~{self._random.randrange(16**6):06x}"
        created_us = time.time_ns() // 1000 if now_us is None else now_us
        return Message(self.id(), created_us, user, f"user{user}", text, "TEXT", _CLIENT_TIMESTAMP, "127.0.0.1")

    def batch(self, first_room: int) -> list[Envelope]:
        """1,000 messages in 20 rooms."""
        return [
            Envelope(self.id(), room, "server-1", tuple(self.message() for _ in range(_MESSAGES_PER_ENVELOPE)))
            for room in range(first_room, first_room + _ROOMS)
        ]


def _commit(arguments: argparse.Namespace) -> Result:
    make = Maker()
    seconds: dict[str, list[float]] = {"commit": [], "bare": []}
    seqs: Counter[int] = Counter()
    with database() as url, closing(psycopg2.connect(url)) as connection, closing(psycopg2.connect(url)) as own:
        own.autocommit = True  # as the daemon's
        # In turns, so that both meet the same caches, checkpoints and neighbours; in rooms of their own.
        for _ in range(arguments.batches):
            batch = make.batch(1)
            began = time.perf_counter()
            with Transaction(own, SessionLimits()) as transaction:
                commit_alone_in_thread(transaction, batch)
            seconds["commit"].append(time.perf_counter() - began)
            bare = _Bare(make.batch(1 + _ROOMS), seqs)
            seconds["bare"].append(_transaction(connection, bare.run))
        counted, rows = _counts(connection)
    result = Result("commit", raw={"seconds": seconds})
    if counted != rows:
        result.faults.append(f"the rollups count {counted} messages, there are {rows}")
    medians = {kind: statistics.median(values) for kind, values in seconds.items()}
    result.add("commit of 1,000 rows in 20 rooms", medians["commit"] * 1000, "ms")
    result.add("bare COPY plus the same upserts", medians["bare"] * 1000, "ms")
    result.add("ratio", medians["commit"] / medians["bare"], "", ("<=", 1.5))
    return result


def _counts(connection: Connection) -> tuple[int, int]:
    """Messages as the rollups count them, and as they are there."""
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT (SELECT sum(message_count) FROM user_activity)::bigint, (SELECT count(*) FROM messages)")
        counted, rows = only_row(cursor)
        return counted, rows


def _transaction(connection: Connection, work: Callable[[Any], object]) -> float:
    began = time.perf_counter()
    with connection, connection.cursor() as cursor:
        work(cursor)
    return time.perf_counter() - began


class _Bare:
    """The same rows and counts, all prepared: no head is locked, nothing is numbered, remembered or looked up.

    :param seqs: the last of each room, counted on.
    """

    def __init__(self, batch: list[Envelope], seqs: Counter[int]) -> None:
        rows, users, minutes = [], Counter[tuple[int, int]](), Counter[tuple[int, str]]()
        for envelope in batch:
            for message in envelope.messages:
                seqs[envelope.room] += 1
                created = iso_timestamp(message.created_at_us)
                rows.append(
                    f"{envelope.room}\t{seqs[envelope.room]}\t{created}\t{message.message_id}\t{message.user_id}\t"
                    f"{message.username}\t{message.text}\t{message.message_type}\t{envelope.server_id}\t"
                    f"{message.client_ip}\t{message.client_timestamp}\t\\N\n"
                )
                users[message.user_id, envelope.room] += 1
                minutes[envelope.room, created[:16]] += 1
        self._rows = io.StringIO("".join(rows))
        ordered = sorted(users)
        self._users = (
            _array(user for user, _ in ordered),
            _array(room for _, room in ordered),
            _array(f"user{user}" for user, _ in ordered),
            _array(users[key] for key in ordered),
            created,
        )
        self._minutes = (
            _array(room for room, _ in minutes),
            _array(f"{minute}:00Z" for _, minute in minutes),
            _array(minutes.values()),
        )

    def run(self, cursor: Cursor) -> None:
        cursor.copy_expert(
            "COPY messages (room_id, seq, created_at, message_id, user_id, username, message_text, message_type,"
            " server_id, client_ip, client_timestamp, client_message_id) FROM STDIN",
            self._rows,
            size=1 << 24,
        )
        cursor.execute(
            "INSERT INTO user_activity AS known (user_id, room_id, username, message_count, text_count, join_count,"
            " leave_count, first_activity, last_activity) SELECT given.*, count, 0, 0, at, at"
            " FROM (SELECT unnest(%s::int[]), unnest(%s::int[]), unnest(%s::text[]), unnest(%s::int[]) AS count)"
            " AS given, CAST(%s AS timestamptz) AS at ON CONFLICT (user_id, room_id) DO UPDATE SET"
            " username = excluded.username, message_count = known.message_count + excluded.message_count,"
            " text_count = known.text_count + excluded.text_count, last_activity = excluded.last_activity",
            self._users,
        )
        cursor.execute(
            "INSERT INTO message_stats_minute AS known (room_id, minute, message_count, text_count, join_count,"
            " leave_count) SELECT given.*, count, 0, 0"
            " FROM (SELECT unnest(%s::int[]), unnest(%s::timestamptz[]), unnest(%s::int[]) AS count) AS given"
            " ON CONFLICT (room_id, minute) DO UPDATE SET"
            " message_count = known.message_count + excluded.message_count,"
            " text_count = known.text_count + excluded.text_count",
            self._minutes,
        )


def _array(values: Iterable[object]) -> str:
    """A literal: PostgreSQL reads it much faster than the ARRAY[...] that psycopg2 makes of a list."""
    return "{" + ",".join(map(str, values)) + "}"


@contextmanager
def database() -> Iterator[str]:
    """A PostgreSQL of one's own, as the daemon starts it, with schema and today's partition."""
    directory = Path(tempfile.mkdtemp(prefix="chatflow-benchmark-"))
    postgres = EmbeddedPostgres(directory)
    try:
        url = postgres.start()
        with closing(psycopg2.connect(url)) as connection:
            migrations.apply_in_thread(connection)
            with connection, connection.cursor() as cursor:
                partitions.create_ahead(cursor, datetime.now(UTC).date(), 1)
        yield url
    finally:
        postgres.stop()
        shutil.rmtree(directory, ignore_errors=True)
