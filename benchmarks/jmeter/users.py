"""Prints ``users.csv`` for the plans: ``python3 benchmarks/jmeter/users.py 1000 >users.csv``."""

from __future__ import annotations

import sys
from collections.abc import Iterator

#: The server knows no higher userId.
HIGHEST = 100_000


def lines(count: int) -> Iterator[str]:
    """The header and so many users, spread over all that there may be."""
    yield "userId,username\n"
    for number in range(count):
        user = number * HIGHEST // count + 1 if count <= HIGHEST else number % HIGHEST + 1
        yield f"{user},user{user}\n"


if __name__ == "__main__":
    if len(sys.argv) != 2 or not sys.argv[1].isdecimal() or int(sys.argv[1]) < 1:
        sys.exit("usage: users.py COUNT")
    sys.stdout.writelines(lines(int(sys.argv[1])))
