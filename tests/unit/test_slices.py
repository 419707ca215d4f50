"""How the tape is cut into slices: everything that differs is in one, none is too large."""

from hypothesis import given
from hypothesis import strategies as st

from truetape.store.compare import MAX_SLICE_HOURS, Minute, cut, units
from truetape.trade import HOUR, MINUTE

minutes = st.lists(
    st.tuples(st.integers(1, 400_000), st.integers(0, 50), st.integers(0, 50), st.booleans()),
    unique_by=lambda m: m[0],
    max_size=60,
).map(
    lambda rows: [Minute(n * MINUTE, theirs, ours, d, None) for n, theirs, ours, d in sorted(rows)]
)


@given(minutes, st.integers(1, 120))
def test_every_differing_minute_is_in_exactly_one_slice(found: list[Minute], batch: int) -> None:
    slices = cut(found, batch)
    for minute in found:
        holding = [s for s in slices if s.start <= minute.start < s.end]
        assert len(holding) == (1 if minute.differs else 0)


@given(minutes, st.integers(1, 120))
def test_a_slice_is_no_larger_than_a_batch_unless_it_is_one_minute(
    found: list[Minute], batch: int
) -> None:
    for part in cut(found, batch):
        assert part.rows <= batch or part.end - part.start == MINUTE
        assert part.end - part.start <= MAX_SLICE_HOURS * HOUR
        inside = [m for m in found if part.start <= m.start < part.end]
        assert part.rows == sum(m.theirs for m in inside)
        assert (part.ours == 0) == all(m.ours == 0 for m in inside)


@given(minutes, st.integers(1, 120))
def test_units_are_whole_hours_that_hold_every_minute_once(found: list[Minute], batch: int) -> None:
    made = units(found, batch)
    for unit in made:
        assert unit.hours.start % HOUR == unit.hours.end % HOUR == 0
        assert all(unit.hours.start <= p.start < p.end <= unit.hours.end for p in unit.pieces)
    for minute in found:
        pieces = [p for u in made for p in u.pieces if p.start <= minute.start < p.end]
        assert len(pieces) == 1
