"""Some hundred histories in any order of events; ``make soak`` walks thousands."""

import os
import random

from walk import open_worlds, walk

HISTORIES = 200


def test_every_history_ends_with_every_trade_once(server_url: str) -> None:
    seed = int(os.environ.get("TRUETAPE_TEST_SEED", random.randrange(2**31)))
    histories = int(os.environ.get("HISTORIES", HISTORIES))
    print(f"TRUETAPE_TEST_SEED={seed} repeats these {histories} histories")
    with open_worlds(server_url) as worlds:
        walk(worlds, seed, histories)
