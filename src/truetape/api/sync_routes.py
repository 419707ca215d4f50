"""``/api/sync``: health, runs and proof."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt

from truetape.api.faults import ApiError
from truetape.present import (
    cell_json,
    error_json,
    gap_json,
    health_json,
    iso,
    result_json,
    run_json,
)
from truetape.store import history, quarantine, runs, state
from truetape.store.runs import Run
from truetape.sync import gaps as sync_gaps
from truetape.sync.engine import Engine
from truetape.sync.estimate import estimate_force
from truetape.sync.service import SyncResult, check_timestamp, iso_date

BIGGEST_ID = 2**63 - 1


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class RunBody(_Body):
    strategy: Literal["standard", "comprehensive"] = "standard"
    acceptDeletions: StrictBool = False


class ForceBody(_Body):
    fromTimestamp: Any = None
    dryRun: StrictBool = False


class RetryBody(_Body):
    tradeId: str | None = None


Second = StrictInt | None


class VerifyBody(_Body):
    repair: StrictBool = False
    start: Second = Field(None, alias="from", ge=0, le=9_999_999_999)
    end: Second = Field(None, alias="to", ge=0, le=9_999_999_999)


async def _outcome(engine: Engine, run: Run, wait: bool, extra: dict[str, Any]) -> JSONResponse:
    """Waits for the end of a run, or names it."""
    if not wait:
        return JSONResponse(
            {"runId": run.run_id, "joined": run.joined, "state": run.state} | extra, status_code=202
        )
    ended = await engine.ended(run)
    content = result_json(SyncResult.of(ended)) | extra
    if ended.state == "failed":
        content |= {"error": ended.message or "The run failed.", "details": None}
        return JSONResponse(content, status_code=503)
    return JSONResponse(content)


def sync_routes(engine: Engine) -> APIRouter:
    """The routes of ``/api/sync`` and the probes."""
    api = APIRouter(tags=["sync"])

    @api.get("/api/sync/health")
    async def health() -> JSONResponse:
        """How far the analytics are behind the source; 200 also when unhealthy."""
        found = await engine.health_or_why()
        return JSONResponse(health_json(found), status_code=503 if found.error else 200)

    @api.get("/api/sync/status")
    async def status() -> JSONResponse:
        """Health in short."""
        found = await engine.health_or_why()
        keys = ("status", "isHealthy", "lagMinutes", "missedTrades", "failedTrades", "message")
        full = health_json(found)
        return JSONResponse({k: full[k] for k in keys}, status_code=503 if found.error else 200)

    @api.post("/api/sync/run")
    async def run(body: RunBody | None = None, wait: bool = True) -> JSONResponse:
        """Processes everything that is missing, changed or vanished."""
        body = body or RunBody()
        params: dict[str, object] = {"accept_deletions": body.acceptDeletions}
        return await _outcome(engine, await engine.ask(body.strategy, params), wait, {})

    @api.post("/api/sync/force")
    async def force(body: ForceBody | None = None, wait: bool = True) -> JSONResponse:
        """Reprocesses every trade at or after ``fromTimestamp`` and rebuilds what they feed."""
        body = body or ForceBody()
        since = check_timestamp(body.fromTimestamp)
        named: dict[str, Any] = {"fromTimestamp": since, "fromDate": iso_date(since)}
        if body.dryRun:
            expected = await estimate_force(engine.reconciler, since)
            return JSONResponse(named | {
                "dryRun": True, "trades": expected.trades, "buckets": expected.buckets,
                "estimateMs": expected.estimate_ms,
            })  # fmt: skip
        return await _outcome(
            engine, await engine.ask("force", {"from_timestamp": since}), wait, named
        )

    @api.post("/api/sync/retry")
    async def retry(body: RetryBody | None = None, wait: bool = True) -> JSONResponse:
        """Puts quarantined trades (or one) back and syncs."""
        async with engine.analytics.connection() as conn:
            requeued = await quarantine.requeue(conn, body.tradeId if body else None)
        return await _outcome(engine, await engine.ask("retry", {}), wait, {"requeued": requeued})

    @api.post("/api/sync/verify")
    async def verify(body: VerifyBody | None = None) -> JSONResponse:
        """Reads the rows of both sides, and the rollups against the tape."""
        body = body or VerifyBody.model_validate({})
        if body.start is not None and body.end is not None and body.start >= body.end:
            raise ApiError(400, f"from ({body.start}) must be before to ({body.end}).")
        params: dict[str, object] = {"repair": body.repair, "from": body.start, "to": body.end}
        ended = await engine.ended(await engine.ask("verify", params))
        if ended.result is None:
            raise ApiError(503, ended.message or "The verification did not end.")
        return JSONResponse(ended.result | {"runId": ended.run_id})

    @api.get("/api/sync/gaps")
    async def gaps() -> list[dict[str, Any]]:
        """Where the two sides differ now."""
        return [gap_json(g) for g in await sync_gaps.gaps(engine.reconciler)]

    @api.get("/api/sync/errors")
    async def errors(limit: int = Query(500, ge=1)) -> list[dict[str, Any]]:
        """Trades that could not be processed, the newest failure first."""
        async with engine.analytics.connection() as conn:
            return [error_json(e) for e in await quarantine.listed(conn, min(limit, 10_000))]

    @api.get("/api/sync/runs")
    async def list_runs(limit: int = Query(50, ge=1)) -> list[dict[str, Any]]:
        """Runs, the newest first."""
        async with engine.analytics.connection() as conn:
            return [run_json(r) for r in await runs.recent(conn, min(limit, 10_000))]

    @api.get("/api/sync/runs/{run_id}")
    async def one_run(run_id: int) -> dict[str, Any]:
        return run_json(await _known(run_id))

    @api.post("/api/sync/runs/{run_id}/cancel")
    async def cancel(run_id: int) -> dict[str, Any]:
        """Asks a run to stop at its next slice; what it has done stays done."""
        await _known(run_id)
        async with engine.analytics.connection() as conn:
            await runs.cancel(conn, run_id)
        return run_json(await _known(run_id))

    async def _known(run_id: int) -> Run:
        if not 0 < run_id <= BIGGEST_ID:
            raise ApiError(404, f"There is no run {run_id}.")
        async with engine.analytics.connection() as conn:
            found = await runs.get(conn, run_id)
        if found is None:
            raise ApiError(404, f"There is no run {run_id}.")
        return found

    @api.get("/api/sync/stats")
    async def stats() -> dict[str, Any]:
        """Totals, rates, the last runs, and how far the scrub of all history is."""
        async with engine.analytics.connection() as conn, conn.transaction():
            totals = await state.totals(conn)
            known = await state.read(conn)
            last = await runs.recent(conn, 5)
        return totals | {
            "scrub": {
                "at": known.scrub_from,
                "startedAt": iso(known.scrub_started_at),
                "lastFullPass": iso(known.scrub_ended_at),
            },
            "retention": {
                "lastRun": iso(known.tidied_at),
                "logDays": engine.settings.log_retention_days,
                "tapeDays": engine.settings.tape_retention_days,
                "sealedBefore": known.sealed_before or None,
            },
            "runs": [run_json(r) for r in last],
        }

    @api.get("/api/sync/history")
    async def all_history(
        start: Annotated[int | None, Query(alias="from", ge=0, le=9_999_999_999)] = None,
        end: Annotated[int | None, Query(alias="to", ge=0, le=9_999_999_999)] = None,
        cells: Annotated[int, Query(ge=2, le=1000)] = 120,
    ) -> list[dict[str, Any]]:
        """All history, or a range of it, in cells of time with the trades of both sides."""
        async with engine.analytics.connection() as conn:
            return [cell_json(c) for c in await history.cells(conn, start, end, cells)]

    @api.get("/livez", tags=["probes"])
    async def livez() -> dict[str, str]:
        """The process answers."""
        return {"status": "ok"}

    @api.get("/readyz", tags=["probes"])
    async def readyz(request: Request) -> JSONResponse:
        """Both databases answer."""
        found = await engine.health_or_why()
        if found.error:
            return JSONResponse({"error": found.error, "details": None}, status_code=503)
        return JSONResponse({"status": "ok"})

    return api
