"""Checkpoints and finality as Ponder keeps them."""

from truetape.embedded.ponder_tables import FINALITY_BLOCKS, Position, checkpoint

START = 1_790_000_000


def walk(position: Position, blocks: int) -> list[int]:
    """The final block after each of some blocks, one a second."""
    final = []
    for _ in range(blocks):
        position.advance(position.second + 1)
        final.append(position.finalized[0])
    return final


def test_a_checkpoint_has_75_digits_and_is_read_back() -> None:
    latest = checkpoint(START, 31337, 259_200)
    assert len(latest) == 75 and latest.isdecimal()
    assert latest.startswith(f"{START}0000000000031337000000000025920099999")
    position = Position.parse(latest, checkpoint(START - 40, 31337, 259_160))
    assert (position.block, position.second) == (259_200, START)
    assert position.finalized == (259_160, START - 40)


def test_checkpoints_sort_as_time_does() -> None:
    assert checkpoint(999_999_999, 1, 7) < checkpoint(START, 1, 5) < checkpoint(START, 1, 6)


def test_finality_moves_when_the_head_is_twice_as_far() -> None:
    position = Position(100, START, finalized=(100, START))
    final = walk(position, 200)
    for head, finalized in enumerate(final, start=101):
        assert head - finalized < 2 * FINALITY_BLOCKS
        assert head - finalized >= min(FINALITY_BLOCKS, head - 100)
    assert sorted(set(final)) == [100, 130, 160, 190, 220, 250]
    assert position.finalized[1] == START + position.finalized[0] - 100


def test_after_a_restart_finality_waits_for_blocks_whose_time_is_known() -> None:
    position = Position(150, START, finalized=(100, START - 50))
    final = walk(position, 40)
    assert final[28] == 100 and final[30] == 151
    assert position.finalized == (151, START + 1)


def test_a_range_is_final_as_a_whole() -> None:
    position = Position(0, START, finalized=(0, START))
    position.jump(5_000, START + 5_000)
    assert position.finalized == (position.block, position.second) == (5_000, START + 5_000)
