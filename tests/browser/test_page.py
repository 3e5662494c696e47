"""The page, with a daemon behind it and people before it."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import expect

from testbed.client import ChatClient
from testbed.daemon import Daemon, running_daemon
from testbed.network import Network
from testbed.postgres import fresh_database
from tests.browser.people import Person
from tests.support.browser import BrowserThread

Join = Callable[..., Person]

_rooms = itertools.count(1)


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with fresh_database() as url, running_daemon("--rooms", "100", database=url) as daemon:
        yield daemon


@pytest.fixture
def room() -> int:
    return next(_rooms)


@pytest.fixture
def network(daemon: Daemon) -> Iterator[Network]:
    with Network(daemon.port) as network:
        yield network


@pytest.fixture
def join(chromium: BrowserThread, daemon: Daemon, room: int) -> Iterator[Join]:
    """``join(name, port=…, **options)``: somebody who is in the room of the test."""
    people: list[Person] = []

    def join(name: str, *, port: int = 0, **options: object) -> Person:
        person = Person(chromium.browser, port or daemon.port, name, room, **options)
        people.append(person)
        expect(person.state).to_have_text("connected")
        return person

    yield join
    for person in people:
        chromium.call(person.context.close)


def say_all(daemon: Daemon, room: int, count: int) -> None:
    """That many messages of a program, each stored when this returns."""
    with ChatClient(daemon.chat_url(room)) as client:
        for number in range(1, count + 1):
            client.send(f"number {number}")
        for _ in range(count):
            client.receive_kind("ack")


def test_two_people_talk_and_both_see_the_same(join: Join) -> None:
    alice, bob = join("alice"), join("bob")
    for number in range(3):
        alice.say(f"alice {number}")
        expect(bob.messages).to_have_count(2 * number + 1)
        bob.say(f"bob {number}")
        expect(alice.messages).to_have_count(2 * number + 2)
    expected = [f"{name} {number}" for number in range(3) for name in ("alice", "bob")]
    for person in (alice, bob):
        expect(person.messages).to_have_count(6)
        expect(person.pending).to_have_count(0)
        assert (person.texts(), person.seqs()) == (expected, [1, 2, 3, 4, 5, 6])
        expect(person.messages.locator(".state")).to_have_text(["stored"] * 3)
        assert person.complaints == []
    expect(bob.messages.first).to_contain_text("alice")
    expect(bob.messages.first.locator("time")).to_have_text(re.compile(r"\d\d:\d\d"))


def test_they_see_who_is_there(join: Join) -> None:
    alice = join("alice")
    bob = join("bob")
    for person in (alice, bob):
        expect(person.page.locator("#members")).to_have_text("2")
        expect(person.page.locator("#users li")).to_contain_text(["alice", "bob"])
    bob.page.get_by_role("button", name="Change").click()
    expect(alice.page.locator("#users li")).to_have_count(1)
    expect(alice.page.locator("#members")).to_have_text("1")
    assert alice.complaints == []


def test_html_in_a_message_is_text(join: Join) -> None:
    text = "<img src=x onerror=\"document.title='bad'\"><b>bold</b><script>document.title='bad'</script>&amp;"
    alice, bob = join("alice"), join("bob")
    alice.say(text)
    expect(bob.messages).to_have_count(1)
    assert bob.texts() == [text]
    assert bob.page.locator("#messages :is(img, .text b, script)").count() == 0
    assert "bad" not in bob.page.title()
    assert bob.complaints == []


def test_scrolling_back_reaches_the_beginning(daemon: Daemon, join: Join, room: int) -> None:
    say_all(daemon, room, 130)
    alice = join("alice")
    expect(alice.messages).to_have_count(50)
    assert alice.seqs() == list(range(81, 131)), "it begins with the newest"
    expect(alice.messages.last).to_be_in_viewport()
    scroller = alice.page.locator("#scroller")
    for oldest in (31, 1):
        scroller.evaluate("(element) => { element.scrollTop = 0; }")
        expect(alice.page.locator(f"#m{oldest}")).to_be_attached()
        # What was being read stays in sight.
        expect(alice.page.locator(f"#m{oldest + 50 if oldest > 1 else 31}")).to_be_in_viewport()
    assert alice.seqs() == list(range(1, 131))
    expect(alice.page.locator("#beginning")).to_be_visible()
    assert alice.complaints == []


def test_who_reads_the_old_is_not_torn_away_by_the_new(daemon: Daemon, join: Join, room: int) -> None:
    say_all(daemon, room, 50)
    alice, bob = join("alice"), join("bob")
    expect(alice.messages).to_have_count(50)
    alice.page.locator("#scroller").evaluate("(element) => { element.scrollTop = 200; }")
    newest = alice.page.get_by_role("button", name="Newest messages")
    expect(newest).to_be_hidden()
    bob.say("news")
    expect(newest).to_be_visible()
    expect(alice.messages.last).not_to_be_in_viewport()
    newest.click()
    expect(alice.messages.last).to_be_in_viewport()
    expect(newest).to_be_hidden()


def test_a_page_that_is_open_for_long_does_not_grow_without_bound(daemon: Daemon, join: Join, room: int) -> None:
    alice = join("alice")
    say_all(daemon, room, 1200)
    # Waited for without ``expect``, which describes the whole page each time that it has to ask again.
    alice.page.locator("#m1200").wait_for(state="attached")
    expect(alice.page.locator("#m1200")).to_be_in_viewport()
    assert alice.seqs() == list(range(201, 1201))
    alice.page.locator("#scroller").evaluate("(element) => { element.scrollTop = 0; }")
    expect(alice.page.locator("#m151")).to_be_attached()
    assert alice.seqs() == list(range(151, 1201)), "what left comes back by scrolling"


def test_a_lost_network_leaves_no_gap_and_no_double(join: Join, network: Network) -> None:
    alice, bob = join("alice"), join("bob", port=network.port)
    bob.say("before")
    expect(alice.messages).to_have_count(1)
    network.cut()
    expect(bob.state).to_contain_text("reconnecting")
    for number in range(60):
        alice.say(f"meanwhile {number}")
    bob.say("from afar")
    expect(bob.pending.locator(".state")).to_have_text("sending")
    expect(alice.messages).to_have_count(61)
    network.heal()
    expect(alice.messages).to_have_count(62)
    expect(bob.messages).to_have_count(62)
    expect(bob.pending).to_have_count(0)
    assert bob.seqs() == alice.seqs() == list(range(1, 63))
    assert bob.texts() == alice.texts()
    assert bob.texts().count("from afar") == 1


def test_an_answer_that_was_lost_makes_no_double(daemon: Daemon, join: Join, network: Network) -> None:
    alice, bob = join("alice"), join("bob", port=network.port)
    with daemon.held_database():
        bob.say("once")
        expect(bob.pending).to_have_count(1)
        network.cut()
        expect(bob.state).to_contain_text("reconnecting")
    network.heal()
    expect(bob.messages).to_have_count(1)
    expect(bob.pending).to_have_count(0)
    bob.say("after")
    expect(alice.messages).to_have_count(2)
    assert alice.texts() == bob.texts() == ["once", "after"]


def test_a_browser_without_a_network_says_so_and_comes_back(join: Join) -> None:
    alice, bob = join("alice"), join("bob")
    bob.context.set_offline(True)
    expect(bob.state).to_have_text("offline")
    bob.say("from afar")
    alice.say("meanwhile")
    expect(alice.messages).to_have_count(1)
    bob.context.set_offline(False)
    expect(bob.state).to_have_text("connected")
    expect(bob.messages).to_have_count(2)
    expect(alice.messages).to_have_count(2)
    assert alice.texts() == bob.texts() == ["meanwhile", "from afar"]


def test_a_daemon_that_restarts_is_found_again(daemon: Daemon, join: Join, network: Network) -> None:
    bob = join("bob", port=network.port)
    bob.say("before")
    expect(bob.messages).to_have_count(1)
    assert daemon.stop() == 0
    expect(bob.state).to_contain_text("reconnecting")
    bob.say("between")
    daemon.restart()
    network.target = daemon.port
    expect(bob.messages).to_have_count(2)
    assert bob.texts() == ["before", "between"]


def test_a_room_that_is_not_there_is_explained(chromium: BrowserThread, daemon: Daemon) -> None:
    alice = Person(chromium.browser, daemon.port, "alice", 101)
    expect(alice.page.get_by_role("alert")).to_have_text("rooms are /chat/1 to /chat/100")
    expect(alice.page.get_by_label("Your name")).to_be_visible()
    alice.context.close()


@pytest.mark.parametrize("name", ["al", "al ice", "älice"])
def test_a_name_that_no_server_takes_is_not_tried(chromium: BrowserThread, daemon: Daemon, name: str) -> None:
    alice = Person(chromium.browser, daemon.port, name, 1)
    expect(alice.page.get_by_label("Your name")).to_be_visible()
    expect(alice.state).to_have_text("not connected")
    alice.context.close()


def test_name_and_room_are_remembered(join: Join, room: int) -> None:
    alice = join("alice")
    alice.say("Hello")
    expect(alice.messages).to_have_count(1)
    alice.page.goto(alice.page.url.split("#")[0])
    expect(alice.state).to_have_text("connected")
    expect(alice.page.locator("#where")).to_have_text(f"Room {room} · alice")
    expect(alice.messages.locator(".state")).to_have_text("stored")  # still one's own


def test_a_tab_keeps_its_room_over_a_reload(join: Join, room: int) -> None:
    alice = join("alice")
    alice.page.evaluate("() => localStorage.setItem('chatflow.room', '99')")  # another tab went elsewhere
    alice.page.reload()
    expect(alice.page.locator("#where")).to_have_text(f"Room {room} · alice")


def test_it_fits_a_phone(join: Join) -> None:
    alice = join("alice", viewport={"width": 390, "height": 780}, has_touch=True, is_mobile=True)
    alice.say("W" * 300)
    expect(alice.messages).to_have_count(1)
    assert alice.page.evaluate("() => document.documentElement.scrollWidth") == 390
    for name in ("Send", "Change"):
        expect(alice.page.get_by_role("button", name=name)).to_be_in_viewport()
