"""Following the source: the tail often, the window in which rows can change, and all the rest in turn."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from truetape.connect import at_once
from truetape.settings import Settings
from truetape.source.bell import Bell
from truetape.source.doorbells import Doorbell
from truetape.store import runs, tape
from truetape.sync.chores import Chore, do_in_turn
from truetape.sync.mend import mend_range, told
from truetape.sync.proof import Proof
from truetape.sync.reconcile import Reconciler
from truetape.sync.retention import tidy
from truetape.sync.retraction import judge, look_again
from truetape.sync.scrub import Scrubbing
from truetape.sync.tail import NOTE_SECONDS, TAIL_SECONDS, LiveTail
from truetape.sync.work import sync_pools
from truetape.tasks import together
from truetape.trade import IMPOSSIBLE, MINUTE, Slice

if TYPE_CHECKING:
    from truetape.store.queue import Queue

NEWEST_SECONDS = 2.0
NEWEST_MINUTES = 3
VANISHED_SECONDS = 0.5
WINDOW_SECONDS = 10.0
POOLS_SECONDS = 5.0
PENDING_SECONDS = 2.0
SCRUB_SECONDS = 5.0
TIDY_SECONDS = 10.0
NEWEST_REST_FACTOR = 5
"""What is new is where chains are reorganised: a sixth of a core, if there is as much to look at."""


@dataclass
class Follower:
    """Keeps the analytics with the source while this process leads."""

    reconciler: Reconciler
    settings: Settings
    queue: "Queue"
    """Where workers take what can be done in the background."""
    has_vanished: Callable[[], bool]
    """Whether a row waits for a second look."""
    bell: Bell = field(default_factory=Bell)
    doorbells: Sequence[Doorbell] = ()
    """What rings it; the timer is always there."""
    _mended: bool = False
    """Whether there was anything to mend among the newest: rows may have vanished."""
    _never: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self._proof = Proof(self.reconciler)
        self._tail = LiveTail(self.reconciler, self.settings, self.bell, self._proof)
        self._scrubbing = Scrubbing(
            self.reconciler, self.queue, self._proof, lambda: self._tail.is_quiet
        )

    async def follow(self) -> None:
        """Runs until cancelled."""
        await self.begin()
        await together(
            [
                *(d.listen() for d in self.doorbells),
                *(do_in_turn(chores) for chores in self.chores()),
            ]
        )

    async def begin(self) -> None:
        """Finds where to follow from. What was missed while nobody did is a run of its own."""
        await sync_pools(self.reconciler)
        retraction = await judge(self.reconciler)
        await self._tail.begin(retraction.positions)
        await self._proof.begin()

    def chores(self) -> list[list[Chore]]:
        """All that following is made of. Those of one list are done in turn, the lists side by side;
        nothing depends on an order."""
        return [
            [Chore("tail", TAIL_SECONDS, self._tail.follow, self.bell)],
            [
                Chore(
                    "complete",
                    NOTE_SECONDS,
                    self._tail.note_complete,
                    can_wait=lambda: self._tail.is_quiet,
                )
            ],
            [
                Chore("proof", TAIL_SECONDS, self._proof.seek),
                Chore(
                    "newest",
                    NEWEST_SECONDS,
                    self._newest,
                    rest_factor=NEWEST_REST_FACTOR,
                    can_wait=lambda: self._tail.is_quiet,
                ),
                Chore("vanished", VANISHED_SECONDS, self._vanished, rest_factor=NEWEST_REST_FACTOR),
                Chore("pending", PENDING_SECONDS, self._pending),
                Chore("pools", POOLS_SECONDS, self._pools),
                Chore("window", WINDOW_SECONDS, self._window),
            ],
            [Chore("scrub", SCRUB_SECONDS, self._scrub)],
            [Chore("tidy", TIDY_SECONDS, self._tidy)],
        ]

    # -- what could still change -------------------------------------------------------------

    async def _mend(self, part: Slice, *, rehash: bool = False) -> bool:
        """As long as a catch-up is on its way, what we hold nothing of is left to it."""
        return await mend_range(
            self.reconciler, part, rehash=rehash, leave_empty=not self._proof.given
        )

    async def _mend_held(self, start: int, end: int) -> None:
        """Where either side holds trades: a chain that has finalized nothing yet starts at zero."""
        extent = await self.reconciler.extent()
        if extent is not None and max(start, extent.start) < min(end, extent.end):
            await self._mend(Slice(max(start, extent.start), min(end, extent.end)))

    async def _newest(self) -> None:
        began = time.monotonic()
        if self._tail.window_hint:
            self._tail.window_hint = False
            await self._window()
        settled = self._tail.settled
        tails = {settled - 1, *(p.time for p in self._tail.reached.values())}
        for end in sorted({min(t, settled - 1) // MINUTE * MINUTE + MINUTE for t in tails}):
            whole = min(end, settled // MINUTE * MINUTE)
            parts = [(Slice(end - NEWEST_MINUTES * MINUTE, whole), False)]
            if whole < end:  # Part of a minute has no digest of its own: ours comes from the rows.
                parts.append((Slice(whole, settled), True))
            for part, rehash in parts:
                self._mended = await self._mend(part, rehash=rehash) or self._mended
        if self._tail.replaced_at is not None and self._tail.replaced_at < began:
            self._tail.replaced_at = None

    async def _vanished(self) -> None:
        """What a look did not find any more is looked for once more, soon: a look at all that is new may
        rest for long. The source is asked nothing where nothing has vanished."""
        if self._mended or self.has_vanished():
            self._mended = False
            await look_again(self.reconciler, told, self._never)

    async def _window(self) -> None:
        retraction = await judge(self.reconciler)
        start = int(retraction.window_from.timestamp()) // MINUTE * MINUTE
        await self._mend_held(start, self._tail.settled // MINUTE * MINUTE)
        for p in retraction.positions:
            if p.finalized_time < start:
                # A chain that is far behind has a window of its own.
                end = p.time // MINUTE * MINUTE + MINUTE
                await self._mend_held(p.finalized_time // MINUTE * MINUTE, min(end, start))
        if await self.reconciler.impossible_differs():
            await told(IMPOSSIBLE, await self.reconciler.reconcile(IMPOSSIBLE))

    async def _pools(self) -> None:
        await sync_pools(self.reconciler)

    async def _pending(self) -> None:
        async with at_once(self.reconciler.analytics) as conn:
            ids, slices, impossible = await tape.pending(conn)
        if ids or slices or impossible:
            async with self.reconciler.analytics.connection() as conn:
                await runs.ask(conn, "retry", {"reason": "pending"})

    async def _scrub(self) -> None:
        await self._scrubbing.go_on(self._tail.settled)

    async def _tidy(self) -> None:
        await tidy(self.reconciler, told, self._never)
