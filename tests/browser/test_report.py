"""The pages of the load client in a browser: opened from the disk, without a word of complaint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from chatflow.load.compare import main
from chatflow.load.page import as_page
from chatflow.load.report import as_report
from chatflow.load.run import Outcome
from chatflow.load.scenario import Settings
from tests.load.test_page import a_report
from tests.support.browser import BrowserThread

_EMPTY = as_report(Outcome(Settings(), causes=["cannot connect"]))


@pytest.mark.parametrize("color_scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["run", "empty", "compared"])
def test_a_page_opens_without_complaint_and_fits_a_phone(
    chromium: BrowserThread, tmp_path: Path, name: str, color_scheme: Any
) -> None:
    if name == "compared":
        for side, report in (("a", a_report()), ("b", _EMPTY)):
            (tmp_path / side).write_text(json.dumps(report))
        main([str(tmp_path / "a"), str(tmp_path / "b"), "--html", str(tmp_path / "page.html")])
    else:
        (tmp_path / "page.html").write_text(as_page(a_report() if name == "run" else _EMPTY))
    context = chromium.browser.new_context(color_scheme=color_scheme, viewport={"width": 390, "height": 844})
    complaints: list[str] = []
    requests: list[str] = []
    try:
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto((tmp_path / "page.html").as_uri())
        expect(page.get_by_role("region", name="Verdict").first).to_be_in_viewport()
        assert page.locator("svg[role=img]").count() == 4
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
    finally:
        context.close()
    assert complaints == []
    assert len(requests) == 1
