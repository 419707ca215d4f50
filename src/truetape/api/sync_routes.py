"""``/api/sync``: health, runs and proof."""

from typing import Annotated, Any

from fastapi import APIRouter, Body, Query, Request
from fastapi.responses import JSONResponse

from truetape.api.faults import ANYWHERE, CHANGES, UNCHECKED, ApiError, Problem, Told, problems
from truetape.api.models import (
    LAST_TIMESTAMP,
    Alive,
    Asked,
    ForceBody,
    Forced,
    FullHealth,
    GapFound,
    HistoryCell,
    Proof,
    Ran,
    RanBadly,
    Retried,
    RetryBody,
    RunBody,
    RunShown,
    SetAside,
    ShortHealth,
    Stats,
    VerifyBody,
    WouldForce,
)
from truetape.api.numbers import IN_DIGITS
from truetape.present import (
    cell_json,
    error_json,
    gap_json,
    health_json,
    iso,
    result_json,
    run_json,
)
from truetape.store import history, jobs, quarantine, runs, state
from truetape.store.runs import Run
from truetape.sync import gaps as sync_gaps
from truetape.sync.engine import Engine
from truetape.sync.estimate import estimate_force
from truetape.sync.service import SyncResult, check_timestamp, iso_date

BIGGEST_ID = 2**63 - 1

_FAILED = {"model": RanBadly | Problem, "description": "It failed, or a database is out of reach."}


def _change(of: Any, *further: int, wait: bool = True) -> dict[str, Any]:
    """How a call that changes something stands in the document."""
    told = problems(400, 401, 413, *further) | {503: _FAILED}
    told |= {202: {"model": Asked, "description": "It goes on by itself."}} if wait else {}
    return {
        "response_model": Annotated[of, UNCHECKED],
        "responses": told,
        "dependencies": [CHANGES],
    }


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
    api = APIRouter(tags=["sync"], responses=ANYWHERE)

    @api.get(
        "/api/sync/health", response_model=Told[FullHealth], responses={503: {"model": FullHealth}}
    )
    async def health() -> JSONResponse:
        """How far the analytics are behind the source; 200 also when unhealthy."""
        found = await engine.health_or_why()
        return JSONResponse(health_json(found), status_code=503 if found.error else 200)

    @api.get(
        "/api/sync/status",
        response_model=Told[ShortHealth],
        responses={503: {"model": ShortHealth}},
    )
    async def status() -> JSONResponse:
        """Health in short."""
        found = await engine.health_or_why()
        keys = ("status", "isHealthy", "lagMinutes", "missedTrades", "failedTrades", "message")
        full = health_json(found)
        return JSONResponse({k: full[k] for k in keys}, status_code=503 if found.error else 200)

    @api.post("/api/sync/run", **_change(Ran))
    async def run(body: RunBody | None = None, wait: bool = True) -> JSONResponse:
        """Processes everything that is missing, changed or vanished."""
        body = body or RunBody()
        params: dict[str, object] = {"accept_deletions": body.acceptDeletions}
        return await _outcome(engine, await engine.ask(body.strategy, params), wait, {})

    @api.post(
        "/api/sync/force", **_change(Forced | WouldForce),
        openapi_extra={"requestBody": {"required": True}},
    )  # fmt: skip
    async def force(
        body: Annotated[ForceBody, Body(default_factory=ForceBody)], wait: bool = True
    ) -> JSONResponse:
        """Reprocesses every trade at or after ``fromTimestamp`` and rebuilds what they feed."""
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

    @api.post("/api/sync/retry", **_change(Retried))
    async def retry(body: RetryBody | None = None, wait: bool = True) -> JSONResponse:
        """Puts quarantined trades (or one) back and syncs."""
        async with engine.analytics.connection() as conn:
            requeued = await quarantine.requeue(conn, body.tradeId if body else None)
        return await _outcome(engine, await engine.ask("retry", {}), wait, {"requeued": requeued})

    @api.post("/api/sync/verify", **_change(Proof, wait=False))
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

    @api.get("/api/sync/gaps", response_model=Told[list[GapFound]])
    async def gaps() -> list[dict[str, Any]]:
        """Where the two sides differ now."""
        return [gap_json(g) for g in await sync_gaps.gaps(engine.reconciler)]

    @api.get("/api/sync/errors", response_model=Told[list[SetAside]], responses=problems(400))
    async def errors(limit: Annotated[int, Query(ge=1), IN_DIGITS] = 500) -> list[dict[str, Any]]:
        """Trades that could not be processed, the newest failure first."""
        async with engine.analytics.connection() as conn:
            return [error_json(e) for e in await quarantine.listed(conn, min(limit, 10_000))]

    @api.get("/api/sync/runs", response_model=Told[list[RunShown]], responses=problems(400))
    async def list_runs(limit: Annotated[int, Query(ge=1), IN_DIGITS] = 50) -> list[dict[str, Any]]:
        """Runs, the newest first."""
        async with engine.analytics.connection() as conn:
            return [run_json(r) for r in await runs.recent(conn, min(limit, 10_000))]

    @api.get("/api/sync/runs/{run_id}", response_model=Told[RunShown], responses=problems(400, 404))
    async def one_run(run_id: Annotated[int, IN_DIGITS]) -> dict[str, Any]:
        return run_json(await _known(run_id))

    @api.post("/api/sync/runs/{run_id}/cancel", **_change(RunShown, 404, wait=False))
    async def cancel(run_id: Annotated[int, IN_DIGITS]) -> dict[str, Any]:
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

    @api.get("/api/sync/stats", response_model=Told[Stats])
    async def stats() -> dict[str, Any]:
        """Totals, rates, the last runs, who works on them, and how far the scrub of all history is."""
        async with engine.analytics.connection() as conn, conn.transaction():
            totals = await state.totals(conn)
            known = await state.read(conn)
            last = await runs.recent(conn, 5)
            force = await jobs.workforce(conn)
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
            "workforce": {
                "workers": force.workers,
                "inHand": force.in_hand,
                "waiting": force.waiting,
            },
            "runs": [run_json(r) for r in last],
        }

    @api.get("/api/sync/history", response_model=Told[list[HistoryCell]], responses=problems(400))
    async def all_history(
        start: Annotated[
            int | None, Query(alias="from", ge=0, le=LAST_TIMESTAMP), IN_DIGITS
        ] = None,
        end: Annotated[int | None, Query(alias="to", ge=0, le=LAST_TIMESTAMP), IN_DIGITS] = None,
        cells: Annotated[int, Query(ge=2, le=1000), IN_DIGITS] = 120,
    ) -> list[dict[str, Any]]:
        """All history, or a range of it, in cells of time with the trades of both sides."""
        async with engine.analytics.connection() as conn:
            return [cell_json(c) for c in await history.cells(conn, start, end, cells)]

    @api.get("/livez", tags=["probes"], response_model=Told[Alive])
    async def livez() -> dict[str, str]:
        """The process answers."""
        return {"status": "ok"}

    @api.get("/readyz", tags=["probes"], response_model=Told[Alive])
    async def readyz(request: Request) -> JSONResponse:
        """Both databases answer."""
        found = await engine.health_or_why()
        if found.error:
            return JSONResponse({"error": found.error, "details": None}, status_code=503)
        return JSONResponse({"status": "ok"})

    return api
