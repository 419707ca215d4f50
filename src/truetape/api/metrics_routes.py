"""``/metrics``: counters of this process, and the state of all as of the question."""

from datetime import datetime
from math import nan
from typing import Any

from fastapi import APIRouter
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from truetape import metrics
from truetape.api.faults import ANYWHERE
from truetape.store import jobs, state, tape
from truetape.sync.engine import Engine
from truetape.sync.health import Health

DOORBELLS = ("notify", "redis", "timer")
_TEXT: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/plain": {"schema": {"type": "string"}}}}
}


_SLICES = {state: metrics.SLICES.labels(state) for state in ("in hand", "waiting")}


def metrics_routes(engine: Engine) -> APIRouter:
    """The route of the metrics."""
    api = APIRouter(responses=ANYWHERE)

    @api.get("/metrics", tags=["probes"], response_class=Response, responses=_TEXT)
    async def read() -> Response:
        """Metrics for Prometheus; what cannot be told while a database is away is NaN."""
        health = await engine.health_or_why()
        _set_health(health)
        _set_process(engine)
        await _set_background(engine, health)
        return Response(generate_latest(metrics.REGISTRY), media_type=CONTENT_TYPE_LATEST)

    return api


def _number(value: float | None) -> float:
    return nan if value is None else float(value)


def _time(at: str | None) -> float:
    return nan if at is None else datetime.fromisoformat(at).timestamp()


def _set_health(health: Health) -> None:
    metrics.UP.set(health.error is None)
    metrics.HEALTHY.set(health.status == "healthy")
    metrics.LAG_SECONDS.set(
        _number(None if health.lag_minutes is None else health.lag_minutes * 60)
    )
    metrics.MISSED.set(_number(health.missed_trades))
    metrics.QUARANTINED.set(_number(health.failed_trades))
    metrics.HELD.set(_number(health.held_deletions["count"]))
    metrics.REFUSED.set(_number(health.sealed["refused"]))
    metrics.SOURCE_NEWEST.set(_number(health.last_ponder_timestamp))
    metrics.ANALYTICS_NEWEST.set(_number(health.last_analytics_timestamp))
    metrics.PROVEN_AT.set(_time(health.verified["at"]))
    metrics.SCRUBBED_AT.set(_time(health.scrub.get("lastFullPass")))
    metrics.FOLLOWING.set(health.following)
    for name in DOORBELLS:
        metrics.DOORBELL_ALIVE.labels(name).set(name in health.doorbells)
    for chain in health.chains:
        metrics.COMPLETE_BLOCK.labels(chain.chain_id).set(chain.complete_through_block)
        metrics.FINALIZED_BLOCK.labels(chain.chain_id).set(chain.finalized_block)


def _set_process(engine: Engine) -> None:
    metrics.LEADER.set(engine.leads)
    pools = {
        "analytics": engine.analytics,
        "writers": engine.reconciler.writers,
        "readers": engine.readers,
        "queue": engine.queue_pool,
        "source": engine.source.pool,
    }
    for name, pool in pools.items():
        stats = pool.get_stats()
        metrics.POOL.labels(name, "open").set(stats.get("pool_size", 0))
        metrics.POOL.labels(name, "free").set(stats.get("pool_available", 0))
        metrics.POOL.labels(name, "most").set(stats.get("pool_max", 0))
        metrics.POOL_WAITING.labels(name).set(stats.get("requests_waiting", 0))


async def _set_background(engine: Engine, health: Health) -> None:
    """Who works on what; how far the scrub is, by time (a pass that has ended is a whole one)."""
    if health.error is not None:
        for gauge in (metrics.SCRUB_PROGRESS, metrics.WORKERS, *_SLICES.values()):
            gauge.set(nan)
        return
    async with engine.analytics.connection() as conn:
        known, extent = await state.read(conn), await tape.extent(conn, 0)
        force = await jobs.workforce(conn)
    metrics.WORKERS.set(force.workers)
    _SLICES["in hand"].set(force.in_hand)
    _SLICES["waiting"].set(force.waiting)
    if known.scrub_from is None or extent is None:
        metrics.SCRUB_PROGRESS.set(1.0 if known.scrub_ended_at is not None else 0.0)
        return
    first, last = extent
    share = (known.scrub_from - first) / max(last - first, 1)
    metrics.SCRUB_PROGRESS.set(min(max(share, 0.0), 1.0))
