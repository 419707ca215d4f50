"""The whole stack as a user runs it: chains, Ponder, two PostgreSQL servers, a Redis-compatible one and
``truetape serve``."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
from oracle import differences
from shown import FinalityWatch, no_dip

from truetape.embedded import EmbeddedPostgres, EmbeddedValkey
from truetape.embedded.process import free_port

PONDER_SECONDS = 150
"""A block that is reorged away while Ponder asks for it stops that chain for more than a minute: Ponder
asks for it nine times more, at growing intervals."""

EXAMPLE = Path(__file__).parents[2] / "examples" / "ponder-orderbook"
TRUETAPE = Path(sys.executable).with_name("truetape")
VIEWS = "order_book"
# keccak256 of OrderMatched(uint256,uint256,uint8,uint256,uint256)
MATCHED = "0x6559a4da610624696730d358f5dbc43bca2b255ad9729c922615346ed37f1f39"

# What docs/ponder.md tells to run: ours may read what is there and what Ponder will make.
GRANTS = (
    "ALTER DEFAULT PRIVILEGES FOR ROLE ponder GRANT USAGE ON SCHEMAS TO reader",
    "ALTER DEFAULT PRIVILEGES FOR ROLE ponder GRANT SELECT ON TABLES TO reader",
)

TRADERS = ", ".join(
    'CASE WHEN t.id IS NOT NULL THEN (SELECT o."user" FROM trades f JOIN orders o ON o.id = f.order_id '
    f"WHERE f.id = t.id || '-{side}') END"
    for side in ("buy", "sell")
)


def missing_tools() -> str | None:
    """Why the lane cannot run here, if it cannot."""
    missing = [tool for tool in ("node", "npm") if shutil.which(tool) is None]
    return f"no {' and no '.join(missing)}; Ponder needs Node.js 20 or newer" if missing else None


def install() -> None:
    """``npm ci``, unless this very lock file is installed already."""
    done, lock = EXAMPLE / "node_modules" / ".installed", EXAMPLE / "package-lock.json"
    if not done.exists() or done.read_text() != lock.read_text():
        subprocess.run(["npm", "ci", "--no-audit", "--no-fund"], cwd=EXAMPLE, check=True)
        done.write_text(lock.read_text())


def until(what: str, ask: Callable[[], Any], seconds: float = 60, pause: float = 0.2) -> Any:
    """Asks until the answer is true."""
    deadline = time.monotonic() + seconds
    while not (answer := ask()):
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {seconds:g} s")
        time.sleep(pause)
    return answer


def query(url: str, statement: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(url, autocommit=True) as conn:
        cursor = conn.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


def call(url: str, body: Any = None) -> Any:
    """A JSON answer; with a body, of a POST."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"content-type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=60) as answer:
        return json.load(answer)


class Truetape:
    """``truetape serve`` with nothing but its environment."""

    def __init__(self, home: Path, source_url: str, analytics_url: str, redis_url: str) -> None:
        self.analytics_url = analytics_url
        self.port = free_port(None)
        self._log = home / f"truetape-{self.port}.log"
        self._env = {
            "PATH": os.environ["PATH"],
            "PONDER_DATABASE_URL": source_url,
            "PONDER_SCHEMA": VIEWS,
            "ANALYTICS_DATABASE_URL": analytics_url,
            "REDIS_URL": redis_url,
            "TRUETAPE_HOME": str(home / "truetape"),
            "PORT": str(self.port),
        }
        self._home = home
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [TRUETAPE, "serve"], env=self._env, cwd=self._home, stdout=log, stderr=log
            )
        until("truetape serve", self._answers)

    def run(self, *args: str) -> subprocess.CompletedProcess[str]:
        """Another verb, beside the server."""
        return subprocess.run(
            [TRUETAPE, *args], env=self._env, cwd=self._home, capture_output=True, text=True,
            timeout=120, check=False,
        )  # fmt: skip

    def _answers(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise AssertionError(f"truetape serve ended:\n{self._log.read_text()[-2000:]}")
        with suppress(OSError):
            return bool(self.health())
        return False

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(20)
            self._process = None

    def kill(self) -> None:
        self.stop(signal.SIGKILL)

    def get(self, path: str) -> Any:
        return call(f"http://127.0.0.1:{self.port}{path}")

    def health(self) -> dict[str, Any]:
        return dict(self.get("/api/sync/health"))

    def health_text(self) -> str:
        """What health says, also when it is no 200."""
        try:
            return json.dumps(self.health())
        except urllib.error.HTTPError as error:
            return error.read().decode()

    @property
    def log(self) -> str:
        return self._log.read_text()


class Stack:
    """Everything, started. Scenarios do something to it and then say ``settle()``."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._servers = [EmbeddedPostgres(home / name) for name in ("ponder", "analytics")]
        self._redis = EmbeddedValkey(home / "valkey")
        self._tapes: list[Truetape] = []
        self._finality: FinalityWatch | None = None

    def __enter__(self) -> "Stack":
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._finality is not None:
            self._finality.stop()
        for tape in self._tapes:
            tape.stop()
        with suppress(AssertionError):
            self.local("down")
        for server in (*self._servers, self._redis):
            server.release()

    def _start(self) -> None:
        for server in self._servers:
            server.acquire()
        self._redis_url = self._redis.acquire()
        self.admin_url = self._servers[0].url("ponder")
        server_url = self._servers[0].url("postgres")
        for statement in (
            "CREATE ROLE ponder LOGIN PASSWORD 'ponder'",
            "CREATE ROLE reader LOGIN PASSWORD 'reader'",
            "CREATE DATABASE ponder OWNER ponder",
        ):
            query(server_url, statement)
        for grant in GRANTS:
            query(self.admin_url, grant)
        place = f"127.0.0.1:{self._servers[0].port}/ponder"
        self.ponder_url = f"postgresql://ponder:ponder@{place}"
        self.reader_url = f"postgresql://reader:reader@{place}"
        self.views_url = f"{self.reader_url}?options=-csearch_path%3D{VIEWS}"
        self.local("up", "--history", "120")
        self.tape = self.truetape("analytics")
        self._finality = FinalityWatch(self.views_url, self.tape.analytics_url)
        self._finality.start()
        self.tape.start()

    def truetape(self, database: str) -> Truetape:
        """A Truetape with analytics of its own, not started."""
        analytics_url = self._servers[1].ensure_database(database)
        tape = Truetape(self.home, self.reader_url, analytics_url, self._redis_url)
        self._tapes.append(tape)
        return tape

    # -- chains and Ponder -------------------------------------------------------------------

    def local(self, *args: str) -> None:
        """The example's own script."""
        done = subprocess.run(
            ["node", "local.mjs", *args], cwd=EXAMPLE, env=self._local_env,
            capture_output=True, text=True, timeout=180, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"local.mjs {' '.join(args)}: {done.stderr}{self._ponder_log}"

    @contextmanager
    def meanwhile(self, *args: str) -> Iterator[None]:
        """The example's script, beside what the block does; waits for its end."""
        beside = subprocess.Popen(["node", "local.mjs", *args], cwd=EXAMPLE, env=self._local_env)
        try:
            yield
        finally:
            assert beside.wait(180) == 0

    @property
    def _local_env(self) -> dict[str, str]:
        own = {"LOCAL_DIR": str(self.home / "local"), "VIEWS_SCHEMA": VIEWS}
        return os.environ | own | {"DATABASE_URL": getattr(self, "ponder_url", "")}

    @property
    def _ponder_log(self) -> str:
        path = self.home / "local" / "ponder.log"
        return path.read_text()[-2000:] if path.exists() else ""

    @property
    def state(self) -> dict[str, Any]:
        return dict(json.loads((self.home / "local" / "state.json").read_text()))

    def kill_ponder(self) -> None:
        os.kill(self.state["ponder"]["pid"], signal.SIGKILL)

    def rpc(self, chain: str, method: str, *params: Any) -> Any:
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        answer = call(self.state["chains"][chain]["url"], body)
        assert "error" not in answer, answer
        return answer["result"]

    def heads(self) -> dict[int, int]:
        """Chain id → number of its last block."""
        chains = self.state["chains"]
        return {c["id"]: int(self.rpc(n, "eth_blockNumber"), 16) for n, c in chains.items()}

    def matches(self) -> set[str]:
        """Ids of all trades that the chains themselves tell of."""
        wanted = {"fromBlock": "0x0", "topics": [MATCHED]}
        return {
            f"{log['transactionHash']}-{int(log['logIndex'], 16)}"
            for chain in self.state["chains"]
            for log in self.rpc(chain, "eth_getLogs", wanted)
        }

    def positions(self) -> dict[int, tuple[int, int]]:
        """Chain id → (latest block, finalized block), as Ponder tells."""
        return {
            chain: (latest, finalized)
            for chain, latest, finalized in query(
                self.views_url,
                "SELECT chain_id, substr(latest_checkpoint, 27, 16)::bigint, "
                "substr(finalized_checkpoint, 27, 16)::bigint FROM _ponder_checkpoint",
            )
        }

    def reached(self) -> dict[int, int]:
        """Chain id → the block that Ponder has reached."""
        return {chain: latest for chain, (latest, _) in self.positions().items()}

    def ponder_is_at_head(self) -> bool:
        with suppress(psycopg.Error):
            return self.reached() == self.heads() and self.source_ids() == self.matches()
        return False

    def ponder_arrives(self) -> None:
        """Waits until Ponder has all of its chains."""
        try:
            until("Ponder at the chains' heads", self.ponder_is_at_head, PONDER_SECONDS)
        except AssertionError as error:
            ponder, chains = self.source_ids(), self.matches()
            raise AssertionError(
                f"{error}: at {self.reached()} of {self.heads()}, lacks {chains - ponder}, "
                f"has too much {ponder - chains}\n{self._ponder_log}"
            ) from None

    @contextmanager
    def more_history(self, trades: int) -> Iterator[None]:
        """Old trades in Ponder's table, a second apart, without its triggers hearing of them."""
        table = f"{self.state['ponder']['schema']}.order_book_trades"
        pool = self.state["chains"]["alpha"]["books"][0]
        unheard = "SET session_replication_role = replica; "
        first = int(time.time()) - 40 * 86400
        query(
            self.admin_url,
            f"{unheard} INSERT INTO {table} (id, chain_id, transaction_id, pool_id, price, quantity, "
            f"side, timestamp) SELECT 'old-' || n, 31337, 'old', '{pool}', 2500000000 + n, 1000 + n, "
            f"'Buy', {first} + n FROM generate_series(1, {trades}) n",
        )
        try:
            yield
        finally:
            query(self.admin_url, f"{unheard} DELETE FROM {table} WHERE id LIKE 'old-%'")

    @contextmanager
    def ponder_waits(self) -> Iterator[dict[tuple[int, str], float]]:
        """How long, in seconds, each wait of Ponder for a reader of ours lasts."""
        waits: dict[tuple[int, str], float] = {}
        stop = threading.Event()
        asked = """
            SELECT l.pid, l.waitstart::text, extract(epoch FROM clock_timestamp() - l.waitstart)
            FROM pg_locks l JOIN pg_stat_activity a USING (pid)
            WHERE NOT l.granted AND l.waitstart IS NOT NULL AND a.usename = 'ponder'
              AND EXISTS (SELECT FROM pg_stat_activity r WHERE r.usename = 'reader'
                          AND r.pid = ANY (pg_blocking_pids(l.pid)))"""

        def watch() -> None:
            with psycopg.connect(self.admin_url, autocommit=True) as conn:
                while not stop.wait(0.01):
                    for pid, since, seconds in conn.execute(asked).fetchall():
                        waits[pid, since] = max(waits.get((pid, since), 0), float(seconds))

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            yield waits
        finally:
            stop.set()
            watcher.join()

    def source_ids(self) -> set[str]:
        return {r[0] for r in query(self.views_url, "SELECT id FROM order_book_trades")}

    # -- what must hold ----------------------------------------------------------------------

    def shown(self, tape: Truetape | None = None) -> int:
        """Trades that the analytics show."""
        url = (tape or self.tape).analytics_url
        return int(query(url, "SELECT count(*) FROM analytics.trades")[0][0])

    def settle(self, seconds: float = 60) -> None:
        """Waits until Ponder has all of its chains and the analytics all of Ponder; proves it."""
        self.ponder_arrives()
        found: list[str] = []

        def is_true() -> bool:
            found[:] = differences(self.views_url, self.tape.analytics_url, TRADERS)
            if not found:
                found[:] = self._unhealthy()
            return not found

        try:
            until("analytics like Ponder's tables", is_true, seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}: {found}\n{self.tape.log[-3000:]}") from None
        assert self._finality is not None
        wrong = self._finality.wrong()
        assert not wrong, f"what Ponder had finalized was shown wrong: {wrong}"

    def _unhealthy(self) -> list[str]:
        """What health should say by now, and does not."""
        health = self.tape.health()
        told = {
            c["chainId"]: (c["completeThroughBlock"], c["finalizedBlock"]) for c in health["chains"]
        }
        wanted: dict[str, tuple[Any, Any]] = {
            "status": (health["status"], "healthy"),
            "isHealthy": (health["isHealthy"], True),
            "lagMinutes": (health["lagMinutes"], 0),
            "missedTrades": (health["missedTrades"], 0),
            "chains": (told, self.positions()),
        }
        return [
            f"{key} is {is_!r}, not {should!r}"
            for key, (is_, should) in wanted.items()
            if is_ != should
        ]

    @contextmanager
    def no_dip(self) -> Iterator[None]:
        """While the block runs no figure may fall that the API shows."""
        with no_dip(self.tape.get):
            yield
