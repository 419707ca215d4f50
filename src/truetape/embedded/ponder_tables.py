"""The tables a Ponder indexer keeps, written as it writes them: one transaction a block."""

import json
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Self

import psycopg
from psycopg import sql

from truetape.embedded.announcing import Announcer
from truetape.embedded.market import Market
from truetape.embedded.orders import COINS, Activity, Order, address
from truetape.errors import UsageError

FINALITY_BLOCKS = 30
BUILD_ID = "d3m0e8c4a7"
"""What tells our tables from those of a real Ponder."""

_META = {
    "version": "6",
    "build_id": BUILD_ID,
    "table_names": ["order_book_trades", "orders", "pools", "trades"],
    "view_names": [],
    "is_dev": 0,
    "is_locked": 1,
    "is_ready": 0,
    "heartbeat_at": 0,
}

_INDEXES = """
CREATE INDEX IF NOT EXISTS order_book_trades_timestamp_index ON order_book_trades ("timestamp");
CREATE INDEX IF NOT EXISTS trades_timestamp_index ON trades ("timestamp");
"""

_POOL = "INSERT INTO pools VALUES (%s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING"

_CHECKPOINT = """
INSERT INTO _ponder_checkpoint VALUES (%s, %s, %s, %s, %s)
ON CONFLICT (chain_name) DO UPDATE SET
    safe_checkpoint = excluded.safe_checkpoint,
    latest_checkpoint = excluded.latest_checkpoint,
    finalized_checkpoint = excluded.finalized_checkpoint
"""

_CHANGED_ORDERS = """
UPDATE orders o SET filled = n.filled, status = n.status
FROM unnest(%s::text[], %s::text[]::numeric[], %s::text[]) AS n (id, filled, status)
WHERE o.id = n.id
"""

_LAST_PRICES = """
SELECT p.order_book, t.price FROM pools p CROSS JOIN LATERAL (
    SELECT price FROM order_book_trades
    WHERE chain_id = p.chain_id AND pool_id = p.order_book ORDER BY "timestamp" DESC LIMIT 1) t
WHERE p.chain_id = %s
"""

_RESTING_ORDERS = """
SELECT id, "user", side, pool_id, price, quantity, "timestamp", filled, status FROM orders
WHERE chain_id = %s AND status IN ('OPEN', 'PARTIALLY_FILLED') ORDER BY "timestamp", id
"""


def checkpoint(second: int, chain_id: int, block: int) -> str:
    """Ponder's 75 digits for the end of a block.

    Timestamp 10, chain 16, block 16; transaction 16, event type 1 and event 16 are all nines.
    """
    return f"{second:010d}{chain_id:016d}{block:016d}{'9' * 33}"


@dataclass
class Position:
    """Where a chain is: its last block, that block's second, and what is final.

    Finality moves as Ponder moves it: when the head is twice the finality above the last final
    block, to the block that lies one finality below the head.
    """

    block: int
    second: int
    finalized: tuple[int, int]
    """(block, second)"""
    _recent: deque[tuple[int, int]] = field(
        init=False, default_factory=lambda: deque(maxlen=FINALITY_BLOCKS + 1)
    )

    def advance(self, second: int) -> None:
        """One block further."""
        self.block, self.second = self.block + 1, second
        self._recent.append((self.block, second))
        oldest = self._recent[0]
        if self.block >= self.finalized[0] + 2 * FINALITY_BLOCKS and (
            oldest[0] == self.block - FINALITY_BLOCKS
        ):
            self.finalized = oldest

    def jump(self, block: int, second: int) -> None:
        """To the end of a range that was read at once: all of it is final."""
        self.block, self.second, self.finalized = block, second, (block, second)
        self._recent.clear()

    @classmethod
    def parse(cls, latest: str, finalized: str) -> Self:
        (second, block), (final_second, final_block) = (
            (int(text[:10]), int(text[26:42])) for text in (latest, finalized)
        )
        return cls(block, second, (final_block, final_second))


class PonderTables:
    """One schema of Ponder tables, over one connection in autocommit."""

    def __init__(
        self, conn: psycopg.Connection, schema: str, announcer: Announcer | None = None
    ) -> None:
        self._conn = conn
        self._announcer = announcer or Announcer(None)
        self._schema = schema
        self._channel = f"{schema}_live_query"

    def lock(self) -> bool:
        """Whether we are the only writer. Held until the connection ends."""
        row = self._conn.execute(
            "SELECT pg_try_advisory_lock(hashtext('truetape exchange'), hashtext(%s))",
            (self._schema,),
        ).fetchone()
        return bool(row and row[0])

    def create(self) -> None:
        """The tables, where they are not there yet; refuses those of somebody else."""
        conn = self._conn
        # Ponder's sessions do not wait for the disk either.
        conn.execute("SET synchronous_commit = off")
        conn.execute("SET client_min_messages = warning")
        with conn.transaction():
            name = sql.Identifier(self._schema)
            conn.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(name))
            conn.execute(sql.SQL("SET search_path TO {}").format(name))
            if self._holds_others():
                raise UsageError(
                    f"Schema {self._schema!r} holds the tables of another Ponder; "
                    "the demo exchange writes only into its own."
                )
            ddl = files("truetape.embedded").joinpath("exchange.sql").read_text(encoding="utf-8")
            conn.execute(ddl.encode())
            conn.execute(
                "INSERT INTO _ponder_meta VALUES ('app', %s) ON CONFLICT DO NOTHING",
                (json.dumps(_META),),
            )

    def _holds_others(self) -> bool:
        row = self._conn.execute(
            "SELECT to_regclass('order_book_trades') IS NOT NULL, to_regclass('_ponder_meta')"
        ).fetchone()
        assert row is not None
        if row[1] is None:
            return bool(row[0])
        found = self._conn.execute("SELECT value->>'build_id' FROM _ponder_meta").fetchone()
        return found is not None and found[0] != BUILD_ID

    def ready(self) -> bool:
        row = self._conn.execute(
            "SELECT (value->>'is_ready')::int = 1 FROM _ponder_meta WHERE key = 'app'"
        ).fetchone()
        return bool(row and row[0])

    def set_ready(self, ready: bool) -> None:
        """Ready: the backfill is done. The indexes come with it."""
        with self._conn.transaction():
            if ready:
                self._conn.execute(_INDEXES)
            self._note({"is_ready": int(ready)})

    def heartbeat(self) -> None:
        self._note({})

    def _note(self, values: dict[str, int]) -> None:
        values["heartbeat_at"] = int(time.time() * 1000)
        self._conn.execute(
            "UPDATE _ponder_meta SET value = value || %s::jsonb WHERE key = 'app'",
            (json.dumps(values),),
        )

    def position(self, chain_id: int) -> Position | None:
        row = self._conn.execute(
            "SELECT latest_checkpoint, finalized_checkpoint FROM _ponder_checkpoint"
            " WHERE chain_id = %s",
            (chain_id,),
        ).fetchone()
        return Position.parse(row[0], row[1]) if row else None

    def resume(self, market: Market, chain_id: int) -> None:
        """Gives the market the pools' last prices and the orders that are still open."""
        prices = self._conn.execute(_LAST_PRICES, (chain_id,)).fetchall()
        rows = self._conn.execute(_RESTING_ORDERS, (chain_id,)).fetchall()
        resting = (
            Order(key, user, side, pool, int(price), int(quantity), second, int(filled), status)
            for key, user, side, pool, price, quantity, second, filled, status in rows
        )
        market.resume({str(pool): int(price) for pool, price in prices}, resting)

    def add_pools(self, chain_id: int, count: int) -> None:
        # An order book has one address on every chain, as deterministic deployments do.
        rows = [
            (address(f"pool {chain_id} {c.symbol}"), chain_id, c.symbol,
             address(f"order book {c.symbol}"), c.base, c.quote, c.base_decimals, c.quote_decimals)
            for c in COINS[:count]
        ]  # fmt: skip
        self._conn.cursor().executemany(_POOL, rows)

    def write_block(self, chain_id: int, activity: Activity, position: Position) -> None:
        """A block in real time: rows, checkpoint and the NOTIFY in one transaction; Redis is told of
        its matches just before the commit."""
        with self._conn.transaction():
            touched = self._write(chain_id, activity)
            self._move(chain_id, position)
            payload = json.dumps(touched)
            self._conn.execute("SELECT pg_notify(%s, %s)", (self._channel, payload))
            self._announcer.announce(chain_id, activity.matches)

    def write_range(self, chain_id: int, activity: Activity, position: Position) -> None:
        """A range of final blocks, as in a backfill: one transaction, and nobody is told."""
        with self._conn.transaction():
            self._write(chain_id, activity)
            self._move(chain_id, position)

    def _move(self, chain_id: int, position: Position) -> None:
        final = checkpoint(position.finalized[1], chain_id, position.finalized[0])
        latest = checkpoint(position.second, chain_id, position.block)
        self._conn.execute(_CHECKPOINT, (f"demo{chain_id}", chain_id, final, latest, final))

    def _write(self, chain_id: int, activity: Activity) -> list[str]:
        """Rows of all tables; the names of those that were touched."""
        matches = activity.matches
        self._copy("order_book_trades", (
            f"{m.id}\t{chain_id}\t{m.transaction_id}\t{m.pool_id}\t{m.price}\t{m.quantity}"
            f"\t{m.side}\t{m.timestamp}\n" for m in matches
        ))  # fmt: skip
        # Named after their match, so that fills sort among their equals just as the matches do.
        self._copy("trades", (
            f"{m.id}-{side}\t{chain_id}\t{m.transaction_id}\t{m.pool_id}\t{order}\t{m.price}"
            f"\t{m.quantity}\t{m.timestamp}\n"
            for m in matches for side, order in (("buy", m.buy_order), ("sell", m.sell_order))
        ))  # fmt: skip
        self._copy("orders", (
            f"{o.id}\t{chain_id}\t{o.user}\t{o.side}\t{o.pool_id}\t{o.price}\t{o.quantity}"
            f"\t{o.filled}\t{o.status}\t{o.timestamp}\n" for o in activity.placed.values()
        ))  # fmt: skip
        if activity.changed:
            changed: Sequence[Order] = list(activity.changed.values())
            columns = zip(*((o.id, str(o.filled), o.status) for o in changed), strict=True)
            self._conn.execute(_CHANGED_ORDERS, [list(c) for c in columns])
        orders = ["orders"] if activity.placed or activity.changed else []
        return (["order_book_trades", "trades"] if matches else []) + orders

    def _copy(self, table: str, lines: Iterable[str]) -> None:
        """COPY in text form: our own values hold no tab, newline or backslash."""
        text = "".join(lines)
        if text:
            statement = sql.SQL("COPY {} FROM STDIN").format(sql.Identifier(table))
            with self._conn.cursor().copy(statement) as copy:
                copy.write(text)
