"""``chatflow-client``: one user of one room on standard input and output, as good a citizen of a pipe as ``nc``."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections import Counter, deque
from contextlib import suppress
from typing import Any

from attrs import asdict
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IHalfCloseableProtocol
from twisted.internet.protocol import Protocol
from twisted.internet.stdio import StandardIO
from zope.interface import implementer

from chatflow.client.client import ChatClient, State
from chatflow.client.command import Wishes
from chatflow.client.lines import BadLine, LineSplitter, understand
from chatflow.client.outbox import SendFailed
from chatflow.client.protocol import Rejected
from chatflow.client.session import Message, Presence, Reset
from chatflow.errors import Refused
from chatflow.text import visible

_BROKEN_PIPE = 128 + signal.SIGPIPE
_LAST_AT_A_TERMINAL = 20
#: So many messages wait for their acknowledgement at a time, and so many lines are read ahead.
_WINDOW = 100
_MAX_LINES_READ = 10_000


@implementer(IHalfCloseableProtocol)
class Terminal(Protocol):
    """Input and output of one client. Runs on the reactor thread.

    :param interactive: a person types.
    :ivar ended: fires once with the exit status, when there is nothing more to do.
    """

    transport: Any

    def __init__(self, reactor: Any, wishes: Wishes, *, interactive: bool) -> None:
        self._reactor = reactor
        self._wishes = wishes
        self._interactive = interactive
        self._client = ChatClient(
            reactor,
            wishes.url,
            wishes.room,
            user_id=wishes.user_id,
            username=wishes.name,
            token=wishes.token,
            last=_LAST_AT_A_TERMINAL if wishes.last is None and interactive else wishes.last or None,
            presence=interactive,
            max_unacknowledged=_WINDOW,
            on_state=self._state_changed,
        )
        self._splitter = LineSplitter()
        self._lines: deque[tuple[int, bytes | None]] = deque()
        self._own: Counter[str] = Counter()
        self._under_way = 0
        self._is_sending = False
        self._is_input_over = False
        self._patience: IDelayedCall | None = None
        self._drained: Deferred[None] | None = None
        self._gone: Deferred[None] = Deferred()
        self._status = 0
        self.ended: Deferred[int] = Deferred()

    def start(self) -> None:
        """Begin to connect, to read and to write."""
        self._client.start()
        StandardIO(self, reactor=self._reactor)
        self.transport.registerProducer(self, True)
        Deferred.fromCoroutine(self._show_all())

    async def close(self) -> None:
        """Returns when the connection is closed and everything is written."""
        await self._client.close()
        self.transport.unregisterProducer()
        self.transport.loseConnection()
        await self._gone

    # Input

    def dataReceived(self, data: bytes) -> None:
        """Bytes of standard input, which need not end with a line."""
        self._lines.extend(self._splitter.feed(data))
        self._send_on()

    def readConnectionLost(self) -> None:
        """The end of standard input."""
        self._lines.extend(self._splitter.end())
        self._is_input_over = True
        self._send_on()

    def _send_on(self) -> None:
        if self._is_sending:
            return  # a line was refused at once
        self._is_sending = True
        self._send_what_may_be()
        self._is_sending = False
        if not self._is_input_over:
            if len(self._lines) > _MAX_LINES_READ:
                self.transport.pauseProducing()
            else:
                self.transport.resumeProducing()
        elif self._client.connections and not (self._under_way or self._lines or self._wishes.follow):
            self.end(self._status)

    def _send_what_may_be(self) -> None:
        while self._lines and self._under_way < _WINDOW and not self.ended.called:
            number, line = self._lines.popleft()
            try:
                draft = understand(line, as_json=self._wishes.as_json)
            except BadLine as error:
                self._not_sent(number, "invalid_line", str(error))
                continue
            if draft is not None:
                self._under_way += 1
                self._be_patient(again=False)
                Deferred.fromCoroutine(self._send(number, draft.text, draft.message_type))

    async def _send(self, number: int, text: str, message_type: str) -> None:
        if not (self._interactive or self._wishes.as_json):
            self._own[text] += 1
        try:
            sent = await self._client.send(text, message_type)
        except Refused as error:
            self._own -= Counter([text])
            self._not_sent(number, error.code, str(error))
        except SendFailed as error:
            if not self.ended.called:  # else there is a line for all of them
                self._not_sent(number, "unavailable", str(error))
        else:
            if self._wishes.as_json:
                self._write_json({"type": "ack", "line": number, "messageId": sent.message_id})
        self._under_way -= 1
        self._be_patient(again=True)
        self._send_on()

    def _not_sent(self, number: int, code: str, reason: str) -> None:
        self._status = 1
        _complain(f"line {number} was not sent: {reason}")
        if self._wishes.as_json:
            self._write_json({"type": "error", "line": number, "code": code, "errorMessage": reason})

    def _be_patient(self, *, again: bool) -> None:
        """While messages wait for their acknowledgement, but not for ever."""
        if self._patience is not None and self._patience.active():
            if not again:
                return
            self._patience.cancel()
        if self._under_way and not self.ended.called:
            self._patience = self._reactor.callLater(self._wishes.timeout_seconds, self._lose_patience)

    def _lose_patience(self) -> None:
        if self._interactive and not self._is_input_over:
            self._be_patient(again=True)
            return
        missing = self._under_way + len(self._lines)
        seconds = self._wishes.timeout_seconds
        self.end(1, f"{missing} lines have no acknowledgement, and for {seconds:g} s none had: given up")

    # Output

    async def _show_all(self) -> None:
        with suppress(Rejected):  # why, its state says
            async for event in self._client:
                self._show(event)
                if self._drained is not None:
                    await self._drained

    def _show(self, event: object) -> None:
        if isinstance(event, Message):
            if self._wishes.as_json:
                self._write_json({"type": "message", **_in_the_protocols_words(event)})
            elif not self._is_own(event):
                stamp, name = visible(event.timestamp[11:19]), visible(event.username)
                self._write(f"{stamp} {name}: {visible(event.text)}")
        elif isinstance(event, Presence):
            names = ", ".join(visible(name) for _, name, _ in event.users)
            self._tell(f"{event.members} here: {names}")
        elif isinstance(event, Reset):
            if self._wishes.as_json:
                self._write_json({"type": "reset", "reason": event.reason, "from": event.first})
            else:
                _complain(f"messages are missing: {event.reason}")

    def _is_own(self, message: Message) -> bool:
        """Whether this process sent it, and its input is over: whoever wrote it all and closed the pipe knows it."""
        if message.user_id != self._client.user_id or self._wishes.name not in (None, message.username):
            return False
        known = self._own[message.text] > 0
        self._own -= Counter([message.text])
        return known and self._is_input_over

    def _write_json(self, value: dict[str, Any]) -> None:
        self._write(json.dumps(value))

    def _write(self, line: str) -> None:
        self.transport.write(line.encode() + b"\n")

    def _tell(self, text: str) -> None:
        """For a person alone."""
        if self._interactive:
            _to_stderr(f"* {text}")

    def pauseProducing(self) -> None:
        """Who reads the output is slow: then nothing more is taken from the room."""
        self._drained = self._drained or Deferred()

    def resumeProducing(self) -> None:
        """Standard output takes more: read input again."""
        drained, self._drained = self._drained, None
        if drained is not None:
            drained.callback(None)

    def stopProducing(self) -> None:
        """Nobody reads it any more; :meth:`writeConnectionLost` says so too."""

    def writeConnectionLost(self) -> None:
        """Who read the output has ended."""
        self.end(_BROKEN_PIPE)

    def connectionLost(self, reason: object = None) -> None:
        """Everything is written, or cannot be."""
        if not self._gone.called:
            self._gone.callback(None)

    # Connection

    def _state_changed(self, state: State) -> None:
        self._tell(visible(f"{state.name}{state.reason and ': '}{state.reason}"))
        if state.name == "open":
            self._send_on()  # if the end of input came before
        if state.name == "closed" and state.reason:
            self.end(1, f"the server does not let this client in: {state.reason}")
        elif state.name == "waiting" and not self._client.connections:
            self.end(1, f"cannot connect to {self._wishes.url}: {state.reason}")

    def end(self, status: int, complaint: str = "") -> None:
        """There is nothing more to do; only the first call counts."""
        if self.ended.called:
            return
        if self._patience is not None and self._patience.active():
            self._patience.cancel()
        if complaint:
            _complain(complaint)
        self.ended.callback(status)


def _in_the_protocols_words(message: Message) -> dict[str, Any]:
    fields = asdict(message)
    names = {"message_id": "messageId", "user_id": "userId", "text": "message", "message_type": "messageType"}
    return {names.get(name, "serverId" if name == "server_id" else name): value for name, value in fields.items()}


def _complain(text: str) -> None:
    _to_stderr(f"chatflow-client: {visible(' '.join(text.split()))}")


def _to_stderr(line: str) -> None:
    with suppress(OSError):  # closed, or a terminal that does not keep up
        print(line, file=sys.stderr, flush=True)


async def chat(reactor: Any, wishes: Wishes) -> int:
    """Until there is nothing more to do, or a signal.

    :returns: the exit status.
    """
    modes = [(os.dup(number), os.get_blocking(number)) for number in (0, 1)]
    terminal = Terminal(reactor, wishes, interactive=os.isatty(0))

    def on_signal(number: int, frame: object) -> None:
        reactor.callFromThread(terminal.end, 128 + number)

    running: Deferred[None] = Deferred()
    reactor.callWhenRunning(running.callback, None)
    await running
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, on_signal)  # the reactor has just set its own
    terminal.start()
    try:
        status = await terminal.ended
        if status < 128:
            await terminal.close()
    finally:
        # Twisted has made them non-blocking, which whoever shares them does not expect.
        for descriptor, blocking in modes:
            os.set_blocking(descriptor, blocking)
    return status
