"""People at the page, each with a browser context of their own: storage, network and all."""

from __future__ import annotations

from typing import Any

from playwright.sync_api import Browser, Locator, Page, expect

expect.set_options(timeout=20_000)  # milliseconds


class Person:
    """Somebody who opened the page and joined a room.

    :param port: of the daemon, or of a network before it.
    :param context: options of the browser's context.
    :ivar complaints: what the page wrote to the console that is no mere note, and exceptions that nobody caught.
    """

    def __init__(self, browser: Browser, port: int, name: str, room: int, **context: Any) -> None:
        self.name = name
        self.context = browser.new_context(**context)
        self.page: Page = self.context.new_page()
        self.complaints: list[str] = []
        self.page.on("console", self._on_console)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.goto(f"http://127.0.0.1:{port}/")
        self.join(name, room)

    def _on_console(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def join(self, name: str, room: int) -> None:
        """Fill in the form."""
        self.page.get_by_label("Your name").fill(name)
        self.page.get_by_label("Room", exact=True).fill(str(room))
        self.page.get_by_role("button", name="Join").click()

    def say(self, text: str) -> None:
        """Write a message and send it with the Enter key."""
        self.page.get_by_role("textbox", name="Message").fill(text)
        self.page.keyboard.press("Enter")

    @property
    def state(self) -> Locator:
        """What the page says of the connection."""
        return self.page.locator("#state")

    @property
    def messages(self) -> Locator:
        """Those that have their place in the room, oldest first."""
        return self.page.locator("#messages li[data-seq]")

    @property
    def pending(self) -> Locator:
        """Own ones that have none yet."""
        return self.page.locator("#pending li")

    def seqs(self) -> list[int]:
        """Their places."""
        return [int(seq) for seq in self.messages.evaluate_all("items => items.map((item) => item.dataset.seq)")]

    def texts(self) -> list[str]:
        """Their texts."""
        return list(self.messages.locator(".text").all_text_contents())
