"""``dlq``: the dead letters, listed, shown, replayed, purged."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

import msgspec
from rich.table import Table
from rich.text import Text

from chatflow.admin.output import json_escaped, make_console
from chatflow.admin.settings import Settings, add_settings, read_settings
from chatflow.codec.deadletters import envelope_in, failed_again
from chatflow.codec.envelopes import BadEnvelope
from chatflow.contracts.deadletters import DeadLetter, IDeadLetterBox
from chatflow.errors import ChatFlowError, NotStored
from chatflow.lifecycle.blocking import at_once
from chatflow.persistence.database import connect
from chatflow.persistence.deadletters import DeadLetterRows
from chatflow.persistence.driver import Connection
from chatflow.persistence.replay import replay

_DLQ = """\
Dead letters are envelopes (the messages of a room that one instance sent together) which the database
refused for good, and whatever else lay in a room queue. They were set aside so that their rooms could go on.

With --broker sqs they are in the queue PREFIX-db-dlq.fifo; while one command reads them, another does not see
them, and one that is killed keeps them hidden for 5 minutes. With --broker embedded they are in the table
dead_letters of the database.
"""

_REPLAY = """\
Stores the messages of dead letters, oldest first, each in its room's order with a new number, and deletes
the letter. First correct what made the database refuse them (`dlq show` has the reason).

Each message is stored once, even if this command is killed in the midst and run again. The running
instances need not be stopped: they deliver the messages to their rooms within seconds. What is refused
again stays among the dead letters, with the new reason; the exit status is then 1.
"""


def add_to(add_command: Callable[..., argparse.ArgumentParser]) -> None:
    """Register the command; see :func:`chatflow.admin.make_parser`."""
    dlq = add_command("dlq", help="list, show, replay or purge dead letters", description=_DLQ)
    actions = dlq.add_subparsers(title="actions", metavar="ACTION", required=True)

    def add(name: str, run: Callable[[argparse.Namespace], None], help_: str, description: str) -> Any:
        parser = actions.add_parser(
            name,
            help=help_,
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        add_settings(parser, "broker", "queue-prefix", "database", "data-dir")
        parser.set_defaults(run=run)
        return parser

    add("list", _list, "a line for each", "Prints a line for each dead letter, the oldest first.")
    show = add("show", _show, "one with its messages, as JSON", "Prints one dead letter with its messages as JSON.")
    show.add_argument("id", metavar="ID", help="of the letter, as `dlq list` has it")
    _add_choice(add("replay", _replay, "store their messages", _REPLAY))
    purge = add("purge", _purge, "delete them", "Deletes dead letters; their messages are lost.")
    _add_choice(purge)
    purge.add_argument("--yes", action="store_true", help="delete them; without it, only say what would be deleted")


def _add_choice(parser: argparse.ArgumentParser) -> None:
    choice = parser.add_mutually_exclusive_group(required=True)
    choice.add_argument("--id", metavar="ID", action="append", help="this letter; may be repeated")
    choice.add_argument("--all", action="store_true", help="every letter")


def _list(arguments: argparse.Namespace) -> None:
    with _open(read_settings(arguments)) as box:
        letters = box.read()
    if not letters:
        print("there are no dead letters")
        return
    table = Table(box=None, pad_edge=False)
    for title in ("id", "room", "messages", "attempts", "first failed", "last failed"):
        table.add_column(title, no_wrap=True, justify="right" if title in ("room", "messages", "attempts") else "left")
    table.add_column("reason", no_wrap=True, overflow="ellipsis")
    for letter in letters:
        table.add_row(
            letter.id,
            "-" if letter.room is None else str(letter.room),
            _count(letter),
            str(letter.attempts),
            json_escaped(letter.first_failed_at[:19]) + "Z",
            json_escaped(letter.last_failed_at[:19]) + "Z",
            Text(json_escaped(letter.reason)),
        )
    make_console().print(table)


def _show(arguments: argparse.Namespace) -> None:
    with _open(read_settings(arguments)) as box:
        (letter,) = _chosen(box.read(), [arguments.id])
    shown: dict[str, Any] = {"id": letter.id, **msgspec.to_builtins(letter)}
    try:
        envelope = envelope_in(letter)
    except BadEnvelope:
        pass  # the payload itself is all there is to show
    else:
        del shown["payload"]
        shown["serverId"] = envelope.server_id
        shown["messages"] = [msgspec.structs.asdict(message) for message in envelope.messages]
    lines = json.dumps(shown, indent=2, ensure_ascii=False).splitlines()
    print("\n".join(json_escaped(line) for line in lines))


def _replay(arguments: argparse.Namespace) -> None:
    settings = read_settings(arguments)
    refused = 0
    with closing(connect(settings.database_url())) as connection, _open(settings) as box:
        letters = _chosen(box.read(), arguments.id)
        for letter in letters:
            refused += not _replay_one(connection, box, letter)
    if not letters:
        print("there are no dead letters")
    if refused:
        raise ChatFlowError(f"{refused} of {len(letters)} dead letters were refused again, and stay")


def _replay_one(connection: Connection, box: IDeadLetterBox, letter: DeadLetter) -> bool:
    """Whether its messages are stored now."""
    try:
        envelope = envelope_in(letter)
        place = replay(connection, envelope)
    except (BadEnvelope, NotStored) as error:
        box.replace(letter, failed_again(letter, str(error), time.time()))
        print(f"refused {letter.id} again: {json_escaped(str(error))}", flush=True)
        return False
    # Only now: a crash before this line leaves a letter whose messages the next replay finds stored.
    box.remove([letter])
    if place is None:
        print(f"{letter.id} was stored already in room {envelope.room}", flush=True)
    else:
        first_seq, last_seq = place
        print(
            f"stored {letter.id} in room {envelope.room} as seq {first_seq} to {last_seq} "
            f"(messages: {last_seq - first_seq + 1})",
            flush=True,
        )
    return True


def _purge(arguments: argparse.Namespace) -> None:
    with _open(read_settings(arguments)) as box:
        letters = _chosen(box.read(), arguments.id)
        if not letters:
            print("there are no dead letters")
            return
        verb = "deleted" if arguments.yes else "would delete"
        if arguments.yes:
            box.remove(letters)
        for letter in letters:
            print(f"{verb} {letter.id} (messages: {_count(letter)})")
    if not arguments.yes:
        raise ChatFlowError("nothing was deleted: --yes is needed for that")


def _chosen(letters: Sequence[DeadLetter], ids: Sequence[str] | None) -> Sequence[DeadLetter]:
    """Those with these ids, or all."""
    if ids is None:
        return letters
    missing = set(ids) - {letter.id for letter in letters}
    if missing:
        raise ChatFlowError(f"there is no dead letter {', '.join(sorted(missing))}, or another command reads it now")
    return [letter for letter in letters if letter.id in ids]


def _count(letter: DeadLetter) -> str:
    try:
        return str(len(envelope_in(letter).messages))
    except BadEnvelope:
        return "-"


@contextmanager
def _open(settings: Settings) -> Iterator[IDeadLetterBox]:
    """The dead letters of the broker in question."""
    if settings.broker == "embedded":
        with closing(connect(settings.database_url())) as connection:
            yield DeadLetterRows(connection)
        return
    from chatflow.broker.calls import blocking_calls
    from chatflow.broker.deadletters import SqsDeadLetterBox
    from chatflow.broker.lookup import require_queue

    calls = blocking_calls()
    box = SqsDeadLetterBox(calls, at_once(require_queue(calls, settings.names.dead_letters)))
    try:
        yield box
    finally:
        box.release()
