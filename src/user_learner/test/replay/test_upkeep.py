"""Backup and restore while a store is written, retention by rule, segments on another disk."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pytest

from user_core.errors import StoreError
from user_core.types import ChunkId, EpisodeSource, Outcome
from user_learner.cli.data import main
from user_learner.cli.replay import main as replay_command
from user_learner.edits.entries import Edit, EditKind
from user_learner.edits.log import EditLog
from user_learner.replay import RetentionConfig, StoreReader, StoreWriter
from user_learner.replay.index import INDEX_NAME
from user_learner.replay.maintenance import verify
from user_learner.replay.segments import LEAVING, SEGMENTS
from user_learner.upkeep import retention
from user_learner.upkeep.backup import RESTORING, backup, restore
from user_learner.upkeep.retention import retain, survives_thinning
from user_learner.upkeep.tiering import bring_back, move_old
from user_testing.waiting import wait_until
from user_testing.worlds.replay import (
    QUICK,
    Actor,
    Plan,
    assert_holds,
    assert_same,
    contents,
    fill,
    joined,
    same_columns,
)

SMALL = QUICK.replace(segment_bytes=1)  # 1024 rows


def make(path, episodes=40, rows=200, actor=None, **how):
    actor = actor or Actor(1)
    with StoreWriter(path, config=SMALL) as writer:
        return actor, fill(writer, actor, [Plan(rows, **how)] * episodes)


# --- backup ------------------------------------------------------------------------------------


def test_a_backup_is_a_store_and_the_next_one_copies_what_came_since(tmp_path):
    store, copy = tmp_path / "store", tmp_path / "copy"
    actor, chunks = make(store)
    EditLog(store).path.write_bytes(b"")
    first = backup(store, copy)
    assert first.copied == first.segments and verify(copy).ok
    assert_same(contents(store), contents(copy))
    assert (copy / "edits.log").exists()
    assert backup(store, copy).nbytes == 0
    with StoreWriter(store, config=SMALL) as writer:
        more = fill(writer, actor, [Plan(200)] * 3)
    second = backup(store, copy)
    assert 0 < second.nbytes < first.nbytes / 4 and second.copied < first.segments / 2
    assert verify(copy).ok
    with closing(StoreReader(copy)) as reader:
        assert_holds(reader, [*chunks, *more])


def test_a_backup_follows_what_retention_drops(tmp_path):
    store, copy = tmp_path / "store", tmp_path / "copy"
    make(store)
    backup(store, copy)
    with StoreWriter(store, config=SMALL) as writer:
        writer.retain(RetentionConfig(max_rows=3000))
    report = backup(store, copy)
    assert report.removed > 0 and report.nbytes == 0
    assert_same(contents(store), contents(copy))


def test_a_backup_while_the_store_is_written_is_a_committed_state(tmp_path):
    store, copy = tmp_path / "store", tmp_path / "copy"
    make(store, episodes=5)
    stop = threading.Event()

    def write():
        actor = Actor(2)
        with StoreWriter(store, config=SMALL) as writer:
            while not stop.is_set():
                fill(writer, actor, [Plan(100)])

    thread = threading.Thread(target=write)
    thread.start()
    try:
        before = 0
        for _ in range(5):
            report = backup(store, copy)
            assert verify(copy).errors == []
            assert report.steps >= before
            before = report.steps
    finally:
        stop.set()
        thread.join()
    backup(store, copy)
    assert_same(contents(store), contents(copy))


def test_a_restored_store_is_a_successor_and_takes_data(tmp_path):
    store, copy, back = tmp_path / "store", tmp_path / "copy", tmp_path / "back"
    actor, _ = make(store)
    backup(store, copy)
    assert restore(copy, back).ok
    assert_same(contents(store), contents(back))
    with StoreWriter(back, config=SMALL) as writer, closing(StoreReader(store)) as old:
        assert writer.store != old.meta.store
        fill(writer, actor, [Plan(100)])
    assert verify(back).ok
    with pytest.raises(StoreError, match="something there"):
        restore(copy, back)
    with pytest.raises(StoreError, match="backup"):
        backup(back, copy)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_text("of a person")
    with pytest.raises(StoreError, match="something there"):
        backup(store, tmp_path / "other")


_BACKUP = "import sys; from user_learner.cli.data import main; sys.exit(main(sys.argv[1:]))"


def killed_at(words, look, path):
    """Run a command, and kill it as soon as something of its is there."""
    child = subprocess.Popen([sys.executable, "-c", _BACKUP, *map(str, words)],
                             stdout=subprocess.DEVNULL)  # fmt: skip
    try:
        wait_until(lambda: child.poll() is not None or look(path), timeout_s=60, period_s=0.001)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()


@pytest.mark.parametrize("moment", range(3))
def test_a_restore_that_is_killed_as_it_gives_the_store_its_name_is_in_nobodys_way(
    tmp_path, moment
):
    store, copy, back = tmp_path / "store", tmp_path / "copy", tmp_path / "back"
    make(store, episodes=2)
    backup(store, copy)
    begun = []

    def killed(step):
        def instead(path, *words, **how):
            if path.name in ("back.part", ".back.restored", RESTORING):
                begun.append(path)
                if len(begun) > moment:
                    os._exit(9)
            return step(path, *words, **how)

        return instead

    if not (child := os.fork()):
        Path.rename, Path.unlink = killed(Path.rename), killed(Path.unlink)
        try:
            restore(copy, back)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert not back.exists()
    assert restore(copy, back).ok
    assert_same(contents(store), contents(back))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["back", "copy", "store"]
    assert not (back / RESTORING).exists()


def test_a_restore_touches_nothing_that_no_restore_made(tmp_path):
    store, copy, back = tmp_path / "store", tmp_path / "copy", tmp_path / "back"
    make(store, episodes=40)
    backup(store, copy)
    part = tmp_path / "back.part"
    make(part, episodes=2)
    mine = contents(part)
    with pytest.raises(StoreError, match="no restore made"):
        restore(copy, back)
    assert_same(mine, contents(part))
    part.rename(tmp_path / "of_a_person")
    killed_at(["restore", copy, back], lambda path: any(path.rglob("*.col")), part)
    assert not back.exists() and part.exists()  # the rest of a restore is in nobody's way
    assert restore(copy, back).ok and not part.exists()
    assert_same(contents(store), contents(back))


def test_a_backup_that_is_killed_is_the_one_before_and_the_next_continues(tmp_path):
    store, copy = tmp_path / "store", tmp_path / "copy"
    actor, _ = make(store, episodes=60)
    for count in (1, 5, 9):
        killed_at(
            ["backup", store, copy],
            lambda path, count=count: (
                (path / SEGMENTS).exists() and len(list((path / SEGMENTS).iterdir())) >= count
            ),
            copy,
        )
        if (copy / INDEX_NAME).exists():
            assert verify(copy).ok
    backup(store, copy)
    assert verify(copy).ok
    kept = contents(copy)
    with StoreWriter(store, config=SMALL) as writer:
        fill(writer, actor, [Plan(200)] * 20)
    segments = len(list((copy / SEGMENTS).iterdir()))
    killed_at(
        ["backup", store, copy],
        lambda path: len(list((path / SEGMENTS).iterdir())) > segments,
        copy,
    )
    found = contents(copy)
    assert verify(copy).ok and found.keys() >= kept.keys()
    backup(store, copy)
    assert_same(contents(store), contents(copy))


# --- retention by rule ---------------------------------------------------------------------------


def successes(path):
    with closing(StoreReader(path)) as reader:
        return {e.key for e in reader.episodes()
                if e.result and e.result.outcome is Outcome.SUCCESS}  # fmt: skip


def mixed(path):
    """Online episodes of which every fourth succeeds, and demonstrations."""
    actor = Actor(1)
    plans = [Plan(100, terminated=k % 4 == 0) for k in range(120)]
    with StoreWriter(path, config=SMALL) as writer:
        chunks = fill(writer, actor, plans)
        chunks += fill(writer, Actor(2), [Plan(100, EpisodeSource.DEMONSTRATION)] * 5)
    return actor, chunks


def test_what_counts_stays_and_the_rest_goes_the_oldest_first(tmp_path):
    _, chunks = mixed(tmp_path)
    before, good = contents(tmp_path), successes(tmp_path)
    assert 10 < len(good) < 60
    with StoreWriter(tmp_path, config=SMALL) as writer:
        gone = retain(writer, RetentionConfig(max_rows=6000, keep=("successes",)))
        assert sum(one.rows for one in gone) > 5000
        after = contents(tmp_path)
        assert good <= after.keys()
        assert sum(len(rows["reward"]) for rows in after.values()) <= 6100
        assert_same({key: before[key] for key in after}, after)
        dropped = before.keys() - after.keys()
        kept_late = [key.number for key in after.keys() - good if key.producer == "actor1"]
        assert max(key.number for key in dropped) < max(kept_late) and kept_late
        assert retain(writer, RetentionConfig(max_rows=6000, keep=("successes",))) == []
        more = fill(writer, Actor(3), [Plan(100)] * 12)
    report = verify(tmp_path)
    assert report.errors == []
    demonstrations = [c for c in chunks if c.source is EpisodeSource.DEMONSTRATION]
    wanted, found = joined([*demonstrations, *more]), contents(tmp_path)
    for key, columns in wanted.items():
        assert same_columns(found[key], columns), key


def test_tags_thinning_and_edited_outcomes_are_rules_too(tmp_path):
    make(tmp_path, episodes=60, rows=100)
    keys = sorted(contents(tmp_path), key=lambda key: key.number)
    log = EditLog(tmp_path)
    log.append(Edit(EditKind.TAG, (keys[1],), {"add": ["keep"], "remove": []}))
    log.append(Edit.relabel((keys[2],), Outcome.SUCCESS))
    policy = RetentionConfig(max_rows=1, keep=("tagged", "successes"), thin=10)
    with StoreWriter(tmp_path, config=SMALL) as writer:
        retain(writer, policy)
    after = contents(tmp_path)
    assert {keys[1], keys[2]} <= after.keys()
    assert 5 <= len(after) - 2 <= 20  # a tenth, and what was in the open segment
    assert verify(tmp_path).errors == []


def test_what_thinning_kept_stays_the_next_time(tmp_path):
    make(tmp_path, episodes=60, rows=100)
    policy = RetentionConfig(max_rows=1, thin=3)
    with StoreWriter(tmp_path, config=SMALL) as writer:
        assert retain(writer, policy)
        kept = contents(tmp_path)
        assert len(kept) < 50
        assert retain(writer, policy) == []
        retain(writer, RetentionConfig(max_rows=1, thin=6))
    assert_same(kept, {**kept, **contents(tmp_path)})
    assert len(contents(tmp_path)) < len(kept)
    mine = [key for key in kept if survives_thinning(key, 6)]
    assert mine and set(mine) <= contents(tmp_path).keys()


def test_an_index_that_is_lost_after_it_is_written_again_from_the_logs(tmp_path):
    mixed(tmp_path)
    with StoreWriter(tmp_path, config=SMALL) as writer:
        retain(writer, RetentionConfig(max_rows=6000, keep=("successes",)))
    after = contents(tmp_path)
    for suffix in ("", "-wal", "-shm"):
        (tmp_path / (INDEX_NAME + suffix)).unlink(missing_ok=True)
    with StoreWriter(tmp_path, config=SMALL) as writer:
        assert any("rebuilt" in line for line in writer.warnings)
    assert_same(after, contents(tmp_path))


_RETAIN = """
import os, sys
from user_learner.upkeep import retention
from user_learner.replay import RetentionConfig, StoreWriter
at, path = sys.argv[1], sys.argv[2]
from user_testing.worlds.replay import QUICK
write, remove = retention.rewrite, retention.remove_segment
if at == "written":
    def rewrite(*words):
        write(*words)
        os.kill(os.getpid(), 9)
    retention.rewrite = rewrite
else:
    retention.remove_segment = lambda path: os.kill(os.getpid(), 9)
with StoreWriter(path, config=QUICK.replace(segment_bytes=1)) as writer:
    retention.retain(writer, RetentionConfig(max_rows=6000, keep=("successes",)))
"""


@pytest.mark.parametrize("at", ["written", "committed"])
def test_a_kill_while_compacting_loses_nothing_and_leaves_nothing(tmp_path, at):
    mixed(tmp_path)
    before, good = contents(tmp_path), successes(tmp_path)
    done = subprocess.run([sys.executable, "-c", _RETAIN, at, str(tmp_path)], check=False)
    assert done.returncode == -9
    after = contents(tmp_path)
    assert (after.keys() == before.keys()) is (at == "written")
    assert good <= after.keys()
    with StoreWriter(tmp_path, config=SMALL) as writer:
        assert writer.warnings == []
        with closing(StoreReader(tmp_path)) as reader:
            known = {f"{row[0]:08d}" for row in reader.tables.segments}
        assert {p.name for p in (tmp_path / SEGMENTS).iterdir()} == known
        retain(writer, RetentionConfig(max_rows=6000, keep=("successes",)))
    assert verify(tmp_path).errors == []
    assert_same({key: before[key] for key in contents(tmp_path)}, contents(tmp_path))


def in_part(path):
    """Episodes of which only a part is here."""
    with closing(StoreReader(path)) as reader:
        here = {e.key: (sum(x[3] for x in e.extents), e.rows) for e in reader.episodes()}
    return {key for key, (rows, of) in here.items() if 0 < rows < of}


def halves(path):
    """Every other episode succeeds, and stays, but none that lies in two segments of 1024 rows."""
    rows, plans = 151, []
    for k in range(60):
        in_one = k * rows // 1024 == ((k + 1) * rows - 1) // 1024
        plans.append(Plan(rows - 1, terminated=in_one and k % 2 == 0))
    with StoreWriter(path, config=SMALL) as writer:
        fill(writer, Actor(1), plans)


def test_what_a_kill_between_two_plans_cut_in_two_goes_at_the_next_opening(tmp_path):
    """Also where nothing is above the limits any more."""
    halves(tmp_path)
    code = _RETAIN.replace("max_rows=6000", "max_rows=8300")
    done = subprocess.run([sys.executable, "-c", code, "committed", str(tmp_path)], check=False)
    assert done.returncode == -9
    cut = in_part(tmp_path)
    assert len(cut) == 1 and not cut & successes(tmp_path)
    with StoreWriter(tmp_path, config=SMALL) as writer:
        before, policy = contents(tmp_path), RetentionConfig(max_rows=10**6, keep=("successes",))
        assert writer.exceeds(policy) and retain(writer, policy)
        assert in_part(tmp_path) == set()
        assert not writer.exceeds(policy) and retain(writer, policy) == []
        after = contents(tmp_path)
        assert before.keys() - after.keys() == cut
        assert_same({key: before[key] for key in after}, after)
    assert verify(tmp_path).errors == []


def test_a_part_of_an_episode_that_a_person_tags_meanwhile_stays(tmp_path):
    halves(tmp_path)
    with StoreWriter(tmp_path, config=SMALL) as writer:
        asked = iter([False, True])
        policy = RetentionConfig(max_rows=8300, keep=("successes", "tagged"))
        retain(writer, policy, is_over=lambda: next(asked))
        (cut,) = in_part(tmp_path)
        EditLog(tmp_path).append(Edit(EditKind.TAG, (cut,), {"add": ["keep"], "remove": []}))
        policy = policy.replace(max_rows=10**6)
        retain(writer, policy)
        assert in_part(tmp_path) == {cut} and not writer.exceeds(policy)


def test_nothing_is_opened_where_nothing_is_to_be_dropped(tmp_path, monkeypatch):
    mixed(tmp_path)
    monkeypatch.delattr(retention, "StoreReader")
    with StoreWriter(tmp_path, config=SMALL) as writer:
        assert retain(writer, RetentionConfig(max_rows=10**6, keep=("successes",))) == []


def test_a_result_that_came_without_rows_stays_as_long_as_its_episode(tmp_path):
    """It lies in the next segment, where its episode has no rows: a rebuilt index has it from there."""
    actor = Actor(1, chunk_rows=1024)
    with StoreWriter(tmp_path, config=SMALL) as writer:
        for steps, terminated in ((1023, True), (1023, False)):
            (chunk,) = actor.chunks(Plan(steps, terminated=terminated))  # fills its segment
            actor.sequence += 1
            later = ChunkId(actor.name, 1, actor.sequence)
            writer.append(replace(chunk, result=None))
            writer.append(replace(actor.empty(chunk), id=later, first_row=1024))
            writer.commit()
        fill(writer, actor, [Plan(1023), Plan(500)])
        before = contents(tmp_path)
        assert retain(writer, RetentionConfig(max_rows=1, keep=("successes",)))
    assert len(contents(tmp_path)) == 2  # the success, and what is in the open segment
    kept = contents(tmp_path)
    assert_same({key: before[key] for key in kept}, kept)
    assert verify(tmp_path).errors == []
    good = successes(tmp_path)
    assert len(good) == 1
    (tmp_path / INDEX_NAME).unlink()
    for suffix in ("-wal", "-shm"):
        (tmp_path / (INDEX_NAME + suffix)).unlink(missing_ok=True)
    with StoreWriter(tmp_path, config=SMALL) as writer:
        assert any("rebuilt" in line for line in writer.warnings)
        assert successes(tmp_path) == good
        assert_same(kept, contents(tmp_path))
        with closing(StoreReader(tmp_path)) as reader:
            assert {e.key.number for e in reader.episodes() if e.result} == {
                *(key.number for key in kept)
            }


def test_a_full_disk_while_compacting_changes_nothing(tmp_path, monkeypatch):
    mixed(tmp_path)
    before = contents(tmp_path)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("user_learner.upkeep.retention.encode_entry", full)
    with StoreWriter(tmp_path, config=SMALL) as writer:
        with pytest.raises(StoreError):
            retain(writer, RetentionConfig(max_rows=6000, keep=("successes",)))
        fill(writer, Actor(4), [Plan(50)])
    assert before.keys() < contents(tmp_path).keys() and verify(tmp_path).ok


def test_damaged_rows_are_not_written_again_as_if_they_were_whole(tmp_path):
    mixed(tmp_path)
    policy = RetentionConfig(max_rows=6000, keep=("successes",))
    with StoreWriter(tmp_path, config=SMALL) as writer:
        with closing(StoreReader(tmp_path)) as reader:
            first = next(e for e in reader.episodes() if e.key in successes(tmp_path))
            _, segment, start, _ = first.extents[0]
        file = tmp_path / SEGMENTS / f"{segment:08d}" / "records.col"
        size = file.stat().st_size // 1024
        with open(file, "r+b") as stream:
            stream.seek(start * size)
            byte = stream.read(1)[0]
            stream.seek(start * size)
            stream.write(bytes([byte ^ 1]))
        with pytest.raises(StoreError, match="checksum"):
            retain(writer, policy)
        writer.set_aside(verify(tmp_path).damages)
        assert retain(writer, policy)  # of the others
    assert verify(tmp_path).ok


# --- tiering ---------------------------------------------------------------------------------------


def moved_to(slow):
    """Names of the segments on a slower disk, below the identity of their store, which may begin with a 0, too."""
    return {path.name for path in slow.glob("*/0*") if path.is_dir()}


def test_old_segments_lie_elsewhere_and_everything_works_as_before(tmp_path):
    store, slow = tmp_path / "store", tmp_path / "slow"
    actor, _ = make(store)
    before = contents(store)
    with closing(StoreReader(store)) as reader:
        report = move_old(store, slow, keep_bytes=0)
        assert report.moved > 3 and report.here == 1  # the one that is being filled
        episode = next(iter(reader.episodes()))
        assert len(reader.read_episode(episode)["reward"])  # a reader that was open
    assert_same(before, contents(store))
    assert verify(store).ok and any(slow.rglob("*.col"))
    assert move_old(store, slow, keep_bytes=0).moved == 0
    with StoreWriter(store, config=SMALL) as writer:
        fill(writer, actor, [Plan(200)] * 8)
        gone = writer.retain(RetentionConfig(max_rows=5000))
    assert gone and verify(store).ok
    there = moved_to(slow)
    assert not {f"{one.segment:08d}" for one in gone} & there  # retention removed them there
    assert backup(store, tmp_path / "copy").segments and verify(tmp_path / "copy").ok
    after = contents(store)
    assert bring_back(store).moved > 0
    assert not any(path.is_symlink() for path in (store / SEGMENTS).iterdir())
    assert_same(after, contents(store))
    with pytest.raises(StoreError, match="within the store"):
        move_old(store, store / "slow", 0)


def test_a_slow_disk_that_is_away_is_told_and_not_taken_for_lost(tmp_path):
    store, slow = tmp_path / "store", tmp_path / "slow"
    make(store)
    before = contents(store)
    move_old(store, slow, keep_bytes=0)
    os.rename(slow, tmp_path / "away")
    report = verify(store)
    assert not report.ok and not report.errors and not report.damages
    assert all(f"{slow}" in line and "is away" in line for line in report.unread) and report.unread
    assert replay_command(["verify", str(store), "--repair"]) == 2
    os.rename(tmp_path / "away", slow)
    assert verify(store).ok
    assert_same(before, contents(store))


def test_a_store_that_is_opened_while_the_slow_disk_is_away_has_its_segments_again_later(tmp_path):
    store, slow = tmp_path / "store", tmp_path / "slow"
    actor, _ = make(store)
    before = contents(store)
    move_old(store, slow, keep_bytes=0)
    os.rename(slow, tmp_path / "away")
    with StoreWriter(store, config=SMALL) as writer:
        assert any("is away" in warning for warning in writer.warnings)
        fill(writer, actor, [Plan(50)])
    (store / INDEX_NAME).rename(tmp_path / "index")  # lost, too: it is not built without them
    with pytest.raises(StoreError, match="Mount that disk"):
        StoreWriter(store, config=SMALL)
    os.rename(tmp_path / "away", slow)
    with StoreWriter(store, config=SMALL) as writer:
        assert not any("set aside" in warning for warning in writer.warnings)
    after = contents(store)
    assert before.keys() < after.keys() and verify(store).ok
    assert_same(before, {key: after[key] for key in before})


def test_what_is_dropped_while_the_slow_disk_is_away_goes_there_when_it_is_back(tmp_path):
    store, slow, away = tmp_path / "store", tmp_path / "slow", tmp_path / "away"
    make(store)
    move_old(store, slow, keep_bytes=0)
    there = moved_to(slow)
    os.rename(slow, away)
    with StoreWriter(store, config=SMALL) as writer:
        gone = {f"{one.segment:08d}" for one in writer.retain(RetentionConfig(max_rows=3000))}
    assert gone < there
    with StoreWriter(store, config=SMALL):  # an opening while it is still away forgets nothing
        pass
    os.rename(away, slow)
    assert move_old(store, slow, keep_bytes=0).moved == 0
    assert moved_to(slow) == there - gone
    assert verify(store).ok and not any((store / LEAVING).iterdir())


def test_a_segment_that_leaves_its_slow_disk_under_a_kill_is_gone_at_the_next_opening(tmp_path):
    store, slow = tmp_path / "store", tmp_path / "slow"
    make(store)
    move_old(store, slow, keep_bytes=0)
    there = moved_to(slow)
    code = (
        "import os, shutil, sys\n"
        "from user_learner.replay import RetentionConfig, StoreWriter\n"
        "from user_testing.worlds.replay import QUICK\n"
        "shutil.rmtree = lambda *words, **how: os.kill(os.getpid(), 9)\n"
        "with StoreWriter(sys.argv[1], config=QUICK.replace(segment_bytes=1)) as writer:\n"
        "    writer.retain(RetentionConfig(max_rows=3000))\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(store)], check=False).returncode == -9
    with StoreWriter(store, config=SMALL), closing(StoreReader(store)) as reader:
        known = {f"{row[0]:08d}" for row in reader.tables.segments}
    left = moved_to(slow)
    assert left < there and left <= known
    assert verify(store).ok


def test_a_copy_that_a_kill_left_on_the_slow_disk_goes_also_when_its_segment_has_gone(tmp_path):
    store, slow = tmp_path / "store", tmp_path / "slow"
    make(store)
    move_old(store, slow, keep_bytes=0)
    (place,) = slow.iterdir()
    for name in ("00000999", "00000998.copy"):
        (place / name).mkdir()
    (slow.rename(tmp_path / "mounted")).joinpath("marker").touch()  # the disk has another place
    elsewhere = tmp_path / "mounted"
    assert move_old(store, elsewhere, keep_bytes=0).moved == 0
    there = moved_to(elsewhere)
    assert {"00000999", "00000998.copy"} < there  # what the store misses may be any of them
    elsewhere.rename(slow)
    move_old(store, slow, keep_bytes=0)
    left = moved_to(slow)
    assert left == there - {"00000999", "00000998.copy"} and verify(store).ok


def test_copies_of_a_store_do_not_share_segments_on_the_slow_disk(tmp_path):
    store, copy, slow = tmp_path / "store", tmp_path / "copy", tmp_path / "slow"
    make(store)
    backup(store, copy)
    move_old(store, slow, keep_bytes=0)
    with pytest.raises(StoreError, match="another directory"):
        move_old(copy, slow, keep_bytes=0)
    assert move_old(copy, tmp_path / "slow2", keep_bytes=0).moved and verify(store).ok
    store.rename(tmp_path / "moved")  # one that has another place now goes on
    assert move_old(tmp_path / "moved", slow, keep_bytes=0).moved == 0


def test_a_backup_lies_beside_its_store(tmp_path):
    store = tmp_path / "store"
    make(store, episodes=3)
    for target in (store, store / "backup", tmp_path):
        with pytest.raises(StoreError, match="beside"):
            backup(store, target)
    assert verify(store).ok


def test_the_number_of_a_segment_that_is_rewritten_is_not_given_again(tmp_path):
    """Also not when a failure lets the writer begin anew meanwhile."""
    mixed(tmp_path)
    before, actor = contents(tmp_path), Actor(7)
    with StoreWriter(tmp_path, config=SMALL) as writer:
        rewrite = retention.rewrite

        def failing(*args):
            done = rewrite(*args)
            writer._start_over()
            fill(writer, actor, [Plan(200)] * 12)
            return done

        with patch.object(retention, "rewrite", failing):
            assert retain(writer, RetentionConfig(max_rows=6000, keep=("successes",)))
    after = contents(tmp_path)
    assert verify(tmp_path).ok
    kept = before.keys() & after.keys()
    assert kept
    assert_same({key: before[key] for key in kept}, {key: after[key] for key in kept})


def test_the_commands(tmp_path, capsys):
    store = tmp_path / "store"
    mixed(store)
    assert main(["backup", str(store), str(tmp_path / "copy")]) == 0
    assert main(["retain", str(store), "--max-rows", "6000", "--keep", "successes"]) == 0
    assert main(["retain", str(store)]) == 2
    assert main(["retain", str(tmp_path), "--max-rows", "1"]) == 2  # no store, and none is made
    assert not (tmp_path / INDEX_NAME).exists()
    assert main(["tier", str(store), str(tmp_path / "slow"), "--keep-mb", "0"]) == 0
    assert main(["tier", str(store), "--back"]) == 0
    assert main(["restore", str(tmp_path / "copy"), str(tmp_path / "back")]) == 0
    said = capsys.readouterr().out
    assert "dropped" in said and "moved" in said and "episodes are at" in said
