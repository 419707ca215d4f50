"""Nothing counts as complete before one sync since our start has found all of it."""

from dataclasses import dataclass

from truetape.store import runs
from truetape.store.runs import Run
from truetape.sync.reconcile import Reconciler


async def ask_for_catch_up(reconciler: Reconciler, reason: str) -> Run:
    """What was missed is a run of its own, whoever leads when it is worked on. One that we are at already is
    not joined: it may have looked there before."""
    epoch = reconciler.fenced_writer().lease.epoch
    async with reconciler.analytics.connection() as conn:
        return await runs.ask(conn, "standard", {"reason": reason}, not_under=epoch)


@dataclass
class Proof:
    """A run that finds all that was missed until now."""

    reconciler: Reconciler
    given: bool = False
    """Whether it has: what is not following's to do is done."""
    _run: Run | None = None

    async def begin(self) -> None:
        """Whatever was found before: nobody has followed since."""
        self.given = False
        self._run = await ask_for_catch_up(self.reconciler, "start")

    async def seek(self) -> None:
        """Looks how far it is, and asks for another where it has failed."""
        if self.given:
            return
        async with self.reconciler.analytics.connection() as conn:
            run = await runs.get(conn, self._run.run_id) if self._run else None
        if run is not None and run.state == "succeeded":
            self.given = True
        elif run is None or run.ended:
            self._run = await ask_for_catch_up(self.reconciler, "start, again")
