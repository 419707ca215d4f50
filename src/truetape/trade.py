"""The words of the domain: trades as both sides see them, ranges of the tape, how rows are hashed."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

MINUTE = 60
HOUR = 3600
DAY = 86_400
FUTURE_TOLERANCE_SECONDS = DAY
"""A timestamp more than this ahead of the clock is taken for a mistake (milliseconds, say)."""

TRADE_COLUMNS = (
    "trade_id",
    "time",
    "chain_id",
    "pool_id",
    "side",
    "price",
    "quantity",
    "transaction_id",
    "buyer",
    "seller",
)
"""A trade as it travels: the order and, by ``TRADE_TYPES``, the types of the binary COPY."""

TRADE_TYPES = (
    "text",
    "timestamptz",
    "bigint",
    "text",
    "text",
    "numeric",
    "numeric",
    "text",
    "text",
    "text",
)


class HashMethod(StrEnum):
    """How a row is hashed to 64 bits, on both sides alike."""

    RECORD = "hash_record_extended"
    MD5 = "md5"

    def expression(self, *, with_traders: bool) -> str:
        """SQL over columns named as ``TRADE_COLUMNS``.

        ``with_traders``: buyer and seller are columns of the source's own trades table. Where they
        are paired from another table they are no part of the row, and so of no digest.
        """
        traders = ["buyer", "seller"] if with_traders else []
        if self is HashMethod.RECORD:
            own = [c for c in TRADE_COLUMNS if c not in ("buyer", "seller")]
            return f"hash_record_extended(ROW({', '.join(own + traders)}), 0)"
        # A record's text form quotes what needs quoting, so different rows have different texts;
        # numbers and times are brought to one spelling first.
        own = [
            "trade_id",
            "extract(epoch FROM time)::bigint",
            "chain_id",
            "pool_id",
            "side",
            "trim_scale(price)",
            "trim_scale(quantity)",
            "transaction_id",
        ]
        text = f"ROW({', '.join(own + traders)})::text"
        return f"('x' || left(md5({text}), 16))::bit(64)::bigint"


@dataclass(frozen=True)
class Slice:
    """A contiguous range of the tape, [start, end) in Unix seconds, over all chains.

    ``rows`` is how many trades the source was seen to hold there and ``ours`` how many we hold:
    estimates to plan by, never trusted. ``blocks`` narrows the read to a range of heap pages
    [first, last] where the source has no index on the timestamp. ``settles_from``: of a slice that is
    the last piece of a larger one, where that began. ``IMPOSSIBLE`` stands for the rows whose timestamp
    is null, not positive, or far ahead.
    """

    start: int
    end: int
    rows: int = 0
    ours: int = 0
    blocks: tuple[int, int] | None = None
    settles_from: int | None = None

    @property
    def impossible(self) -> bool:
        return self.end <= 0

    def __post_init__(self) -> None:
        if self.start >= self.end:
            raise ValueError(f"empty slice [{self.start}, {self.end})")


IMPOSSIBLE = Slice(-1, 0)


@dataclass(frozen=True)
class ChainPosition:
    """Where Ponder says it is on a chain, read in the snapshot of the rows."""

    chain_id: int
    block: int
    time: int
    finalized_block: int
    finalized_time: int


@dataclass(frozen=True)
class FewRows:
    """The source's rows of a small slice, as of a moment (our clock): a JSON array of objects named as
    ``TRADE_COLUMNS``, with ``reason``; numbers with all their digits."""

    at: datetime
    json: str
    positions: list[ChainPosition]
    """Where the chains were when the slice was seen."""


@dataclass(frozen=True)
class Standing:
    """What the source says of itself, read in the snapshot of the rows."""

    positions: list[ChainPosition]
    table: int | None = None
    """Oid of the table or view that the trades were read from; None: it is gone."""
    app: dict[str, Any] = field(default_factory=dict)
    """What Ponder notes of itself: build_id, is_ready, heartbeat_at …; empty where it does not."""

    @property
    def ready(self) -> bool | None:
        """Whether Ponder's backfill is done; None where it does not tell."""
        told = self.app.get("is_ready")
        return None if told is None else str(told).lower() not in ("0", "false")

    @property
    def alive_at(self) -> datetime | None:
        """Ponder's last heartbeat, by its own clock; None where it does not tell."""
        beat = self.app.get("heartbeat_at")
        return datetime.fromtimestamp(beat / 1000, UTC) if isinstance(beat, int | float) else None


@dataclass
class Counts:
    """What a piece of work found and did, in trades. ``total`` = ``processed`` + ``errors``."""

    inserted: int = 0
    changed: int = 0
    retracted: int = 0
    errors: int = 0
    checked: int = 0
    reprocessed: int = 0

    @property
    def processed(self) -> int:
        return self.inserted + self.changed + self.retracted + self.reprocessed

    @property
    def total(self) -> int:
        return self.processed + self.errors

    def add(self, other: "Counts") -> None:
        for name in ("inserted", "changed", "retracted", "errors", "checked", "reprocessed"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
