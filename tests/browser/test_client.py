"""The rules of chatflow.js, against a server that the test plays."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.browser.rig import PageRig
from tests.support.browser import BrowserThread

ALICE = {"userId": 7, "username": "alice"}


@pytest.fixture(scope="module")
def module_rig(chromium: BrowserThread) -> Iterator[PageRig]:
    rig = chromium.call(lambda: PageRig(chromium.browser.new_context()))
    yield rig
    chromium.call(rig.page.context.close)


@pytest.fixture
def rig(chromium: BrowserThread, module_rig: PageRig) -> PageRig:
    chromium.call(module_rig.renew)
    return module_rig


class TestConnecting:
    def test_the_address_says_who_and_what(self, rig: PageRig) -> None:
        rig.start(room=3, user=ALICE, last=50, presence=True)
        assert rig.address == "/chat/3?presence=1&userId=7&username=alice&last=50"
        assert rig.offered == ["chatflow.v2"]

    @pytest.mark.parametrize(
        ("url", "address"),
        [("https://a.test/x", "wss://a.test/chat/1"), ("ws://b.test:8080", "ws://b.test:8080/chat/1")],
    )
    def test_it_may_be_another_server(self, rig: PageRig, url: str, address: str) -> None:
        rig.start(url=url)
        assert rig.address == address

    def test_a_server_that_never_selects_the_subprotocol_is_asked_without_one(self, rig: PageRig) -> None:
        rig.start()
        for connection in range(1, 4):
            assert (rig.connections, rig.offered) == (connection, ["chatflow.v2"])
            rig.accept("")
            if connection < 3:
                assert rig.state == "waiting"
                rig.advance(1)
        assert (rig.connections, rig.offered, rig.state) == (4, [], "connecting"), "at once"
        rig.accept("")
        rig.broadcast(4, 5)
        assert (rig.state, rig.seqs) == ("open", [4, 5])

    def test_a_server_that_selected_none_is_offered_v2_first_the_next_time(self, rig: PageRig) -> None:
        rig.start()
        rig.accept_without_v2()
        rig.end()
        rig.advance(2)
        assert (rig.connections, rig.offered) == (5, ["chatflow.v2"])
        rig.accept("")
        assert (rig.connections, rig.offered) == (6, []), "and is known not to want it"

    def test_a_server_that_is_away_is_not_asked_without_end(self, rig: PageRig) -> None:
        rig.start()
        for _ in range(2):
            rig.end()
            rig.advance(1)
        for _ in range(2):
            rig.end()
        assert (rig.connections, rig.state) == (4, "waiting")

    def test_some_handshakes_that_failed_do_not_take_v2_from_the_connection_that_comes(self, rig: PageRig) -> None:
        rig.start()
        for _ in range(3):
            for _ in range(2):
                assert rig.offered == ["chatflow.v2"]
                rig.end()
                rig.page.evaluate("() => chat.connectNow()")
            rig.welcome()
            rig.end()
            rig.page.evaluate("() => chat.connectNow()")
        assert (rig.connections, rig.offered) == (10, ["chatflow.v2"])

    def test_a_handshake_that_hangs_is_given_up(self, rig: PageRig) -> None:
        rig.start()
        rig.welcome()
        rig.end()
        rig.advance(1)
        rig.advance(9)
        assert rig.connections == 2
        rig.advance(4)
        assert rig.connections == 3

    def test_a_socket_that_was_given_up_is_not_heard_any_more(self, rig: PageRig) -> None:
        rig.start()
        rig.welcome(5)
        rig.broadcast(7)  # a gap: it resumes
        rig.deliver(socket=0, messageId="id6", roomId="1", seq=6)
        assert rig.seqs == []
        assert rig.page.evaluate("() => sockets[0].closed")


class TestBanned:
    def test_one_that_is_banned_while_connected_ends_with_the_reason(self, rig: PageRig) -> None:
        rig.start(user=ALICE)
        rig.welcome()
        rig.say("Hello")
        rig.page.evaluate("() => sockets.at(-1).onclose({ code: 4403, reason: 'banned: spam' })")
        rig.advance(60)
        assert (rig.connections, rig.state) == (1, "closed")
        assert rig.page.evaluate("() => chat.status.reason") == "banned: spam"
        assert rig.page.evaluate("() => outcomes") == ["ChatFlowError banned"]

    def test_one_whose_handshakes_are_refused_asks_why_and_ends(self, rig: PageRig) -> None:
        rig.page.evaluate(
            """() => { globalThis.fetch = async (address) => {
                globalThis.asked = address;
                return new Response(JSON.stringify({ code: "banned", errorMessage: "banned: spam" }), { status: 403 });
            }; }"""
        )
        rig.start(user=ALICE)
        for _ in range(2):
            rig.end()
            rig.advance(1)
        rig.end()
        rig.page.wait_for_function("() => chat.status.state === 'closed'")
        assert rig.page.evaluate("() => asked") == "http://chat.test/chat/1?userId=7&username=alice"
        rig.advance(60)
        assert (rig.connections, rig.page.evaluate("() => chat.status.reason")) == (4, "banned: spam")

    def test_one_that_is_disconnected_comes_back_later(self, rig: PageRig) -> None:
        rig.start()
        rig.welcome()
        rig.end(4000)
        rig.advance(1)
        assert (rig.connections, rig.state) == (1, "waiting")
        rig.advance(3)
        assert rig.connections == 2


class TestReconnecting:
    def test_it_goes_on_where_it_was(self, rig: PageRig) -> None:
        rig.start(last=50)
        rig.welcome(12)
        rig.deliver(type="resumed", **{"from": 11, "to": 12, "count": 2})
        rig.broadcast(11, 12)
        rig.end()
        rig.advance(1)
        assert rig.address == "/chat/1?since=12"

    def test_an_empty_room_is_known_to_be_empty(self, rig: PageRig) -> None:
        rig.start(last=50)
        rig.welcome(0)
        rig.deliver(type="resumed", **{"from": 1, "to": 0, "count": 0})
        rig.end()
        rig.advance(1)
        assert rig.address == "/chat/1?since=0"

    def test_what_the_room_gets_while_its_first_messages_are_on_their_way_is_not_skipped(self, rig: PageRig) -> None:
        rig.start(last=50)
        rig.welcome(2)  # it is known to be stored, and has not come yet
        rig.deliver(type="resumed", **{"from": 1, "to": 0, "count": 0})
        rig.broadcast(1, 2)
        assert rig.seqs == [1, 2]

    def test_who_only_listens_resumes_from_the_head_it_met(self, rig: PageRig) -> None:
        rig.start()
        rig.welcome(12)
        rig.end()
        rig.advance(1)
        assert rig.address == "/chat/1?since=12"

    def test_attempts_are_spread_over_bounds_that_double(self, rig: PageRig) -> None:
        rig.start()
        rig.welcome()
        cases: list[tuple[float, list[float]]] = [(0.999999, [0.5, 1, 2, 4, 8, 15, 15]), (0, [0])]
        for chance, expected in cases:
            rig.set_chance(chance)
            for seconds in expected:
                rig.end()
                assert rig.retry_seconds() == pytest.approx(seconds, abs=0.01)
                rig.advance(seconds + 0.01)
                rig.page.evaluate("() => chat.status")
                rig.accept()  # a connection that does not last changes nothing

    def test_a_connection_that_lasted_starts_anew(self, rig: PageRig) -> None:
        rig.start()
        rig.welcome()
        for _ in range(4):
            rig.end()
            rig.advance(5)
            rig.accept()
        rig.advance(11)
        rig.end()
        assert rig.retry_seconds() <= 0.5

    def test_the_servers_wish_is_obeyed(self, rig: PageRig) -> None:
        rig.start()
        rig.welcome()
        rig.deliver(type="goodbye", reason="restart", retryAfterMs=7300)
        rig.end(1012)
        assert rig.retry_seconds() == pytest.approx(7.3, abs=0.01)
        rig.advance(7)
        assert rig.connections == 1
        rig.advance(0.4)
        assert rig.connections == 2

    def test_who_read_too_slowly_waits_longer(self, rig: PageRig) -> None:
        rig.start()
        rig.welcome()
        rig.end(1013)
        assert rig.retry_seconds() == pytest.approx(2, abs=0.01)

    def test_nobody_has_to_wait_for_the_next_attempt(self, rig: PageRig) -> None:
        rig.start()
        rig.welcome()
        for _ in range(2):
            rig.end()
            rig.page.evaluate("() => chat.connectNow()")
        assert (rig.connections, rig.state) == (3, "connecting")
        rig.page.evaluate("() => chat.connectNow()")
        assert rig.connections == 3
        rig.end()
        assert 0 < rig.retry_seconds() <= 0.25

    def test_a_browser_that_goes_offline_waits_and_one_that_is_back_does_not(self, rig: PageRig) -> None:
        rig.start()
        rig.welcome()
        rig.page.evaluate(
            "() => { Object.defineProperty(navigator, 'onLine', { value: false, configurable: true });"
            "dispatchEvent(new Event('offline')); }"
        )
        assert (rig.state, rig.page.evaluate("() => sockets[0].closed")) == ("offline", True)
        rig.page.evaluate(
            "() => { Object.defineProperty(navigator, 'onLine', { value: true });dispatchEvent(new Event('online')); }"
        )
        assert (rig.state, rig.connections) == ("connecting", 2)

    def test_the_browser_may_be_wrong_about_being_offline(self, rig: PageRig) -> None:
        rig.page.evaluate("() => Object.defineProperty(navigator, 'onLine', { value: false })")
        rig.start()
        rig.welcome()
        assert rig.state == "open"
        rig.end()
        assert rig.state == "offline"
        rig.advance(1)
        rig.accept()
        assert rig.state == "open"


class TestWatching:
    def test_silence_of_three_heartbeats_is_the_end(self, rig: PageRig) -> None:
        rig.start()
        rig.welcome(heartbeat=4)
        for _ in range(5):
            rig.advance(4)
            rig.deliver(type="heartbeat", head=0)
        rig.advance(11)
        assert rig.state == "open"
        rig.advance(3)
        assert rig.connections == 2 or rig.state == "waiting"

    def test_a_head_that_stays_ahead_is_a_lost_message(self, rig: PageRig) -> None:
        rig.start()
        rig.welcome(5)
        rig.deliver(type="heartbeat", head=6)
        rig.advance(4)
        assert rig.state == "open"
        rig.advance(3)
        assert rig.address == "/chat/1?since=5"

    def test_a_head_that_is_reached_is_none(self, rig: PageRig) -> None:
        rig.start()
        rig.welcome(5)
        rig.deliver(type="heartbeat", head=6)
        rig.broadcast(6)
        rig.advance(9)
        assert (rig.connections, rig.state) == (1, "open")

    def test_some_of_what_is_missing_is_not_enough(self, rig: PageRig) -> None:
        rig.start()
        rig.welcome(5)
        rig.deliver(type="heartbeat", head=8)
        rig.broadcast(6)
        rig.advance(7)
        assert rig.address == "/chat/1?since=6"

    def test_a_head_that_no_resuming_brings_is_asked_for_less_and_less(self, rig: PageRig) -> None:
        rig.start()
        rig.welcome(5)
        waited = []
        for connection in range(1, 5):
            rig.deliver(type="heartbeat", head=6)
            seconds = 0
            while rig.connections == connection:
                rig.advance(1)
                seconds += 1
                if rig.state == "open" and seconds % 5 == 0:
                    rig.deliver(type="heartbeat", head=6)
            rig.welcome(5)
            waited.append(seconds)
        assert waited[1] > 1.5 * waited[0] and waited[3] > 5 * waited[0], waited

    def test_without_heartbeats_a_missing_answer_is_the_end(self, rig: PageRig) -> None:
        rig.start(user=ALICE)
        rig.accept_without_v2()
        rig.advance(100)
        assert rig.state == "open"
        rig.say("Hello")
        rig.advance(29)
        assert rig.state == "open"
        rig.advance(4)
        assert rig.connections == 5


class TestOrder:
    def test_what_was_seen_is_dropped(self, rig: PageRig) -> None:
        rig.start(since=3)
        rig.welcome(9)
        rig.broadcast(2, 3, 4, 5, 4, 5, 6)
        assert rig.seqs == [4, 5, 6]

    def test_a_gap_is_filled_by_resuming(self, rig: PageRig) -> None:
        rig.start()
        rig.welcome(3)
        rig.broadcast(4, 6, 7)
        assert rig.seqs == [4]
        rig.advance(1)
        assert rig.address == "/chat/1?since=4"
        rig.accept()
        rig.broadcast(5, 6, 7)
        assert (rig.seqs, rig.told("reset")) == ([4, 5, 6, 7], [])

    def test_a_gap_that_stays_is_told_once_and_passed(self, rig: PageRig) -> None:
        rig.start()
        rig.welcome(3)
        rig.broadcast(6)
        rig.advance(1)
        rig.accept()
        rig.broadcast(6, 7)
        assert rig.told("reset") == [{"reason": "gap", "from": 6}]
        assert (rig.seqs, rig.connections) == ([6, 7], 2)

    def test_what_expired_is_told_and_the_rest_comes(self, rig: PageRig) -> None:
        rig.start(since=3)
        rig.welcome(12)
        rig.deliver(type="reset", reason="expired", **{"from": 11})
        rig.deliver(type="resumed", **{"from": 11, "to": 12, "count": 2})
        rig.broadcast(11, 12)
        assert rig.told("reset") == [{"reason": "expired", "from": 11}]
        assert (rig.seqs, rig.connections) == ([11, 12], 1)

    def test_a_room_that_began_anew_is_followed_from_its_head(self, rig: PageRig) -> None:
        rig.start(since=100)
        rig.welcome(12)
        rig.deliver(type="reset", reason="beyond_head", **{"from": 13})
        rig.broadcast(13)
        assert [reset["reason"] for reset in rig.told("reset")] == ["beyond_head"]
        assert rig.seqs == [13]

    def test_a_room_that_was_set_back_is_told_and_followed_from_there_also_by_who_comes_back(
        self, rig: PageRig
    ) -> None:
        rig.start()
        rig.welcome(18)
        rig.broadcast(19, 20)
        rig.deliver(type="heartbeat", head=20)
        rig.deliver(type="reset", reason="restored", **{"from": 11})
        assert rig.told("reset") == [{"reason": "restored", "from": 11}]
        rig.broadcast(11, 12)
        assert (rig.seqs, rig.connections) == ([19, 20, 11, 12], 1)
        rig.end()
        rig.advance(2)
        assert rig.address == "/chat/1?since=12"
        rig.welcome(13)
        rig.broadcast(13)
        assert (rig.seqs[-1], len(rig.told("reset"))) == (13, 1)

    @pytest.mark.parametrize(("code", "reason"), [("since_expired", "expired"), ("since_beyond_head", "beyond_head")])
    def test_without_v2_an_error_frame_says_so_and_no_message_is_blamed(
        self, rig: PageRig, code: str, reason: str
    ) -> None:
        rig.start(since=50, user=ALICE)
        rig.accept_without_v2()
        rig.say("Hello")
        rig.refuse(code)
        first = 60 if reason == "expired" else 10
        rig.broadcast(first, first + 1)
        assert [reset["reason"] for reset in rig.told("reset")] == [reason]
        assert (rig.seqs, rig.outcomes, rig.connections) == ([first, first + 1], [None], 4)

    def test_behind_what_expired_a_gap_is_a_gap_again(self, rig: PageRig) -> None:
        rig.start(since=50)
        rig.accept_without_v2()
        rig.refuse("since_expired")
        rig.broadcast(60, 62)
        rig.advance(1)
        assert (rig.seqs, rig.address) == ([60], "/chat/1?since=60")


class TestSending:
    def test_a_promise_gives_the_message_id(self, rig: PageRig) -> None:
        rig.start(user=ALICE)
        rig.welcome()
        rig.say("Hello")
        (message,) = rig.sent
        assert (message["userId"], message["username"], message["message"]) == ("7", "alice", "Hello")
        rig.acknowledge(message, "m1")
        assert rig.outcomes == ["m1"]
        assert [ack["clientMessageId"] for ack in rig.told("ack")] == [message["clientMessageId"]]

    def test_its_own_id_is_a_uuid_although_the_page_is_not_a_secure_one(self, rig: PageRig) -> None:
        assert rig.page.evaluate("() => crypto.randomUUID") is None
        rig.start(user=ALICE)
        rig.welcome()
        rig.say("Hello")
        uuid4 = r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
        assert re.fullmatch(uuid4, rig.sent[0]["clientMessageId"])

    def test_one_at_a_time_is_under_way_in_order(self, rig: PageRig) -> None:
        rig.start(user=ALICE)
        rig.say("one", "two", "three")
        rig.welcome()
        for number in range(3):
            assert len(rig.sent) == number + 1
            rig.acknowledge(rig.sent[-1], f"m{number}")
        assert [message["message"] for message in rig.sent] == ["one", "two", "three"]
        assert rig.outcomes == ["m0", "m1", "m2"]

    def test_the_unacknowledged_is_sent_again_under_the_same_id(self, rig: PageRig) -> None:
        rig.start(user=ALICE)
        rig.welcome()
        rig.say("one", "two")
        (first,) = rig.sent
        rig.end()
        rig.advance(1)
        rig.welcome()
        assert rig.sent == [first]
        rig.acknowledge(first, "m1")
        assert [message["message"] for message in rig.sent] == ["one", "two"]
        assert rig.sent[1]["clientMessageId"] != first["clientMessageId"]

    def test_a_late_second_acknowledgement_is_nobodys(self, rig: PageRig) -> None:
        rig.start(user=ALICE)
        rig.welcome()
        rig.say("one")
        first = rig.sent[0]
        rig.acknowledge(first, "m1")
        rig.say("two")
        rig.acknowledge(first, "m1")
        assert rig.outcomes == ["m1", None]

    @pytest.mark.parametrize("code", ["overloaded", "unavailable", "draining"])
    def test_what_the_server_cannot_take_now_is_sent_again(self, rig: PageRig, code: str) -> None:
        rig.start(user=ALICE)
        rig.welcome()
        rig.say("one", "two")
        rig.refuse(code)
        assert rig.told("error")[0]["retrying"] is True
        assert len(rig.sent) == 1
        rig.advance(1.5)
        assert rig.sent == [rig.sent[0]] * 2
        assert rig.outcomes == [None, None]

    def test_it_is_sent_again_once_although_the_connection_was_lost_meanwhile(self, rig: PageRig) -> None:
        rig.start(user=ALICE)
        rig.welcome()
        rig.set_chance(0)  # connects again before it would send again
        rig.say("one")
        rig.refuse("overloaded")
        rig.end()
        rig.advance(0.1)
        rig.welcome()
        rig.advance(3)
        assert len(rig.sent) == 1

    @pytest.mark.parametrize("code", ["invalid_field", "not_stored", "internal_error", "of_tomorrow"])
    def test_what_it_will_never_take_is_rejected_and_the_next_goes(self, rig: PageRig, code: str) -> None:
        rig.start(user=ALICE)
        rig.welcome()
        rig.say("one", "two")
        rig.refuse(code)
        assert rig.outcomes == [f"ChatFlowError {code}", None]
        assert [message["message"] for message in rig.sent] == ["one", "two"]

    @pytest.mark.parametrize("text", ["", "x" * 501, "a\0b"], ids=["empty", "too long", "NUL"])
    def test_what_breaks_the_rules_is_not_even_sent(self, rig: PageRig, text: str) -> None:
        rig.start(user=ALICE)
        rig.welcome()
        rig.say(text)
        assert (rig.outcomes, rig.sent) == (["ChatFlowError invalid_field"], [])

    def test_half_a_character_is_not_sent_and_500_large_ones_are(self, rig: PageRig) -> None:
        rig.start(user=ALICE)
        rig.welcome()
        rig.page.evaluate("() => { say('x\\ud83d'); say('\\u{1f600}'.repeat(500)); }")
        assert rig.outcomes == ["ChatFlowError invalid_field", None]
        assert len(rig.sent[0]["message"]) == 500

    def test_without_a_user_nothing_is_sent(self, rig: PageRig) -> None:
        rig.start()
        rig.say("Hello")
        assert rig.outcomes == ["ChatFlowError missing_field"]

    def test_what_waits_is_bounded(self, rig: PageRig) -> None:
        rig.start(user=ALICE)
        rig.page.evaluate("() => { for (let i = 0; i < 1001; i++) say('x'); }")
        assert rig.outcomes == [None] * 1000 + ["ChatFlowError queue_full"]


def test_frames_of_later_versions_and_nonsense_do_no_harm(rig: PageRig) -> None:
    rig.start()
    rig.welcome(0)
    rig.deliver(type="of_tomorrow")
    rig.deliver(something="else")
    rig.page.evaluate("() => { for (const data of ['', '7', 'null']) sockets.at(-1).onmessage({ data }); }")
    rig.broadcast(1)
    assert (rig.seqs, [error["code"] for error in rig.told("error")]) == ([1], ["bad_frame"] * 3)


def test_presence_is_passed_on(rig: PageRig) -> None:
    rig.start(presence=True)
    rig.welcome()
    users = [{"userId": "7", "username": "alice", "connections": 2}]
    rig.deliver(type="presence", roomId="1", members=3, users=users, truncated=False)
    assert rig.told("presence") == [{"members": 3, "users": users, "truncated": False}]


def test_closing_is_for_good(rig: PageRig) -> None:
    rig.start(user=ALICE)
    rig.welcome()
    rig.say("Hello")
    rig.page.evaluate("() => chat.close()")
    assert rig.outcomes == ["ChatFlowError closed"]
    assert rig.page.evaluate("() => sockets[0].closed")
    rig.page.evaluate("() => { dispatchEvent(new Event('online')); dispatchEvent(new Event('offline')); }")
    rig.advance(100)
    rig.say("Hello")
    assert (rig.connections, rig.state) == (1, "closed")
    assert rig.outcomes == ["ChatFlowError closed"] * 2


def test_closing_the_client_ends_its_waiting_for_another_attempt(rig: PageRig) -> None:
    rig.start()
    rig.welcome()
    rig.end()
    rig.page.evaluate("() => chat.close()")
    rig.advance(100)
    rig.page.evaluate("() => chat.connectNow()")
    assert (rig.connections, rig.state) == (1, "closed")
