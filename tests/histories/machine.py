"""A history: whatever can happen to source and service, in any order, and what must be true then."""

import random
from typing import Any, ClassVar

from exchange import Exchange
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from oracle import GOOD, differences, differences_within
from system import TAMPERINGS, Cutter, System

SEEDS = st.integers(0, 2**32 - 1)
SHAPES = ("ponder", "bare")
KINDS = ("standard", "comprehensive", "retry", "force", "verify")
TRADERS = {"ponder": "buyer, seller", "bare": "NULL, NULL"}
PUT_BACK = """
SET search_path = analytics;
UPDATE sync_log SET status = 'pending', error_message = NULL WHERE status = 'error'
"""


class Worlds:
    """For each shape a source and analytics that are opened once and emptied for each history."""

    def __init__(self, urls: dict[str, tuple[str, str]]) -> None:
        self.cutter = Cutter()
        self.exchanges: dict[str, Exchange] = {}
        self.systems: dict[str, System] = {}
        for shape, (source_url, analytics_url) in urls.items():
            exchange = self.exchanges[shape] = Exchange(source_url, shape)
            exchange.make()
            self.systems[shape] = System(
                source_url, analytics_url, "live" if exchange.ponder else "public", self.cutter
            )

    def close(self) -> None:
        for system in self.systems.values():
            system.close()
        for exchange in self.exchanges.values():
            exchange.close()


class History(RuleBasedStateMachine):
    """Each rule is something that happens; ``seed`` decides its details."""

    worlds: ClassVar[Worlds]

    @initialize(shape=st.sampled_from(SHAPES), seed=SEEDS)
    def begin(self, shape: str, seed: int) -> None:
        draw = random.Random(seed)
        self.shape = shape
        self.exchange, self.system = self.worlds.exchanges[shape], self.worlds.systems[shape]
        self.worlds.cutter.disarm()
        self.exchange.start(draw)
        for _ in range(draw.randrange(6)):
            self._mine(draw)
        self.system.start()
        self.tampered = False
        self.rebuilding: set[str] | None = None

    # -- the source --------------------------------------------------------------------------

    def _mine(self, draw: random.Random) -> None:
        chain = draw.choice(self.exchange.chains)
        self.exchange.draw = draw
        self.exchange.mine(
            chain, list(range(draw.randrange(5))), draw.choice((0, 0, 0, 1, 1, 30, 200, 3700))
        )

    @rule(seed=SEEDS)
    def blocks(self, seed: int) -> None:
        draw = random.Random(seed)
        for _ in range(draw.randrange(1, 4)):
            self._mine(draw)

    def _happen(self, draw: random.Random) -> None:
        """Something odd."""
        e = self.exchange
        e.draw = draw
        happenings = [e.add_bad, e.put_pool, e.add_late]
        if self.rebuilding is None:
            happenings += [e.spoil_or_mend, e.change, e.lose, e.reorg]
        draw.choice(happenings)()

    @rule(seed=SEEDS)
    def something_odd(self, seed: int) -> None:
        draw = random.Random(seed)
        for _ in range(draw.randrange(1, 4)):
            self._happen(draw)

    @precondition(lambda self: self.shape == "ponder" and self.rebuilding is None)
    @rule(seed=SEEDS)
    def rebuild(self, seed: int) -> None:
        draw = random.Random(seed)
        self.exchange.draw = draw
        self.exchange.become_whole()
        self.system.look(["tail"])
        # What had vanished before is not what this is about.
        self.system.by_hand("DELETE FROM analytics.vanishing")
        self.rebuilding = self._shown()
        if draw.random() < 0.5:
            self.exchange.restart()
        else:
            self.exchange.redeploy(draw.choice((0, 0.5, 1)))

    def _shown(self) -> set[str]:
        """Ids that both sides hold."""
        return self._on_tape() & self.exchange.ids("true")

    @precondition(lambda self: self.rebuilding is not None)
    @rule(seed=SEEDS)
    def come_back(self, seed: int) -> None:
        self.exchange.draw = random.Random(seed)
        self._nothing_dipped()
        self.exchange.come_back()
        self.rebuilding = None

    def _nothing_dipped(self) -> None:
        if self.rebuilding is not None:
            spoiled = self.exchange.ids(f"({GOOD}) IS NOT TRUE")
            assert not self.rebuilding - self._on_tape() - spoiled, "followed into emptiness"

    def _on_tape(self) -> set[str]:
        return {r[0] for r in self.system.rows("SELECT trade_id FROM analytics.trades")}

    # -- the service -------------------------------------------------------------------------

    @rule(seed=SEEDS)
    def look(self, seed: int) -> None:
        draw = random.Random(seed)
        names = list(self.system.CHORES)
        draw.shuffle(names)
        self.system.look(names[: draw.randrange(1, len(names) + 1)])
        self._nothing_dipped()

    @rule(seed=SEEDS, kind=st.sampled_from((None, *KINDS)))
    def look_while_it_goes_on(self, seed: int, kind: str | None) -> None:
        draw = random.Random(seed)
        their_draw = random.Random(seed + 1)

        def meanwhile() -> None:
            for _ in range(3):
                self._mine(their_draw)
            if self.rebuilding is None:
                self._happen(their_draw)

        self.system.look_together(kind, draw, meanwhile, self._params(kind, draw))
        self._nothing_dipped()

    def _params(self, kind: str | None, draw: random.Random) -> dict[str, Any]:
        if kind == "force":
            since = self.exchange.chains[0].time - draw.choice((0, 60, 5000, 10**6))
            return {"from_timestamp": max(since, 0)}
        if kind == "verify":
            return {"repair": draw.random() < 0.5}
        return {"accept_deletions": draw.random() < 0.3} if kind else {}

    @rule(seed=SEEDS, kind=st.sampled_from(KINDS))
    def ask(self, seed: int, kind: str) -> None:
        self.system.run(kind, **self._params(kind, random.Random(seed)))
        self._nothing_dipped()

    @rule(seed=SEEDS, kind=st.sampled_from((None, *KINDS)), reply_lost=st.booleans())
    def lose_a_connection(self, seed: int, kind: str | None, reply_lost: bool) -> None:
        draw = random.Random(seed)
        self.worlds.cutter.arm(int(draw.expovariate(1 / 40)) + 1, reply_lost=reply_lost)
        if kind is None:
            self.system.look(["tail", "window", "scrub"])
        else:
            self.system.run(kind, **self._params(kind, draw))
        self.worlds.cutter.disarm()
        self._is_a_function_of_its_tape()

    @rule()
    def time_passes(self) -> None:
        self.system.time_passes()

    @rule()
    def put_failed_ones_back(self) -> None:
        self.system.by_hand(PUT_BACK)

    @rule()
    def restart(self) -> None:
        self.system.restart()

    @rule(seed=SEEDS)
    def take_over(self, seed: int) -> None:
        self.system.take_over(random.Random(seed))

    @rule(what=st.sampled_from(TAMPERINGS))
    def tamper(self, what: str) -> None:
        if self.rebuilding is None:
            self.system.by_hand(what)
            self.tampered = True

    # -- what must be true -------------------------------------------------------------------

    def _is_a_function_of_its_tape(self) -> None:
        if not self.tampered:
            found = differences_within(self.system.analytics_url)
            assert found == []

    @rule(seed=SEEDS, followed=st.sampled_from((False, False, False, True)))
    def quiet(self, seed: int, followed: bool) -> None:
        """The source rests: all must be true once everything has been looked at."""
        draw = random.Random(seed)
        self.exchange.draw = draw
        self._nothing_dipped()
        self.exchange.become_whole()
        self.rebuilding = None
        if followed:
            self._follow(draw)
        held = bool(self.system.rows("SELECT FROM analytics.vanishing"))
        if held or not followed:
            self.system.run("comprehensive", accept_deletions=True)
        if self.tampered and not followed:
            self.system.run("verify", repair=True)
            self.system.run("comprehensive", accept_deletions=True)
        self.tampered = False
        self._is_true()

    def _follow(self, draw: random.Random) -> None:
        """Through everything, and half a minute later again: what vanished needs two looks."""
        names = list(self.system.CHORES)
        draw.shuffle(names)
        self.system.look(names)
        self.system.scrub_all()
        self.system.run("standard")
        self.system.time_passes()
        self.system.look(["newest", "vanished", "window", "proof", "tail"])

    def _is_true(self) -> None:
        system, exchange = self.system, self.exchange
        found = differences(exchange.url, system.analytics_url, TRADERS[self.shape])
        assert found == []
        bad = exchange.count(f"({GOOD}) IS NOT TRUE")
        aside = (
            "SELECT coalesce(sum(copies), 0) FROM analytics.quarantine WHERE resolved_at IS NULL"
        )
        assert system.rows(aside) == [(bad,)]
        pools = set(system.rows("SELECT chain_id, pool_id, symbol FROM analytics.pools"))
        assert exchange.pools() <= pools
        again = system.run("comprehensive")
        assert again.total == 0, again
        verified = system.run("verify").result
        assert verified is not None
        assert verified["complete"], verified
        health = system.health()
        assert (health.lag_minutes, health.missed_trades, health.failed_trades) == (0, 0, bad), (
            health
        )
        assert health.status == ("degraded" if bad else "healthy"), health

    def teardown(self) -> None:
        if hasattr(self, "system"):
            self.worlds.cutter.disarm()
            self.quiet(seed=0, followed=False)
