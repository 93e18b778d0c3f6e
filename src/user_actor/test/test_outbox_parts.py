"""The pure parts of the outbox: cutter, progress, pause, judge."""

import time

import pytest

from user_actor.outbox.acks import AckFilter, AckMeaning
from user_actor.outbox.chunks import ChunkBuilder, EpisodeProgress
from user_actor.outbox.config import GIB, OutboxConfig
from user_actor.outbox.outbox import PauseRules
from user_actor.outbox.writer import ItemQueue
from user_core.config import from_mapping
from user_core.errors import ConfigError, StoreError
from user_core.types import (
    ActedBy,
    EpisodeKey,
    EpisodeResult,
    EpisodeSource,
    Outcome,
    TrajectoryAck,
)
from user_testing.worlds.outbox import SPEC, final, step

KEY = EpisodeKey("actor", 1, 0)
BEGIN = EpisodeProgress(KEY, EpisodeSource.ONLINE)
RESULT = EpisodeResult(KEY, EpisodeSource.ONLINE, Outcome.SUCCESS, 2, 2.0)


class Time:
    now_s = 0.0

    def __call__(self):
        return self.now_s


def test_full_chunks_are_cut_at_once_and_the_rest_with_the_result():
    cutter = ChunkBuilder(3, 0.5, Time())
    cutter.begin(BEGIN)
    drafts = [draft for number in range(7) for draft in cutter.append(step(number))]
    assert [(len(d.rows), d.first_row) for d in drafts] == [(3, 0), (3, 3)]
    assert cutter.append(final(7)) == []
    (last,) = cutter.end(RESULT)
    assert (len(last.rows), last.first_row, last.result) == (2, 6, RESULT)
    assert (last.progress.rows, last.progress.length) == (8, 7)


def test_old_chunks_are_cut_and_a_final_observation_waits_for_its_result():
    time = Time()
    cutter = ChunkBuilder(100, 0.5, time)
    assert cutter.wait_s() is None
    cutter.begin(BEGIN)
    cutter.append(step(0))
    time.now_s = 0.3
    cutter.append(step(1))
    assert cutter.wait_s() == pytest.approx(0.2)
    assert cutter.due() == []
    time.now_s = 0.5
    (draft,) = cutter.due()
    assert len(draft.rows) == 2
    cutter.append(step(2))
    cutter.append(final(3))
    time.now_s = 99.0
    assert cutter.wait_s() is None
    assert cutter.due() == cutter.rest() == []
    (last,) = cutter.end(RESULT)
    assert (len(last.rows), last.result) == (2, RESULT)


def test_a_result_may_come_without_rows():
    cutter = ChunkBuilder(1, 0.5, Time())
    cutter.begin(BEGIN)
    cutter.append(step(0))
    (last,) = cutter.end(RESULT)
    assert (len(last.rows), last.first_row) == (0, 1)


def test_episodes_do_not_mix():
    cutter = ChunkBuilder(3, 0.5, Time())
    with pytest.raises(StoreError, match="begin_episode"):
        cutter.append(step(0))
    with pytest.raises(StoreError, match="begin_episode"):
        cutter.end(RESULT)
    cutter.begin(BEGIN)
    with pytest.raises(StoreError, match="still open"):
        cutter.begin(BEGIN)
    other = EpisodeResult(EpisodeKey("x", 1, 0), EpisodeSource.ONLINE, Outcome.SUCCESS, 0, 0.0)
    with pytest.raises(StoreError, match="end of an episode"):
        cutter.end(other)


def test_progress_sums_up_and_survives_json():
    rows = [
        step(5, policy_version=2),
        step(6, policy_version=3, acted_by=ActedBy.HUMAN),
        step(7, policy_version=3, acted_by=ActedBy.SCRIPT),
        step(8, policy_version=4, acted_by=ActedBy.RANDOM),
        final(9),
    ]
    progress = BEGIN.plus(rows[:2]).plus([]).plus(rows[2:])
    assert (progress.rows, progress.length, progress.episode_return) == (5, 4, 4.0)
    assert (progress.interventions, progress.first_version, progress.last_version) == (2, 2, 4)
    assert (progress.start_ns, progress.last_ns) == (5, 9)
    here = progress.plus([step(9, policy_version=9, acted_by=ActedBy.FALLBACK)])
    assert (here.first_version, here.plus(rows[:1]).first_version) == (0, 0), "not of one policy"
    assert progress.takeovers == 1, "one that goes on over the border of two chunks is one"
    assert EpisodeProgress.from_dict(progress.to_dict()) == progress


FINE = {"used_bytes": 0, "memory_bytes": 0, "free_bytes": GIB, "trouble": "", "refusal": ""}


@pytest.mark.parametrize(
    ("change", "still", "enough", "word"),
    [
        (
            {"used_bytes": GIB},
            {"used_bytes": GIB * 95 // 100},
            {"used_bytes": GIB // 2},
            "MiB that",
        ),
        ({"memory_bytes": 2**24}, {"memory_bytes": 16 * 10**6}, {}, "wait for the disk"),
        ({"free_bytes": 2**20}, {"free_bytes": 2**20 + 10}, {"free_bytes": 2**21}, "must stay"),
        ({"trouble": "no space"}, {"trouble": "x"}, {}, "cannot be written"),
        ({"refusal": "refused"}, {"refusal": "refused"}, {}, "refused"),
    ],
)
def test_the_gate_closes_says_why_and_opens_with_some_room(change, still, enough, word):
    config = OutboxConfig(quota_bytes=GIB, memory_bytes=2**25, min_free_bytes=2**20)
    pause = PauseRules(config)
    assert not pause.update(**FINE)
    assert word in pause.update(**{**FINE, **change}).text
    assert pause.reason
    assert pause.update(**{**FINE, **still})
    assert not pause.update(**{**FINE, **enough})


def ack(sequence=1, store="mine", incarnation=7, producer="actor", refused=0):
    return TrajectoryAck(producer, incarnation, sequence, store, refused)


def judge(judge_, ack_, store="mine", now_s=0.0):
    return judge_.classify(ack_, "actor", 7, store, 10, now_s)


def test_only_answers_of_our_store_to_us_count():
    who = AckFilter(5.0)
    assert judge(who, ack()) is AckMeaning.ACCEPT
    assert judge(who, ack(), store=None) is AckMeaning.ACCEPT
    assert judge(who, ack(producer="x")) is AckMeaning.IGNORE
    assert not who.ignored
    assert judge(who, ack(incarnation=6)) is AckMeaning.IGNORE
    assert judge(who, ack(sequence=-1)) is AckMeaning.IGNORE
    assert judge(who, ack(refused=-1)) is AckMeaning.IGNORE
    assert judge(who, ack(store="other")) is AckMeaning.IGNORE
    assert sum(who.ignored.values()) == 4
    assert judge(who, ack(sequence=11)) is AckMeaning.UNKNOWN_NUMBERS
    assert judge(who, ack(sequence=11, store="other")) is AckMeaning.IGNORE


def test_another_store_takes_over_only_while_ours_is_silent():
    who = AckFilter(5.0)
    assert judge(who, ack(0, "other"), now_s=0.0) is AckMeaning.IGNORE
    assert judge(who, ack(0, "other"), now_s=4.0) is AckMeaning.IGNORE
    assert judge(who, ack(1, "mine"), now_s=5.0) is AckMeaning.ACCEPT
    assert judge(who, ack(0, "other"), now_s=6.0) is AckMeaning.IGNORE
    assert judge(who, ack(0, "third"), now_s=10.0) is AckMeaning.IGNORE
    assert judge(who, ack(0, "other"), now_s=12.0) is AckMeaning.IGNORE
    assert judge(who, ack(0, "other"), now_s=17.0) is AckMeaning.REBIND


def test_one_late_answer_of_another_store_is_not_enough():
    who = AckFilter(5.0)
    assert judge(who, ack(0, "other"), now_s=100.0) is AckMeaning.IGNORE


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"chunk_s": 0}, "chunk_s"),
        ({"chunk_bytes": 10}, "chunk_bytes"),
        ({"quota": 1}, "unknown key 'quota'"),
        ({"durability": "off"}, "durability"),
        ({"window_min_bytes": 2**24}, "window_min_bytes"),
        ({"resend_min_s": 20.0}, "resend_min_s"),
        ({"chunk_bytes": 2**26, "memory_bytes": 2**20}, "chunk_bytes"),
    ],
)
def test_configurations_that_cannot_work(values, word):
    with pytest.raises(ConfigError, match=word):
        from_mapping(OutboxConfig, values)


def test_the_robot_of_these_tests_is_what_it_says():
    assert SPEC.observation["state"].shape == (4,)


# --- what wakes the writer


def woken(items):
    """Whether somebody rang since the last time."""
    begin_s = time.monotonic()
    items.wait(0.05)
    return time.monotonic() - begin_s < 0.05


def test_rows_wake_the_writer_when_it_sleeps_and_when_a_chunk_is_full():
    items = ItemQueue()
    items.most_rows = 3
    items.put_row(step(0))
    assert woken(items)  # the time of the chunk begins
    assert len(list(items.take())) == 1
    items.looks_soon = True
    items.put_row(step(1))
    items.put_row(step(2))
    assert not woken(items)
    items.put_row(step(3))
    assert woken(items)
    assert [row.stamp_ns for row in items.take()] == [1, 2, 3]
    items.put_row(step(4))
    items.looks_soon = False  # the chunk was cut meanwhile
    assert woken(items)  # else nobody would see that row
    items.put(None)
    assert woken(items)
