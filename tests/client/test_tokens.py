"""The client where the server asks who it is: a token for each connection, and another one before it expires."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from twisted.internet.defer import Deferred

from tests.client.rig import ClientRig, rigged

EXPIRING = {"type": "expiring", "expiresInMs": 60_000}


@pytest.fixture
def rig() -> Iterator[ClientRig]:
    with rigged() as rig:
        yield rig


def test_each_connection_has_a_token_of_its_own(rig: ClientRig) -> None:
    tokens = iter(["first", "second"])
    rig.client(token=lambda: next(tokens))
    server = rig.server()
    assert "Authorization: Bearer first\r\n" in server.request
    server.answer("401 Unauthorized", {"errorMessage": "the token has expired"})
    rig.reactor.advance(60)
    assert "Authorization: Bearer second\r\n" in rig.server().request


def test_a_token_that_nobody_can_renew_ends_it_when_it_is_refused(rig: ClientRig) -> None:
    rig.client(token="fixed")
    rig.server().answer("401 Unauthorized", {"errorMessage": "the token has expired"})
    assert (rig.states[-1].name, rig.states[-1].reason) == ("closed", "the token has expired")


def test_a_new_one_is_sent_before_the_old_one_expires(rig: ClientRig) -> None:
    fetched: list[Deferred[str]] = []

    def fetch() -> str | Deferred[str]:
        if not fetched:
            fetched.append(Deferred())
            return "first"
        return fetched[0]

    rig.client(token=fetch)
    server = rig.server()
    server.welcome()
    server.deliver(EXPIRING)
    assert server.messages() == []
    fetched[0].callback("second")
    assert server.messages() == [{"type": "refresh", "token": "second"}]


def test_one_that_is_refused_is_no_answer_to_a_message(rig: ClientRig) -> None:
    client = rig.client(token=lambda: "any")
    server = rig.server()
    server.welcome()
    sent = Deferred.fromCoroutine(client.send("hello"))
    (message,) = server.messages()
    server.deliver({"status": "ERROR", "code": "token_expired", "errorMessage": "no", "field": "token"})
    assert not sent.called
    server.acknowledge(message)
    assert sent.called


def test_who_it_is_may_be_left_to_the_token(rig: ClientRig) -> None:
    client = rig.client(token="t", user_id=None, username=None)
    server = rig.server()
    assert "userId" not in server.address
    server.accept()
    server.deliver({"type": "welcome", "head": 0, "limits": {}, "userId": "7", "username": "alice"})
    Deferred.fromCoroutine(client.send("hello")).addErrback(lambda _: None)
    (message,) = server.messages()
    assert not {"userId", "username"} & message.keys()
    assert client.user_id == "7"


def test_a_client_that_nobody_knows_is_a_mistake(rig: ClientRig) -> None:
    with pytest.raises(TypeError, match="token"):
        rig.client(user_id=None)
