"""The rollups: what trades feed, each computable from the level below it.

A rollup has a *shape* (a ``.sql`` file that says how rows become buckets and how a bucket takes in
another part of itself), a bucket width and a level below: the tape, or a finer rollup. All that is
done with one follows from that: a batch moves it, retracted trades have it recomputed, a range is
rebuilt, a stored row is checked.

No stored row spans two UTC days, so that slices of different days never meet.
"""

from dataclasses import dataclass

from truetape.store.sqlfile import load

TAPE = "analytics.tape"
RANGE = "{column} >= %(from)s AND {column} < %(to)s"


@dataclass(frozen=True)
class Rollup:
    """One table of buckets. ``below`` is None when it is computed from the tape itself."""

    table: str
    shape: str
    width: str
    below: "Rollup | None" = None

    @property
    def shown_as(self) -> str:
        """The public relation that shows this table."""
        public = {
            "days": "daily_summaries",
            "trader_hours": "trader_stats",
            "trader_days": "trader_stats",
        }
        return public.get(self.table, self.table)

    @property
    def is_candles(self) -> bool:
        return self.shape == "candles"

    @property
    def key(self) -> tuple[str, ...]:
        key = ("chain_id", "pool_id", "bucket")
        return (*key, "trader") if self.shape == "traders" else key

    @property
    def delta(self) -> str:
        """Temporary table that holds what a batch adds to this rollup."""
        return f"delta_{self.table}"

    @property
    def touched(self) -> str:
        """Temporary table that holds the keys from which a batch took something away."""
        return f"touched_{self.table}"

    def _sql(self, block: str) -> str:
        return load(__name__, f"{self.shape}.sql")[block]

    def compute(self, rows: str, *, tape: str = TAPE) -> str:
        """SELECT of this rollup's rows out of ``rows``, a SELECT on the level below.

        ``tape``: where trades are looked up by their keys, if ``rows`` are trades.
        """
        if self.below is None and self.is_candles:
            return self.of_seconds(f"({seconds(rows)})", tape=tape)
        block = self._sql("coarsen" if self.below else "aggregate")
        return block.format(rows=rows, width=self.width)

    def compute_few(self, rows: str) -> str:
        """As ``compute``, made for some hundred trades."""
        if self.is_candles:
            return self.compute(rows)
        if self.below is None:
            return self._sql("aggregate_few").format(rows=rows, width=self.width)
        coarsen = self.compute(rows)
        return self._sql("coarsen_few").format(rows=rows, width=self.width, coarsen=coarsen)

    def of_seconds(self, second: str, *, tape: str = TAPE) -> str:
        """SELECT of candles out of ``seconds``: a name that stands for them, or themselves in brackets."""
        # Of a tape that was never analyzed a plan expects a hundred trades a key, and once it has grown
        # it reads all of it instead.
        each = "OFFSET 0" if tape == TAPE else ""
        return self._sql("aggregate").format(second=second, width=self.width, tape=tape, each=each)

    @property
    def setup(self) -> str:
        keys = ", ".join(self.key)
        return f"""
            CREATE TEMP TABLE IF NOT EXISTS {self.delta} (LIKE analytics.{self.table})
                ON COMMIT DELETE ROWS;
            CREATE TEMP TABLE IF NOT EXISTS {self.touched} ON COMMIT DELETE ROWS
                AS SELECT {keys} FROM analytics.{self.table} WITH NO DATA;"""

    def fill_delta(self, fresh: str) -> str:
        """What the fresh trades add; a coarser rollup takes it from the finer one's delta."""
        rows = f"SELECT * FROM {self.below.delta}" if self.below else fresh
        return f"INSERT INTO {self.delta} {self.compute(rows)}"

    def add(self, delta: str) -> str:
        """Adds ``delta`` (a SELECT of buckets) to what is stored, in key order."""
        keys = ", ".join(self.key)
        return f"""INSERT INTO analytics.{self.table} AS s {delta} ORDER BY {keys}
            ON CONFLICT ({keys}) DO UPDATE SET {self._sql("merge")}"""

    @property
    def merge(self) -> str:
        """Adds the delta; touched buckets are left to ``recompute``."""
        return self.add(
            f"""SELECT * FROM {self.delta} d WHERE NOT EXISTS
                (SELECT FROM {self.touched} k WHERE {self._same("k", "d")})"""
        )

    @property
    def touch(self) -> str:
        """The buckets that retracted trades (table ``gone``) have fed."""
        bucket = f"date_bin('{self.width}', time, 'epoch')"
        if self.shape == "traders":
            return f"""INSERT INTO {self.touched}
                SELECT DISTINCT chain_id, pool_id, {bucket}, trader
                FROM gone, LATERAL (VALUES (buyer), (seller)) v (trader)
                WHERE trader IS NOT NULL"""
        return f"""INSERT INTO {self.touched}
            SELECT DISTINCT chain_id, pool_id, {bucket} FROM gone"""

    @property
    def forget(self) -> str:
        return f"""DELETE FROM analytics.{self.table} s
            USING {self.touched} k WHERE {self._same("k", "s")}"""

    @property
    def recompute(self) -> str:
        """What cannot be subtracted is computed again from the level below, touched buckets only.
        (Hours of traders hold more of the tape than may be read again: see ``traders.sql``.)
        """
        if self.below:
            trader = " AND f.trader = k.trader" if self.shape == "traders" else ""
            rows = f"""SELECT f.* FROM {self.touched} k JOIN analytics.{self.below.table} f
                ON f.chain_id = k.chain_id AND f.pool_id = k.pool_id AND f.bucket >= k.bucket
                AND f.bucket < k.bucket + interval '{self.width}'{trader}"""
            return f"INSERT INTO analytics.{self.table} {self.compute(rows)}"
        rows = f"""SELECT t.* FROM (SELECT DISTINCT bucket FROM {self.touched}) b,
            LATERAL (SELECT * FROM analytics.tape t WHERE t.time >= b.bucket
                     AND t.time < b.bucket + interval '{self.width}' OFFSET 0) t
            WHERE (t.chain_id, t.pool_id, b.bucket) IN
                  (SELECT chain_id, pool_id, bucket FROM {self.touched})"""
        # Bucket by bucket, and all of it from there: how many trades a bucket holds no plan can know,
        # and one that takes it for many reads the whole tape.
        return f"""INSERT INTO analytics.{self.table} WITH standing AS MATERIALIZED ({rows})
            SELECT * FROM ({self.compute("SELECT * FROM standing", tape="standing")}) again"""

    @property
    def of_range(self) -> str:
        """SELECT of what the rows with buckets in [from, to) ought to be."""
        table, column = (self.below.table, "bucket") if self.below else ("tape", "time")
        where = RANGE.format(column=column)
        return self.compute(f"SELECT * FROM analytics.{table} WHERE {where}")

    @property
    def stored_range(self) -> str:
        return f"SELECT * FROM analytics.{self.table} WHERE {RANGE.format(column='bucket')}"

    @property
    def clear_range(self) -> str:
        return f"DELETE FROM analytics.{self.table} WHERE {RANGE.format(column='bucket')}"

    @property
    def fill_range(self) -> str:
        return f"INSERT INTO analytics.{self.table} {self.of_range}"

    @property
    def check_range(self) -> str:
        """Keys of buckets in [from, to) that are not what the tape says, either way."""
        return f"""WITH expected AS MATERIALIZED ({self.of_range}),
            stored AS MATERIALIZED ({self.stored_range})
            SELECT DISTINCT extract(epoch FROM bucket)::bigint AS bucket, chain_id, pool_id
            FROM ((TABLE expected EXCEPT TABLE stored)
                  UNION ALL (TABLE stored EXCEPT TABLE expected)) wrong
            ORDER BY 1, 2, 3"""

    def _same(self, left: str, right: str) -> str:
        return " AND ".join(f"{left}.{c} = {right}.{c}" for c in self.key)


def seconds(trades: str, *more: str) -> str:
    """SELECT of the trades of each pool in each second, what candles are made of; ``more``: further
    columns about them."""
    block = load(__name__, "candles.sql")["seconds"]
    return block.format(rows=trades, more="".join(f", {columns}" for columns in more))


MINUTES = Rollup("candles_1m", "candles", "1 minute")
HOURS = Rollup("hourly_aggregations", "candles", "1 hour", below=MINUTES)
TRADER_HOURS = Rollup("trader_hours", "traders", "1 hour")
DAYS = Rollup("days", "candles", "1 day", below=HOURS)
TRADER_DAYS = Rollup("trader_days", "traders", "1 day", below=TRADER_HOURS)

WITHIN_HOURS = (MINUTES, HOURS, TRADER_HOURS)
WITHIN_DAYS = (DAYS, TRADER_DAYS)
ROLLUPS = (*WITHIN_HOURS, *WITHIN_DAYS)
