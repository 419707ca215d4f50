"""The library's front: ``async with DataSyncService(source_url, analytics_url) as sync: ...``."""

from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

from truetape.errors import TruetapeError, UsageError
from truetape.settings import Settings
from truetape.store.runs import Run
from truetape.sync.engine import Engine, open_engine
from truetape.sync.health import Health


@dataclass(frozen=True)
class SyncResult:
    """What a sync found and did; counts in trades, ``duration`` in milliseconds."""

    success: bool
    message: str
    processed: int
    errors: int
    total: int
    inserted: int
    changed: int
    retracted: int
    checked: int
    duration: int
    run_id: int
    joined: bool
    from_timestamp: int | None = None
    from_date: str | None = None

    @classmethod
    def of(cls, run: Run) -> "SyncResult":
        since = run.params.get("from_timestamp")
        return cls(
            success=run.state == "succeeded",
            message=run.message or "",
            processed=run.processed,
            errors=run.errors,
            total=run.total,
            inserted=run.inserted,
            changed=run.changed,
            retracted=run.retracted,
            checked=run.checked,
            duration=run.duration_ms or 0,
            run_id=run.run_id,
            joined=run.joined,
            from_timestamp=since,
            from_date=None if since is None else iso_date(since),
        )


def iso_date(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).isoformat().replace("+00:00", "Z")


def check_timestamp(value: Any) -> int:
    """A Unix second, or UsageError with an example."""
    example = "give a Unix second, for example 1754400000"
    if value is None:
        raise UsageError(f"fromTimestamp is missing; {example}.")
    if isinstance(value, bool) or not isinstance(value, int):
        raise UsageError(f"fromTimestamp {value!r} is no whole number; {example}.")
    if value < 0 or value > 9_999_999_999:
        unit = " (milliseconds?)" if value > 9_999_999_999 else ""
        raise UsageError(f"fromTimestamp {value} is no Unix second{unit}; {example}.")
    return value


class DataSyncService:
    """Detects what was missed and processes it, without losing or doubling a trade.

    ``source_url``: the Ponder database, read only. ``analytics_url``: the analytics database, ours.
    Works alone and beside a running ``truetape serve``: whoever leads does the work.
    """

    def __init__(
        self, source_url: str, analytics_url: str, settings: Settings | None = None
    ) -> None:
        self._source_url = source_url
        self._analytics_url = analytics_url
        self._settings = settings or Settings.load()
        self._stack = AsyncExitStack()
        self._engine: Engine | None = None

    async def __aenter__(self) -> Self:
        self._engine = await self._stack.enter_async_context(
            open_engine(self._settings, self._source_url, self._analytics_url, follow=False)
        )
        self._engine.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._stack.aclose()

    @property
    def _open(self) -> Engine:
        if self._engine is None:
            raise TruetapeError(
                "DataSyncService is not open; use: async with DataSyncService(...)."
            )
        return self._engine

    async def check_sync_health(self) -> Health:
        """How far the analytics are behind the source."""
        return await self._open.health.check(patience_seconds=10)

    async def sync_missed_data(self) -> SyncResult:
        """Processes everything that is missing, changed or vanished."""
        return await self._run("standard", {})

    async def force_sync_from(self, timestamp: int) -> SyncResult:
        """Reprocesses every trade at or after ``timestamp`` (Unix seconds) and all that they feed."""
        return await self._run("force", {"from_timestamp": check_timestamp(timestamp)})

    async def _run(self, kind: str, params: dict[str, object]) -> SyncResult:
        run = await self._open.ask(kind, params)
        return SyncResult.of(await self._open.ended(run))
