"""The dashboard in a browser, with a daemon behind it."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from testbed.client import ChatClient
from testbed.daemon import Daemon, running_daemon
from testbed.postgres import fresh_database
from tests.support.browser import BrowserThread

Look = Callable[..., Page]

_MAX_SECONDS = 20_000


@pytest.fixture(scope="module")
def database_url() -> Iterator[str]:
    with fresh_database() as url:
        yield url


@pytest.fixture(scope="module")
def daemon(database_url: str) -> Iterator[Daemon]:
    with running_daemon(database=database_url) as daemon:
        yield daemon


@pytest.fixture
def complaints() -> list[str]:
    return []


@pytest.fixture
def look(chromium: BrowserThread, daemon: Daemon, complaints: list[str]) -> Iterator[Look]:
    """``look(**options of the context)``: the page, live."""
    pages: list[Page] = []

    def look(**options: Any) -> Page:
        page = chromium.browser.new_context(**options).new_page()
        pages.append(page)
        page.on("console", lambda message: complaints.append(message.text) if message.type != "log" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(f"http://127.0.0.1:{daemon.port}/dashboard")
        expect(page.locator("#link-text")).to_have_text("live", timeout=_MAX_SECONDS)
        return page

    yield look
    for page in pages:
        chromium.call(page.context.close)


def figure(page: Page, title: str) -> Locator:
    return page.locator("figure", has=page.get_by_role("heading", name=title))


def alarm(page: Page) -> Locator:
    return page.locator(".alarm")


def test_it_draws_what_happens_without_a_word_of_complaint(daemon: Daemon, look: Look, complaints: list[str]) -> None:
    page = look()
    expect(page.locator("#fine")).to_be_visible()
    with ChatClient(daemon.chat_url(7)) as talker:
        talker.talk([f"{number}" for number in range(50)])
        expect(page.locator("#rooms li")).to_have_text(re.compile("Room 7"), timeout=_MAX_SECONDS)
        expect(page.locator("#numbers div", has_text="Connections").locator("dd")).to_have_text("1")
    throughput = figure(page, "Throughput")
    expect(throughput.locator("path.line")).to_have_count(3)
    throughput.get_by_text("Table").click()
    acknowledged = throughput.locator("tbody tr td:nth-child(3)")
    assert any(float(text) > 0 for text in acknowledged.all_text_contents())
    expect(throughput.locator("svg")).to_have_attribute("aria-label", re.compile("acknowledged"), timeout=_MAX_SECONDS)
    assert not figure(page, "Lag of the room queues").is_visible(), "there are no such queues"
    assert not page.locator("#instances").is_visible(), "there is one instance"
    assert complaints == []


@pytest.mark.parametrize("color_scheme", ["light", "dark"])
def test_on_a_phone_nothing_is_wider_than_the_screen_and_text_is_readable(look: Look, color_scheme: str) -> None:
    page = look(viewport={"width": 390, "height": 844}, color_scheme=color_scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    ratios = page.evaluate(_CONTRASTS)
    assert len(ratios) > 20
    assert {text: ratio for text, ratio in ratios.items() if ratio < 4.5} == {}, "WCAG 2.2 AA"


def test_it_is_for_keyboard_and_screen_reader_too(look: Look) -> None:
    page = look()
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Pause")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#link-text")).to_have_text("paused")
    page.keyboard.press("Enter")
    expect(page.locator("#link-text")).to_have_text("live")
    page.keyboard.press("Tab")
    expect(page.locator("summary").first).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("table").first).to_be_visible()
    assert page.locator("svg:not([role=img])").count() == 0
    assert page.locator("[aria-live], [role=status], [role=alert], [role=log]").count() == 1, (
        "what changes is said once"
    )


def test_a_database_that_hangs_is_said_on_top_until_it_is_back(daemon: Daemon, look: Look) -> None:
    page = look()
    with ChatClient(daemon.chat_url(8)) as talker:
        with daemon.held_database():
            talker.send("waits")
            expect(alarm(page)).to_have_text(re.compile("1 messages wait .* since "), timeout=_MAX_SECONDS)
            expect(alarm(page)).to_be_in_viewport()
            expect(page.get_by_role("alert")).to_have_text(re.compile("PostgreSQL answers, but does not commit"))
            assert "✕" in page.title()
        talker.receive_kind("ack")
    expect(page.locator("#fine")).to_be_visible(timeout=_MAX_SECONDS)
    expect(page.get_by_role("alert")).to_have_text("All is well again")


def test_a_server_that_hangs_is_said_on_top_until_it_is_back(daemon: Daemon, look: Look) -> None:
    page = look()
    daemon.send_signal(signal.SIGSTOP)
    try:
        expect(alarm(page)).to_have_text(re.compile("hears nothing from the server"), timeout=_MAX_SECONDS)
        expect(page.locator("#link-text")).to_have_text("no connection")
    finally:
        daemon.send_signal(signal.SIGCONT)
    expect(page.locator("#fine")).to_be_visible(timeout=_MAX_SECONDS)


def test_a_server_that_was_killed_is_said_on_top(chromium: BrowserThread, database_url: str) -> None:
    with running_daemon(database=database_url) as daemon:
        page = chromium.browser.new_context().new_page()
        page.goto(f"http://127.0.0.1:{daemon.port}/dashboard")
        expect(page.locator("#fine")).to_be_visible(timeout=_MAX_SECONDS)
        daemon.kill()
        expect(alarm(page)).to_have_text(re.compile("hears nothing from the server"), timeout=_MAX_SECONDS)
        page.context.close()


# Text → the contrast of its color to the nearest background behind it, of the text that one sees.
_CONTRASTS = """() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgb = (color) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = color;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = (color) => {
    const linear = (c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    const [r, g, b] = color.slice(0, 3).map((part) => linear(part / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const found = {};
  for (const element of document.body.querySelectorAll("*")) {
    const texts = [...element.childNodes].filter((node) => node.nodeType === 3);
    const text = texts.map((node) => node.data.trim()).join(" ").trim();
    if (!text || !element.getClientRects().length) continue;
    let behind = element;
    while (behind && rgb(getComputedStyle(behind).backgroundColor)[3] < 255) behind = behind.parentElement;
    const style = getComputedStyle(element);
    const color = rgb(element instanceof SVGElement ? style.fill : style.color);
    const [high, low] = [light(color), light(rgb(getComputedStyle(behind).backgroundColor))].sort((a, b) => b - a);
    found[text] = (high + 0.05) / (low + 0.05);
  }
  return found;
}"""
