"""What Prometheus reads, and what it would say about it."""

import json
import re
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from served import Served
from test_sync import add, execute, trade

from conftest import passable
from testbed.servers import PREFIXES
from truetape.embedded import EmbeddedPostgres

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy" / "prometheus" / "truetape.rules.yml"


def read(served: Served) -> dict[tuple[str, ...], float]:
    """Values by name and the values of the labels."""
    with urllib.request.urlopen(f"{served.here}/metrics", timeout=10) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain")
        text = answer.read().decode()
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_the_figures_are_those_of_what_happened(
    source_url: str, analytics_url: str, tmp_path: Path
) -> None:
    now = int(time.time())
    add(source_url, *(trade(f"t{n}", now - 100 + n) for n in range(50)))
    add(source_url, trade("bad", now - 10, price="NaN"))
    served = Served(
        tmp_path / "serve.log", PONDER_DATABASE_URL=source_url, ANALYTICS_DATABASE_URL=analytics_url
    )
    served.start()
    try:
        served.until_complete()
        execute(source_url, "UPDATE order_book_trades SET price = 7 WHERE id IN ('t3', 't4')")
        execute(source_url, "DELETE FROM order_book_trades WHERE id = 't5'")
        vanished = ("truetape_trades_processed_total", "vanished")
        served.until(lambda: read(served).get(vanished) == 1, "the vanished one is counted", 30)
        served.post("/api/sync/verify")
        found = read(served)
        assert found["truetape_trades_processed_total", "new"] == 50
        assert found["truetape_trades_processed_total", "changed"] == 2
        assert found["truetape_trades_failed_total",] == 1
        assert found["truetape_quarantined_trades",] == 1
        assert found["truetape_missed_trades",] == found["truetape_lag_seconds",] == 0
        assert (
            found["truetape_up",] == found["truetape_leader",] == found["truetape_following",] == 1
        )
        assert found["truetape_healthy",] == 0  # one is set aside
        assert found["truetape_source_newest_timestamp_seconds",] == now - 10
        assert now - 60 < found["truetape_proven_timestamp_seconds",] < now + 60
        assert found["truetape_doorbell_alive", "timer"] == 1
        assert found["truetape_doorbell_alive", "redis"] == 0
        assert found["truetape_batch_seconds_count",] >= 3
        assert found["truetape_source_read_seconds_count",] > 10
        assert found["truetape_runs_total", "verify", "succeeded"] == 1
        assert found["truetape_pool_connections", "source", "most"] >= 2
        assert found["process_resident_memory_bytes",] > 0
    finally:
        served.end()


def test_while_a_database_is_away_nothing_is_claimed(analytics_url: str, tmp_path: Path) -> None:
    server = EmbeddedPostgres(passable(tmp_path) / "source")
    server.acquire()
    source_url = server.ensure_database("exchange")
    execute(source_url, "CREATE TABLE order_book_trades (id text, timestamp integer, price numeric, "
            "quantity numeric, pool_id text, side varchar, transaction_id text); "
            "CREATE TABLE pools (order_book text, coin text)")  # fmt: skip
    served = Served(
        tmp_path / "serve.log", PONDER_DATABASE_URL=source_url, ANALYTICS_DATABASE_URL=analytics_url
    )
    served.start()
    try:
        served.until_complete()
        server.release()
        served.until(lambda: read(served)["truetape_up",] == 0, "it says so", 20)
        began = time.monotonic()
        found = read(served)
        assert time.monotonic() - began < 2
        for name in ("truetape_missed_trades", "truetape_lag_seconds"):
            assert found[name,] != found[name,], "not a number"
    finally:
        server.release()
        served.end()


@pytest.fixture(scope="module")
def promtool() -> str:
    """Prometheus's own checker, from Debian."""
    prefix = PREFIXES / "bookworm-prometheus"
    script = [str(ROOT / "testbed" / "debian.sh"), str(prefix), "bookworm", "prometheus"]
    made = subprocess.run(script, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    return str(prefix / "bin" / "promtool")


def check(promtool: str, *arguments: Any) -> None:
    done = subprocess.run(
        [promtool, *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_alerts_are_sound(promtool: str) -> None:
    check(promtool, "check", "rules", RULES)


def test_the_queries_of_the_dashboard_are_sound(promtool: str, tmp_path: Path) -> None:
    panels = json.loads((ROOT / "deploy" / "grafana" / "truetape.json").read_text())["panels"]
    queries = [t["expr"] for p in panels for t in p["targets"]]
    lines = ["groups:", "  - name: dashboard", "    rules:"]
    for number, query in enumerate(queries):
        lines += [f"      - record: query:{number}", f"        expr: {json.dumps(query)}"]
    (tmp_path / "queries.yml").write_text("\n".join(lines))
    check(promtool, "check", "rules", tmp_path / "queries.yml")


@pytest.mark.parametrize(
    ("series", "value", "alert"),
    [
        ("truetape_missed_trades", "5", "TruetapeTradesMissing"),
        ("truetape_lag_seconds", "4000", "TruetapeFarBehind"),
        ("truetape_lag_seconds", "301", "TruetapeBehind"),
        ("truetape_up", "0", "TruetapeDatabaseAway"),
        ("truetape_following", "0", "TruetapeNobodyFollows"),
        ("truetape_quarantined_trades", "2", "TruetapeQuarantine"),
        ("truetape_held_deletions", "200", "TruetapeHeldDeletions"),
        ("truetape_refused_trades", "1", "TruetapeRefused"),
    ],
)
def test_an_alert_rings_when_it_should_and_not_when_all_is_well(
    promtool: str, tmp_path: Path, series: str, value: str, alert: str
) -> None:
    labels = re.search(rf"alert: {alert}\n.*?severity: (\w+)", RULES.read_text(), re.DOTALL)
    assert labels is not None
    summary = re.search(rf"alert: {alert}\n.*?summary: (.*?)\n", RULES.read_text(), re.DOTALL)
    assert summary is not None
    shown = {"4000": "1h 6m 40s", "301": "5m 1s"}.get(value, value)
    text = summary.group(1).strip('"').replace("{{ $value | humanizeDuration }}", shown)
    text = text.replace("{{ $value }}", value)
    (tmp_path / "test.yml").write_text(
        f"""
rule_files: [{RULES}]
evaluation_interval: 1m
tests:
  - interval: 1m
    input_series: [{{series: {series}, values: "{value}x40"}}]
    alert_rule_test:
      - eval_time: 30m
        alertname: {alert}
        exp_alerts:
          - exp_labels: {{severity: {labels.group(1)}}}
            exp_annotations: {{summary: {json.dumps(text)}, runbook: docs/operations.md#{alert.lower()}}}
  - interval: 1m
    input_series: [{{series: {series}, values: "{1 if "up" in series or "following" in series else 0}x40"}}]
    alert_rule_test: [{{eval_time: 30m, alertname: {alert}, exp_alerts: []}}]
"""
    )
    check(promtool, "test", "rules", tmp_path / "test.yml")
