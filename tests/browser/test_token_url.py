"""The page that fetches its tokens from whoever logs users in: another origin, which knows them by a cookie."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from testbed.daemon import Daemon, running_daemon
from testbed.tokens import AUDIENCE, SECRET, user_token
from tests.support.browser import BrowserThread

_USERS = {"login=alice": (7, "alice"), "login=bob": (8, "bobby")}


class _Login(ThreadingHTTPServer):
    """:ivar seconds: for how long its tokens are good."""

    seconds = 600.0
    allowed_origin = ""
    asked = 0


class _Handler(BaseHTTPRequestHandler):
    server: _Login

    def do_GET(self) -> None:
        self.server.asked += 1
        user = _USERS.get(self.headers.get("Cookie", ""))
        if user is None:
            status, body = 401, {"error": "nobody is logged in"}
        else:
            status, body = 200, {"token": user_token(str(user[0]), user[1], seconds=self.server.seconds)}
        self.send_response(status)
        self.send_header("Access-Control-Allow-Origin", self.server.allowed_origin)
        self.send_header("Access-Control-Allow-Credentials", "true")
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def login() -> Iterator[_Login]:
    with _Login(("127.0.0.1", 0), _Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, login: _Login) -> Iterator[Daemon]:
    secret = tmp_path_factory.mktemp("key") / "secret"
    secret.write_text(SECRET)
    options = ("--auth", "jwt", "--jwt-audience", AUDIENCE, "--jwt-leeway-seconds", "0", "--jwt-key-file", str(secret))
    where = f'http://127.0.0.1:{login.server_port}/token?for=chat&as="it"'
    with running_daemon(*options, "--page-token-url", where) as daemon:
        login.allowed_origin = f"http://127.0.0.1:{daemon.port}"
        yield daemon


@pytest.fixture
def context(chromium: BrowserThread, login: _Login) -> Iterator[BrowserContext]:
    login.seconds = 600.0
    context = chromium.call(chromium.browser.new_context)
    yield context
    chromium.call(context.close)


def _log_in(context: BrowserContext, name: str) -> None:
    context.add_cookies([{"name": "login", "value": name, "domain": "127.0.0.1", "path": "/"}])


def _opened(context: BrowserContext, daemon: Daemon, room: int) -> Page:
    page = context.new_page()
    page.goto(f"http://127.0.0.1:{daemon.port}/#{room}")
    return page


def test_who_is_logged_in_is_in_the_room_without_a_question(
    context: BrowserContext, daemon: Daemon, login: _Login
) -> None:
    _log_in(context, "alice")
    before = login.asked
    page = _opened(context, daemon, 1)
    expect(page.locator("#state")).to_have_text("connected")
    expect(page.locator("#where")).to_have_text("Room 1 · alice")
    page.get_by_role("textbox", name="Message").fill("it is me")
    page.keyboard.press("Enter")
    expect(page.locator("#messages li.own .state")).to_have_text("stored")
    assert login.asked - before == 1, "one token for one connection"


def test_who_is_not_is_told_where_to_and_has_no_field_for_a_token(context: BrowserContext, daemon: Daemon) -> None:
    page = _opened(context, daemon, 2)
    expect(page.get_by_role("alert")).to_contain_text("You are not logged in at 127.0.0.1:")
    expect(page.get_by_label("Token", exact=True)).to_be_hidden()
    _log_in(context, "alice")
    page.get_by_label("Your name").fill("whoever")
    page.get_by_role("button", name="Join").click()
    expect(page.locator("#where")).to_have_text("Room 2 · alice")
    expect(page.locator("#state")).to_have_text("connected")


def test_a_token_is_renewed_on_the_same_connection_without_a_question(
    context: BrowserContext, daemon: Daemon, login: _Login
) -> None:
    login.seconds = 3.0
    _log_in(context, "alice")
    page = context.new_page()
    sockets: list[str] = []
    page.on("websocket", lambda socket: sockets.append(socket.url))
    before = login.asked
    page.goto(f"http://127.0.0.1:{daemon.port}/#3")
    page.wait_for_timeout(5000)
    expect(page.locator("#state")).to_have_text("connected")
    expect(page.locator("#renew")).to_be_hidden()
    assert login.asked - before >= 2
    assert len(sockets) == 1


@pytest.mark.parametrize(
    ("name", "told"), [("nobody", "You are not logged in at"), ("bob", "You are logged in as somebody else now")]
)
def test_who_is_logged_out_meanwhile_is_told_and_loses_nothing(
    context: BrowserContext, daemon: Daemon, login: _Login, name: str, told: str
) -> None:
    login.seconds = 6.0
    _log_in(context, "alice")
    page = _opened(context, daemon, 4)
    expect(page.locator("#state")).to_have_text("connected")
    _log_in(context, name)
    expect(page.locator("#renew-why")).to_contain_text(told)
    expect(page.get_by_label("New token")).to_be_hidden()
    expect(page.locator("#state")).not_to_have_text("connected")
    box = page.get_by_role("textbox", name="Message")
    box.fill(f"said meanwhile, {name}")
    page.keyboard.press("Enter")
    login.seconds = 600.0
    _log_in(context, "alice")
    # The button, which is gone if the next attempt of its own was sooner.
    page.get_by_role("button", name="Go on", include_hidden=True).dispatch_event("click")
    expect(page.locator("#state")).to_have_text("connected")
    expect(page.locator("#messages li.own").last).to_contain_text(f"said meanwhile, {name}")
    expect(page.locator("#renew")).to_be_hidden()


def test_a_login_that_is_away_is_named(chromium: BrowserThread, tmp_path_factory: pytest.TempPathFactory) -> None:
    secret = tmp_path_factory.mktemp("key") / "secret"
    secret.write_text(SECRET)
    with socket.create_server(("127.0.0.1", 0)) as free:
        away = f"127.0.0.1:{free.getsockname()[1]}"
    options = ("--auth", "jwt", "--jwt-key-file", str(secret), "--page-token-url", f"http://{away}/token")
    with running_daemon(*options) as daemon:
        page = chromium.browser.new_page()
        try:
            page.goto(f"http://127.0.0.1:{daemon.port}/")
            expect(page.get_by_role("alert")).to_have_text(f"{away} cannot be reached for a token.")
        finally:
            page.close()
