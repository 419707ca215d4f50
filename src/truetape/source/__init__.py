"""The source: finding and reading Ponder's tables, read-only, in short snapshots."""

from truetape.source.discovery import Shape
from truetape.source.look import Look
from truetape.source.mapping import Mapping
from truetape.source.reader import Source

__all__ = ["Look", "Mapping", "Shape", "Source"]
