"""Training waits while an answer is due, and never for somebody who has died."""

from __future__ import annotations

import struct
import time
from pathlib import Path

import pytest

from user_core.errors import ConfigError
from user_core.runtime import gpu_turns
from user_core.runtime.gpu_turns import LEAST_SHARE, LONGEST_S, Arrivals, FairWait, GpuTurns


@pytest.fixture
def turns(tmp_path: Path) -> tuple[GpuTurns, GpuTurns]:
    """As two processes see them."""
    return GpuTurns(tmp_path / "turns"), GpuTurns(tmp_path / "turns")


def test_training_goes_on_when_the_answer_is_there(turns: tuple[GpuTurns, GpuTurns]) -> None:
    answers, trains = turns
    assert trains.wait() == 0
    answers.take(0.2)
    assert trains.taken
    answers.give_back()
    assert not trains.taken
    assert trains.wait() == 0


def test_a_turn_that_nobody_gives_back_ends(turns: tuple[GpuTurns, GpuTurns]) -> None:
    answers, trains = turns
    start_s = time.monotonic()
    answers.take(0.05)
    assert trains.wait() > 0
    assert time.monotonic() - start_s >= 0.05
    answers.take(1e6)  # nobody takes so long a turn
    assert trains.wait() <= LONGEST_S + 1.0


@pytest.mark.parametrize("ended", [(0, 1, 2), (2, 1, 0), (1, 0, 2)])
def test_who_gives_back_does_not_end_the_turn_of_another(
    tmp_path: Path, ended: tuple[int, ...]
) -> None:
    """Several processes answer robots on one GPU: whoever has answered first."""
    hosts = [GpuTurns(tmp_path / "turns") for _ in range(3)]
    trains = GpuTurns(tmp_path / "turns")
    for _ in range(2):
        for host in hosts:
            host.take(0.5)
            host.take(0.5)  # another robot of the same process
        for number in ended:
            assert trains.taken
            hosts[number].give_back()
        assert not trains.taken


def test_more_processes_than_there_are_turns_answer_robots_all_the_same(tmp_path: Path) -> None:
    hosts = [GpuTurns(tmp_path / "turns") for _ in range(20)]
    for host in hosts:
        host.take(0.5)
    for host in hosts:
        host.give_back()
    assert not hosts[0].taken


def test_what_another_boot_of_the_host_left_holds_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "turns"
    file.write_bytes(struct.pack("<q", time.monotonic_ns() + 10**15))
    monkeypatch.setattr(gpu_turns, "_LOOK_S", 1.0)
    assert not GpuTurns(file).taken


def test_the_next_of_regular_requests_is_expected_and_of_others_none() -> None:
    arrivals = Arrivals()
    for number in range(6):
        arrivals.came(10 + 0.05 * number)
        assert arrivals.next_s() is None  # too few to tell
    arrivals.came(10.302)  # 2 ms late
    early_s, late_s = arrivals.next_s() or (0.0, 0.0)
    assert early_s == pytest.approx(10.352 - 0.002 - Arrivals.early_s)
    assert late_s == pytest.approx(10.354)
    arrivals.came(10.4)  # twice as long
    assert arrivals.next_s() is None


def test_the_turn_is_taken_earlier_where_training_leaves_more_behind(
    turns: tuple[GpuTurns, GpuTurns],
) -> None:
    answers, trains = turns
    arrivals = Arrivals()
    for number in range(7):
        arrivals.came(10 + 0.05 * number)

    def early_s() -> float:
        due_s, _ = arrivals.next_s(answers.tail_s) or (0.0, 0.0)
        return 10.35 - due_s

    assert answers.tail_s == 0
    assert early_s() == pytest.approx(Arrivals.early_s, abs=1e-6)
    trains.leaves(0.0004)  # less than there is time for anyway
    assert early_s() == pytest.approx(Arrivals.early_s, abs=1e-6)
    trains.leaves(0.0025)
    assert early_s() == pytest.approx(0.0025, abs=1e-6)
    trains.leaves(3.0)  # it is not in pieces: no robot's whole period is taken for it
    assert early_s() == pytest.approx(0.01, abs=1e-6)
    answers.take(0.2)
    assert trains.taken
    assert answers.tail_s == pytest.approx(0.01), "the one says nothing of the other"


def test_a_file_of_before_has_room_for_the_time_that_is_left(tmp_path: Path) -> None:
    (tmp_path / "turns").write_bytes(b"\0" * 8)
    turns = GpuTurns(tmp_path / "turns")
    turns.leaves(0.002)
    assert GpuTurns(tmp_path / "turns").tail_s == pytest.approx(0.002)


def test_a_file_that_cannot_be_opened_is_named(tmp_path):
    with pytest.raises(ConfigError, match="turns on a GPU"):
        GpuTurns(tmp_path)


def test_work_of_many_small_pieces_goes_on_though_an_answer_is_always_due(monkeypatch):
    """Each array of a version is looked at before it is published: no version came any more."""
    now_s = [100.0]
    monkeypatch.setattr(gpu_turns.time, "monotonic", lambda: now_s[0])
    monkeypatch.setattr(gpu_turns.time, "monotonic_ns", lambda: int(1e9 * now_s[0]))
    monkeypatch.setattr(gpu_turns.time, "sleep", lambda s: now_s.__setitem__(0, now_s[0] + s))
    turns = GpuTurns()
    monkeypatch.setattr(GpuTurns, "taken", True)
    wait, begun_s = FairWait(turns), now_s[0]
    for _ in range(300):
        wait()
        now_s[0] += 1e-3  # the piece
    took_s = now_s[0] - begun_s
    assert took_s < gpu_turns.PATIENCE_S + 0.3 / LEAST_SHARE + 0.1
    assert took_s > 0.3 / LEAST_SHARE  # answers keep the rest


def test_pieces_that_are_short_together_wait_together(monkeypatch):
    """An adapter has hundreds of small arrays: with a wait at each, a version was not there within a minute."""
    now_s = [100.0]
    monkeypatch.setattr(gpu_turns.time, "monotonic", lambda: now_s[0])
    turns, waits = GpuTurns(), []
    monkeypatch.setattr(turns, "wait", lambda at_most_s: waits.append(at_most_s) or 0.0)
    wait = FairWait(turns, together_s=2e-3)
    now_s[0] += 1.0
    for _ in range(20):
        wait()
        now_s[0] += 0.5e-3
    assert len(waits) == 5
    wait = FairWait(turns)
    for _ in range(20):
        wait()
    assert len(waits) == 25
