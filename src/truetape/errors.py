"""Faults as users see them: one sentence, and the exit code of the contract."""


class TruetapeError(Exception):
    """A fault told to the user in one sentence."""

    exit_code = 1


class UsageError(TruetapeError):
    """Wrong usage or settings; nothing was touched."""

    exit_code = 2


class UnreachableError(TruetapeError):
    """A server cannot be reached."""

    exit_code = 3


class UnreadableError(UnreachableError):
    """The source answers, but its tables are not there or not ours to read; that may pass."""
