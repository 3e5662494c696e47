"""chatflow.js in a page, with a server that a test plays itself and a clock that it moves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from playwright.sync_api import BrowserContext, Route

_CLIENT = Path(__file__).parents[2] / "chatflow/edge/pages/chatflow.js"

# Not localhost: a page that came over plain HTTP from elsewhere, so some of the browser is missing in it.
_ORIGIN = "http://chat.test"

_FAKE = """
globalThis.sockets = [];

class FakeWebSocket {
  constructor(url, protocols) {
    Object.assign(this, { url, protocols, protocol: "", sent: [], isOpen: false, closed: false });
    sockets.push(this);
  }
  send(frame) {
    if (!this.isOpen) throw new DOMException("not open", "InvalidStateError");
    this.sent.push(JSON.parse(frame));
  }
  close() { this.closed = true; }
}

globalThis.start = async (options) => {
  const { ChatFlow } = await import("/chatflow.js");
  globalThis.told = [];
  globalThis.outcomes = [];
  globalThis.chat = new ChatFlow({ room: 1, ...options, WebSocket: FakeWebSocket });
  for (const name of ["message", "ack", "error", "status", "presence", "reset"]) {
    chat.on(name, (detail) => told.push([name, detail]));
  }
};

globalThis.say = (text) => {
  const place = outcomes.push(null) - 1;
  chat.send(text).then(
    (ack) => (outcomes[place] = ack.messageId),
    (error) => (outcomes[place] = `${error.name} ${error.code}`),
  );
};
"""


class PageRig:
    """A page with one client. Sockets are counted from 0; without a number the newest is meant.

    Chance is the middle of everything (0.5) unless a test says otherwise.
    """

    def __init__(self, context: BrowserContext) -> None:
        self.page = context.new_page()
        self.page.route("**/*", self._answer)
        self.page.clock.install(time=0)
        self.page.goto(_ORIGIN)
        self.page.clock.pause_at(1000)

    def renew(self) -> None:
        """Begin anew; quicker than another page."""
        self.page.goto(_ORIGIN)
        self.page.evaluate(f"() => {{ {_FAKE} }}")
        self.set_chance(0.5)

    @staticmethod
    def _answer(route: Route) -> None:
        if route.request.url.endswith("/chatflow.js"):
            route.fulfill(path=_CLIENT, content_type="text/javascript")
        else:
            route.fulfill(body="<!doctype html>", content_type="text/html")

    def start(self, **options: Any) -> None:
        """Make the client; its first socket is in its handshake then."""
        self.page.evaluate("(options) => start(options)", options)

    def set_chance(self, chance: float) -> None:
        """What ``Math.random`` gives."""
        self.page.evaluate("(chance) => { Math.random = () => chance; }", chance)

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.page.clock.run_for(round(seconds * 1000))

    # The server

    def accept(self, protocol: str = "chatflow.v2") -> None:
        """The handshake succeeds; without a ``protocol`` a browser takes it only if it offered none."""
        socket = "sockets.at(-1)"
        if protocol or not self.page.evaluate(f"() => {socket}.protocols.length"):
            chosen = f"Object.assign({socket}, {{ protocol, isOpen: true }})"
            self.page.evaluate(f"(protocol) => {chosen}.onopen({{}})", protocol)
        else:
            self.end(1006)

    def accept_without_v2(self) -> None:
        """The server does not know it, which the client finds out after three handshakes."""
        for _ in range(3):
            self.accept("")
            self.advance(1)
        assert not self.offered
        self.accept("")

    def welcome(self, head: int = 0, *, heartbeat: int = 10) -> None:
        """Accept, and greet as chatflow.v2 does."""
        self.accept()
        self.deliver(type="welcome", roomId="1", head=head, first=1, heartbeatSeconds=heartbeat)

    def deliver(self, *, socket: int = -1, **frame: Any) -> None:
        """Send a frame."""
        self.page.evaluate(
            "([socket, frame]) => sockets.at(socket).onmessage({ data: JSON.stringify(frame) })", [socket, frame]
        )

    def broadcast(self, *seqs: int) -> None:
        """Send messages with these numbers."""
        for seq in seqs:
            self.deliver(messageId=f"id{seq}", roomId="1", seq=seq, message=f"text {seq}", messageType="TEXT")

    def acknowledge(self, message: dict[str, Any], message_id: str) -> None:
        """Say that a message is durable."""
        self.deliver(status="SUCCESS", messageId=message_id, timestamp="2026-11-23T10:30:00Z", originalMessage=message)

    def refuse(self, code: str) -> None:
        """Answer with an error."""
        self.deliver(status="ERROR", code=code, errorMessage="because", timestamp="2026-11-23T10:30:00Z")

    def end(self, code: int = 1006) -> None:
        """The connection ends, or the handshake fails."""
        self.page.evaluate("(code) => sockets.at(-1).onclose({ code })", code)

    # What came of it

    @property
    def connections(self) -> int:
        """How many sockets were made."""
        count = self.page.evaluate("() => sockets.length")
        assert isinstance(count, int)
        return count

    @property
    def address(self) -> str:
        """Path and query of the newest socket."""
        return str(self.page.evaluate("() => sockets.at(-1).url")).removeprefix("ws://chat.test")

    @property
    def offered(self) -> list[str]:
        """The subprotocols that the newest socket offered."""
        return list(self.page.evaluate("() => sockets.at(-1).protocols"))

    @property
    def sent(self) -> list[dict[str, Any]]:
        """What the client sent through the newest socket."""
        return list(self.page.evaluate("() => sockets.at(-1).sent"))

    @property
    def outcomes(self) -> list[str | None]:
        """What became of each ``say``: the message id, the error's name and code, or None as yet."""
        return list(self.page.evaluate("() => outcomes"))

    @property
    def state(self) -> str:
        """Of the connection."""
        return str(self.page.evaluate("() => chat.status.state"))

    def say(self, *texts: str) -> None:
        """Send messages."""
        for text in texts:
            self.page.evaluate("(text) => say(text)", text)

    def told(self, event: str) -> list[Any]:
        """The details of such events."""
        return [detail for name, detail in self.page.evaluate("() => told") if name == event]

    @property
    def seqs(self) -> list[int]:
        """The numbers of the messages that were given out."""
        return [detail["seq"] for detail in self.told("message")]

    def retry_seconds(self) -> float:
        """How long it is until the next attempt."""
        return float(self.page.evaluate("() => (chat.status.retryAt - Date.now()) / 1000"))
