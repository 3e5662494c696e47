"""PostgreSQL refuses to run as root: the account for it, and what that account has to reach."""

from __future__ import annotations

import os
import pwd
import stat
import subprocess
from pathlib import Path
from typing import Any

from attrs import frozen
from twisted.logger import Logger

from chatflow.errors import StartupError

_log = Logger()

# The name that the wheel's own Python part uses.
ACCOUNT_NAME = "pgserver"


@frozen
class Account:
    """A user, as numbers: the owner of a volume need not have a name on this machine."""

    user_id: int
    group_id: int

    def process_arguments(self) -> dict[str, Any]:
        """What makes :class:`subprocess.Popen` run as this user."""
        return {"user": self.user_id, "group": self.group_id, "extra_groups": []}  # else root's groups stay

    def own(self, path: Path) -> None:
        """Give a file or directory to this user."""
        os.chown(path, self.user_id, self.group_id)


def account_for(pgdata: Path) -> Account | None:
    """Under whom to run a server on this directory; None for "as we are".

    Started by root, an existing directory is served under its owner, a new one under ``pgserver``, an account
    that is made if there is none.

    :raises StartupError: there is no such account, and it cannot be made; or the owner is root.
    """
    if os.geteuid() != 0:
        return None
    if pgdata.exists():
        owner = pgdata.stat()
        if owner.st_uid == 0:
            raise StartupError(f"{pgdata} belongs to root, but PostgreSQL refuses to run as root: chown -R it")
        return Account(owner.st_uid, owner.st_gid)
    try:
        entry = pwd.getpwnam(ACCOUNT_NAME)
    except KeyError:
        _make_account()
        entry = pwd.getpwnam(ACCOUNT_NAME)
    return Account(entry.pw_uid, entry.pw_gid)


def _make_account() -> None:
    command = ["useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", ACCOUNT_NAME]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise StartupError(
            f"PostgreSQL refuses to run as root, and an account {ACCOUNT_NAME} could not be made: run as another user"
        ) from error


def let_reach(account: Account, directory: Path) -> None:
    """Let the account pass through this directory and those above it.

    Where it takes that, others get search permission (``o+x``): to pass, but not to list. The log says so.
    """
    for level in (directory, *directory.parents):
        status = level.stat()
        allowed = stat.S_IXUSR if status.st_uid == account.user_id else stat.S_IXOTH
        if not status.st_mode & allowed:
            level.chmod(stat.S_IMODE(status.st_mode) | allowed)
            _log.warn(
                "{directory} got the permission o+x: PostgreSQL, which refuses to run as root, has to pass",
                directory=str(level),
            )


def let_read(account: Account, tree: Path) -> None:
    """Let everybody read a tree of public files, if pip installed it under a umask such as 077."""
    let_reach(account, tree.parent)
    if tree.stat().st_mode & stat.S_IROTH:
        return  # one umask for the whole installation: its top tells
    for path in (tree, *tree.rglob("*")):
        mode = stat.S_IMODE(path.stat().st_mode)
        path.chmod(mode | stat.S_IROTH | (stat.S_IXOTH if mode & stat.S_IXUSR else 0))
