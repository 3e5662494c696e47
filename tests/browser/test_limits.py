"""What a message may be is the same for the server, its clients and the page; nothing of a text is lost unsaid."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from playwright.sync_api import expect

from chatflow.contracts import messages
from chatflow.errors import Refused
from chatflow.rooms.messages import decode
from testbed.client import ChatClient, message
from testbed.daemon import Daemon, running_daemon
from testbed.postgres import fresh_database
from tests.browser.people import Person
from tests.support.browser import BrowserThread
from tests.support.documentation import DOCS

_PARTY = "\N{PARTY POPPER}"
_FAMILY = "\N{MAN}\N{ZERO WIDTH JOINER}\N{WOMAN}\N{ZERO WIDTH JOINER}\N{GIRL}"  # 5 code points, one character to see


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with fresh_database() as url, running_daemon(database=url) as daemon:
        yield daemon


@pytest.fixture
def ann(chromium: BrowserThread, daemon: Daemon) -> Iterator[Person]:
    person = chromium.call(Person, chromium.browser, daemon.port, "ann", 1)
    yield person
    chromium.call(person.context.close)


def paste(person: Person, text: str) -> None:
    """As if it came from the clipboard."""
    person.page.get_by_role("textbox", name="Message").focus()
    person.page.keyboard.insert_text(text)


def written(person: Person) -> str:
    return str(person.page.get_by_role("textbox", name="Message").input_value())


def test_the_limits_are_those_of_the_server(ann: Person) -> None:
    limits = ann.page.evaluate("async () => (await import('/chatflow.js')).LIMITS")
    assert limits == {
        "messageCharacters": messages.MAX_TEXT_CHARACTERS,
        "usernamePattern": messages.USERNAME,
        "usernameCharacters": [messages.MIN_USERNAME_CHARACTERS, messages.MAX_USERNAME_CHARACTERS],
        "userId": messages.MAX_USER_ID,
        "clientMessageIdCharacters": messages.MAX_CLIENT_MESSAGE_ID_CHARACTERS,
    }
    name = ann.page.locator("#name")
    assert name.get_attribute("pattern") == messages.USERNAME
    assert name.get_attribute("maxlength") == str(messages.MAX_USERNAME_CHARACTERS)
    text = DOCS["protocol"].read_text(encoding="utf-8")
    assert f"1 to {messages.MAX_TEXT_CHARACTERS} characters (code points)" in text
    assert f"{messages.MIN_USERNAME_CHARACTERS} to {messages.MAX_USERNAME_CHARACTERS} characters, ASCII" in text
    assert f"digits, 1 to {messages.MAX_USER_ID}\n" in text
    assert f"optional, 1 to {messages.MAX_CLIENT_MESSAGE_ID_CHARACTERS} characters" in text


#: Whether a message of exactly this text is shown, and as stored. Others, of earlier tests, may come as history then.
_IS_STORED = """
(text) => [...document.querySelectorAll('#messages li[data-seq]')].some((item) =>
    item.querySelector('.text').textContent === text && item.querySelector('.state')?.textContent === 'stored')
"""


@pytest.mark.parametrize("text", ["x" * 500, _PARTY * 500, "e\u0301" * 250, "\u00e9" * 500, _FAMILY * 100])
def test_the_longest_message_is_as_long_for_all(daemon: Daemon, ann: Person, text: str) -> None:
    count = "async (text) => (await import('/chatflow.js')).countCharacters(text)"
    assert ann.page.evaluate(count, text) == messages.MAX_TEXT_CHARACTERS
    paste(ann, text)
    assert written(ann) == text
    ann.page.keyboard.press("Enter")
    ann.page.wait_for_function(_IS_STORED, arg=text)  # as it was written, not normalized
    with ChatClient(daemon.chat_url(2)) as program:
        assert program.talk([text])[-1]["status"] == "SUCCESS"
        assert program.error_for('{"userId":"1","username":"ann","message":"' + text + 'x"}')["field"] == "message"


def test_what_is_left_is_shown_towards_the_end(ann: Person) -> None:
    left = ann.page.locator("#room-left")
    paste(ann, _PARTY * 449)
    expect(left).to_be_hidden()
    paste(ann, _PARTY)
    expect(left).to_have_text("50 characters left")
    paste(ann, "x" * 49)
    expect(left).to_have_text("1 character left")
    ann.page.keyboard.press("Enter")
    expect(left).to_be_hidden()


def test_of_three_hundred_emoji_none_is_lost(ann: Person) -> None:
    paste(ann, _PARTY * 300)
    assert written(ann) == _PARTY * 300
    expect(ann.page.locator("#room-left")).to_be_hidden()


def test_what_is_cut_is_said(ann: Person) -> None:
    paste(ann, _PARTY * 500 + "and this is too much")
    assert written(ann) == _PARTY * 500
    expect(ann.page.locator("#room-left")).to_have_text(
        "A message has at most 500 characters: 20 cut, from “and this is too much”"
    )
    ann.page.keyboard.press("Backspace")
    expect(ann.page.locator("#room-left")).to_have_text("1 character left")


def test_what_was_there_before_is_not_what_is_cut(ann: Person) -> None:
    paste(ann, "a" * 490)
    ann.page.keyboard.press("Control+Home")
    paste(ann, "b" * 20)
    assert written(ann) == "b" * 10 + "a" * 490
    paste(ann, "c")
    assert written(ann) == "b" * 10 + "a" * 490, "and typing ends too"


def test_no_character_is_cut_in_two(ann: Person) -> None:
    paste(ann, "x" * 498 + _FAMILY)
    assert written(ann) == "x" * 498
    expect(ann.page.locator("#room-left")).to_contain_text("5 cut")


@pytest.mark.parametrize(
    "name", ["ab", "a" * 21, "\u00e4\u00f6\u00fc", "\u0430\u0431\u0432", "\u0661\u0662\u0663", "a b c", ""]
)
def test_a_name_that_the_page_refuses_the_server_refuses(ann: Person, name: str) -> None:
    check = "([name, pattern]) => new RegExp(`^(?:${pattern})$`, 'v').test(name)"
    assert ann.page.evaluate(check, [name, messages.USERNAME]) is False
    with pytest.raises(Refused) as refused:
        decode(json.dumps(message(username=name)).encode())
    assert refused.value.field == "username"
