"""chatflow.js with a token: a real browser, a real server that asks for one, and connections that end with it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Page

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
