import contextlib
import os
import sqlite3

import numpy as np
import pytest

from user_actor.outbox import Outbox, storage
from user_actor.outbox.storage import FILE
from user_actor.outbox.writer import Recording
from user_core.errors import ConfigError, SpecError, StoreError, StoreFull
from user_core.types import (
    ActedBy,
    EpisodeKey,
    EpisodeResult,
    EpisodeSource,
    Outcome,
    Step,
    TrajectoryAck,
    TrajectorySchema,
)
from user_testing.waiting import wait_until
from user_testing.worlds.outbox import (
    OTHER_SPEC,
    SPEC,
    MemoryStore,
    config_for,
    episode,
    final,
    step,
)


@pytest.fixture
def open_outbox(tmp_path):
    """Opens outboxes in one folder, one after the other, and closes what is left."""
    opened = []

    def open_(spec=SPEC, producer="actor", **changes):
        outbox = Outbox(config_for(tmp_path, **changes), producer, spec, "arm", "peg")
        opened.append(outbox)
        return outbox

    yield open_
    for outbox in opened:
        outbox.close()


def drained(outbox):
    return lambda: outbox.flush(1) and outbox.status().pending_chunks == 0


def test_what_goes_in_arrives_once_and_in_order(open_outbox):
    outbox, store = open_outbox(), MemoryStore()
    result = episode(outbox, 0, 300)
    outbox.deliver_to(store.serve(outbox))
    wait_until(drained(outbox), "all acknowledged")
    assert store.stamps() == list(range(301))
    last = store.chunks[max(store.chunks)]
    assert last.result == result
    assert last.columns["final"].tolist()[-1] is True
    assert (last.robot, last.task) == ("arm", "peg")
    assert last.schema_hash == TrajectorySchema.of(SPEC).hash
    assert outbox.total_steps == 300


def test_chunks_are_small_and_soon(open_outbox):
    outbox = open_outbox(chunk_bytes=8192, chunk_s=30.0)
    outbox.begin_episode(EpisodeSource.ONLINE)
    row_nbytes = TrajectorySchema.of(SPEC, plans=True).row_nbytes
    for number in range(210):
        outbox.append(step(number))
    wait_until(lambda: outbox._writer.committed_rows, "chunks that are full are cut at once")
    assert all(entry.nbytes <= 8192 for entry in outbox._database.upcoming(0, 99))
    rows = outbox._writer.committed_rows
    assert 0 < rows < 210
    assert rows % ((8192 - 4096) // row_nbytes) == 0
    assert outbox.flush(5)
    assert outbox._writer.committed_rows == 210


def test_a_chunk_that_does_not_fill_is_committed_when_it_is_old(open_outbox):
    outbox = open_outbox(chunk_s=0.05)
    outbox.begin_episode(EpisodeSource.ONLINE)
    outbox.append(step(0))
    wait_until(lambda: outbox._writer.committed_rows == 1, "the row is committed")


def test_unanswered_chunks_are_sent_again_and_survive_a_restart(open_outbox):
    outbox, store = open_outbox(), MemoryStore()
    store.silent = True
    outbox.deliver_to(store.serve(outbox))
    episode(outbox, 0, 20)
    wait_until(lambda: store.received > len(store.chunks), "something was sent again")
    outbox.close()
    store.silent = False
    again = open_outbox()
    assert again.recovered is None
    assert again.status().pending_chunks > 0
    again.deliver_to(store.serve(again))
    episode(again, 100, 5)
    wait_until(drained(again), "all acknowledged")
    assert store.stamps() == [*range(21), *range(100, 106)]
    assert again.total_steps == 25


def test_an_episode_that_was_cut_is_closed_by_the_next_process(open_outbox, tmp_path):
    outbox = open_outbox()
    key = outbox.begin_episode(EpisodeSource.DEMONSTRATION)
    outbox.append(step(0, policy_version=3))
    outbox.append(step(1, policy_version=4, acted_by=ActedBy.HUMAN))
    assert outbox.flush(5)
    outbox.append(final(2))  # without its result a final observation is not committed
    outbox.close()
    again, store = open_outbox(OTHER_SPEC), MemoryStore()
    result = again.recovered
    assert result.outcome is Outcome.UNFINISHED
    assert (result.key, result.length, result.episode_return) == (key, 2, 2.0)
    assert (result.interventions, result.first_version, result.last_version) == (1, 3, 4)
    assert result.source is EpisodeSource.DEMONSTRATION
    again.deliver_to(store.serve(again))
    wait_until(drained(again), "all acknowledged")
    closing = store.chunks[max(store.chunks)]
    assert closing.result == result
    assert (len(closing), closing.first_row) == (0, 2)
    schema = TrajectorySchema.of(SPEC, plans=True)
    assert schema.check(closing.columns) == 0
    assert closing.schema_hash == schema.hash
    assert again.begin_episode(EpisodeSource.ONLINE).incarnation > key.incarnation


def test_what_was_left_is_delivered_before_the_robot_is_known(open_outbox):
    outbox, store = open_outbox(), MemoryStore()
    episode(outbox, 0, 5)
    outbox.close()
    again = open_outbox(spec=None)
    again.deliver_to(store.serve(again))
    wait_until(drained(again), "all acknowledged")
    with pytest.raises(StoreError, match="prepare"):
        again.begin_episode(EpisodeSource.ONLINE)


def test_the_robot_may_change_between_episodes(open_outbox):
    outbox, store = open_outbox(), MemoryStore()
    outbox.deliver_to(store.serve(outbox))
    episode(outbox, 0, 2)
    outbox.prepare(OTHER_SPEC, "other", "task")
    episode(outbox, 10, 2, OTHER_SPEC)
    outbox.begin_episode(EpisodeSource.ONLINE)
    with pytest.raises(StoreError, match="change of the robot"):
        outbox.prepare(SPEC)
    wait_until(drained(outbox), "all acknowledged")
    robots = [(c.robot, c.columns["observation.state"].shape[1]) for c in store.chunks.values()]
    assert robots == [("arm", 4), ("other", 5)]


def test_what_does_not_fit_is_refused_at_once(open_outbox):
    outbox = open_outbox()
    with pytest.raises(StoreError, match="no open episode"):
        outbox.append(step(0))
    key = outbox.begin_episode(EpisodeSource.ONLINE)
    with pytest.raises(StoreError, match="open"):
        outbox.begin_episode(EpisodeSource.ONLINE)
    state, action = {"state": np.zeros(4)}, np.zeros(2, np.float32)
    wrong = [
        step(0, OTHER_SPEC),
        step(float("nan")),
        Step(state, action, action, np.nan),
        Step(state, action, action, 1e39),
        Step(state, np.zeros(3, np.float32), action, 0.0),
        Step(state, action, np.zeros(2), 0.0),
    ]
    for row in wrong:
        with pytest.raises(SpecError):
            outbox.append(row)
    other = EpisodeKey("actor", 1, 1)
    with pytest.raises(StoreError, match="end of an episode"):
        outbox.end_episode(EpisodeResult(other, EpisodeSource.ONLINE, Outcome.SUCCESS, 0, 0.0))
    outbox.append(step(7))
    outbox.append(final(8))
    with pytest.raises(StoreError, match="behind the final observation"):
        outbox.append(step(9))
    outbox.end_episode(EpisodeResult(key, EpisodeSource.ONLINE, Outcome.SUCCESS, 1, 1.0))
    store = MemoryStore()
    outbox.deliver_to(store.serve(outbox))
    wait_until(drained(outbox), "all acknowledged")
    assert store.stamps() == [7, 8]


@pytest.mark.parametrize("name", ["", "a/b", "../up", ".hidden", "x" * 101, "ä"])
def test_names_that_cannot_be_folders(name, tmp_path):
    with pytest.raises(ConfigError, match="producer"):
        Outbox(config_for(tmp_path), name, SPEC)


def test_one_process_at_a_time(open_outbox):
    open_outbox()
    with pytest.raises(
        StoreError, match=f"held by process {os.getpid()}, this one, expected one process"
    ):
        open_outbox()


def test_a_folder_of_another_actor_is_refused(open_outbox, tmp_path):
    open_outbox().close()
    (tmp_path / "actor").rename(tmp_path / "other")
    with pytest.raises(StoreError, match="producer 'other', expected 'actor'"):
        open_outbox(producer="other")


def test_answers_that_are_not_for_us_change_nothing(open_outbox):
    outbox, store = open_outbox(), MemoryStore()
    store.silent = True
    outbox.deliver_to(store.serve(outbox))
    episode(outbox, 0, 5)
    assert outbox.flush(5)
    number = outbox._database.incarnation
    first = TrajectoryAck("actor", number, 0, "store")
    for ack in (
        first,
        TrajectoryAck("somebody", number, 1, "store"),
        TrajectoryAck("actor", number - 1, 1, "store"),
        TrajectoryAck("actor", number, -1, "store"),
        TrajectoryAck("actor", number, 1, "another store"),
        first,
    ):
        outbox.acknowledge(ack)
    assert outbox.flush(5)
    assert outbox.status().pending_chunks == 1
    warnings = " ".join(warning.text for warning in outbox.status().warnings)
    assert "another incarnation" in warnings
    assert "'another store', not ours" in warnings


def test_a_refused_schema_is_set_aside_and_collecting_stops(open_outbox):
    outbox = open_outbox()
    store = MemoryStore(accepts=TrajectorySchema.of(OTHER_SPEC).hash)
    episode(outbox, 0, 5)
    assert outbox.flush(5)
    outbox.deliver_to(store.serve(outbox))
    wait_until(lambda: "refused chunk 1: not like this" in outbox.why_paused().text, "it says so")
    assert not store.chunks
    (kept,) = outbox.set_aside()
    chunk, code, reason = kept
    assert chunk.columns["stamp_ns"].tolist() == list(range(6))
    assert (code, "not like this" in reason) == ("schema_mismatch", True)
    outbox.close()
    right = open_outbox(OTHER_SPEC)  # the person has corrected the configuration
    assert not right.why_paused()
    right.deliver_to(store.serve(right))
    episode(right, 50, 3, OTHER_SPEC)
    wait_until(drained(right), "the right ones pass")
    assert store.stamps() == [50, 51, 52, 53]
    assert right.status().aside_chunks == 1


def test_of_two_schemas_only_the_refused_one_is_set_aside(open_outbox):
    outbox = open_outbox()
    for number in range(3):
        episode(outbox, 10 * number, 2)
    assert outbox.flush(5)
    outbox.close()
    right = open_outbox(OTHER_SPEC)
    episode(right, 100, 2, OTHER_SPEC)
    assert right.flush(5)
    store = MemoryStore(accepts=TrajectorySchema.of(OTHER_SPEC).hash)
    right.deliver_to(store.serve(right))
    wait_until(drained(right), "the right ones pass")
    assert store.stamps() == [100, 101, 102]
    kept = [int(chunk.columns["stamp_ns"][0]) for chunk, _, _ in right.set_aside()]
    assert kept == [0, 10, 20]


def test_one_bad_chunk_is_set_aside_and_the_others_pass(open_outbox):
    outbox, store = open_outbox(), MemoryStore()
    for number in range(3):
        episode(outbox, 10 * number, 2)
        assert outbox.flush(5)
    store.refusal = "spec"
    store.refuses = lambda chunk: 10 in chunk.columns["stamp_ns"]
    outbox.deliver_to(store.serve(outbox))
    wait_until(drained(outbox), "the others pass")
    assert store.stamps() == [0, 1, 2, 20, 21, 22]
    assert [number for _, number in sorted(store.chunks)] == [1, 2, 3]
    assert store.chunks[max(store.chunks)].result is not None
    ((chunk, code, _),) = outbox.set_aside()
    assert (chunk.columns["stamp_ns"].tolist(), code) == ([10, 11, 12], "spec")
    assert "refused chunk 2" in outbox.why_paused().text


def test_a_store_that_refuses_even_empty_chunks_is_asked_again_later(open_outbox):
    outbox, store = open_outbox(), MemoryStore()
    store.refusal, store.refuses = "spec", lambda chunk: True
    outbox.deliver_to(store.serve(outbox))
    episode(outbox, 0, 2)
    wait_until(lambda: "takes nothing for now" in str(outbox.status().warnings), "it says so")
    store.refuses = None
    wait_until(drained(outbox), "the empty one passes")
    assert len(store.chunks) == 1
    assert [code for _, code, _ in outbox.set_aside()] == ["spec"]


def test_a_store_that_is_full_is_asked_again(open_outbox):
    outbox, store = open_outbox(), MemoryStore()
    store.full = True
    outbox.deliver_to(store.serve(outbox))
    episode(outbox, 0, 5)
    wait_until(lambda: "takes nothing for now" in str(outbox.status().warnings), "it says so")
    assert not outbox.why_paused()
    store.full = False
    wait_until(drained(outbox), "all acknowledged")
    assert store.stamps() == list(range(6))
    assert "takes nothing" not in str(outbox.status().warnings)


def test_a_new_store_gets_what_the_old_one_has_not(open_outbox):
    outbox = open_outbox()
    old = MemoryStore("old")
    outbox.deliver_to(old.serve(outbox))
    episode(outbox, 0, 5)
    wait_until(drained(outbox), "the old store has the first")
    new = MemoryStore("new")
    outbox.deliver_to(new.serve(outbox))
    episode(outbox, 100, 5)
    wait_until(drained(outbox), "the new store has the second")
    numbers = sorted(sequence for incarnation, sequence in new.chunks if incarnation > 0)
    bound = [c for (incarnation, _), c in new.chunks.items()
             if incarnation == outbox._database.incarnation]  # fmt: skip
    assert [s for c in bound for s in c.columns["stamp_ns"].tolist()] == list(range(100, 106))
    assert numbers[0] == 1
    assert "'old' is silent and 'new' answers" in str(outbox.status().warnings)


def test_a_refused_chunk_goes_to_the_next_store(open_outbox):
    outbox = open_outbox()
    episode(outbox, 0, 3)
    wrong = MemoryStore("wrong", accepts="something else")
    outbox.deliver_to(wrong.serve(outbox))
    wait_until(outbox.why_paused, "refused")
    right = MemoryStore("right")
    outbox.deliver_to(right.serve(outbox))
    assert outbox.status().pending_chunks == 0
    incarnation = outbox._database.incarnation

    def answer():
        outbox.acknowledge(TrajectoryAck("actor", incarnation, 0, "right"))
        return not outbox.why_paused()

    wait_until(answer, "the new store is taken for ours")
    wait_until(drained(outbox), "all acknowledged")
    assert right.stamps() == [0, 1, 2, 3]
    assert outbox.status().aside_chunks == 0


def test_an_answer_for_numbers_never_given_deletes_nothing(open_outbox):
    outbox, store = open_outbox(), MemoryStore()
    episode(outbox, 0, 5)
    assert outbox.flush(5)
    before = outbox._database.incarnation
    outbox.acknowledge(TrajectoryAck("actor", before, 40, "store"))
    wait_until(lambda: outbox._database.incarnation > before, "a new incarnation begins")
    wait_until(lambda: "old copy" in str(outbox.status().warnings), "it says so")
    outbox.deliver_to(store.serve(outbox))
    wait_until(drained(outbox), "all acknowledged")
    assert store.stamps() == list(range(6))


def test_the_quota_pauses_collecting_and_space_resumes_it(open_outbox):
    outbox, store = open_outbox(quota_bytes=2**20, chunk_bytes=65536), MemoryStore()
    key, number = outbox.begin_episode(EpisodeSource.ONLINE), 0
    while not outbox.why_paused():
        outbox.append(step(number))
        number += 1
        if number % 500 == 0:
            assert outbox.flush(5)
        assert number < 100_000
    assert "of 1 MiB that no store has acknowledged" in outbox.why_paused().text
    outbox.append(final(number))
    outbox.end_episode(EpisodeResult(key, EpisodeSource.ONLINE, Outcome.ABORTED, number, 0.0))
    assert outbox.flush(5)
    assert outbox.why_paused()
    assert outbox.status().fill > 0.9
    outbox.deliver_to(store.serve(outbox))
    wait_until(lambda: not outbox.why_paused(), "it resumes by itself")
    wait_until(drained(outbox), "all acknowledged")
    assert store.stamps() == list(range(number + 1))


def test_the_file_becomes_smaller_once_much_of_it_is_free(open_outbox, tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "_WORTH_SHRINKING_PAGES", 20)
    outbox = open_outbox(chunk_bytes=4096)
    episode(outbox, 0, 3_000)
    assert outbox.flush(20)

    def pages():
        with contextlib.closing(sqlite3.connect(tmp_path / "actor" / FILE)) as other:
            return other.execute("PRAGMA page_count").fetchone()[0]

    full = pages()
    assert full > 200
    outbox.deliver_to(MemoryStore().serve(outbox))
    wait_until(lambda: pages() < 0.7 * full, "it is smaller", seen=pages)


def test_little_free_disk_pauses_collecting(open_outbox):
    outbox = open_outbox(min_free_bytes=2**60)
    assert "must stay" in outbox.why_paused().text


def test_memory_is_bounded_while_the_disk_does_not_take_it(open_outbox, monkeypatch):
    outbox = open_outbox(memory_bytes=2**20)
    key, real = outbox.begin_episode(EpisodeSource.ONLINE), outbox._database.commit

    def refuse(*_, **__):
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(outbox._database, "commit", refuse)
    number = 0

    def fill():
        nonlocal number
        while number < 10**6:
            outbox.append(step(number))
            number += 1

    with pytest.raises(StoreFull, match="why_paused"):
        fill()
    assert "steps wait for the disk" in outbox.why_paused().text
    wait_until(lambda: "disk I/O error" in outbox.why_paused().text, "it says why")
    monkeypatch.setattr(outbox._database, "commit", real)
    wait_until(lambda: not outbox.why_paused(), "it resumes")
    outbox.append(final(number))
    outbox.end_episode(EpisodeResult(key, EpisodeSource.ONLINE, Outcome.ABORTED, number, 0.0))
    store = MemoryStore()
    outbox.deliver_to(store.serve(outbox))
    wait_until(drained(outbox), "all acknowledged")
    assert store.stamps() == list(range(number + 1))


def test_a_chunk_whose_bytes_rotted_is_kept_aside_and_its_number_answered_for(
    open_outbox, tmp_path
):
    outbox, store = open_outbox(), MemoryStore()
    for number in range(3):
        episode(outbox, 10 * number, 2)
        assert outbox.flush(5)
    outbox.close()
    with sqlite3.connect(tmp_path / "actor" / FILE) as file:
        (data,) = file.execute("SELECT data FROM body WHERE number = 2").fetchone()
        file.execute(
            "UPDATE body SET data = ? WHERE number = 2", (data[:-9] + b"\xff" + data[-8:],)
        )
    file.close()
    outbox = open_outbox()
    outbox.deliver_to(store.serve(outbox))
    wait_until(drained(outbox), "all acknowledged")
    assert store.stamps() == [0, 1, 2, 20, 21, 22]
    assert [sequence for _, sequence in sorted(store.chunks)] == [1, 2, 3]
    assert "damaged" in str(outbox.status().warnings)
    assert [code for _, code, _ in outbox.set_aside()] == ["store_corrupt"]


@pytest.mark.parametrize("damage", ["noise", "header", "middle"])
def test_a_damaged_file_is_moved_aside_and_the_actor_goes_on(open_outbox, tmp_path, damage):
    outbox = open_outbox()
    episode(outbox, 0, 500)
    before = outbox._database.incarnation
    outbox.close()
    file = tmp_path / "actor" / FILE
    content = bytearray(file.read_bytes())
    if damage == "noise":
        content = bytearray(b"not a database" * 1000)
    elif damage == "header":
        content[:100] = bytes(100)
    else:
        content[100 : 8192 * 4] = bytes(8192 * 4 - 100)
    file.write_bytes(content)
    outbox, store = open_outbox(), MemoryStore()
    assert outbox._database.incarnation > before
    assert "moved to" in str(outbox.status().warnings)
    (aside,) = (tmp_path / "actor").glob("damaged-*")
    assert (aside / FILE).read_bytes() == content
    outbox.deliver_to(store.serve(outbox))
    episode(outbox, 1000, 3)
    wait_until(drained(outbox), "all acknowledged")
    assert store.stamps() == [1000, 1001, 1002, 1003]


def test_a_publisher_that_fails_costs_nothing(open_outbox):
    outbox, store = open_outbox(), MemoryStore()
    episode(outbox, 0, 5)

    def fail(chunk):
        raise RuntimeError("no route")

    outbox.deliver_to(fail)
    wait_until(lambda: "no route" in str(outbox.status().warnings), "it says so")
    outbox.deliver_to(store.serve(outbox))
    wait_until(drained(outbox), "all acknowledged")
    assert store.stamps() == list(range(6))


def test_an_outbox_of_before_plans_were_kept_is_delivered(open_outbox):
    """Its chunks and schemas have no such column, and the hash is the same."""
    before, now = TrajectorySchema.of(SPEC), TrajectorySchema.of(SPEC, plans=True)
    outbox, store = open_outbox(), MemoryStore()
    outbox._writer.items.put(Recording(before, "arm", "reach", 10))
    episode(outbox, 0, 3)
    outbox.close()
    again = open_outbox()
    again.deliver_to(store.serve(again))
    episode(again, 10, 3)
    wait_until(drained(again), "all acknowledged")
    kinds = ["plan" in store.chunks[number].columns for number in sorted(store.chunks)]
    assert not kinds[0] and kinds[-1] and before.hash == now.hash
