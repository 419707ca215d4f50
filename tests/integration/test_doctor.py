"""The doctor, asked about real servers: each verdict, and whether its advice cures."""

import asyncio
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psycopg
import pytest
import valkey
from psycopg.conninfo import conninfo_to_dict
from served import environment, truetape
from test_sync import execute

from conftest import Databases, passable
from truetape.doctor import Check, examine
from truetape.doctor.analytics import examine_analytics, timescale_check
from truetape.doctor.redis import version_check as redis_version_check
from truetape.doctor.server import Server, clock_check, version_check
from truetape.doctor.source import Findings
from truetape.embedded import EmbeddedValkey
from truetape.embedded.ponder_tables import checkpoint
from truetape.embedded.process import free_port
from truetape.settings import Settings
from truetape.store.growth import MAKE_HYPERTABLE, Timescale
from truetape.store.migrate import latest_version

# A deployment of Ponder in a schema of its own, seen through views, as `ponder start` makes it.
PONDER = """
CREATE SCHEMA live AUTHORIZATION {ponder}; CREATE SCHEMA deploy_1 AUTHORIZATION {ponder};
SET ROLE {ponder};
{default_privileges};
GRANT USAGE ON SCHEMA live TO {reader};
CREATE TABLE deploy_1.order_book_trades (id text PRIMARY KEY, chain_id integer, "timestamp" integer,
    price numeric, quantity numeric, pool_id text, side varchar, transaction_id text);
CREATE INDEX trades_timestamp ON deploy_1.order_book_trades ("timestamp");
CREATE TABLE deploy_1.pools (order_book text, chain_id integer, coin text);
CREATE TABLE deploy_1.trades (id text PRIMARY KEY, transaction_id text, pool_id text, order_id text,
    price numeric, quantity numeric, "timestamp" integer);
CREATE INDEX fills_timestamp ON deploy_1.trades ("timestamp");
CREATE TABLE deploy_1.orders (id text PRIMARY KEY, "user" text, side varchar);
CREATE TABLE deploy_1._ponder_meta (key text PRIMARY KEY, value jsonb);
CREATE TABLE deploy_1._ponder_checkpoint (chain_name text PRIMARY KEY, chain_id bigint,
    latest_checkpoint varchar(75), finalized_checkpoint varchar(75));
INSERT INTO deploy_1._ponder_meta VALUES ('app', '{app}');
INSERT INTO deploy_1._ponder_checkpoint VALUES ('mainnet', 1, '{head}', '{final}');
INSERT INTO deploy_1.order_book_trades VALUES ('a', 1, {now}, 1, 1, 'p', 'buy', 't');
CREATE VIEW live.order_book_trades AS SELECT * FROM deploy_1.order_book_trades;
CREATE VIEW live.pools AS SELECT * FROM deploy_1.pools;
CREATE VIEW live.trades AS SELECT * FROM deploy_1.trades;
CREATE VIEW live.orders AS SELECT * FROM deploy_1.orders;
CREATE VIEW live._ponder_meta AS SELECT * FROM deploy_1._ponder_meta;
CREATE VIEW live._ponder_checkpoint AS SELECT * FROM deploy_1._ponder_checkpoint
"""


class Patient:
    """A source and an analytics database in good order, each with a role of its own."""

    def __init__(self, database: Databases, servers: set[str], home: Path) -> None:
        self.source_admin, self.analytics_admin = (
            database.create("source"), database.create_empty_store())  # fmt: skip
        self.ponder, self.reader, self.keeper = (
            f"{name}_{secrets.token_hex(4)}" for name in ("ponder", "reader", "keeper")
        )
        make = "; ".join(f"CREATE ROLE {role} LOGIN PASSWORD 'pw'" for role in self.roles)
        for url in servers:
            execute(url, make)
        execute(self.analytics_admin, f"GRANT CREATE ON DATABASE {self.database} TO {self.keeper}")
        now = int(time.time())
        app = {
            "version": "6",
            "build_id": "b1d5",
            "is_dev": 0,
            "is_ready": 1,
            "heartbeat_at": now * 1000,
        }
        execute(self.source_admin, PONDER.format(
            ponder=self.ponder, reader=self.reader, now=now, app=json.dumps(app),
            head=checkpoint(now, 1, 500), final=checkpoint(now - 600, 1, 470),
            default_privileges=f"ALTER DEFAULT PRIVILEGES IN SCHEMA live GRANT SELECT ON TABLES TO {self.reader}",
        ))  # fmt: skip
        self.env = {
            "PONDER_DATABASE_URL": self.as_role(self.source_admin, self.reader),
            "PONDER_SCHEMA": "live",
            "ANALYTICS_DATABASE_URL": self.as_role(self.analytics_admin, self.keeper),
            "TRUETAPE_HOME": str(home),
        }

    @property
    def database(self) -> str:
        return str(conninfo_to_dict(self.analytics_admin)["dbname"])

    @staticmethod
    def as_role(url: str, role: str) -> str:
        return f"postgresql://{role}:pw@{url.partition('@')[2]}"

    def source(self, statement: str) -> None:
        """Somebody who may does something to the source; {reader} and {ponder} are the roles."""
        execute(self.source_admin, statement.format(reader=self.reader, ponder=self.ponder))

    def analytics(self, statement: str) -> None:
        execute(self.analytics_admin, statement.format(keeper=self.keeper, database=self.database))

    def examined(self, **env: str) -> dict[str, Check]:
        checks = asyncio.run(examine(Settings.load(**(self.env | env))))
        found = {check.about: check for check in checks}
        assert len(found) == len(checks), "one finding, one word"
        return found

    @property
    def roles(self) -> tuple[str, ...]:
        return self.ponder, self.reader, self.keeper


@pytest.fixture
def patient(
    database: Databases,
    server_url: str,
    store_server_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Patient]:
    monkeypatch.chdir(tmp_path)
    servers = {server_url, store_server_url}
    made = Patient(database, servers, tmp_path)
    yield made
    database.drop()
    for url in servers:
        execute(url, f"DROP ROLE {', '.join(made.roles)}")


def cure(check: Check) -> str:
    """The SQL of an advice."""
    start = min(i for word in ("GRANT", "ALTER", "CREATE") if (i := check.advice.find(word)) >= 0)
    return check.advice[start:]


def test_what_is_in_order_is_green_to_the_last_line(patient: Patient) -> None:
    found = patient.examined()
    assert {c.about: c.says for c in found.values() if c.verdict != "good"} == {}
    assert {"truetape", "home", "source server", "source version", "source clock", "source pooler",
            "source schema", "source rights", "source rights to come", "ponder build",
            "ponder readiness", "ponder position", "source index on order_book_trades",
            "source index on trades", "source index on orders", "traders", "analytics server",
            "analytics version", "analytics clock", "analytics pooler", "analytics rights",
            "analytics schema", "timescaledb", "hashes", "redis"} == set(found)  # fmt: skip
    assert "b1d5" in found["ponder build"].says
    assert "chain 1 at block 500 (470 final)" in found["ponder position"].says
    assert "fills" in found["traders"].says


# -- the source ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("illness", "about", "says"),
    [
        ("REVOKE SELECT ON live.order_book_trades FROM {reader}",
         "source rights on order_book_trades", "may not read live.order_book_trades"),
        ("REVOKE SELECT ON live.pools FROM {reader}", "source rights on pools", "live.pools"),
        ("REVOKE SELECT ON live.trades FROM {reader}", "source rights on trades", "live.trades"),
        ("REVOKE SELECT ON live._ponder_checkpoint FROM {reader}",
         "source rights on _ponder_checkpoint", "live._ponder_checkpoint"),
        ("REVOKE SELECT ON live._ponder_meta FROM {reader}",
         "source rights on _ponder_meta", "live._ponder_meta"),
        ("REVOKE USAGE ON SCHEMA live FROM {reader}",
         "source rights on order_book_trades", "may not read"),
    ],
)  # fmt: skip
def test_a_right_that_is_missing_is_red_and_the_grant_cures_it(
    patient: Patient, illness: str, about: str, says: str
) -> None:
    patient.source(illness)
    check = patient.examined()[about]
    assert check.verdict == "bad"
    assert says in check.says
    patient.source(cure(check))
    assert {c.about for c in patient.examined().values() if c.verdict != "good"} == set()


@pytest.mark.parametrize(
    ("illness", "about", "says"),
    [
        ("ALTER DEFAULT PRIVILEGES FOR ROLE {ponder} IN SCHEMA live REVOKE SELECT ON TABLES FROM {reader}",
         "source rights to come", "this role may not read the new ones"),
        ("DROP INDEX deploy_1.trades_timestamp", "source index on order_book_trades", "no index on timestamp"),
        ("DROP INDEX deploy_1.fills_timestamp", "source index on trades", "no index on timestamp"),
        ("ALTER TABLE deploy_1.orders DROP CONSTRAINT orders_pkey", "source index on orders", "no index on id"),
    ],
)  # fmt: skip
def test_what_works_but_could_be_better_is_a_note_and_the_advice_cures_it(
    patient: Patient, illness: str, about: str, says: str
) -> None:
    patient.source(illness)
    check = patient.examined()[about]
    assert check.verdict == "note"
    assert says in check.says
    with psycopg.connect(patient.source_admin, autocommit=True) as conn:
        conn.execute(cure(check).encode())
    assert patient.examined()[about].verdict == "good"


@pytest.mark.parametrize(
    ("illness", "about", "verdict", "says"),
    [
        ("UPDATE deploy_1._ponder_meta SET value = value || '{{\"heartbeat_at\": 1754400000000}}'",
         "ponder readiness", "bad", "Ponder's last heartbeat was"),
        ("UPDATE deploy_1._ponder_meta SET value = value || '{{\"is_ready\": 0}}'",
         "ponder readiness", "note", "Ponder is not ready yet"),
        (f"UPDATE deploy_1._ponder_checkpoint SET latest_checkpoint = '{checkpoint(1754400000, 1, 7)}'",
         "ponder readiness", "note", "chain 1 at block 7"),
        ("UPDATE deploy_1._ponder_meta SET value = value || '{{\"is_dev\": 1}}'",
         "ponder mode", "note", "ponder dev"),
        ("DROP VIEW live._ponder_meta", "ponder build", "note", "does not tell its build"),
        ("DROP VIEW live._ponder_meta", "ponder readiness", "note", "does not tell whether it is ready"),
        ("DROP VIEW live._ponder_checkpoint", "ponder position", "note", "no blocks in health"),
        ("DROP VIEW live.trades", "traders", "note", "no trader data"),
        ("DROP VIEW live.pools", "pools", "note", "symbols stay unknown"),
        ("ALTER VIEW live.order_book_trades RENAME COLUMN price TO rate", "source tables", "bad", "'price'"),
        ("DROP VIEW live.order_book_trades", "source schema", "bad", "order_book_trades"),
        ("ALTER ROLE {reader} SUPERUSER", "source role", "note", "superuser"),
    ],
)  # fmt: skip
def test_what_is_the_matter_with_the_source_is_told(
    patient: Patient, illness: str, about: str, verdict: str, says: str
) -> None:
    patient.source(illness)
    check = patient.examined()[about]
    assert check.verdict == verdict
    assert says in check.says


def test_traders_may_stand_in_the_trades_themselves(patient: Patient) -> None:
    patient.source(
        "CREATE OR REPLACE VIEW live.order_book_trades AS "
        "SELECT *, 'ann' AS maker, 'bob' AS taker FROM deploy_1.order_book_trades"
    )
    assert "maker and taker" in patient.examined()["traders"].says


@pytest.mark.parametrize(
    ("env", "about", "says"),
    [
        ({"PONDER_SCHEMA": "nowhere"}, "source schema", "It is in: deploy_1, live"),
        ({"PONDER_SCHEMA": ""}, "source schema", "deploy_1, live (views). Set PONDER_SCHEMA"),
        ({"PONDER_DATABASE_URL": ""}, "source server", "PONDER_DATABASE_URL is not set"),
        ({"TRUETAPE_HOME": "/dev/null/home"}, "home", "cannot be written"),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_red(
    patient: Patient, env: dict[str, str], about: str, says: str
) -> None:
    given = {name: value for name, value in (patient.env | env).items() if value}
    patient.env = given
    check = patient.examined()[about]
    assert check.verdict == "bad"
    assert says in check.says
    assert not check.unreachable


def test_the_schema_that_is_ours_cannot_be_the_source(patient: Patient) -> None:
    patient.source("CREATE SCHEMA analytics; GRANT USAGE ON SCHEMA analytics TO {reader}; "
                   "CREATE VIEW analytics.order_book_trades AS SELECT * FROM live.order_book_trades")  # fmt: skip
    assert "which is ours" in patient.examined(PONDER_SCHEMA="analytics")["source schema"].says


def test_a_mapping_is_counted_and_a_wrong_one_is_red_with_its_line(
    patient: Patient, tmp_path: Path
) -> None:
    file = tmp_path / "truetape.toml"
    file.write_text("[tables]\norder_book_trades = 'order_book_trades'\n")
    assert "maps 1 name" in patient.examined()["mapping"].says
    file.write_text("[tables]\ntrade = 'x'\n")
    assert "truetape.toml, line 2" in patient.examined()["mapping"].says
    file.write_text("[tables]\n\npools = 'x'\n")
    found = patient.examined()["source tables"]
    assert (found.verdict, "truetape.toml, line 3" in found.says) == ("bad", True)


# -- the analytics ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("illness", "about", "says"),
    [
        ("REVOKE CREATE ON DATABASE {database} FROM {keeper}", "analytics rights", "may not make schema"),
        ("REVOKE TEMPORARY ON DATABASE {database} FROM PUBLIC", "analytics rights", "temporary tables"),
        ("CREATE SCHEMA analytics", "analytics rights", "belongs to"),
    ],
)  # fmt: skip
def test_a_right_that_is_missing_in_the_analytics_is_red_and_the_grant_cures_it(
    patient: Patient, illness: str, about: str, says: str
) -> None:
    patient.analytics(illness)
    check = patient.examined()[about]
    assert check.verdict == "bad"
    assert says in check.says
    execute(patient.analytics_admin, cure(check))
    assert patient.examined()[about].verdict == "good"
    # What the doctor calls good is: the schema can be made.
    assert truetape("sync", **patient.env).returncode == 0


@pytest.mark.parametrize(
    ("illness", "about", "says"),
    [
        ("ALTER ROLE {keeper} SET default_transaction_read_only = on", "analytics rights", "read only"),
        ("CREATE SCHEMA analytics AUTHORIZATION {keeper}; CREATE TABLE analytics.visits (n integer)",
         "analytics schema", "holds 'visits', which is not ours"),
    ],
)  # fmt: skip
def test_what_is_the_matter_with_the_analytics_is_told(
    patient: Patient, illness: str, about: str, says: str
) -> None:
    patient.analytics(illness)
    check = patient.examined()[about]
    assert check.verdict == "bad"
    assert says in check.says


def test_analytics_that_were_made_are_known_by_version_and_source(
    patient: Patient, database: Databases
) -> None:
    assert truetape("sync", **patient.env).returncode == 0
    found = patient.examined()
    assert {c.about for c in found.values() if c.verdict != "good"} == set()
    assert f"of version {latest_version()}" in found["analytics schema"].says
    patient.analytics(
        "UPDATE analytics.state SET source_identity = 'another', source_text = 'elsewhere'"
    )
    check = patient.examined()["analytics source"]
    assert (check.verdict, check.advice) == ("bad", "If the new one is meant: --accept-new-source")
    patient.analytics("UPDATE analytics.alembic_version SET version_num = '9999'")
    assert "newer than this program" in patient.examined()["analytics schema"].says


def test_without_an_analytics_database_an_embedded_one_is_told_of(patient: Patient) -> None:
    del patient.env["ANALYTICS_DATABASE_URL"]
    assert "embedded PostgreSQL" in patient.examined()["analytics server"].says


def test_servers_that_hash_differently_are_a_note(patient: Patient) -> None:
    checks = asyncio.run(
        examine_analytics(Settings.load(**patient.env), Findings(hashes=[1, 2, 3]))
    )
    (check,) = (c for c in checks if c.about == "hashes")
    assert (check.verdict, "md5" in check.says) == ("note", True)


# -- versions and clocks, which no test can turn back ----------------------------------------

SOURCE = Server("source", "postgresql://db/x", "PONDER_DATABASE_URL")


@pytest.mark.parametrize(
    ("number", "verdict"), [(150_000, "good"), (180_006, "good"), (140_011, "bad")]
)
def test_a_postgresql_that_is_too_old_is_red(number: int, verdict: str) -> None:
    assert version_check(SOURCE, "x", number).verdict == verdict


@pytest.mark.parametrize(
    ("seconds", "verdict"), [(0.2, "good"), (-4, "good"), (7, "note"), (-7, "note"), (3600, "bad")]
)
def test_a_clock_that_is_wrong_is_told(seconds: float, verdict: str) -> None:
    assert clock_check(SOURCE, timedelta(seconds=seconds)).verdict == verdict


@pytest.mark.parametrize(
    ("version", "verdict"),
    [("2.19.3", "good"), ("2.18.1", "good"), ("2.18.0", "note"), ("2.9.1-dev", "note")],
)
def test_a_timescaledb_that_loses_rows_is_told(version: str, verdict: str) -> None:
    found = Timescale(version, "apache", "public", has_tape=True)
    assert timescale_check(found, is_available=True, is_made=True).verdict == verdict


def test_whether_the_tape_is_in_chunks_and_how_it_gets_there_is_told() -> None:
    plain = Timescale("2.19.3", "timescale", "public", has_tape=False)
    move = timescale_check(plain, is_available=True, is_made=True)
    assert (move.verdict, MAKE_HYPERTABLE in move.advice) == ("note", True)
    assert timescale_check(plain, is_available=True, is_made=False).verdict == "good"
    unused = timescale_check(None, is_available=True, is_made=True)
    assert "CREATE EXTENSION" in unused.advice
    assert timescale_check(None, is_available=False, is_made=True).verdict == "good"


@pytest.mark.parametrize(
    ("info", "verdict"),
    [({"redis_version": "7.0.15"}, "good"), ({"redis_version": "6.2.1"}, "bad"), ({}, "bad"),
     ({"redis_version": "7.2.4", "valkey_version": "9.1.2"}, "good")],
)  # fmt: skip
def test_a_redis_that_is_too_old_is_red(info: dict[str, Any], verdict: str) -> None:
    assert redis_version_check("redis://here", info).verdict == verdict


# -- Redis -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def redis_url() -> Iterator[str]:
    with TemporaryDirectory(prefix="truetape-tests-") as folder:
        server = EmbeddedValkey(passable(Path(folder)) / "valkey")
        yield server.acquire()
        server.release()


def test_a_redis_that_answers_is_green(patient: Patient, redis_url: str) -> None:
    check = patient.examined(REDIS_URL=redis_url)["redis"]
    assert check.verdict == "good"
    assert check.says.startswith("Valkey 9")


def test_a_redis_that_refuses_us_is_red_and_the_password_is_not_shown(
    patient: Patient, redis_url: str
) -> None:
    wrong = f"redis://someone:hush@{redis_url.partition('@')[2]}"
    check = patient.examined(REDIS_URL=wrong)["redis"]
    assert (check.verdict, check.unreachable) == ("bad", False)
    assert "hush" not in check.says
    assert "user and password" in check.advice


def test_a_user_who_may_not_ask_for_the_version_is_a_note(patient: Patient, redis_url: str) -> None:
    with valkey.Valkey.from_url(redis_url) as client:
        client.execute_command("ACL SETUSER shy on >pw +ping ~*")
    check = patient.examined(REDIS_URL=f"redis://shy:pw@{redis_url.partition('@')[2]}")["redis"]
    assert (check.verdict, "+info" in check.advice) == ("note", True)


# -- a pooler in between ---------------------------------------------------------------------

needs_pgbouncer = pytest.mark.skipif(
    shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin") is None,
    reason="there is no pgbouncer here",
)


@pytest.fixture
def pooled(patient: Patient, tmp_path: Path) -> Iterator[Callable[[str], None]]:
    """Puts a pgbouncer of a mode before both databases."""
    running: list[subprocess.Popen[bytes]] = []

    def put(mode: str) -> None:
        port = free_port(None)
        databases = ""
        for admin in (patient.source_admin, patient.analytics_admin):
            at = conninfo_to_dict(admin)
            databases += f"{at['dbname']} = host={at['host']} port={at['port']}\n"
        users = passable(tmp_path) / "users.txt"
        users.write_text("".join(f'"{role}" "pw"\n' for role in (patient.reader, patient.keeper)))
        settings = tmp_path / "pgbouncer.ini"
        settings.write_text(
            f"[databases]\n{databases}[pgbouncer]\n"
            f"listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\npool_mode = {mode}\n"
            f"auth_type = plain\nauth_file = {users}\n"
        )
        as_user = ["-u", "nobody"] if os.getuid() == 0 else []
        program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
        running.append(
            subprocess.Popen([str(program), *as_user, str(settings)], stderr=subprocess.DEVNULL)
        )
        for name in ("PONDER_DATABASE_URL", "ANALYTICS_DATABASE_URL"):
            url = patient.env[name]
            patient.env[name] = re.sub(r":\d+/", f":{port}/", url)
        deadline = time.monotonic() + 10
        while True:
            try:
                psycopg.connect(patient.env["PONDER_DATABASE_URL"]).close()
                return
            except psycopg.OperationalError:
                assert time.monotonic() < deadline
                time.sleep(0.05)

    yield put
    for process in running:
        process.terminate()
        process.wait(10)


@needs_pgbouncer
def test_a_pooler_in_session_mode_is_all_right(
    patient: Patient, pooled: Callable[[str], None]
) -> None:
    pooled("session")
    found = patient.examined()
    for side in ("source", "analytics"):
        assert found[f"{side} pooler"].verdict == "good"
        assert "session mode" in found[f"{side} pooler"].says
    assert truetape("sync", **patient.env).returncode == 0


@needs_pgbouncer
def test_a_pooler_in_transaction_mode_will_do_for_the_source_only(
    patient: Patient, pooled: Callable[[str], None]
) -> None:
    direct = patient.env["ANALYTICS_DATABASE_URL"]
    pooled("transaction")
    found = patient.examined()
    assert (found["source pooler"].verdict, found["analytics pooler"].verdict) == ("note", "bad")
    patient.env["ANALYTICS_DATABASE_URL"] = direct
    assert truetape("sync", **patient.env).returncode == 0
    assert truetape("verify", **patient.env).returncode == 0


@needs_pgbouncer
def test_whoever_shares_the_pool_with_us_can_still_write(
    patient: Patient, pooled: Callable[[str], None]
) -> None:
    """A setting of a session would stay on the shared connection, and Ponder could not write."""
    direct = patient.env["ANALYTICS_DATABASE_URL"]
    pooled("transaction")
    patient.env["ANALYTICS_DATABASE_URL"] = direct
    assert truetape("sync", **patient.env).returncode == 0
    patient.examined()
    patient.source("GRANT INSERT ON live.pools TO {reader}")
    for _ in range(5):
        execute(patient.env["PONDER_DATABASE_URL"], "INSERT INTO live.pools VALUES ('p', 1, 'A/B')")


# -- as a command ----------------------------------------------------------------------------


def doctor(patient: Patient, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "truetape", "doctor", *arguments],
        env=environment(**(patient.env | env)), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_green_lines_end_with_0_and_say_the_same_as_json(patient: Patient) -> None:
    lines, document = doctor(patient), doctor(patient, "--json")
    assert lines.returncode == document.returncode == 0
    found = json.loads(document.stdout)
    assert {c["verdict"] for c in found} == {"good"}
    assert set(found[0]) == {"about", "verdict", "says", "advice", "unreachable"}
    assert len(lines.stdout.splitlines()) == len(found)


def test_a_red_line_ends_with_1_and_the_next_step(patient: Patient) -> None:
    patient.source("REVOKE SELECT ON live.pools FROM {reader}")
    done = doctor(patient)
    assert done.returncode == 1
    assert f"✗ Role '{patient.reader}' may not read live.pools." in done.stdout
    assert "GRANT SELECT ON" in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("name", "url"),
    [("PONDER_DATABASE_URL", "postgresql://x:hush@127.0.0.1:1/x"),
     ("ANALYTICS_DATABASE_URL", "postgresql://x:hush@127.0.0.1:1/x"),
     ("REDIS_URL", "redis://:hush@127.0.0.1:1/0")],
)  # fmt: skip
def test_a_server_that_cannot_be_reached_ends_with_3_and_the_rest_is_told_all_the_same(
    patient: Patient, name: str, url: str
) -> None:
    done = doctor(patient, **{name: url})
    assert done.returncode == 3
    assert "127.0.0.1:1" in done.stdout
    assert name in done.stdout
    assert "hush" not in done.stdout + done.stderr
    assert done.stdout.count("can be reached") >= (1 if name != "REDIS_URL" else 2)
