"""``migrate``: bring a database up to this version's schema."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import closing

from chatflow.admin.settings import add_settings, read_settings
from chatflow.persistence import migrations
from chatflow.persistence.database import connect

_MIGRATE = """\
Brings a database up to the schema of this version of ChatFlow.

The schema is a row of numbered files; the table schema_version says which of them a database has. Those that
it lacks are applied in order, each in one transaction: a file that fails leaves nothing behind, and those
before it stay. Two who migrate at once do no harm. A database that is newer than this program, or was made
from files with other content, is left alone.

The user of the URL must be allowed to create tables in the database. Other users of the machine see the
command line, so a password is better off in the environment variable CHATFLOW_DATABASE or the file.

The embedded database needs no migration by hand: the daemon does that when it starts. While the daemon runs,
its --data-dir says where that database is.
"""


def add_to(add_command: Callable[..., argparse.ArgumentParser]) -> None:
    """Register the commands; see :func:`chatflow.admin.make_parser`."""
    migrate = add_command("migrate", help="bring a database up to this version's schema", description=_MIGRATE)
    migrate.add_argument("--dry-run", action="store_true", help="only say which files would be applied")
    add_settings(migrate, "database", "data-dir")
    migrate.set_defaults(run=_migrate)


def _migrate(arguments: argparse.Namespace) -> None:
    with closing(connect(read_settings(arguments).database_url())) as connection:
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
