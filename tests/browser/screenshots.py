"""Makes the pictures of the documentation anew: ``.venv/bin/python -m tests.browser.screenshots [DIRECTORY]``.

A cluster of three instances on this machine under load, looked at in Chromium: as it should be, and in trouble. The
directory is ``docs/images`` unless another is named; only ``dashboard.png`` is kept there, so name one to see all.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page

from testbed.cluster import Cluster
from testbed.load_client import LoadClient
from tests.support.browser import BrowserThread

_ROOT = Path(__file__).parents[2]
_DESKTOP: dict[str, Any] = {"viewport": {"width": 1240, "height": 860}}
_PHONE: dict[str, Any] = {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 2}
_LOAD_SECONDS = 60
_ROOMS = 12


def _open(browser: Browser, port: int, color_scheme: Any, **context: Any) -> Page:
    page = browser.new_context(color_scheme=color_scheme, **context).new_page()
    page.goto(f"http://127.0.0.1:{port}/dashboard")
    page.locator("#link[data-state=live]").wait_for()
    return page


def _take(browser: Browser, cluster: Cluster, into: Path, everything: bool) -> None:
    load = LoadClient(
        *("--rate", 400, "--messages", 400 * 300, "--connections", 60, "--senders", 20, "--warmup-messages", 0),
        *("--rooms", _ROOMS),
        urls=cluster.urls,
    )
    port = cluster.instances[0].port
    with load:
        desktop = _open(browser, port, "light", **_DESKTOP)
        dark = _open(browser, port, "dark", **_DESKTOP) if everything else None
        phone = _open(browser, port, "light", **_PHONE) if everything else None
        desktop.wait_for_timeout(1000 * _LOAD_SECONDS)
        desktop.screenshot(path=into / "dashboard.png")
        if dark is None or phone is None:
            return
        dark.screenshot(path=into / "dark.png", full_page=True)
        phone.screenshot(path=into / "phone.png", full_page=True)
        cluster.kill(2)
        desktop.locator("tr[data-state=silent]").wait_for(timeout=30_000)
        desktop.screenshot(path=into / "killed.png")
        phone.screenshot(path=into / "killed-phone.png")
        cluster.stop_database()
        desktop.locator(".alarm", has_text="PostgreSQL does not answer").wait_for(timeout=30_000)
        desktop.wait_for_timeout(10_000)
        desktop.screenshot(path=into / "no-database.png", full_page=True)
        phone.screenshot(path=into / "no-database-phone.png")
        cluster.kill(0)
        desktop.locator(".alarm", has_text="hears nothing").wait_for(timeout=30_000)
        dark.wait_for_timeout(3000)
        dark.screenshot(path=into / "gone-dark.png")


def main() -> None:
    """Make them."""
    into = Path(sys.argv[1]) if len(sys.argv) > 1 else _ROOT / "docs/images"
    into.mkdir(parents=True, exist_ok=True)
    thread = BrowserThread()
    thread.start()
    try:
        with Cluster(instances=3, rooms=_ROOMS) as cluster:
            cluster.start()
            thread.call(lambda: _take(thread.browser, cluster, into, len(sys.argv) > 1))
    finally:
        thread.stop()


if __name__ == "__main__":
    main()
