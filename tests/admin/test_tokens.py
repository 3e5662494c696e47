"""``chatflow-admin token``: what it makes is what a daemon with the same settings takes."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from chatflow.contracts.identity import Identity
from chatflow.tokens.claims import Expected
from chatflow.tokens.keys import shared_keys
from chatflow.tokens.verifier import TokenCounts, TokenVerifier
from tests.admin.conftest import Run

_SECRETS = ["the-first-secret-of-this-test-is-long", "the-second-one-is-good-as-well-and-long"]


@pytest.fixture
def key(tmp_path: Path) -> str:
    (tmp_path / "key").write_text("\n".join(_SECRETS))
    return str(tmp_path / "key")


def verify(token: str, *audiences: str) -> Identity:
    """As a daemon does that knows the first secret alone."""
    expected = Expected(audiences=audiences, issuer="me" if audiences else None, leeway_seconds=0)
    return TokenVerifier(
        secrets=shared_keys(_SECRETS[:1]), jwks=None, expected=expected, now=time.time, counts=TokenCounts()
    ).verify(token.rstrip("\n"))


def test_it_says_who_for_how_long_and_where(key: str, run: Run) -> None:
    where = ("--jwt-key-file", key, "--jwt-audience", "chat", "--jwt-issuer", "me")
    token = run("token", "--user", "7", "--name", "alice", "--read", "1,2", "--write", "1", "--seconds", "60", *where)
    identity = verify(token, "chat")
    assert (identity.user_id, identity.username) == (7, "alice")
    assert [identity.may_read(room) for room in (1, 2, 3)] == [True, True, False]
    assert [identity.may_write(room) for room in (1, 2)] == [True, False]
    assert identity.expires_at is not None and 50 < identity.expires_at - time.time() <= 60


def test_without_more_it_is_for_all_rooms_and_any_name(key: str, run: Run) -> None:
    identity = verify(run("token", "--user", "8", "--jwt-key-file", key))
    assert (identity.user_id, identity.username, identity.readable, identity.writable) == (8, None, None, None)


@pytest.mark.parametrize(
    "arguments",
    [("--user", "0"), ("--user", "x"), ("--user", "7", "--name", "a b"), ("--user", "7", "--read", "x")],
)
def test_what_a_daemon_would_refuse_is_not_made(
    key: str, arguments: tuple[str, ...], fail: Callable[..., tuple[str, str]]
) -> None:
    assert fail("token", *arguments, "--jwt-key-file", key)[0] == ""


def test_without_a_key_it_says_where_to_name_one(fail: Callable[..., tuple[str, str]]) -> None:
    assert "--jwt-key-file" in fail("token", "--user", "7")[1]
