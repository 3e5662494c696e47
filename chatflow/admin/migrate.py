"""``migrate``: bring a database up to this version's schema."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from contextlib import closing

from chatflow.options.kinds import Url
from chatflow.persistence import migrations
from chatflow.persistence.database import connect

_URL = Url(
    schemes=("postgresql", "postgres"), example="postgresql://user:password@host:5432/database", needs_host=False
)

_MIGRATE = """\
Brings a database up to the schema of this version of ChatFlow.

The schema is a row of numbered files; the table schema_version says which of them a database has. Those that
it lacks are applied in order, each in one transaction: a file that fails leaves nothing behind, and those
before it stay. Two who migrate at once do no harm. A database that is newer than this program, or was made
from files with other content, is left alone.

The user of the URL must be allowed to create tables in the database. The embedded database needs no
migration by hand: the daemon does that when it starts. To look at it, take the URL in the file database.url
of the data directory, while the daemon runs.
"""


def add_to(add_command: Callable[..., argparse.ArgumentParser]) -> None:
    """Register the commands; see :func:`chatflow.admin.make_parser`."""
    migrate = add_command("migrate", help="bring a database up to this version's schema", description=_MIGRATE)
    _add_database_option(migrate)
    migrate.add_argument("--dry-run", action="store_true", help="only say which files would be applied")
    migrate.set_defaults(run=_migrate)


def _add_database_option(parser: argparse.ArgumentParser) -> None:
    """``--database URL``, or the daemon's own CHATFLOW_DATABASE."""
    given = os.environ.get("CHATFLOW_DATABASE")
    parser.add_argument(
        "--database",
        metavar="URL",
        type=_parse_url,
        default=given,
        required=given is None,
        help=f"which database, such as {_URL.example}; by default what the environment variable "
        "CHATFLOW_DATABASE says, where other users of the machine do not see the password",
    )


def _parse_url(text: str) -> str:
    try:
        return _URL.parse(text)
    except ValueError as error:
        detail = "".join(f"; {argument}" for argument in error.args[:1])
        raise argparse.ArgumentTypeError(f"must be {_URL.allowed}{detail}") from None


def _migrate(arguments: argparse.Namespace) -> None:
    with closing(connect(arguments.database)) as connection:
        if arguments.dry_run:
            missing = migrations.pending(connection)
            for migration in missing:
                print(f"would apply {migration.name}")
        else:
            missing = migrations.apply_in_thread(
                connection, on_applied=lambda migration: print(f"applied {migration.name}", flush=True)
            )
        if not missing:
            print("nothing to apply")
        print(f"the database has schema version {migrations.current_version(connection)}")
