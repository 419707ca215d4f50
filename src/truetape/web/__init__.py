"""The dashboard: files that a browser takes as they are, from us and from nobody else."""

from truetape.web.files import install

__all__ = ["install"]
