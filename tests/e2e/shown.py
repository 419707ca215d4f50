"""Looking at what the analytics show, all the time, as users do: over HTTP and in SQL."""

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import psycopg

MINUTE = 60
PERIOD_SECONDS = 0.5
LOOKS_MIN = 5
LOOKS_WITHIN_SECONDS = 30

CANDLES = """
SELECT chain_id, pool_id, extract(epoch FROM bucket)::bigint, trades,
       (open, high, low, close, base_volume, quote_volume, buy_base_volume)::text
FROM analytics.candles_1m"""

COMPLETE = "SELECT chain_id, complete_time FROM analytics.chains"

FINAL = "SELECT chain_id, substr(finalized_checkpoint, 1, 10)::bigint FROM _ponder_checkpoint"

Key = tuple[int, str, int]
Candles = dict[Key, tuple[int, str]]


@dataclass(frozen=True)
class Sample:
    """What was shown at a moment; ``final``: chain → through which second Ponder had finalized it."""

    final: dict[int, int]
    complete: dict[int, int]
    candles: Candles


class FinalityWatch:
    """No minute that Ponder has finalized may be shown other than it is for good.

    It may be shown late, with some of its trades, as long as health does not call it complete.
    """

    def __init__(self, views_url: str, analytics_url: str) -> None:
        self._views_url, self._analytics_url = views_url, analytics_url
        self._samples: list[Sample] = []
        self._stop = threading.Event()
        self._watcher = threading.Thread(target=self._watch)

    def start(self) -> None:
        self._watcher.start()

    def stop(self) -> None:
        self._stop.set()
        if self._watcher.is_alive():
            self._watcher.join()

    def _watch(self) -> None:
        while not self._stop.wait(PERIOD_SECONDS):
            # Views and schema come and go: Ponder starts, Truetape starts.
            with suppress(psycopg.Error):
                sample = self._look()
                if not self._samples or sample != self._samples[-1]:
                    self._samples.append(sample)

    def _look(self) -> Sample:
        with psycopg.connect(self._views_url) as source:
            final: dict[int, int] = dict(source.execute(FINAL).fetchall())
        with psycopg.connect(self._analytics_url) as ours:
            ours.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            complete: dict[int, int] = dict(ours.execute(COMPLETE).fetchall())
            rows = ours.execute(CANDLES).fetchall()
        candles = {(chain, pool, at): (trades, text) for chain, pool, at, trades, text in rows}
        return Sample(final, complete, candles)

    def wrong(self) -> list[str]:
        """What was shown wrong since the last time; to be asked while the analytics are true."""
        truth, samples = self._look().candles, self._samples
        self._samples = []
        return [wrong for sample in samples for wrong in _wrong(sample, truth)][:10]


def _wrong(sample: Sample, truth: Candles) -> Iterator[str]:
    for key in sample.candles.keys() | truth.keys():
        chain, _, minute = key
        if minute + MINUTE > sample.final.get(chain, 0):
            continue
        shown, true = sample.candles.get(key), truth.get(key)
        late = sample.complete.get(chain, 0) < minute + MINUTE
        if shown != true and not (late and true and (shown is None or shown[0] < true[0])):
            yield f"{key} was shown as {shown}, is {true}; complete {sample.complete}, final {sample.final}"


# -- figures over HTTP -----------------------------------------------------------------------

GROWING = ("trades", "baseVolume", "quoteVolume", "buyBaseVolume", "uniqueTraders", "largestTrade")
GROWING_24H = ("trades24h", "baseVolume24h", "quoteVolume24h", "uniqueTraders24h", "high24h")
GROWING_TRADER = ("trades", "volume", "buyVolume", "sellVolume", "lastTrade")

Get = Callable[[str], Any]


def figures(get: Get, at: int) -> dict[str, Decimal]:
    """All that the API shows and that only grows while no reorg takes anything away.

    ``at``: the end of the 24 hours of the symbols, a second that does not move.
    """
    shown: dict[str, Decimal] = {}

    def note(what: str, row: dict[str, Any], names: tuple[str, ...]) -> None:
        for name in names:
            if row.get(name) is not None:
                shown[f"{what} {name}"] = Decimal(str(row[name]))

    health = get("/api/sync/health")
    note("health", health, ("lastAnalyticsTimestamp",))
    for chain in health["chains"]:
        note(f"chain {chain['chainId']}", chain, ("finalizedBlock",))
    note("stats", get("/api/sync/stats"), ("trades", "pools"))
    for symbol in get(f"/api/market/symbols?at={at}"):
        pool = f"{symbol['chainId']} {symbol['poolId']}"
        note(f"symbol {pool}", symbol, GROWING_24H)
        chosen = f"poolId={symbol['poolId']}&chainId={symbol['chainId']}"
        for call in ("daily?", "candles?interval=1h&"):
            for candle in get(f"/api/market/{call}{chosen}")["candles"]:
                note(f"{call} {pool} {candle['time']}", candle, GROWING)
    for quote in ("USDC", "WETH"):
        for trader in get(f"/api/traders/leaderboard?period=all&quote={quote}")["traders"]:
            note(f"{quote} of {trader['trader']}", trader, GROWING_TRADER)
    return shown


@contextmanager
def no_dip(get: Get) -> Iterator[None]:
    """While the block runs no figure may fall; Truetape itself may be away for some of it."""
    at = int(time.time()) + 3600
    stop, seen = threading.Event(), [figures(get, at)]

    def watch() -> None:
        while not stop.wait(PERIOD_SECONDS / 2):
            with suppress(OSError):
                seen.append(figures(get, at))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
        deadline = time.monotonic() + LOOKS_WITHIN_SECONDS
        while len(seen) <= LOOKS_MIN and time.monotonic() < deadline:
            time.sleep(PERIOD_SECONDS)  # On a busy machine a look takes long.
    finally:
        stop.set()
        watcher.join()
    falls = [
        f"{name}: {before[name]} -> {after.get(name)}"
        for before, after in itertools.pairwise(seen)
        for name in before
        if name not in after or after[name] < before[name]
    ]
    assert not falls, falls[:10]
    assert len(seen) > LOOKS_MIN, "nobody looked"
