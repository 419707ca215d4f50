"""A start is fast: nothing is imported that is not used."""

import subprocess
import sys

import pytest

import truetape

FOR_SOME_VERBS = {"alembic", "fastapi", "redis", "rich", "structlog", "valkey"}
FOR_VERBS = FOR_SOME_VERBS | {"prometheus_client", "psycopg", "pydantic", "stamina", "uvloop"}


def imported(program: str) -> set[str]:
    """The packages that a program has imported in the end."""
    asked = f"{program}\nimport sys; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(
    ("program", "unused"),
    [
        ("import truetape", FOR_VERBS),
        ("import truetape.cli", FOR_VERBS),
        ("import truetape.cli.inspect, truetape.cli.work", FOR_SOME_VERBS),
        ("from truetape import log; log.configure(warnings_only=True); log.get('x').info('y')", FOR_SOME_VERBS),
    ],
)  # fmt: skip
def test_what_is_not_used_is_not_imported(program: str, unused: set[str]) -> None:
    assert not imported(program) & unused


def test_the_public_names_are_there_nevertheless() -> None:
    for name in truetape.__all__:
        assert name in dir(truetape)
        assert getattr(truetape, name).__name__ == name
    with pytest.raises(AttributeError, match="'truetape' has no attribute 'Nonsense'"):
        getattr(truetape, "Nonsense")  # noqa: B009
