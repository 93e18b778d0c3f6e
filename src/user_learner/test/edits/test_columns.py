"""Columns of rewards, read while they are written: compared with what was put in, step by step."""

from __future__ import annotations

import json

import numpy as np
import pytest

from user_core.codecs.lines import encode_line
from user_core.types import EpisodeKey
from user_learner.edits import columns
from user_learner.edits.columns import VALUE, ColumnWriter, Provenance, RewardColumn

NAMES = ("arm", "arm.two", "östlich")


@pytest.mark.parametrize("seed", range(6))
def test_a_column_says_of_each_step_what_was_said_last(tmp_path, seed, monkeypatch):
    """Episodes are judged in part, again and again, by several writers; most of them are asked for between."""
    random = np.random.default_rng(seed)
    monkeypatch.setattr(columns, "_UNORDERED", int(random.integers(1, 40)))
    monkeypatch.setattr(columns, "_LINES_AT_ONCE", int(random.integers(1, 9)))
    said: dict[EpisodeKey, dict[int, float]] = {}
    open_ones = ColumnWriter(tmp_path, Provenance("c", "task"))
    read = RewardColumn(tmp_path, "c")

    def some_key():
        first = 10**18 if random.random() < 0.7 else int(random.integers(3))
        return EpisodeKey(str(random.choice(NAMES)), first, int(random.integers(12)))

    def check(column, key):
        values, known = column.of(key, (first := int(random.integers(40))), 50)
        expected = said.get(key, {})
        assert np.flatnonzero(known).tolist() == [
            n for n in range(50) if first + n in expected
        ]  # and nothing else
        assert values["reward"][known].tolist() == [
            expected[first + n] for n in range(50) if first + n in expected
        ]
        assert column.judged(key) == max(expected, default=-1) + 1

    for _ in range(60):
        for _ in range(int(random.integers(1, 9))):
            key, first = some_key(), int(random.integers(60))
            values = np.zeros(int(random.integers(1, 30)), VALUE)
            values["reward"] = random.random(len(values), np.float32)
            open_ones.add(key, first, values)
            steps = said.setdefault(key, {})
            steps.update(zip(range(first, 99), values["reward"].tolist(), strict=False))
        open_ones.commit()
        if random.random() < 0.2:
            open_ones.close()
            open_ones = ColumnWriter(tmp_path, Provenance("c", "task"))
        if random.random() < 0.5:
            assert read.refresh()
            assert not read.refresh()
            for _ in range(5):
                check(read, some_key())
            check(read, EpisodeKey("nobody", 0, 0))
    open_ones.close()
    anew = RewardColumn(tmp_path, "c")
    read.refresh()
    for column in (read, anew):
        assert (column.pieces.episodes, set(column.pieces)) == (len(said), set(said))
        assert column.pieces.end == len(column.values)
        for key in said:
            check(column, key)
    assert not anew.warnings


def test_lines_that_are_cut_short_damaged_or_impossible_are_passed_over_and_told(tmp_path):
    key = EpisodeKey("arm", 1, 2)
    with ColumnWriter(tmp_path, Provenance("c", "task")) as writer:
        writer.add(key, 0, np.ones(4, VALUE))
        writer.commit()
    column, log = RewardColumn(tmp_path, "c"), tmp_path / "rewards" / "c" / "pieces.log"
    good = json.loads(log.read_bytes()[9:])
    for odd in (
        {**good, "offset": 2},  # behind the values
        {**good, "first_step": -1},
        {**good, "steps": 2**70},
        {"episode": [1, 2]},
        [],
        None,
    ):
        with log.open("ab") as stream:
            stream.write(encode_line(odd) if odd is not None else b"00000000 {}\n")
        assert column.refresh()
        assert column.warnings[-1].startswith(f"{log}: a line is passed over: ")
    assert len(column.warnings) == 6
    whole = encode_line({**good, "first_step": 4})
    with log.open("ab") as stream:
        stream.write(whole[:20])
    assert not column.refresh()
    assert column.judged(key) == 4
    with log.open("ab") as stream:
        stream.write(whole[20:] + b"\n")
    assert column.refresh()
    assert column.judged(key) == 8
    assert len(column.warnings) == 6
