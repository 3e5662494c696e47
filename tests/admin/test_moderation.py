"""``chatflow-admin ban``, ``mute``, ``disconnect``, ``unban``, ``unmute`` and ``bans``."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import pytest

from chatflow import admin
from testbed.postgres import execute
from tests.admin.conftest import Run

_STAMP = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:]{8}(\.[0-9]{6})?Z")


def test_what_is_ordered_is_listed_until_it_is_lifted(database_url: str, run: Run) -> None:
    where = ("--database", database_url)
    assert run("bans", *where) == "nobody is banned or muted\n"
    assert run("ban", "--user", "7", "--reason", "spam \x1b[31m", *where).startswith("ban of user 7: in force")
    muted = run("mute", "--address", "2001:db8::5", "--room", "3", "--for", "10m", *where)
    assert _STAMP.sub("T", muted).startswith("mute of address 2001:db8::/64, room 3 until T: in force")
    run("disconnect", "--user", "7", *where)
    lines = [_STAMP.sub("T", " ".join(line.split())) for line in run("bans", *where).splitlines()]
    assert lines[0] == "order user address room since until by reason"
    assert re.fullmatch(r"ban 7 T lifted \S+@\S+ spam \\u001b\[31m", lines[1])
    assert re.fullmatch(r"mute 2001:db8::/64 3 T T \S+@\S+", lines[2])
    ban, mute = [json.loads(line) for line in run("bans", "--json", *where).splitlines()]
    assert (ban["action"], ban["userId"], ban["address"], ban["roomId"]) == ("ban", "7", None, None)
    assert (ban["until"], ban["reason"]) == (None, "spam \x1b[31m")
    assert (mute["action"], mute["address"], mute["roomId"]) == ("mute", "2001:db8::/64", "3")
    assert run("unban", "--user", "7", *where) == "ban of user 7 is lifted, on all instances within 5 seconds\n"
    run("unmute", "--address", "2001:db8::77", "--room", "3", *where)
    assert run("bans", *where) == "nobody is banned or muted\n"


def test_to_lift_what_is_not_there_fails_and_says_where_to_look(
    database_url: str, run: Run, fail: Callable[..., tuple[str, str]]
) -> None:
    where = ("--database", database_url)
    run("ban", "--user", "7", "--room", "1", *where)
    for command, subject in (("unban", "--user=7"), ("unmute", "--user=7"), ("unban", "--room=1")):
        assert "`chatflow-admin bans` lists" in fail(command, subject, *where)[1]
    assert execute(database_url, "SELECT count(*) FROM sanctions WHERE lifted_by IS NOT NULL") == [(0,)]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("ban",), "whom? Give --user, --address or --room"),
        (("unmute", "--reason", "x"), "unrecognized arguments"),
        (("ban", "--user", "0"), "must be a userId, 1 to 100000"),
        (("ban", "--user", "100001"), "must be a userId"),
        (("ban", "--user", "٣"), "must be a userId"),
        (("mute", "--room", "01"), "must be the number of a room"),
        (("ban", "--address", "10.0.0.1/8"), "10.0.0.1/8 has host bits set"),
        (("ban", "--address", "localhost"), "must be an IP address or a network"),
        (("ban", "--address", "fe80::1%eth0"), "has no zone here"),
        (("ban", "--user", "7", "--for", "10"), "must be a number with s, m, h or d"),
        (("ban", "--user", "7", "--for", "0m"), "must be a number with"),
        (("ban", "--user", "7", "--for", "3651d"), "at most 3650d"),
        (("ban", "--user", "7", "--reason", "x" * 201), "must be at most 200 characters"),
        (("ban", "--user", "7", "--reason", "\udcff"), "must be at most 200 characters"),
        (("disconnect", "--user", "7", "--for", "10m"), "unrecognized arguments"),
    ],
)
def test_a_wrong_command_line_is_named(
    arguments: tuple[str, ...], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        admin.main(arguments)
    assert ended.value.code == 2
    assert complaint in capsys.readouterr().err
