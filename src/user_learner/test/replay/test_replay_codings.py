"""What came with loss stands beside the store."""

from dataclasses import replace

import numpy as np

from user_core.types import ChunkId, EpisodeKey, EpisodeSource, TrajectoryChunk
from user_learner.replay.ingest import FILE, CodingLog, read_codings


def chunk(sequence, coding="", producer="a", rows=2):
    codings = {"observation.rgb": coding} if coding else {}
    return TrajectoryChunk(
        ChunkId(producer, 5, sequence), EpisodeKey(producer, 5, 0), EpisodeSource.ONLINE, 0,
        {"reward": np.zeros(rows, np.float32)}, "ab" * 32, codings=codings,
    )  # fmt: skip


def test_changes_are_written_down_once(tmp_path):
    log = CodingLog(tmp_path)
    for sequence, coding in enumerate(["", "zstd", "jpeg90", "jpeg90", "jpeg90", "zstd", ""], 1):
        log.note(chunk(sequence, coding))
    assert [(e["sequence"], e["coding"]) for e in read_codings(tmp_path)] == [
        (3, "jpeg90"),
        (6, ""),
    ]


def test_it_goes_on_after_a_restart_and_keeps_producers_apart(tmp_path):
    CodingLog(tmp_path).note(chunk(1, "jpeg90"))
    again = CodingLog(tmp_path)
    again.note(chunk(2, "jpeg90"))
    again.note(chunk(1, "webp50", producer="b"))
    again.note(replace(chunk(3), columns={"reward": np.zeros(0, np.float32)}))  # no rows
    with (tmp_path / FILE).open("a") as file:
        file.write('{"producer": "a", "cut of')
    entries = read_codings(tmp_path)
    assert [(e["producer"], e["coding"]) for e in entries] == [("a", "jpeg90"), ("b", "webp50")]
    assert CodingLog(tmp_path)._now["a", "observation.rgb"] == "jpeg90"


def test_without_loss_there_is_no_file(tmp_path):
    CodingLog(tmp_path).note(chunk(1, "zstd"))
    assert not (tmp_path / FILE).exists()
    assert read_codings(tmp_path) == []
