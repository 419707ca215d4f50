"""What a demo exchange is like: how lively, how large, how much history."""

from dataclasses import asdict, dataclass

from truetape.embedded.orders import COINS
from truetape.errors import UsageError

CHAINS_MAX = 9


@dataclass(frozen=True)
class Terms:
    """What the exchange is like. ``rate`` in trades a second over all chains, times in seconds."""

    schema: str = "public"
    rate: float = 20.0
    history_days: float = 3.0
    history_trades: int = 50_000
    block_time: float = 1.0
    pools: int = 8
    traders: int = 400
    chains: int = 1
    seed: int | None = None

    def __post_init__(self) -> None:
        limits = {
            "rate": (0.01, 10_000),
            "history_days": (0, 3650),
            "history_trades": (0, 100_000_000),
            "block_time": (0.05, 60),
            "pools": (1, len(COINS)),
            "traders": (2, 1_000_000),
            "chains": (1, CHAINS_MAX),
        }
        for name, (low, high) in limits.items():
            if not low <= getattr(self, name) <= high:
                raise UsageError(f"{name} must be from {low} to {high}.")

    def arguments(self) -> list[str]:
        return [
            f"--{name.replace('_', '-')}={value}"
            for name, value in asdict(self).items()
            if value is not None
        ]
