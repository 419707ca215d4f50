"""The command line: thin verbs over the sync, for people and for scripts."""

from truetape.cli.main import main

__all__ = ["main"]
