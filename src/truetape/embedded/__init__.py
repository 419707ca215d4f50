"""Embedded servers and the demo exchange: everything that runs with nothing installed."""

from truetape.embedded.postgres import EmbeddedPostgres
from truetape.embedded.process import EmbeddedError, default_home
from truetape.embedded.valkey import EmbeddedValkey

__all__ = ["EmbeddedError", "EmbeddedPostgres", "EmbeddedValkey", "default_home"]
