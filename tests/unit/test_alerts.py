"""deploy/alerts.yaml and deploy/grafana.json ask for metrics that there are, and lead somewhere."""

import json
import re
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from dashboard.pages.runbook import runbook
from tasks.observability import prometheus

from .test_prometheus import SEEN

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
ALERTS = [
    rule
    for group in yaml.safe_load((DEPLOY / "alerts.yaml").read_text())["groups"]
    for rule in group["rules"]
]
PANELS = json.loads((DEPLOY / "grafana.json").read_text())["panels"]
EXPRESSIONS = {
    **{alert["alert"]: [alert["expr"]] for alert in ALERTS},
    **{panel["title"]: [target["expr"] for target in panel["targets"]] for panel in PANELS},
}
SECTIONS = {block.anchor for block in runbook() if block.kind == "h2"}


@pytest.fixture
def exposed(monkeypatch):
    """What we expose: sample names, and the values of each label."""
    monkeypatch.setattr(prometheus, "totals", lambda _: {})
    monkeypatch.setattr(prometheus.stats, "latest", lambda _: SEEN)
    text = prometheus.exposition(None).decode()
    samples = [s for f in text_string_to_metric_families(text) for s in f.samples]
    return {
        name: [sample.labels for sample in samples if sample.name == name]
        for name in {sample.name for sample in samples}
    }


@pytest.mark.parametrize("expressions", EXPRESSIONS.values(), ids=EXPRESSIONS)
def test_what_is_asked_for_is_exposed(exposed, expressions):
    for expression in expressions:
        asked = re.findall(r"(cxone_\w+)(?:\{([^}]*)\})?", expression)
        assert asked, expression
        for name, matchers in asked:
            assert name in exposed, expression
            for label, values in re.findall(r'(\w+)(?:=~?|!=)"([^"]*)"', matchers):
                known = {labels[label] for labels in exposed[name]}
                assert set(values.split("|")) <= known, expression


def test_what_is_exposed_is_looked_at(exposed):
    asked = set(re.findall(r"cxone_\w+", str(EXPRESSIONS)))
    assert exposed.keys() == asked


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_each_alert_says_what_and_leads_to_its_section(alert):
    assert alert["annotations"]["summary"]
    url, _, section = alert["annotations"]["runbook_url"].partition("#")
    assert url == "https://flower.example/runbook"
    assert section in SECTIONS
    assert alert["labels"]["severity"] in ("info", "warning", "critical")


def test_each_section_is_for_an_alert():
    named = {alert["annotations"]["runbook_url"].partition("#")[2] for alert in ALERTS}
    assert named == SECTIONS


def test_panels_do_not_lie_on_each_other():
    taken = [
        (panel["gridPos"]["x"] + x, panel["gridPos"]["y"] + y)
        for panel in PANELS
        for x in range(panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["h"])
    ]
    assert len(taken) == len(set(taken))
