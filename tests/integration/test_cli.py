"""Verbs: what they print, how they end, and one clear sentence for every wrong input."""

import json
import tomllib
from pathlib import Path
from typing import Any

import psycopg
import pytest
from oracle import differences
from served import truetape
from test_sync import POOL, add, execute, trade

from conftest import SOURCE_TABLES, Databases

NOW = 1754400000


class Cli:
    """Verbs against one source and one analytics database."""

    def __init__(self, **settings: str) -> None:
        self.settings = settings

    def json(self, *arguments: str, code: int = 0) -> Any:
        done = truetape(*arguments, "--json", **self.settings)
        assert done.returncode == code, done.stdout + done.stderr
        return json.loads(done.stdout)

    def refused(self, *arguments: str, code: int = 2) -> str:
        done = truetape(*arguments, **self.settings)
        assert done.returncode == code, done.stdout + done.stderr
        (sentence,) = done.stderr.strip().splitlines()
        assert sentence.startswith("truetape: ")
        assert "Traceback" not in done.stderr
        assert done.stdout == ""
        return sentence


@pytest.fixture
def cli(source_url: str, analytics_url: str, tmp_path: Path) -> Cli:
    return Cli(
        PONDER_DATABASE_URL=source_url,
        ANALYTICS_DATABASE_URL=analytics_url,
        TRUETAPE_HOME=str(tmp_path),
    )


def test_an_outage_by_verbs(cli: Cli, source_url: str, analytics_url: str) -> None:
    execute(source_url, f"INSERT INTO pools VALUES ('{POOL}', 'WETH/USDC')")
    add(
        source_url,
        *(trade(f"t{i}", NOW + 60 * i) for i in range(10)),
        trade("bad", NOW, price="NaN"),
    )
    health = cli.json("health", code=1)
    assert (health["isColdStart"], health["missedTrades"], health["status"]) == (
        True, 11, "unhealthy")  # fmt: skip
    assert [g["missing"] for g in cli.json("gaps", code=1)] == [11]
    ran = cli.json("sync", code=1)
    assert (ran["processed"], ran["errors"], ran["total"]) == (10, 1, 11)
    again = cli.json("sync")
    assert (again["processed"], again["errors"], again["total"]) == (0, 0, 0)
    (error,) = cli.json("errors", code=1)
    assert error["tradeId"] == "bad"
    execute(source_url, "UPDATE order_book_trades SET price = 1 WHERE id = 'bad'")
    assert cli.json("retry", "bad")["processed"] == 1
    assert cli.json("errors") == cli.json("gaps") == []
    assert "errors" in cli.refused("retry", "bad")
    assert "ended" in cli.refused("runs", "--cancel", str(again["runId"]))
    dry = cli.json("force", "--from", str(NOW + 300), "--dry-run")
    assert dry["trades"] == 5
    assert cli.json("force", "--from", str(NOW + 300))["processed"] == 5
    proof = cli.json("verify")
    assert (proof["complete"], proof["tradesChecked"]) == (True, 11)
    assert cli.json("health")["status"] == "healthy"
    shown = {row["name"]: row for row in cli.json("config")}
    assert shown["PONDER_DATABASE_URL"]["from"] == "environment"
    assert all(check["verdict"] != "bad" for check in cli.json("doctor"))
    assert differences(source_url, analytics_url) == []


def test_words_for_people(cli: Cli, source_url: str) -> None:
    add(source_url, trade("a", NOW))
    for verb in ("sync", "health", "verify", "gaps", "errors", "config", "doctor"):
        done = truetape(verb, **cli.settings)
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.strip()
        assert truetape(verb, "--help").stdout.count("--json") >= 1


@pytest.mark.parametrize(
    ("settings", "code", "says"),
    [
        ({"PONDER_DATABASE_URL": ""}, 2, "PONDER_DATABASE_URL"),
        ({"PONDER_DATABASE_URL": "postgresql://x:secret@127.0.0.1:1/none"}, 3, "127.0.0.1:1"),
        ({"ANALYTICS_DATABASE_URL": "postgresql://x:secret@127.0.0.1:1/none"}, 3, "127.0.0.1:1"),
        ({"PONDER_DATABASE_URL": "not a url"}, 2, "PONDER_DATABASE_URL is not valid"),
        ({"PONDER_SCHEMA": "nowhere"}, 2, "nowhere"),
        ({"SYNC_BATCH_SIZE": "many"}, 2, "SYNC_BATCH_SIZE"),
    ],
)
def test_a_wrong_setting(cli: Cli, settings: dict[str, str], code: int, says: str) -> None:
    cli.settings |= settings
    sentence = cli.refused("sync", code=code)
    assert says in sentence
    assert "secret" not in sentence


def test_a_missing_table(cli: Cli, source_url: str) -> None:
    execute(source_url, "DROP TABLE order_book_trades")
    assert "order_book_trades" in cli.refused("sync")


def test_a_missing_column(cli: Cli, source_url: str) -> None:
    execute(source_url, "ALTER TABLE order_book_trades DROP COLUMN quantity")
    assert "quantity" in cli.refused("sync")


def test_two_schemas_are_listed(cli: Cli, source_url: str) -> None:
    execute(source_url, f"CREATE SCHEMA other; SET search_path = other; {SOURCE_TABLES}")
    sentence = cli.refused("sync")
    assert "other" in sentence
    assert "public" in sentence
    assert "PONDER_SCHEMA" in sentence
    cli.settings["PONDER_SCHEMA"] = "other"
    assert cli.json("sync")["total"] == 0


def test_source_and_analytics_in_one_place(cli: Cli, source_url: str) -> None:
    execute(
        source_url, "CREATE SCHEMA analytics; ALTER TABLE order_book_trades SET SCHEMA analytics"
    )
    cli.settings |= {"ANALYTICS_DATABASE_URL": source_url, "PONDER_SCHEMA": "analytics"}
    assert "analytics" in cli.refused("sync")
    assert execute(source_url, "SELECT count(*) FROM pg_class WHERE relname = 'tape'") == [(0,)]


def test_one_database_two_schemas(cli: Cli, source_url: str) -> None:
    add(source_url, trade("a", NOW))
    cli.settings |= {"ANALYTICS_DATABASE_URL": source_url, "PONDER_SCHEMA": "public"}
    assert cli.json("sync")["processed"] == 1


def test_a_newer_schema_is_left_alone(cli: Cli, analytics_url: str) -> None:
    cli.json("sync")
    execute(analytics_url, "UPDATE analytics.alembic_version SET version_num = '9999'")
    assert "newer" in cli.refused("sync")


def test_another_source_is_refused(cli: Cli, database: Databases, source_url: str) -> None:
    add(source_url, trade("a", NOW))
    cli.json("sync")
    other = database.create("source")
    with psycopg.connect(other, autocommit=True) as conn:
        conn.execute(SOURCE_TABLES)
    cli.settings["PONDER_DATABASE_URL"] = other
    assert "--accept-new-source" in cli.refused("sync")
    assert cli.json("sync", "--accept-new-source")["success"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("force",), "--from"),
        (("force", "--from", "yesterday"), "yesterday"),
        (("force", "--from", "1754400000000"), "milliseconds"),
        (("syncc",), "syncc"),
        (("sync", "--fast"), "--fast"),
    ],
)
def test_a_wrong_word(cli: Cli, arguments: tuple[str, ...], says: str) -> None:
    assert says in cli.refused(*arguments)


def test_it_says_its_version_which_is_that_of_the_package(cli: Cli) -> None:
    package = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    assert (
        truetape("--version", **cli.settings).stdout
        == f"truetape {package['project']['version']}\n"
    )


def test_not_open_to_the_world_without_a_token(cli: Cli) -> None:
    cli.settings["HOST"] = "0.0.0.0"
    assert "TRUETAPE_API_TOKEN" in cli.refused("serve")
