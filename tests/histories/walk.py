"""Walks histories of one seed."""

from collections.abc import Iterator
from contextlib import contextmanager

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test
from machine import SHAPES, History, Worlds
from system import forget_on_crash, hurry

from conftest import Databases
from testbed.servers import Server

STEPS = 12


@contextmanager
def open_worlds(source: Server, store: Server) -> Iterator[Worlds]:
    """Makes databases for all shapes, and drops them in the end."""
    hurry()
    for server in {source, store}:
        forget_on_crash(server.url)
    databases = Databases(source, store)
    worlds = Worlds(
        {s: (databases.create(f"source_{s}"), databases.create_store(f"ours_{s}")) for s in SHAPES}
    )
    try:
        yield worlds
    finally:
        worlds.close()
        databases.drop()


def walk(worlds: Worlds, first: int, histories: int) -> None:
    """Walks some histories; the error of one that fails tells its steps."""
    History.worlds = worlds
    run_state_machine_as_test(
        seed(first)(History),
        settings=settings(
            max_examples=histories, stateful_step_count=STEPS, deadline=None, database=None,
            suppress_health_check=list(HealthCheck), print_blob=False,
            # A history is short, and what depends on who was first is no shorter for trying.
            phases=(Phase.generate,),
        ),
    )  # fmt: skip
