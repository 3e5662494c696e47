"""Whether this process still has the terminal on which it was started."""

from __future__ import annotations

import os


def has_terminal() -> bool:
    """Whether it can be opened: the kernel takes it away from a session when it is closed (termios(3), tty(4))."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK))
    except OSError:
        return False
    return True
