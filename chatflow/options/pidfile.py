"""A pid file that was left behind: twistd refuses to start when any process has the number in it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

_PROC = Path("/proc")
_PLACES = 4
"""In a command line, where the script's name is: behind the interpreter and some of its options."""


def forget_stale_pid_file(name: str | None) -> None:
    """Remove what twistd would take for another daemon, and is none; say so on stderr.

    In a container numbers are few: after the first process was killed, the next one has the number in the file, and
    twistd (``checkPID`` in ``twisted/scripts/_twistd_unix.py``) would take it for another daemon, for ever. Its options
    are parsed before it looks. A daemon that runs keeps its file: only the number of this process, of one that is no
    twistd or has ended, and an empty or torn file are stale.

    :param name: of twistd's ``--pidfile``; empty or None for none.
    """
    if not name:
        return
    path = Path(name)
    try:
        text = path.read_text(encoding="ascii", errors="replace").strip()
        reason = _why_stale(text)
        if reason:
            path.unlink()
            print(f"removing the stale pid file {path}: {reason}", file=sys.stderr)
    except OSError:
        return  # not there, or not ours to judge: twistd says what is wrong


def _why_stale(text: str) -> str:
    """Empty if it may be right."""
    if not (text.isascii() and text.isdecimal() and int(text)):
        return "it holds no number"
    pid = int(text)
    if pid == os.getpid():
        return "its number is that of this process"
    if not (_PROC / "self" / "cmdline").exists():
        return ""  # no such file system here
    try:
        command = (_PROC / text / "cmdline").read_bytes()
    except FileNotFoundError:
        # Removed by twistd itself, unless it may not see the process (hidepid).
        return ""
    if not command:
        return f"process {pid} has ended, or is one of the kernel's"
    # `python …/bin/twistd -n …`; but not a shell whose one argument is that whole line.
    names = [Path(os.fsdecode(argument)).name for argument in command.split(b"\0")[:_PLACES]]
    return "" if any(name.startswith("twist") for name in names) else f"process {pid} is no twistd"
