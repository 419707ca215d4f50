"""Thousands of histories: ``make soak``, or ``make soak HISTORIES=500``.

Two processes a core (a history waits a third of its time), each with a server of its own. Ends at the
first history that fails, with the seed that repeats it.
"""

import multiprocessing
import os
import random
import sys
import time
from pathlib import Path

TESTS = Path(__file__).parents[1]
sys.path[:0] = map(str, (TESTS.parent, TESTS, TESTS / "integration", TESTS / "histories"))

from walk import open_worlds, walk  # noqa: E402

from conftest import fast_folder  # noqa: E402
from testbed.servers import source_and_store  # noqa: E402

AT_ONCE = 25


def work(
    first_seed: int, histories: int, done: "multiprocessing.Queue[tuple[int, str | None]]"
) -> None:
    """Walks histories ``AT_ONCE`` at a time, each lot from a seed of its own."""
    with (
        fast_folder() as folder,
        source_and_store(folder) as servers,
        open_worlds(*servers) as worlds,
    ):
        for seed in range(first_seed, first_seed + histories // AT_ONCE):
            try:
                walk(worlds, seed, AT_ONCE)
            except Exception as error:
                notes = "\n".join(getattr(error, "__notes__", []))
                done.put((seed, f"{type(error).__name__}: {error}\n{notes}"))
                return
            done.put((seed, None))


def main() -> int:
    histories = int(os.environ.get("HISTORIES", "10000"))
    processes = int(os.environ.get("PROCESSES", 2 * (os.cpu_count() or 1)))
    seed = int(os.environ.get("TRUETAPE_TEST_SEED", random.randrange(2**31)))
    each = -(-histories // processes // AT_ONCE) * AT_ONCE
    print(f"{each * processes} histories in {processes} processes from seed {seed}", flush=True)
    done: multiprocessing.Queue[tuple[int, str | None]] = multiprocessing.Queue()
    workers = [
        multiprocessing.Process(target=work, args=(seed + i * 10**6, each, done))
        for i in range(processes)
    ]
    for worker in workers:
        worker.start()
    began, lots = time.monotonic(), 0
    try:
        while lots * AT_ONCE < each * processes:
            lot_seed, error = done.get()
            if error is not None:
                print(f"FAILED: TRUETAPE_TEST_SEED={lot_seed} repeats it\n{error}", flush=True)
                return 1
            lots += 1
            hours = (time.monotonic() - began) / 3600
            print(
                f"{lots * AT_ONCE} histories, {lots * AT_ONCE / hours:,.0f} an hour: "
                "0 trades lost, 0 doubled",
                flush=True,
            )
        return 0
    finally:
        for worker in workers:
            worker.terminate()
            worker.join()


if __name__ == "__main__":
    sys.exit(main())
