"""Tests here run in the browser's thread, with everything that they do."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import pytest

from tests.support.browser import BrowserThread

_running: list[BrowserThread] = []


@pytest.fixture(scope="package")
def chromium() -> Iterator[BrowserThread]:
    """The browser of all tests here."""
    thread = BrowserThread()
    try:
        thread.start()
        _running.append(thread)
        yield thread
    finally:
        _running.clear()
        thread.stop()


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool:
    """Run a test of this package where its pages are."""
    names = inspect.signature(pyfuncitem.obj).parameters
    (thread,) = _running
    thread.call(pyfuncitem.obj, **{name: pyfuncitem.funcargs[name] for name in names if name in pyfuncitem.funcargs})
    return True
