"""``truetape doctor``: what can be known before a start, good or bad, and what to do about it."""

from truetape.doctor.check import Check, bad, note
from truetape.doctor.examine import examine

__all__ = ["Check", "bad", "examine", "note"]
