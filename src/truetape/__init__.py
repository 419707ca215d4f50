"""Truetape: analytics provably true to a trading tape."""

from truetape.sync.health import Health
from truetape.sync.service import DataSyncService, SyncResult

__all__ = ["DataSyncService", "Health", "SyncResult"]
__version__ = "0.1.0"
