"""How fast a start is: what is not imported takes no time."""

import subprocess
import sys

import pytest

import truetape

# As long to import, each, as all that a verb has to do.
SLOW = (
    "alembic",
    "fastapi",
    "psycopg",
    "pydantic",
    "redis",
    "rich",
    "structlog",
    "uvloop",
    "valkey",
)


def imported(program: str) -> set[str]:
    """The packages that a program has imported in the end."""
    asked = f"{program}\nimport sys; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize("program", ["import truetape"])
def test_the_engine_is_imported_by_whoever_uses_it(program: str) -> None:
    assert not imported(program) & set(SLOW)


def test_the_public_names_are_there_nevertheless() -> None:
    for name in truetape.__all__:
        assert name in dir(truetape)
        assert getattr(truetape, name).__name__ == name
    with pytest.raises(AttributeError, match="'truetape' has no attribute 'Nonsense'"):
        getattr(truetape, "Nonsense")  # noqa: B009
