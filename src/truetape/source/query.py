"""The SELECTs on the source, made from what discovery found.

Only integers of ours and quoted identifiers are put into the text: COPY takes no parameters.
"""

from dataclasses import dataclass

from truetape.source.discovery import Shape
from truetape.trade import HashMethod, Slice

# In the order in which they are told when several hold. NaN counts as greater than Infinity.
_REASONS = """CASE
    WHEN trade_id IS NULL THEN 'id is null'
    WHEN pool_id IS NULL THEN 'pool_id is null'
    WHEN second IS NULL THEN 'timestamp is null or no number'
    WHEN second <= 0 THEN 'timestamp is not positive: ' || second
    WHEN time IS NULL THEN 'timestamp is more than a day ahead of the clock (milliseconds?): ' || second
    WHEN price IS NULL THEN 'price is null'
    WHEN NOT (price > '-Infinity' AND price < 'Infinity') THEN 'price is ' || price
    WHEN quantity IS NULL THEN 'quantity is null'
    WHEN NOT (quantity > '-Infinity' AND quantity < 'Infinity') THEN 'quantity is ' || quantity
END"""

# None of these holds; said so, it is asked at the least cost. Null is not greater than anything.
_IS_GOOD = """trade_id IS NOT NULL AND pool_id IS NOT NULL AND time IS NOT NULL
    AND price > '-Infinity' AND price < 'Infinity' AND quantity > '-Infinity' AND quantity < 'Infinity'"""

# What trades and fills that belong together have in common, as one text: it is compared at once, and
# begins with what tells most apart. Null where any of it is. Numbers have no slash: read from its end it
# is of one meaning.
_KEY = """transaction_id || '/' || pool_id || '/' || octet_length(pool_id) || '/' || {chain}
    || '/' || second || '/' || trim_scale(price) || '/' || trim_scale(quantity)"""

_GOOD = "trade_id, time, chain_id, pool_id, side, price, quantity, transaction_id, buyer, seller"


class Parameter(int):
    """Stands for the parameter of that number, wherever a number of ours is put into a statement. It is
    greater than the parameters before it, and smaller than what is reckoned from those behind it."""

    def __format__(self, _: str) -> str:
        return f"${int(self)}"


@dataclass(frozen=True)
class Queries:
    """SELECTs for one source. ``horizon``: the last Unix second that is a possible timestamp."""

    shape: Shape
    hash_method: HashMethod

    @property
    def row_hash(self) -> str:
        """Of the row's own columns; an impossible timestamp is hashed as the number it is."""
        plain = self.hash_method.expression(with_traders=bool(self.shape.trader_columns))
        salted = plain.replace("ROW(", "ROW(second, ")
        return f"CASE WHEN time IS NULL THEN {salted} ELSE {plain} END"

    def second(self, alias: str = "t") -> str:
        """The timestamp as bigint; null where a numeric is no number that fits."""
        column = self.shape.trades.col("timestamp", alias)
        if self.shape.trades.columns["timestamp"] == "numeric":
            return f"CASE WHEN {column} BETWEEN -9e18 AND 9e18 THEN floor({column})::bigint END"
        return f"{column}::bigint"

    def within(self, part: Slice, horizon: int) -> str:
        """The rows of a slice, said in a way that an index on the timestamp can serve."""
        column = self.shape.trades.col("timestamp", "t")
        if part.impossible:
            return f"({column} IS NULL OR {column} < 1 OR {column} >= {horizon + 1})"
        last = min(part.end, horizon + 1)
        where = f"{column} >= {max(part.start, 1)} AND {column} < {last}"
        if part.blocks and self.shape.has_pages:
            first, after = part.blocks[0], part.blocks[1] + 1
            where += f" AND t.ctid >= '({first},0)'::tid AND t.ctid < '({after},0)'::tid"
        return where

    def _trades(self, where: str, horizon: int) -> str:
        """Own columns only, each cast to a fixed type and named as on the tape."""
        t = self.shape.trades
        chain = (
            f"coalesce({t.col('chain_id', 't')}::bigint, 0)" if t.has("chain_id") else "0::bigint"
        )
        buyer, seller = self._own_traders()
        return f"""
            SELECT trade_id, CASE WHEN second > 0 AND second <= {horizon} THEN to_timestamp(second) END
                       AS time, chain_id, pool_id, side, price, quantity, transaction_id, buyer, seller,
                   second
            FROM (SELECT {t.col("id", "t")}::text COLLATE "C" AS trade_id, {self.second()} AS second,
                         {chain} AS chain_id, {t.col("pool_id", "t")}::text COLLATE "C" AS pool_id,
                         {t.col("side", "t")}::text COLLATE "C" AS side,
                         {t.col("price", "t")}::numeric AS price,
                         {t.col("quantity", "t")}::numeric AS quantity,
                         {t.col("transaction_id", "t")}::text COLLATE "C" AS transaction_id,
                         {buyer} AS buyer, {seller} AS seller
                  FROM {t.sql} t WHERE {where}) own"""

    def _own_traders(self) -> tuple[str, str]:
        t, names = self.shape.trades, self.shape.trader_columns
        if not names:
            return "NULL::text", "NULL::text"
        text = [f'{t.col(name, "t")}::text COLLATE "C"' for name in names]
        if names == ("buyer", "seller"):
            return text[0], text[1]
        side = f"lower({t.col('side', 't')}::text)"
        taker = text[-1]
        maker = text[0] if names == ("maker", "taker") else "NULL::text"
        return (
            f"CASE {side} WHEN 'buy' THEN {taker} WHEN 'sell' THEN {maker} END",
            f"CASE {side} WHEN 'sell' THEN {taker} WHEN 'buy' THEN {maker} END",
        )

    def _rows(self, part: Slice, horizon: int) -> str:
        """The rows of a slice with traders, hash and, where they cannot be processed, the reason."""
        trades = self._trades(self.within(part, horizon), horizon)
        if self.shape.pairs_fills and not part.impossible:
            trades = self._paired(trades, part, horizon)
        return f"SELECT *, {_REASONS} AS reason, {self.row_hash} AS row_hash FROM ({trades}) r"

    def _paired(self, trades: str, part: Slice, horizon: int) -> str:
        """Trades with the traders of their fills, paired by rank of id among their equals.

        Equal: same (chain, transaction, pool, price, quantity, timestamp). A side whose count
        differs from that of the trades stays null. A full join, because it can only be hashed or
        merged: over tables that were never analyzed a nested loop would look cheap and be quadratic.
        """
        f, o = self.shape.fills, self.shape.orders
        assert f is not None and o is not None  # pairs_fills
        by_chain = f.has("chain_id") and self.shape.trades.has("chain_id")
        fill_chain = f"{f.col('chain_id', 'f')}::bigint" if by_chain else "0::bigint"
        trade_chain = "chain_id" if by_chain else "0::bigint"
        order_chain = (
            f" AND {o.col('chain_id', 'o')} = {f.col('chain_id', 'f')}"
            if f.has("chain_id") and o.has("chain_id")
            else ""
        )
        when = f.col("timestamp", "f")
        return f"""
            WITH t AS MATERIALIZED (
                SELECT *, row_number() OVER (equal ORDER BY trade_id) AS rank,
                       count(*) OVER equal AS equals
                FROM (SELECT *, {_KEY.format(chain=trade_chain)} AS key FROM ({trades}) own) own
                WINDOW equal AS (PARTITION BY key)
            ), f AS MATERIALIZED (
                SELECT key, array_agg(trader ORDER BY fill_id) FILTER (WHERE side = 'buy') AS buyers,
                       array_agg(trader ORDER BY fill_id) FILTER (WHERE side = 'sell') AS sellers
                FROM (SELECT {_KEY.format(chain="chain_id")} AS key, fill_id, side, trader
                      FROM (SELECT {fill_chain} AS chain_id,
                                   {f.col("transaction_id", "f")}::text COLLATE "C" AS transaction_id,
                                   {f.col("pool_id", "f")}::text COLLATE "C" AS pool_id,
                                   {f.col("price", "f")}::numeric AS price,
                                   {f.col("quantity", "f")}::numeric AS quantity,
                                   {when}::bigint AS second,
                                   {f.col("id", "f")}::text COLLATE "C" AS fill_id,
                                   lower({o.col("side", "o")}::text) AS side,
                                   {o.col("user", "o")}::text COLLATE "C" AS trader
                            FROM {f.sql} f JOIN {o.sql} o
                              ON {o.col("id", "o")} = {f.col("order_id", "f")}{order_chain}
                            WHERE {when} >= {part.start}
                              AND {when} < {min(part.end, horizon + 1)}) own) fill
                GROUP BY key
            )
            SELECT trade_id, time, chain_id, pool_id, side, price, quantity, transaction_id,
                   CASE WHEN cardinality(buyers) = equals THEN buyers[rank] END AS buyer,
                   CASE WHEN cardinality(sellers) = equals THEN sellers[rank] END AS seller, second
            FROM t FULL JOIN f USING (key) WHERE coalesce(equals, 0) > 0"""

    def all_rows(self, part: Slice, horizon: int) -> str:
        return f"SELECT {_GOOD}, reason, row_hash FROM ({self._rows(part, horizon)}) looked"

    def all_rows_at_once(self, part: Slice, horizon: int) -> str:
        """The same rows, without their hashes, as one JSON array, null where there are none; numbers
        with all their digits."""
        rows = f"SELECT {_GOOD}, reason FROM ({self._rows(part, horizon)}) looked"
        return f"SELECT json_agg(rows)::text FROM ({rows}) rows"

    def few_rows(self, part: Slice, horizon: int, limit: int) -> str:
        """``all_rows_at_once``, and null where there are more than some. Where there is none it costs no more
        than to count."""
        rows = self.all_rows_at_once(part, horizon)
        few = f"SELECT count BETWEEN 1 AND {limit} FROM ({self.count(part, horizon)}) counted"
        return f"SELECT CASE WHEN ({few}) THEN ({rows}) END"

    @property
    def prepared_few_rows(self) -> str:
        """``few_rows`` with parameters: first second, the one behind the last, horizon, limit."""
        start, end, horizon, limit = (Parameter(n) for n in range(1, 5))
        return self.few_rows(Slice(start, end), horizon, limit)

    def good_rows(self, part: Slice, horizon: int) -> str:
        trades = self._trades(self.within(part, horizon), horizon)
        if self.shape.pairs_fills and not part.impossible:
            trades = self._paired(trades, part, horizon)
        return f"SELECT {_GOOD} FROM ({trades}) r WHERE {_IS_GOOD}"

    def bad_rows(self, part: Slice, horizon: int) -> str:
        """Rows to set aside; nobody asks who traded them."""
        trades = self._trades(self.within(part, horizon), horizon)
        rows = f"SELECT *, {_REASONS} AS reason, {self.row_hash} AS row_hash FROM ({trades}) r"
        return f"SELECT {_GOOD}, reason, row_hash FROM ({rows}) looked WHERE reason IS NOT NULL"

    def count(self, part: Slice, horizon: int) -> str:
        return f"SELECT count(*) FROM {self.shape.trades.sql} t WHERE {self.within(part, horizon)}"

    def survey(self, part: Slice, horizon: int, *, hashed: bool) -> str:
        """Per minute and chain: count and, if ``hashed``, the sum of row hashes. Unordered."""
        trades = self._trades(self.within(part, horizon), horizon)
        minute = "0" if part.impossible else "second / 60"
        total = f"sum({self.row_hash})" if hashed else "NULL::numeric"
        return self._surveyed(
            part, f"SELECT {minute} AS minute, chain_id, count(*) AS trades, {total} AS hash_sum "
            f"FROM ({trades}) r GROUP BY 1, 2",
        )  # fmt: skip

    def counts(self, part: Slice, horizon: int) -> str:
        """As ``survey``, all chains in one and nothing hashed: an index on the timestamp is enough."""
        return self._surveyed(
            part, f"SELECT {self.second()} / 60 AS minute, 0::bigint AS chain_id, count(*) AS trades, "
            f"NULL::numeric AS hash_sum FROM {self.shape.trades.sql} t "
            f"WHERE {self.within(part, horizon)} GROUP BY 1",
        )  # fmt: skip

    def _surveyed(self, part: Slice, minutes: str) -> str:
        bucket = "'-infinity'::timestamptz" if part.impossible else "to_timestamp(minute * 60)"
        first, last = part.blocks or (0, 0)
        return f"""
            SELECT {bucket} AS bucket, chain_id, trades, hash_sum, {first}::bigint, {last}::bigint
            FROM ({minutes}) b"""

    def seconds(self, part: Slice, horizon: int) -> str:
        """Counts by second, for a minute that is too large for one batch."""
        column = self.shape.trades.col("timestamp", "t")
        return f"""SELECT {column}::bigint, count(*) FROM {self.shape.trades.sql} t
            WHERE {self.within(part, horizon)} GROUP BY 1 ORDER BY 1"""

    def extent(self, horizon: int, since: int) -> str:
        """First and last possible timestamp, from a second on."""
        column = self.shape.trades.col("timestamp", "t")
        where = self.within(Slice(since, max(since, horizon) + 1), horizon)
        return f"""SELECT min({column})::bigint, max({column})::bigint
            FROM {self.shape.trades.sql} t WHERE {where}"""

    def tail(self, second: int, horizon: int) -> str:
        """How many trades there are from a second on, and the newest."""
        column = self.shape.trades.col("timestamp", "t")
        where = self.within(Slice(second, max(second, horizon) + 1), horizon)
        return (
            f"SELECT count(*), max({column})::bigint FROM {self.shape.trades.sql} t WHERE {where}"
        )

    def news(self, second: int, horizon: int) -> str:
        """Trades from a second on; of that second and of the newest the count and a sum by which their ids
        are told from others; and which the newest is."""
        where = self.within(Slice(second, max(second, horizon) + 1), horizon)
        mark = f'hashtextextended({self.shape.trades.col("id", "t")}::text COLLATE "C", 0)'
        return f"""SELECT coalesce(sum(n), 0), sum(n) FILTER (WHERE s = {second}),
                   sum(ids) FILTER (WHERE s = {second}), max(s), (array_agg(n ORDER BY s DESC))[1],
                   (array_agg(ids ORDER BY s DESC))[1]
            FROM (SELECT {self.second()} AS s, count(*) AS n, sum({mark}) AS ids
                  FROM {self.shape.trades.sql} t WHERE {where} GROUP BY 1) seconds"""

    def positions(self) -> str | None:
        """Where Ponder is on each chain; None where it does not tell.

        A checkpoint is 75 digits: timestamp 10, chain 16, block 16, transaction 16, type 1, index 16.
        """
        c = self.shape.checkpoints
        if c is None:
            return None
        latest, finalized = c.col("latest_checkpoint", "c"), c.col("finalized_checkpoint", "c")
        return f"""SELECT {c.col("chain_id", "c")}::bigint,
                   substr({latest}, 27, 16)::bigint, substr({latest}, 1, 10)::bigint,
                   substr({finalized}, 27, 16)::bigint, substr({finalized}, 1, 10)::bigint
            FROM {c.sql} c WHERE length({latest}) = 75 AND length({finalized}) = 75"""

    def find(self) -> str:
        """The seconds at which some ids stand now."""
        return f"""SELECT {self.second()} FROM {self.shape.trades.sql} t
            WHERE {self.shape.trades.col("id", "t")}::text = ANY(%s)"""
