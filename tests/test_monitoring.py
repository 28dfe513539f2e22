"""What watches the service: the dashboard is what its source says, and asks for metrics that there are."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from deploy.grafana import dashboard
from service.metrics import Metrics

DEPLOY = Path(__file__).parents[1] / "deploy"
RULES = {path.name: path.read_text() for path in (DEPLOY / "prometheus").glob("*.yml")}
TESTS = "".join(path.read_text() for path in (DEPLOY / "prometheus" / "tests").glob("*.yml"))
ALERTS = re.findall(r"^      - alert: (\w+)$", RULES["alerts.yml"], re.MULTILINE)
OPERATING = (DEPLOY.parent / "docs" / "operating.md").read_text()


def exposed() -> set[str]:
    """Names that can be asked for."""
    found = re.findall(r"^# TYPE (\S+) (\w+)$", Metrics().render().decode(), re.MULTILINE)
    ends = {"histogram": ("_bucket", "_count", "_sum")}
    return {f"{name}{end}" for name, kind in found for end in ends.get(kind, ("",))}


def asked_for(text: str) -> set[str]:
    """Names of metrics in expressions; those with a colon are of recording rules."""
    return set(re.findall(r"(?<![\w:])((?:promptdial|process)_\w+)(?![\w:])", text))


def test_the_committed_dashboard_is_what_its_source_writes() -> None:
    """Write it anew with `python -m deploy.grafana.dashboard`."""
    assert dashboard.TARGET.read_text() == dashboard.build()


def test_the_dashboard_asks_for_metrics_that_there_are() -> None:
    board = dashboard.TARGET.read_text()
    queries = "\n".join(expression for _, expression in dashboard.expressions(board))
    variables = "\n".join(str(each["query"]) for each in json.loads(board)["templating"]["list"])
    assert asked_for(queries + variables) <= exposed()


@pytest.mark.parametrize("name", ["recording.yml", "alerts.yml"])
def test_rules_ask_for_metrics_that_there_are(name: str) -> None:
    found = asked_for(RULES[name])
    assert found
    assert found <= exposed()


def test_alerts_ask_for_recorded_series_that_there_are() -> None:
    recorded = set(re.findall(r"record: (\S+)", RULES["recording.yml"]))
    used = set(re.findall(r"\b\w+:promptdial\w+:\w+", RULES["alerts.yml"]))
    assert used
    assert used <= recorded


def test_panels_have_numbers_of_their_own_and_lie_beside_each_other() -> None:
    panels = json.loads(dashboard.TARGET.read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (panel["gridPos"]["x"] + column, panel["gridPos"]["y"] + row)
        for panel in panels
        for column in range(panel["gridPos"]["w"])
        for row in range(panel["gridPos"]["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(column for column, _ in cells) < 24


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_is_tested_in_its_trouble_and_in_its_absence_and_explained(alert: str) -> None:
    assert re.search(rf"alertname: {alert}\n +exp_alerts:\n", TESTS)
    assert re.search(rf"alertname: {alert}, exp_alerts: \[\]", TESTS)
    assert f"### {alert}\n" in OPERATING
