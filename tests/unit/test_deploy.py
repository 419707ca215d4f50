"""What is shipped for Prometheus and Grafana speaks of metrics that there are, and of nothing else."""

import json
import re
from pathlib import Path

from prometheus_client import Counter
from prometheus_client.metrics import MetricWrapperBase

from truetape import metrics

ROOT = Path(__file__).parents[2]
RULES = (ROOT / "deploy" / "prometheus" / "truetape.rules.yml").read_text()
DASHBOARD = (ROOT / "deploy" / "grafana" / "truetape.json").read_text()


def made() -> set[str]:
    """The names of all metrics, as they are read."""
    found = [m for m in vars(metrics).values() if isinstance(m, MetricWrapperBase)]
    return {m._name + ("_total" if isinstance(m, Counter) else "") for m in found}


def named(text: str) -> set[str]:
    words = set(re.findall(r"\btruetape_[a-z_]+\b", text))
    return {re.sub(r"_(bucket|sum|count)$", "", w) for w in words}


def test_every_metric_is_in_the_document_and_the_other_way_round() -> None:
    table = (ROOT / "docs" / "metrics.md").read_text()
    assert {
        n for line in table.splitlines() if line.startswith("| `") for n in named(line)
    } == made()


def test_alerts_and_dashboard_name_no_other_metric() -> None:
    assert named(RULES) - made() == set()
    assert named(DASHBOARD) - made() == set()


def test_each_alert_has_its_paragraph() -> None:
    alerts = re.findall(r"alert: (\w+)", RULES)
    anchors = re.findall(r"runbook: docs/operations.md#(\w+)", RULES)
    assert anchors == [a.lower() for a in alerts]
    book = (ROOT / "docs" / "operations.md").read_text()
    for alert in alerts:
        paragraph = book.partition(f"### {alert}\n")[2].partition("\n\n")[0]
        assert len(paragraph) > 80, alert


def test_the_dashboard_is_one_that_grafana_takes() -> None:
    dashboard = json.loads(DASHBOARD)
    ids = [p["id"] for p in dashboard["panels"]]
    assert len(ids) == len(set(ids)) > 10
    for panel in dashboard["panels"]:
        assert panel["targets"], panel["title"]
        grid = panel["gridPos"]
        assert grid["x"] + grid["w"] <= 24, panel["title"]
