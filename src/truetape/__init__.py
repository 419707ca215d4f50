"""Truetape: analytics provably true to a trading tape."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from truetape.sync.health import Health
    from truetape.sync.service import DataSyncService, SyncResult
else:  # Whoever checks types would take a name that we do not have for one of these.

    def __getattr__(name: str) -> object:
        """The public names come with their first use, and the engine with them: who only starts the
        command line, or a server of ours, need not wait for it."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from truetape.sync import service

        return getattr(service, name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})


__all__ = ["DataSyncService", "Health", "SyncResult"]
__version__ = "0.1.0"
