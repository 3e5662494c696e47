"""What becomes of messages that a server refuses, of a client that it does not let in, and of places nobody tells."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from chatflow.client import ChatClient, PlaceUnknown, Refused, Rejected, SendFailed, State
from chatflow.errors import TRANSIENT_CODES
from tests.client.rig import ClientRig, Outcome, Server, Taker, rigged


@pytest.fixture
def rig() -> Iterator[ClientRig]:
    with rigged() as rig:
        yield rig


def begin(rig: ClientRig, count: int, **options: Any) -> tuple[Server, list[Outcome]]:
    """A connected client that has sent so many messages, ``0``, ``1`` and so on, none of which is answered."""
    client = rig.client(**options)
    server = rig.server()
    server.welcome()
    sent = say(client, count)
    return server, sent


def say(client: ChatClient, count: int) -> list[Outcome]:
    return [Outcome(client.send(f"{number}")) for number in range(count)]


def texts(server: Server) -> list[str]:
    return [message["message"] for message in server.messages()]


class TestWhatMayBeSentAgain:
    @pytest.mark.parametrize("code", sorted(TRANSIENT_CODES))
    def test_a_hundred_refusals_are_one_round_after_which_each_is_sent_once_more(
        self, rig: ClientRig, code: str
    ) -> None:
        server, sent = begin(rig, 100)
        assert len(texts(server)) == 100
        server.refuse(*[code] * 100)
        rig.advance(0.5)
        assert texts(server) == [], "not before a pause"
        rig.advance(1)
        again = server.messages()
        assert [message["message"] for message in again] == [str(number) for number in range(100)]
        server.acknowledge(*again)
        rig.advance(20)
        assert texts(server) == []
        assert all(outcome.result for outcome in sent)

    def test_nothing_is_sent_while_answers_are_missing(self, rig: ClientRig) -> None:
        client = rig.client()
        server = rig.server()
        server.welcome()
        sent = say(client, 3)
        first, *_ = server.messages()
        server.refuse("overloaded", "overloaded")
        late = Outcome(client.send("late"))
        rig.advance(20)
        assert texts(server) == []
        server.acknowledge(first)
        rig.advance(1)
        assert texts(server) == ["1", "2", "late"]
        assert [outcome.is_open for outcome in [*sent, late]] == [False, True, True, True]

    def test_pauses_grow_and_a_server_that_refuses_for_good_ends_them(self, rig: ClientRig) -> None:
        server, (one, other) = begin(rig, 2)
        pauses: list[float] = []
        while one.is_open and len(pauses) < 30:
            assert texts(server) == ["0", "1"]
            server.refuse("overloaded", "overloaded")
            seconds = 0
            while one.is_open and not server.transport.value():
                rig.advance(1)
                seconds += 1
                assert seconds < 30
            pauses.append(seconds)
        assert (len(pauses), pauses[:6]) == (20, [1, 2, 4, 8, 15, 15])
        for outcome in (one, other):
            assert isinstance(outcome.error, SendFailed)
            assert "overloaded it is" in str(outcome.error)

    def test_who_is_told_when_to_come_again_does_so_then_and_later_if_that_was_of_no_use(self, rig: ClientRig) -> None:
        server, sent = begin(rig, 3)
        first, *others = server.messages()
        server.acknowledge(first)
        server.refuse("rate_limited", retryAfterMs=50)
        server.refuse("rate_limited", retryAfterMs=500)
        rig.advance(0.25)
        assert texts(server) == []
        rig.advance(0.25)
        assert [message["message"] for message in others] == texts(server) == ["1", "2"]
        server.refuse("rate_limited", "rate_limited", retryAfterMs=500)
        rig.advance(0.75)
        assert texts(server) == [], "it has waited as it was told, and for nothing"
        rig.advance(2)
        again = server.messages()
        server.acknowledge(*again)
        assert all(outcome.result for outcome in sent)

    def test_not_even_a_server_that_looks_back_is_asked_in_the_past(self, rig: ClientRig) -> None:
        server, _ = begin(rig, 1)
        server.messages()
        server.refuse("rate_limited", retryAfterMs=-5)
        rig.advance(0.25)
        assert texts(server) == ["0"]

    def test_an_acknowledgement_begins_the_count_of_rounds_anew(self, rig: ClientRig) -> None:
        server, sent = begin(rig, 30)
        for count in range(30, 0, -1):
            waiting = server.messages()
            assert len(waiting) == count
            server.acknowledge(waiting[0])
            server.refuse(*["overloaded"] * (count - 1))
            rig.advance(1)
        assert all(outcome.result for outcome in sent)

    def test_a_round_ends_with_its_connection(self, rig: ClientRig) -> None:
        server, (one, other) = begin(rig, 2)
        server.messages()
        server.refuse("unavailable", "unavailable")
        server.lose()
        rig.advance(0.5)
        anew = rig.server()
        anew.welcome()
        messages = anew.messages()
        assert [message["message"] for message in messages] == ["0", "1"]
        rig.advance(20)
        assert texts(anew) == [], "once on each connection"
        anew.acknowledge(*messages)
        assert one.result and other.result


class TestWhatMustNotBeSentAgain:
    @pytest.mark.parametrize("code", ["not_stored", "too_large", "invalid_field", "internal_error", "of_tomorrow"])
    def test_the_only_one_under_way_fails_with_its_code(self, rig: ClientRig, code: str) -> None:
        server, (one,) = begin(rig, 1)
        server.messages()
        server.refuse(code)
        assert isinstance(one.error, Refused)
        assert (one.error.code, str(one.error)) == (code, f"{code} it is")
        rig.advance(20)
        assert texts(server) == []
        assert not rig.connects, "the connection lives on"

    def test_those_without_an_acknowledgement_fail_and_the_others_do_not(self, rig: ClientRig) -> None:
        server, sent = begin(rig, 4)
        messages = server.messages()
        server.refuse("not_stored")
        server.acknowledge(messages[0])
        server.refuse("not_stored")
        server.acknowledge(messages[3])
        assert [type(outcome.error) for outcome in sent] == [type(None), Refused, Refused, type(None)]
        rig.advance(20)
        assert texts(server) == []

    def test_between_others_that_may_be_sent_again_they_are_found_one_at_a_time(self, rig: ClientRig) -> None:
        server, sent = begin(rig, 4)
        messages = server.messages()
        server.refuse("overloaded")
        server.acknowledge(messages[0])
        server.refuse("not_stored", "overloaded")
        answers = {"1": "overloaded", "2": "not_stored"}
        seen = []
        for _ in range(4):
            rig.advance(10)
            (message,) = server.messages()
            seen.append(message["message"])
            code = answers.pop(message["message"], None)
            if code:
                server.refuse(code)
            else:
                server.acknowledge(message)
        assert seen == ["1", "1", "2", "3"]
        assert [getattr(outcome.error, "code", None) for outcome in sent] == [None, None, "not_stored", None]
        assert all(outcome.result for outcome in (sent[0], sent[1], sent[3]))

    def test_what_the_server_has_said_is_too_large_is_not_even_sent(self, rig: ClientRig) -> None:
        client = rig.client()
        early = Outcome(client.send("x" * 400))
        server = rig.server()
        server.welcome(max_frame_bytes=400)
        assert len(server.messages()) == 1, "it had not said so yet"
        server.refuse("too_large")
        late = Outcome(client.send("x" * 400))
        for outcome in (early, late):
            assert isinstance(outcome.error, Refused)
            assert outcome.error.code == "too_large"
        assert server.messages() == []
        small = Outcome(client.send("x"))
        server.acknowledge(*server.messages())
        assert small.result


class TestACallerThatFails:
    @pytest.mark.parametrize("state", ["connecting", "open", "waiting", "closed"])
    def test_what_is_called_with_the_state_may_fail_and_the_client_goes_on(self, rig: ClientRig, state: str) -> None:
        def fail(told: State) -> None:
            if told.name == state:
                raise ValueError("a mistake of the program's")

        client = rig.client(on_state=fail)
        rig.server().lose()
        rig.advance(1)
        server = rig.server()
        server.welcome()
        sent = Outcome(client.send("hello"))
        server.acknowledge(*server.messages())
        assert sent.result
        Outcome(client.close())
        server.lose(cleanly=True)
        assert isinstance(Outcome(client.send("too late")).error, SendFailed)
        assert isinstance(Outcome(anext(client)).error, StopAsyncIteration)


class TestAClientThatIsNotLetIn:
    @pytest.mark.parametrize("status", ["400 Bad Request", "403 Forbidden", "404 Not Found"])
    def test_it_ends_and_says_why(self, rig: ClientRig, status: str) -> None:
        client = rig.client()
        taker, waiting = Taker(client), Outcome(client.send("Hello"))
        rig.server().answer(status, {"errorMessage": "rooms are /chat/1 to /chat/20"})
        rig.advance(20)
        assert not rig.connects
        assert isinstance(taker.end.error, Rejected)
        for outcome in (waiting, Outcome(client.send("later"))):
            assert isinstance(outcome.error, SendFailed)
            assert "rooms are /chat/1 to /chat/20" in str(outcome.error)
        assert (rig.states[-1].name, rig.states[-1].reason) == ("closed", "rooms are /chat/1 to /chat/20")
        assert Outcome(client.close()).error is None

    def test_a_server_that_is_only_full_is_asked_again(self, rig: ClientRig) -> None:
        client = rig.client()
        waiting = Outcome(client.send("Hello"))
        rig.server().answer("503 Service Unavailable", {"errorMessage": "no place"})
        rig.advance(1)
        assert (rig.states[1].name, "503" in rig.states[1].reason) == ("waiting", True)
        server = rig.server()
        server.welcome()
        server.acknowledge(*server.messages())
        assert waiting.result
        assert [state.name for state in rig.states] == ["connecting", "waiting", "connecting", "open"]

    def test_one_that_comes_too_often_comes_again_no_sooner_than_it_is_told(self, rig: ClientRig) -> None:
        client = rig.client()
        sent = Outcome(client.send("hi"))
        rig.server().answer("429 Too Many Requests", {"errorMessage": "too often", "retryAfterMs": 3000})
        assert rig.states[-1] == State("waiting", "too often")
        rig.advance(3)
        assert not rig.reactor.tcpClients, "others were told the same: not all at the same moment"
        rig.advance(0.4)
        server = rig.server()
        server.welcome()
        server.acknowledge(*server.messages())
        assert sent.result

    @pytest.mark.parametrize("told", ["soon", -5, None, {}])
    def test_what_is_no_time_is_none(self, rig: ClientRig, told: object) -> None:
        rig.client()
        rig.server().answer("429 Too Many Requests", {"errorMessage": "too often", "retryAfterMs": told})
        rig.advance(0.4)
        assert rig.server()

    def test_one_that_is_banned_while_connected_ends_and_does_not_come_back(self, rig: ClientRig) -> None:
        client = rig.client()
        server = rig.server()
        server.welcome()
        waiting, taking = Outcome(client.send("Hello")), Outcome(client.__anext__())
        server.close(4403, "banned: spam")
        rig.advance(60)
        assert isinstance(taking.error, Rejected) and str(taking.error) == "banned: spam"
        assert isinstance(waiting.error, SendFailed)
        assert [state.name for state in rig.states] == ["connecting", "open", "closed"]
        assert client.connections == 1

    def test_one_that_is_disconnected_comes_back(self, rig: ClientRig) -> None:
        rig.client()
        server = rig.server()
        server.welcome()
        server.close(4000, "an operator ended this connection")
        rig.advance(1)
        rig.server().welcome()
        assert [state.name for state in rig.states] == ["connecting", "open", "waiting", "connecting", "open"]

    @pytest.mark.parametrize("code", ["muted", "banned"])
    def test_a_message_of_somebody_muted_is_not_sent_again(self, rig: ClientRig, code: str) -> None:
        server, (one,) = begin(rig, 1)
        server.messages()
        server.refuse(code)
        rig.advance(60)
        assert isinstance(one.error, Refused) and one.error.code == code and texts(server) == []


class TestPlaces:
    def sent(self, rig: ClientRig, **options: Any) -> tuple[ChatClient, Server, Outcome]:
        """One message that is acknowledged; what becomes of its place."""
        client = rig.client(**options)
        server = rig.server()
        server.welcome()
        one = Outcome(client.send("mine"))
        server.acknowledge(*server.messages())
        return client, server, place(one)

    def test_the_server_tells_it(self, rig: ClientRig) -> None:
        _, server, seq = self.sent(rig)
        server.deliver({"type": "stored", "messageId": "of mine", "seq": 4})
        assert seq.result == 4

    def test_the_message_tells_it_behind_its_acknowledgement(self, rig: ClientRig) -> None:
        _, server, seq = self.sent(rig)
        assert seq.is_open
        server.broadcast(1, message_id="of mine")
        assert seq.result == 1

    def test_the_message_tells_it_before_its_acknowledgement(self, rig: ClientRig) -> None:
        client = rig.client()
        server = rig.server()
        server.accept(v2=False)
        one = Outcome(client.send("mine"))
        server.broadcast(5, message_id="of mine")
        server.acknowledge(*server.messages())
        assert place(one).result == 5

    def test_the_message_tells_it_on_the_next_connection(self, rig: ClientRig) -> None:
        _, server, seq = self.sent(rig)
        server.lose()
        rig.advance(0.5)
        anew = rig.server()
        anew.welcome(1)
        assert "since=0" in anew.address
        anew.broadcast(1, message_id="of mine")
        assert seq.result == 1

    def test_it_fails_when_the_client_is_closed(self, rig: ClientRig) -> None:
        client, server, seq = self.sent(rig)
        closing = Outcome(client.close())
        server.lose(cleanly=True)
        assert closing.error is None
        assert isinstance(seq.error, PlaceUnknown)

    def test_it_fails_when_too_many_later_ones_wait(self, rig: ClientRig) -> None:
        client, server, seq = self.sent(rig, max_unacknowledged=5)
        for begin in (0, 5):
            assert seq.is_open
            later = [Outcome(client.send(f"{number}")) for number in range(begin, begin + 5)]
            server.acknowledge(*server.messages())
        assert isinstance(seq.error, PlaceUnknown)
        assert [place(outcome).is_open for outcome in later] == [True] * 5


def place(sent: Outcome) -> Outcome:
    async def ask() -> int:
        return int(await sent.result.seq)

    return Outcome(ask())
