"""Where the time of a catch-up goes: `make bench-profile`, or `make bench-profile BENCH='--trades 3000000'`.

One catch-up from nothing by one worker, while both servers write down the processor time of every statement
(log_statement_stats). Prints µs of processors a trade, by what they are spent on, writes profile.json with the
machine's data, and draws the picture. A bare COPY of the same rows is measured beside it.
"""

import argparse
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

from bench import rivals
from bench.machine import machine, server_cpu_seconds
from bench.ours import child, empty
from bench.report import run, say
from bench.source import make_source, settle
from truetape.embedded import EmbeddedPostgres

SPENT = re.compile(
    r"LOG:  [A-Z ]+ STATISTICS\n[^\n]*DETAIL:  ! system usage stats:\n"
    r"\t!\t([\d.]+) s user, ([\d.]+) s system.*?STATEMENT:  (.*?)(?=\n\d{4}-\d\d-\d\d |\Z)",
    re.DOTALL,
)
READ, COUNTED, TAPE = "rows read", "rows counted by minute", "tape and its key"
AGAIN = "all compared once more, as a check"
PARTS = {
    "source": {
        READ: r"COPY \(SELECT trade_id",
        COUNTED: r"NULL::numeric AS hash_sum|GROUP BY 1 ORDER BY 1",
        AGAIN: r"AS hash_sum",
    },
    "analytics": {
        TAPE: r"COPY analytics\.tape",
        "traders": r"INSERT INTO delta_trader_hours",
        "candles and digests": r"WITH second AS",
        "added to what stands": r"INSERT INTO (delta_\w+|analytics\.\w+) ",
    },
}
"""What statements are about, by how they begin; the first that fits counts."""
REST, BESIDE = "other statements", "beside statements"


class TellingPostgres(EmbeddedPostgres):
    """A server that writes down what each statement takes."""

    def _command(self, port: int) -> list[str]:
        return [*super()._command(port), "-c", "log_statement_stats=on"]

    def seconds(self, parts: dict[str, str], since: int) -> dict[str, float]:
        """Processor seconds by part, as the log tells from an offset on."""
        text = self._log.read_bytes()[since:].decode(errors="replace")
        found: dict[str, float] = defaultdict(float)
        for user, system, statement in SPENT.findall(text):
            flat = " ".join(statement.split())
            part = next((p for p, begins in parts.items() if re.search(begins, flat)), REST)
            found[part] += float(user) + float(system)
        return found

    @property
    def logged(self) -> int:
        return self._log.stat().st_size


def measure(home: Path, options: argparse.Namespace) -> dict[str, Any]:
    trades = options.trades
    with TellingPostgres(home / "source") as source, TellingPostgres(home / "target") as target:
        servers = {"source": source, "analytics": target}
        source_url = source.ensure_database("exchange")
        target_url = target.ensure_database("analytics")
        say(f"making {trades:,} trades …")
        make_source(source_url, trades)

        def spent() -> dict[str, float]:
            return {name: server_cpu_seconds(server) for name, server in servers.items()}

        def us(seconds: float) -> float:
            return float(round(seconds / trades * 1e6, 2))

        settle(source_url, target_url)
        before = spent()
        rivals.pipe(source_url, target_url)
        pipe = {name: us(after - before[name]) for name, after in spent().items()}
        empty(target_url)
        settle(source_url, target_url)
        logged = {name: server.logged for name, server in servers.items()}
        before = spent()
        own = child("catch-up", source_url, target_url, SYNC_CONCURRENCY="1")
        after = spent()
        figures: dict[str, Any] = {"trades": trades} | machine()
        figures["trades_per_second"] = round(own["trades"] / own["seconds"])
        figures["pipe_us_per_trade"] = pipe
        parts = {"ours": {"passing rows on": us(own["cpu_seconds"])}}
        for name, server in servers.items():
            found = server.seconds(PARTS[name], logged[name])
            parts[name] = {part: us(found[part]) for part in (*PARTS[name], REST)}
            told = sum(found.values())
            parts[name][BESIDE] = us(max(after[name] - before[name] - told, 0))
        figures["us_per_trade"] = parts
        figures["us_per_trade_in_all"] = round(sum(sum(p.values()) for p in parts.values()), 2)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trades", type=int, default=1_000_000)
    run("profile", parser, measure)


if __name__ == "__main__":
    main()
