"""What the calls of ``/api/sync`` carry, and what they are answered. Seconds are Unix seconds."""

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictInt,
    WithJsonSchema,
)

from truetape.api.faults import Problem

LAST_TIMESTAMP = 9_999_999_999


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class RunBody(_Body):
    strategy: Literal["standard", "comprehensive"] = "standard"
    acceptDeletions: StrictBool = False


def _whole(value: Any) -> Any:
    """In JSON 5.0 is 5."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


class ForceBody(_Body):
    # Checked with the words of the command line; a body without it is refused with an example.
    fromTimestamp: Annotated[
        Any,
        BeforeValidator(_whole),
        WithJsonSchema({"type": "integer", "minimum": 0, "maximum": LAST_TIMESTAMP}),
    ] = None
    dryRun: StrictBool = False

    model_config = ConfigDict(json_schema_extra={"required": ["fromTimestamp"]})


class RetryBody(_Body):
    tradeId: str | None = Field(None, pattern=r"^[^\x00]*$")


Second = Annotated[StrictInt | None, BeforeValidator(_whole)]


class VerifyBody(_Body):
    repair: StrictBool = False
    start: Second = Field(None, alias="from", ge=0, le=LAST_TIMESTAMP)
    end: Second = Field(None, alias="to", ge=0, le=LAST_TIMESTAMP)


State = Literal["queued", "running", "succeeded", "failed", "cancelled"]


class Held(BaseModel):
    """Vanished trades that wait for ``acceptDeletions``."""

    count: int | None
    since: str | None
    reason: str | None


class ChainStanding(BaseModel):
    chainId: int
    completeThroughBlock: int
    completeThroughTimestamp: int
    finalizedBlock: int


class Verified(BaseModel):
    completeThrough: int | None
    at: str | None


class ScrubPass(BaseModel):
    lastFullPass: str | None = None
    at: int | None = None


class Sealed(BaseModel):
    before: int | None
    refused: int | None


class ShortHealth(BaseModel):
    status: Literal["healthy", "degraded", "unhealthy"]
    isHealthy: bool
    lagMinutes: float | None
    missedTrades: int | None
    failedTrades: int | None
    message: str


class FullHealth(ShortHealth):
    """Timestamps are Unix seconds; ``error`` names a database that is out of reach."""

    lastPonderTimestamp: int | None
    lastAnalyticsTimestamp: int | None
    recommendation: Literal["HEALTHY", "SYNC_RECOMMENDED", "IMMEDIATE_SYNC_REQUIRED"]
    missedAsOf: str | None
    heldDeletions: Held
    isColdStart: bool
    chains: list[ChainStanding]
    verified: Verified
    following: bool
    doorbells: list[str]
    scrub: ScrubPass
    sealed: Sealed
    circuits: dict[str, Literal["open", "closed"]] = {}
    error: str = ""


class _Counts(BaseModel):
    """In trades."""

    total: int
    processed: int
    errors: int
    inserted: int
    changed: int
    retracted: int
    checked: int


class Ran(_Counts):
    """What a run found and did; ``duration`` in milliseconds."""

    success: bool
    message: str
    duration: int
    runId: int
    joined: bool


class RanBadly(Ran, Problem):
    fromTimestamp: int = 0
    fromDate: str = ""
    requeued: int = 0


class Forced(Ran):
    fromTimestamp: int
    fromDate: str


class Retried(Ran):
    requeued: int


class Asked(BaseModel):
    """A run that goes on by itself; ``/api/sync/runs/{runId}`` tells how far it is."""

    runId: int
    joined: bool
    state: State
    fromTimestamp: int = 0
    fromDate: str = ""
    requeued: int = 0


class WouldForce(BaseModel):
    fromTimestamp: int
    fromDate: str
    dryRun: Literal[True]
    trades: int
    buckets: int
    estimateMs: int


class _Span(BaseModel):
    """Unix seconds."""

    start: int = Field(alias="from")
    end: int = Field(alias="to")


class Mismatch(_Span):
    kind: Literal["missing", "extra", "changed"]
    trades: int
    sourceTrades: int
    analyticsTrades: int


class RollupMismatch(BaseModel):
    rollup: str
    bucket: int
    chainId: int | None
    poolId: str | None


class Proof(BaseModel):
    complete: bool
    tradesChecked: int
    bucketsChecked: int
    failed: int
    mismatches: list[Mismatch]
    rollupMismatches: list[RollupMismatch]
    repaired: int
    durationMs: int
    runId: int


class GapFound(_Span):
    missing: int
    extra: int
    kind: Literal["head", "middle", "tail"]


class HistoryCell(_Span):
    sourceTrades: int
    processed: int
    failed: int
    missing: int
    extra: int
    state: Literal["proven", "synced", "missing", "aside", "held", "sealed"]


class SetAside(BaseModel):
    tradeId: str
    service: Literal["analytics"]
    status: Literal["error", "pending"]
    attempts: int
    processedAt: str
    errorMessage: str


class RunShown(_Counts):
    """``progress`` of 1; ``result`` is what a verification found."""

    runId: int
    kind: Literal["standard", "comprehensive", "force", "retry", "verify"]
    state: State
    progress: float
    estimateMs: int | None
    requestedAt: str
    startedAt: str | None
    endedAt: str | None
    message: str | None
    result: dict[str, Any] | None


class Scrub(ScrubPass):
    startedAt: str | None


class Retention(BaseModel):
    lastRun: str | None
    logDays: float
    tapeDays: float | None
    sealedBefore: int | None


class WorkforceShown(BaseModel):
    workers: int
    inHand: int
    waiting: int


class Stats(BaseModel):
    trades: int
    pools: int
    tradesLastMinute: int
    tradesLastHour: int
    scrub: Scrub
    retention: Retention
    workforce: WorkforceShown
    runs: list[RunShown]


class Alive(BaseModel):
    status: Literal["ok"]
