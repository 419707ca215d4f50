"""Metrics by name: what Prometheus reads at ``/metrics``. The names are public (docs/metrics.md).

What counts work is counted where the work is done, and grows only in the process that leads. What tells a
state is set when somebody asks.
"""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

REGISTRY = CollectorRegistry()
ProcessCollector(registry=REGISTRY)

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

# -- work of this process ----------------------------------------------------------------------

PROCESSED = Counter(
    "truetape_trades_processed", "Trades processed, by reason: new, changed or vanished.",
    ["reason"], registry=REGISTRY,
)  # fmt: skip
FAILED = Counter(
    "truetape_trades_failed", "Trades that were set aside because they could not be processed.",
    registry=REGISTRY,
)  # fmt: skip
BATCH_SECONDS = Histogram(
    "truetape_batch_seconds", "Time for a batch, from looking at the source to the commit.",
    buckets=SECONDS, registry=REGISTRY,
)  # fmt: skip
SOURCE_READ_SECONDS = Histogram(
    "truetape_source_read_seconds", "Time that a snapshot of the source was held.",
    buckets=SECONDS, registry=REGISTRY,
)  # fmt: skip
RINGS = Counter(
    "truetape_doorbell_rings", "Rings of a doorbell that were heard.", ["doorbell"],
    registry=REGISTRY,
)  # fmt: skip
RUNS = Counter(
    "truetape_runs", "Runs that ended, by kind and how.", ["kind", "state"], registry=REGISTRY
)

# -- state, as of the question -----------------------------------------------------------------

UP = Gauge("truetape_up", "Whether health could be told: both databases answer.", registry=REGISTRY)
HEALTHY = Gauge("truetape_healthy", "Whether health says healthy.", registry=REGISTRY)
LAG_SECONDS = Gauge(
    "truetape_lag_seconds", "How far the analytics are behind the source.", registry=REGISTRY
)
MISSED = Gauge(
    "truetape_missed_trades", "Trades of the source neither processed nor set aside.",
    registry=REGISTRY,
)  # fmt: skip
QUARANTINED = Gauge("truetape_quarantined_trades", "Trades that are set aside.", registry=REGISTRY)
HELD = Gauge(
    "truetape_held_deletions", "Vanished trades that wait for somebody's word.", registry=REGISTRY
)
REFUSED = Gauge(
    "truetape_refused_trades", "Differences where raw trades are dropped and all is sealed.",
    registry=REGISTRY,
)  # fmt: skip
SOURCE_NEWEST = Gauge(
    "truetape_source_newest_timestamp_seconds", "Time of the source's newest trade.",
    registry=REGISTRY,
)  # fmt: skip
ANALYTICS_NEWEST = Gauge(
    "truetape_analytics_newest_timestamp_seconds", "Time of the newest processed trade.",
    registry=REGISTRY,
)  # fmt: skip
COMPLETE_BLOCK = Gauge(
    "truetape_chain_complete_block", "Block through which the analytics are complete.", ["chain"],
    registry=REGISTRY,
)  # fmt: skip
FINALIZED_BLOCK = Gauge(
    "truetape_chain_finalized_block", "Block that Ponder calls finalized.", ["chain"],
    registry=REGISTRY,
)  # fmt: skip
PROVEN_AT = Gauge(
    "truetape_proven_timestamp_seconds", "When verify last found everything complete.",
    registry=REGISTRY,
)  # fmt: skip
SCRUBBED_AT = Gauge(
    "truetape_scrub_last_pass_timestamp_seconds", "When the scrub last ended a pass of all history.",
    registry=REGISTRY,
)  # fmt: skip
SCRUB_PROGRESS = Gauge(
    "truetape_scrub_progress_ratio", "How far the scrub is in its pass of all history.",
    registry=REGISTRY,
)  # fmt: skip
LEADER = Gauge("truetape_leader", "Whether this process leads.", registry=REGISTRY)
FOLLOWING = Gauge("truetape_following", "Whether any process leads and follows.", registry=REGISTRY)
WORKERS = Gauge(
    "truetape_workers", "Workers, wherever they are, that have been heard of lately.",
    registry=REGISTRY,
)  # fmt: skip
SLICES = Gauge(
    "truetape_slices", "Slices of runs, in the hands of workers or waiting for one.", ["state"],
    registry=REGISTRY,
)  # fmt: skip
DOORBELL_ALIVE = Gauge(
    "truetape_doorbell_alive", "Whether the leader hears a doorbell.", ["doorbell"],
    registry=REGISTRY,
)  # fmt: skip
CIRCUIT_OPEN = Gauge(
    "truetape_circuit_open", "Whether a server is away, so that calls that need it fail at once.",
    ["server"], registry=REGISTRY,
)  # fmt: skip
POOL = Gauge(
    "truetape_pool_connections", "Connections of a pool of this process: open, free, or the most.",
    ["pool", "state"], registry=REGISTRY,
)  # fmt: skip
POOL_WAITING = Gauge(
    "truetape_pool_waiting", "Requests that wait for a connection of a pool.", ["pool"],
    registry=REGISTRY,
)  # fmt: skip
