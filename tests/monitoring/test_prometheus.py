"""What ``scripts/monitoring`` asks Prometheus for is what a daemon exports; its rules fire when they should."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from chatflow import admin
from testbed.cluster import Cluster
from testbed.waiting import eventually
from tests.support.documentation import figures_named_in, figures_served_by

ROOT = Path(__file__).parents[2]
HERE = ROOT / "scripts" / "monitoring"
RULES = (HERE / "alerts.yml").read_text()
ALERTS = re.findall(r"^ +- alert: (\w+)$", RULES, re.MULTILINE)
DASHBOARD: dict[str, Any] = json.loads((HERE / "dashboard.json").read_text())


def promtool(*arguments: str) -> None:
    """Run it in the directory; it must be content."""
    program = shutil.which("promtool")
    if program is None:
        if os.environ.get("CI") == "true":
            pytest.fail("promtool is missing: apt install prometheus")
        pytest.skip("promtool is missing: apt install prometheus")
    ended = subprocess.run([program, *arguments], cwd=HERE, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_the_configuration_is_one_and_so_are_the_rules() -> None:
    promtool("check", "config", "prometheus.yml")


def test_each_alert_fires_when_it_should_and_not_otherwise() -> None:
    promtool("test", "rules", "alerts_test.yml")


@pytest.mark.parametrize("alert", ALERTS)
def test_each_alert_has_a_case_and_a_section_of_the_runbook_that_its_annotation_names(alert: str) -> None:
    assert f"alertname: {alert}" in (HERE / "alerts_test.yml").read_text()
    assert f"runbook: docs/runbook.html#{alert.lower()}\n" in RULES
    title = f"\n{alert}\n{'=' * len(alert)}\n"
    runbook = (ROOT / "docs" / "runbook.rst").read_text()
    section = runbook.partition(title)[2].partition("\n\nChatFlow")[0]
    for part in ("Means: ", "Make\nsure: ", "Do: "):
        assert " ".join(part.split()) in " ".join(section.split()), f"{alert} lacks {part}"


def test_the_runbook_has_no_section_for_an_alert_that_is_gone() -> None:
    titles = re.findall(r"^(ChatFlow\w+)\n=+$", (ROOT / "docs" / "runbook.rst").read_text(), re.MULTILINE)
    assert titles == ALERTS


def names_in(text: str) -> set[str]:
    return set(re.findall(r"\bchatflow_[a-z0-9_]+", text))


def test_every_figure_that_is_asked_for_is_exported_by_an_instance_of_a_cluster() -> None:
    asked = names_in(RULES) | names_in(json.dumps(DASHBOARD)) | names_in((HERE / "alerts_test.yml").read_text())
    asked |= figures_named_in("runbook")
    with Cluster(instances=1, rooms=1) as cluster:
        cluster.start()
        (instance,) = cluster.instances
        served = figures_served_by(instance)
        # There is no call that failed, but its name is there with those that did not.
        assert asked - served == set()
        assert instance.counter("chatflow_ready") == 1
        assert instance.counter("chatflow_draining") == 0
        assert instance.counter("chatflow_schema_version") == len(list((ROOT / "sql").glob("*.sql")))
        eventually(lambda: instance.counter("chatflow_dead_letters") == 0, "dead letters are counted")
        text = instance.get("/metrics", headers={"Accept": "text/plain"}).body.decode()
        assert re.search(r'^chatflow_build_info\{version="[0-9.]+"\} 1\.0$', text, re.MULTILINE)


def test_the_dashboard_is_whole() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        assert panel["targets"], panel["title"]
    places = [(one["gridPos"]["x"], one["gridPos"]["y"]) for one in panels]
    assert len(set(places)) == len(places)


def test_the_monitor_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        admin.main(["monitor", "--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert "exit status" in text
    assert "view-seconds" in text
