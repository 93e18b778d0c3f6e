"""Rows at their times."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from user_core.types import ActionChunk
from user_hal.runtime.chunk_player import ChunkPlayer

PERIOD = 100


def chunk(*rows: float, period_ns: int = PERIOD) -> ActionChunk:
    return ActionChunk(np.array(rows, np.float32)[:, None], period_ns)


def play(player: ChunkPlayer, times: list[int]) -> list[tuple[int, float]]:
    """What is given at each of the times."""
    rows = [(now, player.take(now)) for now in times]
    return [(now, float(row.action[0])) for now, row in rows if row is not None]


def test_each_row_comes_once_at_its_time() -> None:
    player = ChunkPlayer()
    assert player.offer(chunk(1, 2, 3), 1000, 1000)
    assert player.due_ns == 1000
    given_rows = play(player, list(range(1000, 1500, 10)))
    assert given_rows == [(1000, 1.0), (1100, 2.0), (1200, 3.0)]
    assert player.due_ns is None and player.skipped == 0


def test_rows_whose_time_has_passed_are_skipped() -> None:
    player = ChunkPlayer()
    player.offer(chunk(1, 2, 3, 4), 1000, 1250)
    assert play(player, [1250, 1300]) == [(1250, 3.0), (1300, 4.0)]
    assert player.skipped == 2


def test_a_chunk_that_is_too_late_altogether_is_refused() -> None:
    player = ChunkPlayer()
    assert not player.offer(chunk(1, 2), 1000, 1200)
    assert player.due_ns is None


def test_the_newest_single_command_survives_a_short_hold_up_but_not_a_long_one() -> None:
    player = ChunkPlayer()
    player.offer(chunk(1), 1000, 1000)
    assert play(player, [1150]) == [(1150, 1.0)]
    player.offer(chunk(2), 2000, 2000)
    assert play(player, [2200]) == []
    assert player.due_ns is None


def test_a_newer_chunk_takes_over_at_its_start() -> None:
    player = ChunkPlayer()
    player.offer(chunk(1, 2, 3, 4), 1000, 1000)
    player.offer(chunk(13, 14), 1200, 1050)
    assert play(player, list(range(1050, 1500, 50))) == [
        (1050, 1.0), (1100, 2.0), (1200, 13.0), (1300, 14.0),
    ]  # fmt: skip


@pytest.mark.parametrize("jitter", [-3, -1, 0, 1, 3])
def test_two_chunks_on_one_grid_give_one_row_a_period(jitter) -> None:
    """The rows of both are due at the same moments, give or take what clocks differ by."""
    player = ChunkPlayer(blend_rows=2)
    player.offer(chunk(0, 0, 0, 0, 0, 0), 1000, 1000)
    given_rows = play(player, list(range(1000, 1110)))
    player.offer(chunk(3, 3, 3), 1200 + jitter, 1110)
    given_rows += play(player, list(range(1110, 1600)))
    assert [value for _, value in given_rows] == [0.0, 0.0, 1.0, 2.0, 3.0]
    assert [abs(now - 1000 - 100 * i) <= 3 for i, (now, _) in enumerate(given_rows)] == [True] * 5


def test_a_newer_chunk_that_starts_now_takes_over_at_once() -> None:
    player = ChunkPlayer()
    player.offer(chunk(1, 2, 3), 1000, 1000)
    assert play(player, [1000]) == [(1000, 1.0)]
    player.offer(chunk(9, 8), 1040, 1040)
    assert play(player, [1040, 1100, 1140]) == [(1040, 9.0), (1140, 8.0)]


def test_the_seam_between_chunks_is_faded() -> None:
    player = ChunkPlayer(blend_rows=3)
    player.offer(chunk(0, 0, 0, 0), 1000, 1000)
    player.offer(chunk(4, 4, 4, 4), 1100, 1050)
    played = play(player, list(range(1100, 1500, 100)))
    assert played == [(1100, 1.0), (1200, 2.0), (1300, 3.0), (1400, 4.0)]


def test_what_was_cleared_is_never_played() -> None:
    player = ChunkPlayer()
    player.offer(chunk(1, 2), 1000, 1000)
    player.offer(chunk(3, 4), 1100, 1000)
    player.clear()
    assert player.due_ns is None and player.take(1100) is None


@given(
    chunks=st.lists(
        st.tuples(st.integers(0, 300), st.integers(0, 400), st.integers(1, 6)), max_size=8
    ),
    steps=st.lists(st.integers(0, 250), min_size=1, max_size=40),
)
@settings(deadline=None, max_examples=200)
def test_no_row_is_given_twice_early_or_much_too_late(chunks, steps) -> None:
    """Whatever the rhythm of chunks and of the loop."""
    player, now, seen = ChunkPlayer(), 1000, set()
    pending = list(enumerate(chunks))
    for step in steps:
        now += step
        if pending:
            number, (late, ahead, rows) = pending.pop(0)
            start = now + ahead - late
            values = [number * 10 + i for i in range(rows)]
            if player.offer(chunk(*values), start, now):
                assert now < start + rows * PERIOD
        row = player.take(now)
        if row is None:
            continue
        value = float(row.action[0])
        assert value not in seen
        assert row.due_ns <= now < row.due_ns + 2 * PERIOD
        seen.add(value)


def test_integer_actions_are_not_faded() -> None:
    player = ChunkPlayer(blend_rows=2)
    player.offer(ActionChunk(np.array([[0], [0]]), PERIOD), 1000, 1000)
    player.offer(ActionChunk(np.array([[3], [3]]), PERIOD), 1000, 1000)
    row = player.take(1000)
    assert row is not None and row.action.tolist() == [3]


@pytest.mark.parametrize("rows", [0])
def test_an_empty_chunk_cannot_be_made(rows) -> None:
    with pytest.raises(ValueError, match="at least one row"):
        ActionChunk(np.zeros((rows, 2), np.float32), PERIOD)
