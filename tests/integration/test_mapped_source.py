"""A source that shares no name with ours: mapped, it is read like any other; mapped wrongly, told."""

import asyncio
import json
import secrets
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from oracle import differences
from served import environment
from test_sync import execute

from conftest import Databases
from truetape.embedded.ponder_tables import checkpoint
from truetape.errors import UsageError
from truetape.source import Mapping, Source

TABLES = """
CREATE SCHEMA dex; SET search_path = dex;
CREATE TABLE matches (hash text, network bigint, executed_at bigint, rate numeric, amount numeric,
    market text, direction varchar, tx text, memo text);
CREATE TABLE markets (address text, network bigint, pair text, base_dp integer, quote_dp integer);
CREATE TABLE fills (hash text, network bigint, tx text, market text, placed text, rate numeric,
    amount numeric, executed_at bigint);
CREATE TABLE placements (hash text, network bigint, wallet text, direction varchar);
CREATE TABLE positions (network bigint, head text, final text);
CREATE TABLE app (name text, said jsonb);
INSERT INTO markets VALUES ('0xaa', 1, 'WETH/USDC', 18, 6), ('0xaa', 2, 'LINK/USDC', 18, 6);
INSERT INTO placements SELECT side || who, network, who, side
FROM unnest(ARRAY['Buy', 'Sell']) side, unnest(ARRAY['ann', 'bob']) who, unnest(ARRAY[1, 2]) network;
INSERT INTO app VALUES ('app', '{"is_ready": 1}');
"""

TRADE = """
SET search_path = dex;
INSERT INTO matches SELECT '{name}' || n, 1 + n % 2, {start} + n * 7, 100 + n % 13, 1 + n % 5, '0xaa',
    CASE n % 3 WHEN 0 THEN 'Buy' ELSE 'Sell' END, '{name}-tx' || n, 'memo' FROM generate_series(1, 200) n;
INSERT INTO fills SELECT hash || '-' || side, network, tx, market,
    side || CASE WHEN executed_at % 5 < 2 THEN 'ann' ELSE 'bob' END, rate, amount, executed_at
FROM matches, unnest(ARRAY['Buy', 'Sell']) side WHERE hash LIKE '{name}%'
"""

# The same under our names, for the recomputation; nothing of ours looks here.
TRUTH = """
CREATE SCHEMA truth; SET search_path = truth;
CREATE VIEW order_book_trades AS SELECT hash AS id, network AS chain_id, executed_at AS "timestamp",
    rate AS price, amount AS quantity, market AS pool_id, direction AS side, tx AS transaction_id
FROM dex.matches
"""
TRADERS = ", ".join(
    "(SELECT p.wallet FROM dex.fills f JOIN dex.placements p ON p.hash = f.placed "
    f"AND p.network = f.network WHERE f.hash = t.id || '-{side}')"
    for side in ("Buy", "Sell")
)

MAPPING = """\
[tables]
order_book_trades = "matches"
pools = "markets"
trades = "fills"
orders = "placements"
_ponder_checkpoint = "positions"
_ponder_meta = "app"

[columns.order_book_trades]
id = "hash"
chain_id = "network"
timestamp = "executed_at"
price = "rate"
quantity = "amount"
pool_id = "market"
side = "direction"
transaction_id = "tx"

[columns.pools]
order_book = "address"
chain_id = "network"
coin = "pair"
base_decimals = "base_dp"
quote_decimals = "quote_dp"

[columns.trades]
id = "hash"
chain_id = "network"
transaction_id = "tx"
pool_id = "market"
order_id = "placed"
price = "rate"
quantity = "amount"
timestamp = "executed_at"

[columns.orders]
id = "hash"
chain_id = "network"
user = "wallet"
side = "direction"

[columns._ponder_checkpoint]
chain_id = "network"
latest_checkpoint = "head"
finalized_checkpoint = "final"

[columns._ponder_meta]
key = "name"
value = "said"
"""

START = 1754400000


class Mapped:
    """A strange source, analytics, and a folder with a truetape.toml."""

    def __init__(self, folder: Path, source_url: str, analytics_url: str) -> None:
        self.source_url, self.analytics_url, self.file = (
            source_url,
            analytics_url,
            folder / "truetape.toml",
        )
        execute(source_url, TABLES)
        execute(source_url, TRUTH)
        execute(source_url, TRADE.format(name="a", start=START))
        for chain in (1, 2):
            head = checkpoint(START + 1400, chain, 90)
            final = checkpoint(START + 700, chain, 60)
            execute(source_url, f"INSERT INTO dex.positions VALUES ({chain}, '{head}', '{final}')")
        self.file.write_text(MAPPING)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        env = environment(
            PONDER_DATABASE_URL=self.source_url, ANALYTICS_DATABASE_URL=self.analytics_url,
            TRUETAPE_HOME=str(self.file.parent), SYNC_REORG_WINDOW_MINUTES="100000",
        )  # fmt: skip
        return subprocess.run(
            [sys.executable, "-m", "truetape", *arguments],
            cwd=self.file.parent, env=env, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip

    def json(self, *arguments: str) -> Any:
        done = self.run(*arguments, "--json")
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout)

    def refused(self) -> str:
        async def look() -> None:
            async with Source.open(self.source_url, names=Mapping.read(self.file)):
                pass

        with pytest.raises(UsageError) as caught:
            asyncio.run(look())
        return str(caught.value)

    def differences(self) -> list[str]:
        truth = f"{self.source_url}?options=-csearch_path%3Dtruth"
        return differences(truth, self.analytics_url, TRADERS)


@pytest.fixture
def mapped(database: Databases, tmp_path: Path) -> Mapped:
    return Mapped(tmp_path, database.create("strange"), database.create_empty_store())


def test_a_source_that_shares_no_name_with_ours_is_kept_as_true_as_any(mapped: Mapped) -> None:
    assert mapped.json("sync")["inserted"] == 200
    assert mapped.differences() == []
    health = mapped.json("health")
    assert [(c["chainId"], c["completeThroughBlock"], c["finalizedBlock"]) for c in health["chains"]] == [
        (1, 90, 60), (2, 90, 60)]  # fmt: skip
    symbols = execute(mapped.analytics_url, "SELECT chain_id, symbol, base_decimals, quote_decimals "
                      "FROM analytics.pools ORDER BY 1")  # fmt: skip
    assert symbols == [(1, "WETH/USDC", 18, 6), (2, "LINK/USDC", 18, 6)]
    assert execute(
        mapped.analytics_url, "SELECT count(DISTINCT trader) FROM analytics.trader_stats"
    ) == [(2,)]

    execute(mapped.source_url, TRADE.format(name="b", start=START + 1400))
    execute(mapped.source_url, "UPDATE dex.matches SET rate = 'NaN' WHERE hash = 'b7'")
    mapped.run("sync")
    execute(mapped.source_url, "DELETE FROM dex.matches WHERE hash IN ('a199', 'b3'); "
            "UPDATE dex.matches SET rate = 7 WHERE hash IN ('b7', 'b8'); "
            "UPDATE dex.fills SET rate = 7 WHERE hash IN ('b7-Buy', 'b7-Sell', 'b8-Buy', 'b8-Sell')")  # fmt: skip
    mapped.json("sync", "--comprehensive")
    assert mapped.differences() == []
    assert mapped.json("verify")["tradesChecked"] == 398


@pytest.mark.parametrize(
    ("line", "text", "says"),
    [
        (2, 'order_book_trades = "matched"', "no table 'matched'"),
        (3, 'pools = "marketz"', "no table 'marketz'"),
        (4, 'trades = "filled"', "no table 'filled'"),
        (6, '_ponder_checkpoint = "position"', "no table 'position'"),
        (11, 'chain_id = "net"', "no column 'net'; it has hash, network, executed_at"),
        (12, 'timestamp = "memo"', "'memo' of dex.matches is of type text; it must be one of int2"),
        (20, 'order_book = "addr"', "no column 'addr'"),
        (22, 'coin = "symbol"', "no column 'symbol'"),
        (32, 'price = "price"', "no column 'price'"),
        (39, 'user = "owner"', "no column 'owner'"),
        (45, 'finalized_checkpoint = "network"', "both chain_id and finalized_checkpoint"),
        (18, 'buyer = "memo"', "buyer alone does not tell who traded"),
    ],
)
def test_a_name_that_the_source_does_not_have_is_told_with_its_line(
    mapped: Mapped, line: int, text: str, says: str
) -> None:
    lines = MAPPING.splitlines()
    lines[line - 1] = text
    mapped.file.write_text("\n".join(lines))
    sentence = mapped.refused()
    assert says in sentence
    assert f"truetape.toml, line {line}: " in sentence


def test_a_wrong_name_stops_every_verb_before_anything_is_touched(mapped: Mapped) -> None:
    mapped.file.write_text(MAPPING.replace('"pair"', '"symbol"'))
    done = mapped.run("sync")
    assert done.returncode == 2
    assert done.stderr.startswith("truetape: truetape.toml, line 22: ")
    assert len(done.stderr.splitlines()) == 1
    assert execute(mapped.analytics_url, "SELECT to_regnamespace('analytics')") == [(None,)]


def test_a_mapped_table_that_may_not_be_read_is_told_with_the_grant(mapped: Mapped) -> None:
    """Unmapped it would be done without; who asks for it shall have it, or a word."""
    role = f"blind_{secrets.token_hex(4)}"
    execute(mapped.source_url, f"CREATE ROLE {role} LOGIN PASSWORD 'blind'; "
            f"GRANT USAGE ON SCHEMA dex TO {role}; GRANT SELECT ON ALL TABLES IN SCHEMA dex TO {role}; "
            f"REVOKE SELECT ON dex.positions FROM {role}")  # fmt: skip
    owner, mapped.source_url = (
        mapped.source_url,
        mapped.source_url.replace(mapped.source_url.split("//")[1].split("@")[0], f"{role}:blind"),
    )
    try:
        assert f'GRANT SELECT ON "dex"."positions" TO "{role}"' in mapped.refused()
    finally:
        execute(owner, f"DROP OWNED BY {role}; DROP ROLE {role}")
