"""``python -m chatflow.client ws://localhost:8080 1 --name bob``: chat from a terminal."""

from __future__ import annotations

import argparse
import random
import sys
from typing import Any

from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.stdio import StandardIO
from twisted.internet.task import react
from twisted.protocols.basic import LineReceiver

from chatflow.client import ChatClient, Message, Presence, Rejected, State
from chatflow.errors import ChatFlowError
from chatflow.lifecycle.clocks import make_monotonic


class _Keyboard(LineReceiver):
    delimiter = b"\n"

    def __init__(self, client: ChatClient) -> None:
        self._client = client
        self.ended: Deferred[None] = Deferred()

    def lineReceived(self, line: bytes) -> None:
        Deferred.fromCoroutine(self._send(line.decode(errors="replace").strip()))

    async def _send(self, text: str) -> None:
        try:
            if text:
                await self._client.send(text)
        except ChatFlowError as error:
            print(f"* not sent: {error}", file=sys.stderr)

    def connectionLost(self, reason: object = None) -> None:
        self.ended.callback(None)


def _show_state(state: State) -> None:
    print(f"* {state.name}{state.reason and ': '}{state.reason}", file=sys.stderr, flush=True)


async def _show(client: ChatClient) -> bool:
    """Until the end; whether it was a good one."""
    try:
        async for event in client:
            if isinstance(event, Message):
                print(f"{event.timestamp[11:19]} {event.username}: {event.text}", flush=True)
            elif isinstance(event, Presence):
                names = ", ".join(name for _, name, _ in event.users)
                print(f"* {event.members} here: {names}", flush=True)
            else:
                print(f"* messages are missing: {event}", flush=True)
    except Rejected:
        return False  # why, its state says
    return True


async def _chat(reactor: Any) -> None:
    parser = argparse.ArgumentParser(prog="python -m chatflow.client", description="Chat from a terminal.")
    parser.add_argument("url", help="of the server, such as ws://localhost:8080")
    parser.add_argument("room", type=int)
    parser.add_argument("--name", default=f"guest{random.randrange(1000)}", help="3 to 20 letters and digits")
    parser.add_argument("--user-id", type=int, default=random.randrange(1, 100_001), help="1 to 100000")
    parser.add_argument("--last", type=int, default=20, help="begin with so many messages")
    given = parser.parse_args()
    client = ChatClient(
        reactor,
        given.url,
        given.room,
        user_id=given.user_id,
        username=given.name,
        last=given.last,
        presence=True,
        on_state=_show_state,
    ).start()
    shown = Deferred.fromCoroutine(_show(client))
    keyboard = _Keyboard(client)
    StandardIO(keyboard)
    ends: list[Deferred[Any]] = [shown, keyboard.ended]
    await DeferredList(ends, fireOnOneCallback=True)
    await client.close()
    if not await shown:
        raise SystemExit(1)


if __name__ == "__main__":
    react(lambda reactor: Deferred.fromCoroutine(_chat(make_monotonic(reactor))))
