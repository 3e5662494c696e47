"""chatflow.js with a token: a real browser, a real server that asks for one, and connections that end with it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from testbed.client import ChatClient
from testbed.daemon import Daemon, running_daemon
from testbed.tokens import AUDIENCE, SECRET, user_token
from tests.support.browser import BrowserThread

_START = """
async ([token, options]) => {
  const { ChatFlow } = await import("/chatflow.js");
  globalThis.seen = [];
  globalThis.asked = 0;
  const fetchToken = async () => (asked++, token[Math.min(asked, token.length) - 1]);
  globalThis.chat = new ChatFlow({ room: 1, ...options, token: typeof token === "string" ? token : fetchToken });
  for (const name of ["message", "identity", "error"]) chat.on(name, (detail) => seen.push([name, detail]));
}
"""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    secret = tmp_path_factory.mktemp("key") / "secret"
    secret.write_text(SECRET)
    options = ("--auth", "jwt", "--jwt-audience", AUDIENCE, "--jwt-leeway-seconds", "0", "--jwt-key-file", str(secret))
    admin = tmp_path_factory.mktemp("admin") / "token"
    admin.write_text("operators-of-the-browser-tests")
    with running_daemon(*options, "--admin-token-file", str(admin)) as daemon:
        yield daemon


@pytest.fixture
def page(chromium: BrowserThread, daemon: Daemon) -> Iterator[Page]:
    def open_page() -> Page:
        page = chromium.browser.new_page()
        page.goto(f"http://127.0.0.1:{daemon.port}/")
        return page

    page = chromium.call(open_page)
    yield page
    chromium.call(page.close)


def test_a_token_lets_a_browser_in_and_says_who_it_is(page: Page) -> None:
    page.evaluate(_START, [user_token(), {}])
    page.wait_for_function("() => chat.status.state === 'open' && seen.length")
    assert page.evaluate("() => seen[0]") == ["identity", {"userId": "7", "username": "alice"}]
    page.evaluate("() => chat.send('hello')")
    page.wait_for_function("() => seen.some(([name, detail]) => name === 'message' && detail.username === 'alice')")


def test_without_v2_the_browser_takes_the_tokens_own_name_for_the_subprotocol(page: Page) -> None:
    chosen = page.evaluate(
        "(token) => new Promise((resolve, reject) => {"
        " const socket = new WebSocket(`ws://${location.host}/chat/1`, [`chatflow.jwt.${token}`]);"
        " socket.onopen = () => resolve(socket.protocol); socket.onerror = () => reject(Error('refused')); })",
        user_token(),
    )
    assert chosen.startswith("chatflow.jwt.")


def test_it_is_renewed_before_it_expires_on_the_same_connection(page: Page) -> None:
    page.evaluate(_START, [[user_token(seconds=3), user_token(seconds=1000)], {}])
    page.wait_for_function("() => asked === 2")
    page.evaluate("() => chat.send('still here')")
    page.wait_for_function("() => seen.some(([name, detail]) => detail.message === 'still here')")
    assert page.evaluate("() => seen.filter(([name]) => name === 'identity').length") == 1


def test_one_that_expired_is_asked_for_again_at_the_next_connection(page: Page) -> None:
    page.evaluate(_START, [[user_token(exp=1), user_token()], {}])
    page.wait_for_function("() => chat.status.state === 'open'")
    assert page.evaluate("() => asked") == 2


def test_the_page_asks_for_a_token_when_the_server_does_and_keeps_it_in_the_tab(page: Page) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("websocket", lambda socket: asked.append(socket.url))
    expect(page.get_by_label("Token", exact=True)).to_be_hidden()
    page.get_by_label("Your name").fill("whoever")
    page.get_by_label("Room", exact=True).fill("2")
    for token, told in (("", "This server asks for a token."), ("not.a.token", "the token is not valid here")):
        if token:
            page.get_by_label("Token", exact=True).fill(token)
        page.get_by_role("button", name="Join").click()
        expect(page.get_by_role("alert")).to_have_text(told)
    page.get_by_label("Token", exact=True).fill(user_token())
    page.get_by_role("button", name="Join").click()
    expect(page.locator("#state")).to_have_text("connected")
    page.get_by_role("textbox", name="Message").fill("it is me")
    page.keyboard.press("Enter")
    expect(page.locator("#messages li.own")).to_have_count(1)
    expect(page.locator("#messages li.own")).to_contain_text("alice")
    page.reload()
    expect(page.locator("#state")).to_have_text("connected")
    assert not [url for url in asked if user_token()[:20] in url]
    assert page.evaluate("() => JSON.stringify(localStorage)").count("eyJ") == 0


def test_a_link_may_bring_the_token_which_leaves_the_address_and_reads_the_history(page: Page, daemon: Daemon) -> None:
    with ChatClient(daemon.chat_url(3), additional_headers={"Authorization": f"Bearer {user_token()}"}) as client:
        for number in range(60):
            client.send(f"number {number}", userId="7", username="alice")
        for _ in range(60):
            client.receive_kind("ack")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto("about:blank")
    page.goto(f"http://127.0.0.1:{daemon.port}/#3&token={user_token()}")
    expect(page.locator("#state")).to_have_text("connected")
    assert page.url.endswith("/#3")
    expect(page.locator("#messages li[data-seq]")).to_have_count(50)
    page.locator("#scroller").evaluate("(list) => (list.scrollTop = 0)")
    expect(page.locator("#messages li[data-seq]")).to_have_count(60)
    assert not [url for url in asked if "eyJ" in url.partition("#")[0]]


def test_the_page_asks_for_a_new_token_before_the_old_one_expires_and_stays_connected(
    page: Page, daemon: Daemon
) -> None:
    sockets: list[str] = []
    page.on("websocket", lambda socket: sockets.append(socket.url))
    page.goto("about:blank")
    page.goto(f"http://127.0.0.1:{daemon.port}/#4&token={user_token(seconds=6)}")
    box = page.get_by_role("textbox", name="Message")
    box.fill("half a sen")
    expect(page.get_by_role("alert")).to_have_text("Your token expires.", timeout=15_000)
    expect(page.locator("#state")).to_have_text("connected")
    page.get_by_label("New token").fill(user_token(8))
    page.get_by_role("button", name="Go on").click()
    expect(page.get_by_role("alert")).to_have_text("This is the token of somebody else, who has to join as such.")
    page.evaluate("(token) => (location.hash = `#token=${token}`)", user_token())
    expect(page.locator("#renew")).to_be_hidden()
    assert "token" not in page.url
    expect(box).to_have_value("half a sen")
    box.press_sequentially("tence")
    page.keyboard.press("Enter")
    expect(page.locator("#messages li.own")).to_contain_text("half a sentence")
    assert len(sockets) == 1


def test_the_page_asks_for_a_token_in_the_place_of_one_that_expired_and_loses_nothing(
    page: Page, daemon: Daemon
) -> None:
    page.goto("about:blank")
    page.goto(f"http://127.0.0.1:{daemon.port}/#5&token={user_token(seconds=2)}")
    expect(page.get_by_role("alert")).to_have_text("Your token has expired.", timeout=15_000)
    box = page.get_by_role("textbox", name="Message")
    box.fill("said meanwhile")
    page.keyboard.press("Enter")
    expect(page.locator("#pending li.sending")).to_have_count(1)
    box.fill("and typed")
    page.get_by_label("New token").fill(user_token())
    page.get_by_role("button", name="Go on").click()
    expect(page.locator("#state")).to_have_text("connected")
    expect(page.locator("#messages li.own")).to_contain_text("said meanwhile")
    expect(box).to_have_value("and typed")


def test_the_dashboard_asks_a_browser_for_the_operators_password(chromium: BrowserThread, daemon: Daemon) -> None:
    credentials = {"username": "anybody", "password": "operators-of-the-browser-tests"}
    with_password = chromium.browser.new_context(http_credentials=credentials)  # type: ignore[arg-type]
    try:
        page = with_password.new_page()
        with page.expect_response("**/dashboard/events") as events:
            page.goto(f"http://127.0.0.1:{daemon.port}/dashboard")
        assert events.value.status == 200
    finally:
        with_password.close()
