"""One finding of the doctor."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """``verdict``: ``good``, ``note`` (works, could be better) or ``bad``; ``advice``: the next step.

    ``about`` is for scripts: a word that stays the same, whatever is found.
    """

    about: str
    verdict: str
    says: str
    advice: str = ""
    unreachable: bool = False


def good(about: str, says: str) -> Check:
    return Check(about, "good", says)


def note(about: str, says: str, advice: str = "") -> Check:
    return Check(about, "note", says, advice)


def bad(about: str, says: str, advice: str = "", *, unreachable: bool = False) -> Check:
    return Check(about, "bad", says, advice, unreachable)
