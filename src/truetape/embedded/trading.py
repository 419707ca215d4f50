"""Trading without end: the loop that makes blocks, and makes up for those that are missing."""

import secrets
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import psycopg
from psycopg.conninfo import conninfo_to_dict

from truetape.connect import first_line, without_password
from truetape.embedded.announcing import Announcer
from truetape.embedded.exchange_terms import Terms
from truetape.embedded.market import Market, daily_shape
from truetape.embedded.orders import Activity
from truetape.embedded.ponder_tables import FINALITY_BLOCKS, PonderTables, Position
from truetape.errors import UnreachableError, UsageError

FIRST_CHAIN_ID = 31337
HEARTBEAT_SECONDS = 10.0
LATE_BLOCKS_MAX = 2 * FINALITY_BLOCKS
LATE_SECONDS_MIN = 10.0
"""Further behind than both, the blocks are made up for by ranges rather than one by one."""
SPAN_SECONDS = 3600
RANGE_TRADES = 5_000
"""A range is committed once it holds as many."""
CATCH_UP_TRADES_MIN = 10_000
SIZE_MAX = 100.0
RETRY_SECONDS_MIN = 0.2
RETRY_SECONDS_MAX = 10.0
STEADY_SECONDS = 30.0
LOCK_SECONDS = 2.0
LOCK_SECONDS_AGAIN = 60.0
FIRST_CONNECTION_SECONDS = 5.0
AWAY_SECONDS_MAX = 3600.0


@dataclass
class Chain:
    """One chain: who trades on it, where it is, and when its next block is due (Unix seconds)."""

    id: int
    market: Market
    position: Position
    due: float


class Trading:
    """Trading into the tables of one connection, until told to stop or the connection is lost."""

    def __init__(
        self, tables: PonderTables, terms: Terms, seed: int, stop: threading.Event
    ) -> None:
        self._tables = tables
        self._terms = terms
        self._seed = seed
        self._stop = stop

    def run(self, lock_patience: float) -> None:
        """Returns when told to stop. Waits ``lock_patience`` seconds for another to go away."""
        if not self._locked(lock_patience):
            return
        self._tables.create()
        chains = [self._chain(FIRST_CHAIN_ID + n) for n in range(self._terms.chains)]
        # After an interrupted history the rest of it comes as thin as it began.
        live = self._tables.ready()
        self._catch_up(chains, self._terms.rate if live else self._history_rate())
        self._go_live(chains)

    def _locked(self, patience: float) -> bool:
        """The session of one that was killed may take a moment to end."""
        ends_at = time.monotonic() + patience
        while not self._tables.lock():
            if time.monotonic() > ends_at:
                raise UsageError(
                    f"Another demo exchange is writing into schema {self._terms.schema!r}"
                    " of this database."
                )
            if self._stop.wait(0.1):
                return False
        return True

    def _history_rate(self) -> float:
        seconds = self._terms.history_days * 86_400
        return self._terms.history_trades / seconds if seconds else self._terms.rate

    def _chain(self, chain_id: int) -> Chain:
        t = self._terms
        market = Market(
            self._seed, chain_id, pools=t.pools, traders=t.traders, block_time=t.block_time
        )
        self._tables.add_pools(chain_id, t.pools)
        position = self._tables.position(chain_id)
        if position is None:
            begin = int(time.time() - t.history_days * 86_400)
            position = Position(0, begin, finalized=(0, begin))
        else:
            self._tables.resume(market, chain_id)
        return Chain(chain_id, market, position, position.second + t.block_time)

    def _late(self, chain: Chain) -> bool:
        allowed = max(LATE_SECONDS_MIN, LATE_BLOCKS_MAX * self._terms.block_time)
        return time.time() - chain.due > allowed

    def _catch_up(self, chains: Sequence[Chain], rate: float) -> None:
        """Brings chains that are far behind to where blocks are final; then Ponder is ready."""
        late = [chain for chain in chains if self._late(chain)]
        if late:
            self._tables.set_ready(False)
        for chain in late:
            self._catch_up_chain(chain, rate / len(chains))
        if not self._stop.is_set():
            self._tables.set_ready(True)

    def _catch_up_chain(self, chain: Chain, rate: float) -> None:
        """The time since the last block, in ranges, livelier by night, bounded in trades."""
        terms, position = self._terms, chain.position
        until = int(time.time() - FINALITY_BLOCKS * terms.block_time)
        seconds = until - position.second - 1
        bound = max(terms.history_trades, CATCH_UP_TRADES_MIN) / terms.chains
        trades = min(rate * seconds, bound)
        size = min(SIZE_MAX, max(1.0, terms.rate / terms.chains * seconds / max(1.0, trades)))
        say(f"chain {chain.id}: {trades:.0f} trades for the {seconds} s since its last block")
        spans = list(_spans(position.second + 1, until))
        total = sum(weight for _, _, weight in spans)
        block, activity = position.block, Activity()
        for start, end, weight in spans:
            share = trades * weight / total
            chain.market.trade_span(activity, block + 1, start, end, share, size)
            block += max(1, round((end - start) / terms.block_time))
            if len(activity.matches) >= RANGE_TRADES or end == until:
                position.jump(block, end - 1)
                self._tables.write_range(chain.id, activity, position)
                activity = Activity()
                if self._stop.is_set():
                    return
        chain.due = position.second + terms.block_time

    def _go_live(self, chains: Sequence[Chain]) -> None:
        beat_at = 0.0
        while not self._stop.is_set():
            chain = min(chains, key=lambda c: c.due)
            if self._late(chain):  # the machine slept, or the database stood still
                self._catch_up(chains, self._terms.rate)
            if self._stop.wait(max(0.0, chain.due - time.time())):
                return
            self._trade_block(chain)
            if time.monotonic() - beat_at > HEARTBEAT_SECONDS:
                self._tables.heartbeat()
                beat_at = time.monotonic()

    def _trade_block(self, chain: Chain) -> None:
        terms, position, activity = self._terms, chain.position, Activity()
        position.advance(max(position.second, int(chain.due)))
        matches = terms.rate / terms.chains * terms.block_time
        chain.market.trade_block(activity, position.block, position.second, matches)
        self._tables.write_block(chain.id, activity, position)
        chain.due += terms.block_time


def _spans(start: int, end: int) -> Iterator[tuple[int, int, float]]:
    """[start, end) cut at full hours, each with its weight by the time of day."""
    while start < end:
        stop = min(end, (start // SPAN_SECONDS + 1) * SPAN_SECONDS)
        yield start, stop, (stop - start) * daily_shape((start + stop) // 2)
        start = stop


def trade_for_ever(
    url: str, terms: Terms, stop: threading.Event, announcer: Announcer | None = None
) -> None:
    """Trades until told to stop; a lost connection is made anew, with growing waits.

    What was in memory is dropped with the connection: whether the last block was committed is
    written in the database and nowhere else. Raises UsageError when it must not write there, and
    UnreachableError when the database stays away (5 s at first, an hour later on).
    """
    seed = secrets.randbits(63) if terms.seed is None else terms.seed
    patience, lock_patience = FIRST_CONNECTION_SECONDS, LOCK_SECONDS
    wait, seen_at = RETRY_SECONDS_MIN, time.monotonic()
    while not stop.is_set():
        connected_at = None
        try:
            with _connect(url) as conn:
                connected_at = time.monotonic()
                tables = PonderTables(conn, terms.schema, announcer)
                Trading(tables, terms, seed, stop).run(lock_patience)
        except psycopg.Error as error:
            now = time.monotonic()
            if connected_at is not None:
                patience, lock_patience, seen_at = AWAY_SECONDS_MAX, LOCK_SECONDS_AGAIN, now
                if now - connected_at > STEADY_SECONDS:
                    wait = RETRY_SECONDS_MIN
            elif now - seen_at > patience:
                raise UnreachableError(
                    f"The demo exchange's database {without_password(url)} cannot be reached: "
                    f"{first_line(error)}."
                ) from error
            say(f"{first_line(error)}; again in {wait:.1f} s")
            stop.wait(wait)
            wait = min(2 * wait, RETRY_SECONDS_MAX)


def _connect(url: str) -> psycopg.Connection:
    try:
        conninfo_to_dict(url)
    except psycopg.ProgrammingError as error:
        raise UsageError(f"The database URL is not valid: {first_line(error)}.") from error
    # A peer that is gone without a word must not hold us (or our lock there) for hours.
    return psycopg.connect(
        url,
        autocommit=True,
        connect_timeout=5,
        application_name="truetape demo exchange",
        keepalives_idle=10,
        keepalives_interval=5,
        keepalives_count=3,
        tcp_user_timeout=30_000,
    )


def say(what: str) -> None:
    """A line of the log."""
    print(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} {what}", file=sys.stderr, flush=True)
