"""A real Chromium, driven by Playwright in a thread of its own.

Playwright's blocking API runs an asyncio loop inside the thread that calls it, and its objects belong to that thread;
pytest-twisted runs the reactor on the main one. Apart from each other neither notices the other.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

import pytest
from playwright.sync_api import Browser, Playwright, sync_playwright

# Chromium without windows, which nobody sees here: these tests cost two thirds of what they do with the whole of it.
_SHELL = "chromium-headless-shell"
_PROGRAMS = (_SHELL, "chromium", "chromium-browser")

# With windows, each would start a process for the pop-up of an address bar: a third of what a page costs. The last such
# argument counts, and Playwright has one: of its list, the last two change what a page does here.
_WITHOUT = ("WebUIOmniboxPopup", "WebUIOmniboxAimPopup", "WebUIOmniboxFullPopup", "HttpsUpgrades", "PaintHolding")

P = ParamSpec("P")
T = TypeVar("T")


class BrowserThread:
    """A thread with a headless browser in it, between ``start`` and ``stop``. The browser's profile is its own."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "browser")
        self._playwright: Playwright | None = None
        self._browser: Browser | None = None

    def start(self) -> None:
        """Start Chromium; skip the test where there is none, but fail in CI."""
        program = next(filter(None, map(shutil.which, _PROGRAMS)), None)
        if program is None:
            reason = "there is no chromium on the PATH"
            if os.environ.get("CI") == "true":
                pytest.fail(reason)
            pytest.skip(f"{reason}: the page is not tested")
        self.call(self._start_in_thread, program)

    def stop(self) -> None:
        """End browser and thread."""
        self.call(self._stop_in_thread)
        self._thread.shutdown()

    def call(self, function: Callable[P, T], *arguments: P.args, **keywords: P.kwargs) -> T:
        """What ``function`` returns or raises, in the browser's thread."""
        return self._thread.submit(function, *arguments, **keywords).result()

    @property
    def browser(self) -> Browser:
        """For functions that run in the thread."""
        assert self._browser is not None, "the browser was never started"
        return self._browser

    def _start_in_thread(self, program: str) -> None:
        self._playwright = sync_playwright().start()
        without = [] if program.endswith(_SHELL) else [f"--disable-features={','.join(_WITHOUT)}"]
        # Chromium's sandbox needs a user that is not root and namespaces, and only our own page is opened.
        self._browser = self._playwright.chromium.launch(executable_path=program, chromium_sandbox=False, args=without)

    def _stop_in_thread(self) -> None:
        if self._browser is not None:
            self._browser.close()
        if self._playwright is not None:
            self._playwright.stop()
