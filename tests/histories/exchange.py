"""A source, and all that can happen to one: blocks, reorgs, redeploys, and rows that nobody expects.

Two shapes. ``ponder``: tables of a deployment behind views, two chains with checkpoints, traders,
an index. ``bare``: the contract's two tables and nothing more, not even an index.
"""

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import psycopg

TRADES = """
CREATE TABLE {schema}.order_book_trades (id text, {more} "timestamp" bigint, price numeric,
    quantity numeric, pool_id text, side varchar, transaction_id text, block integer DEFAULT 0);
CREATE TABLE {schema}.pools (order_book text, {chain} coin text);
"""
PONDER = """
CREATE TABLE {schema}._ponder_checkpoint (chain_name text PRIMARY KEY, chain_id bigint,
    safe_checkpoint varchar(75), latest_checkpoint varchar(75), finalized_checkpoint varchar(75));
CREATE TABLE {schema}._ponder_meta (key text PRIMARY KEY, value jsonb);
INSERT INTO {schema}._ponder_meta VALUES ('app', '{{"is_ready": 1}}');
CREATE INDEX ON {schema}.order_book_trades ("timestamp");
"""
VIEWS = ("order_book_trades", "pools", "_ponder_checkpoint", "_ponder_meta")
POOLS = ("0xaa", "0xbb", "0xcc")
TRADERS = ("alice", "bob", "carol", None)
SIDES = ("buy", "Sell", "BUY", "sell", "hold", None)
AMOUNTS = (0, 1, 7, -3, 10**18, 10**78 - 1, "0.000000000000000001", "123456789.123")
FINALITY = 3
"""Blocks behind the newest through which a chain is final."""


@dataclass
class Block:
    """``rows``: (id, time, price, quantity, pool, side, buyer, seller)."""

    number: int
    time: int
    rows: list[tuple[object, ...]] = field(default_factory=list)


@dataclass
class Chain:
    """A chain, and through which of its blocks the tables hold it."""

    chain_id: int
    time: int
    blocks: list[Block] = field(default_factory=list)
    written: int = 0
    finalized: int = 0
    highest: int = 0

    def block(self, number: int) -> Block:
        return self.blocks[number - 1]

    def checkpoint(self, number: int) -> str:
        when = self.block(number).time if number else 0
        return f"{when:010d}{self.chain_id:016d}{number:016d}{0:016d}{0:01d}{0:016d}"


class Exchange:
    """What happens is drawn from ``draw``; what the source holds then is what its tables hold."""

    def __init__(self, url: str, shape: str) -> None:
        self.url = url
        self.ponder = shape == "ponder"
        self._conn = psycopg.connect(url, autocommit=True)
        self._deployed = 0

    def close(self) -> None:
        self._conn.close()

    def make(self) -> None:
        """Makes the tables."""
        for schema in ("v0", "v1") if self.ponder else ("public",):
            self._conn.execute(f"CREATE SCHEMA IF NOT EXISTS {schema}")
            more = "chain_id bigint, buyer text, seller text," if self.ponder else ""
            chain = "chain_id bigint," if self.ponder else ""
            self._conn.execute(TRADES.format(schema=schema, more=more, chain=chain))
            if self.ponder:
                self._conn.execute(PONDER.format(schema=schema))
        if self.ponder:
            self._conn.execute("CREATE SCHEMA live")
            self._repoint()
            name = self._conn.info.dbname
            self._conn.execute(f'ALTER DATABASE "{name}" SET search_path = live')

    def _repoint(self) -> None:
        for view in VIEWS:
            self._conn.execute(f"DROP VIEW IF EXISTS live.{view}")
            self._conn.execute(f"CREATE VIEW live.{view} AS SELECT * FROM {self._schema}.{view}")

    @property
    def _schema(self) -> str:
        return f"v{self._deployed}" if self.ponder else "public"

    def start(self, draw: random.Random) -> None:
        """An empty source, at the beginning of a history."""
        self.draw = draw
        for schema in ("v0", "v1") if self.ponder else ("public",):
            self._conn.execute(f"DELETE FROM {schema}.order_book_trades")
            self._conn.execute(f"DELETE FROM {schema}.pools")
            if self.ponder:
                self._conn.execute(f"DELETE FROM {schema}._ponder_checkpoint")
        now = int(time.time())
        behind = draw.choice((0, 40, 4000, 40 * 86400))
        self.chains = [Chain(1, now - draw.choice((7200, 200000)))]
        if self.ponder:
            self.chains.append(Chain(10, self.chains[0].time - behind))
        self._ids = 0
        self.odd_ids: list[str] = []
        self._pools: set[tuple[int, str]] = set()
        self.say_ready(True)

    # -- blocks ------------------------------------------------------------------------------

    @contextmanager
    def _block(self) -> Iterator[None]:
        with self._conn.transaction():
            yield

    def _row(self, when: int) -> tuple[object, ...]:
        draw = self.draw
        self._ids += 1
        amounts = [
            draw.choice(AMOUNTS) if draw.random() < 0.2 else draw.randrange(1, 100) for _ in "pq"
        ]
        return (f"{self._ids}-{draw.choice('aZé')}", when, *amounts, draw.choice(POOLS),
                draw.choice(SIDES), draw.choice(TRADERS), draw.choice(TRADERS))  # fmt: skip

    def _insert(self, chain: Chain, number: int, rows: list[tuple[object, ...]]) -> None:
        for trade_id, when, price, quantity, pool, side, buyer, seller in rows:
            values = [when, price, quantity, pool, side, f"0x{number}", number]
            if self.ponder:
                values = [chain.chain_id, buyer, seller, *values]
            marks = ", ".join(["%s"] * (len(values) + 1))
            self._conn.execute(
                f"INSERT INTO {self._schema}.order_book_trades VALUES ({marks})",
                (trade_id, *values),
            )

    def _write(self, chain: Chain, block: Block) -> None:
        """A block, and how far its chain is, in one transaction."""
        with self._block():
            self._insert(chain, block.number, block.rows)
            chain.written = block.number
            chain.highest = max(chain.highest, block.number)
            chain.finalized = max(chain.finalized, block.number - FINALITY)
            self._tell(chain)

    def _tell(self, chain: Chain) -> None:
        if self.ponder:
            latest = chain.checkpoint(chain.written)
            finalized = chain.checkpoint(min(chain.finalized, chain.written))
            self._conn.execute(
                f"INSERT INTO {self._schema}._ponder_checkpoint VALUES (%(n)s, %(c)s, %(f)s, %(l)s, %(f)s) "
                "ON CONFLICT (chain_name) DO UPDATE SET safe_checkpoint = %(f)s, "
                "latest_checkpoint = %(l)s, finalized_checkpoint = %(f)s",
                {"n": str(chain.chain_id), "c": chain.chain_id, "l": latest, "f": finalized},
            )

    def mine(self, chain: Chain, trades: list[int], seconds: int) -> None:
        """A block; what a rebuilding source still lacks comes first."""
        self._bring_back(chain)
        chain.time = min(chain.time + seconds, int(time.time()))
        block = Block(len(chain.blocks) + 1, chain.time)
        block.rows = [self._row(chain.time) for _ in trades]
        chain.blocks.append(block)
        self._write(chain, block)

    def reorg(self) -> None:
        """All above an ancestor goes at once, of the other chain too what is later; the blocks that
        replace it come one by one, some of the trades again but at another time."""
        chain, kept = self.draw.choice(self.chains), self.draw.choice((0, 0.7, 1))
        ancestor = max(chain.written - self.draw.choice((1, 2, 30)), chain.finalized)
        if ancestor >= chain.written:
            return
        gone = chain.blocks[ancestor:]
        since = gone[0].time
        others = [c for c in self.chains if c is not chain]
        with self._block():
            self._delete(chain, ancestor)
            for other in others:
                later = [b for b in other.blocks if b.time > since and b.number > other.finalized]
                if later:
                    self._delete(other, later[0].number - 1)
                    # Its checkpoint stays; its rows come back with the next block of any chain.
                    other.written = later[0].number - 1
        del chain.blocks[ancestor:]
        chain.written = ancestor
        writing = True
        for old in gone:
            when = old.time + self.draw.choice((0, 0, 1, 60, 3700))
            block = Block(len(chain.blocks) + 1, min(when, int(time.time())))
            block.rows = [(r[0], block.time, *r[2:]) for r in old.rows if self.draw.random() < kept]
            block.rows += [self._row(block.time) for _ in range(self.draw.randrange(2))]
            chain.blocks.append(block)
            writing = writing and self.draw.random() < 0.8
            if writing:
                self._write(chain, block)
        chain.time = max(chain.time, chain.blocks[-1].time if chain.blocks else 0)

    def _delete(self, chain: Chain, above: int) -> None:
        own = "AND chain_id = %s" if self.ponder else ""
        values = (above, chain.chain_id) if self.ponder else (above,)
        self._conn.execute(
            f"DELETE FROM {self._schema}.order_book_trades WHERE block > %s {own}", values
        )

    def _bring_back(self, chain: Chain) -> None:
        for block in chain.blocks[chain.written :]:
            self._write(chain, block)

    # -- rebuilding --------------------------------------------------------------------------

    @property
    def is_whole(self) -> bool:
        return all(c.written == len(c.blocks) for c in self.chains)

    def say_ready(self, ready: bool) -> None:
        if self.ponder:
            self._conn.execute(
                f"UPDATE {self._schema}._ponder_meta SET value = "
                f"jsonb_set(value, '{{is_ready}}', '{int(ready)}')"
            )

    def restart(self) -> None:
        """The indexer starts again: what is not final goes in one transaction, to come back."""
        with self._block():
            for chain in self.chains:
                self._delete(chain, chain.finalized)
                chain.written = chain.finalized
                self._tell(chain)
            self.say_ready(False)

    def redeploy(self, share: float) -> None:
        """New tables, filled in part, take the place of the old ones."""
        old = self._schema
        self._deployed = 1 - self._deployed
        new = self._schema
        with self._block():
            for table in ("order_book_trades", "pools", "_ponder_checkpoint"):
                self._conn.execute(f"DELETE FROM {new}.{table}")
            self._conn.execute(f"INSERT INTO {new}.pools SELECT * FROM {old}.pools")
            for chain in self.chains:
                through = int(chain.finalized * share)
                self._conn.execute(
                    f"INSERT INTO {new}.order_book_trades SELECT * FROM {old}.order_book_trades "
                    "WHERE chain_id = %s AND block <= %s",
                    (chain.chain_id, through),
                )
                chain.written = through
                self._tell(chain)
            self.say_ready(False)
            self._repoint()

    def come_back(self) -> None:
        """All that was taken away by a rebuild is written again."""
        if self.draw.random() < 0.5:
            self.say_ready(True)  # too early, as Ponder says it
        for chain in self.chains:
            self._bring_back(chain)
        self.say_ready(True)

    def become_whole(self) -> None:
        """Every chain is at least where it has been: else nothing may be retracted."""
        self.come_back()
        for chain in self.chains:
            while len(chain.blocks) < chain.highest:
                self.mine(chain, [], 1)

    # -- what nobody expects -----------------------------------------------------------------

    def _any_row(self) -> str | None:
        row = self._conn.execute(
            f"SELECT id FROM {self._schema}.order_book_trades WHERE id IS NOT NULL "
            "ORDER BY id COLLATE \"C\" OFFSET (SELECT floor(%s * count(*)) "
            f"FROM {self._schema}.order_book_trades WHERE id IS NOT NULL) LIMIT 1",
            (self.draw.random(),),
        ).fetchone()  # fmt: skip
        return None if row is None else str(row[0])

    def add_late(self) -> None:
        """A row below the newest, by no block."""
        chain, seconds = self.draw.choice(self.chains), self.draw.choice((1, 400, 9000, 10**6))
        self._insert(chain, 0, [self._row(max(chain.time - seconds, 1))])

    def add_bad(self) -> None:
        """A row that cannot be processed."""
        chain = self.draw.choice(self.chains)
        row = list(self._row(chain.time))
        column, value = self.draw.choice(
            ((0, None), (1, None), (1, 0), (1, -5), (1, chain.time * 1000), (2, None), (2, "NaN"),
             (3, "Infinity"), (3, None), (4, None))
        )  # fmt: skip
        row[column] = value
        self._insert(chain, 0, [tuple(row)])

    def spoil_or_mend(self) -> None:
        price = self.draw.choice(("NaN", "5", "6"))
        self._change(f"UPDATE {self._schema}.order_book_trades SET price = {price!r}")

    def change(self) -> None:
        what = self.draw.choice(
            ("price = 77", "side = 'BUY'", "quantity = quantity * 2", "pool_id = '0xbb'",
             '"timestamp" = "timestamp" + 1', '"timestamp" = "timestamp" - 7000')
        )  # fmt: skip
        self._change(f"UPDATE {self._schema}.order_book_trades SET {what}")

    def lose(self) -> None:
        """A row is gone, as after a crash of the server."""
        self._change(f"DELETE FROM {self._schema}.order_book_trades")

    def _change(self, statement: str) -> None:
        if row := self._any_row():
            self._conn.execute(f"{statement} WHERE id = %s", (row,))

    def put_pool(self) -> None:
        """A pool arrives, or its coin is renamed."""
        pool, chain = self.draw.choice(POOLS), self.draw.choice(self.chains)
        coin = self.draw.choice(("WETH/USDC", "A/B", "C/USDC"))
        key = (chain.chain_id, pool)
        own = f" AND chain_id = {chain.chain_id}" if self.ponder else ""
        if key in self._pools:
            self._conn.execute(
                f"UPDATE {self._schema}.pools SET coin = %s WHERE order_book = %s{own}",
                (coin, pool),
            )
        elif self.ponder:
            self._conn.execute(
                f"INSERT INTO {self._schema}.pools VALUES (%s, %s, %s)",
                (pool, chain.chain_id, coin),
            )
        else:
            self._conn.execute("INSERT INTO pools VALUES (%s, %s)", (pool, coin))
        self._pools.add(key)

    # -- what should be true -----------------------------------------------------------------

    def pools(self) -> set[tuple[object, ...]]:
        """(chain if known, pool, coin) as the source has them."""
        chain = "chain_id" if self.ponder else "0"
        rows = self._conn.execute(f"SELECT {chain}, order_book, coin FROM {self._schema}.pools")
        return set(rows.fetchall())

    def ids(self, where: str) -> set[str]:
        rows = self._conn.execute(
            f"SELECT id FROM {self._schema}.order_book_trades WHERE id IS NOT NULL AND {where}"
        )
        return {str(r[0]) for r in rows.fetchall()}

    def count(self, where: str) -> int:
        row = self._conn.execute(
            f"SELECT count(*) FROM {self._schema}.order_book_trades WHERE {where}"
        ).fetchone()
        assert row is not None
        return int(row[0])
