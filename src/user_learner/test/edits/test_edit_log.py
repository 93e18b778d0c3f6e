"""The log of edits: whole entries only, whoever is killed and whoever writes beside."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from user_core.errors import SpecError, StoreError, StoreFull
from user_core.types import EpisodeKey, Outcome
from user_learner.edits import Edit, EditLog, EditState
from user_learner.edits.entries import decode, encode

A, B = EpisodeKey("arm", 1, 0), EpisodeKey("arm", 1, 1)


def states(log):
    return EditState.of(log.edits)


def test_entries_get_number_time_and_author_and_are_read_by_others(tmp_path, monkeypatch):
    monkeypatch.setenv("USER_AUTHOR", "ada")
    log, other = EditLog(tmp_path), EditLog(tmp_path)
    before = time.time_ns()
    done = log.append(Edit.exclude([A], "the cup fell"))
    assert (done.number, done.author) == (1, "ada")
    assert before <= done.time_ns <= time.time_ns()
    assert log.append(Edit.note([A, B], "blurred", author="bo")).number == 2
    assert other.refresh()
    assert other.edits == log.edits
    assert not other.refresh()


def test_what_edits_come_to():
    edits = [
        Edit.exclude([A, B], "bad"),
        Edit.include([B]),
        Edit.tag([A], add=["slow", "dark"]),
        Edit.tag([A], add=["red"], remove=["slow"]),
        Edit.cut([A], 2, 8),
        Edit.relabel([A], Outcome.SUCCESS, 1.0, True, author="ada"),
        Edit.note([A], "nice", author="bo"),
        Edit.rewards("new"),
    ]
    state = EditState.of([decode(encode(e)[:-1]) for e in numbered(edits)])
    one = state.of_episode(A)
    assert (one.excluded, one.why, one.tags) == (True, "bad", ("dark", "red"))
    assert (one.start, one.stop, one.outcome) == (2, 8, Outcome.SUCCESS)
    assert (one.reward, one.terminated, one.labelled_by) == (1.0, True, "ada")
    assert [(note.text, note.author) for note in one.notes] == [("nice", "bo")]
    assert not state.of_episode(B).excluded
    assert state.reward_column == "new"


def numbered(edits):
    from dataclasses import replace

    return [replace(edit, number=n) for n, edit in enumerate(edits, 1)]


def test_undo_is_an_entry_and_can_be_undone():
    edits = [Edit.exclude([A]), Edit.cut([A], 1, 3), Edit.cut([A], 2), Edit.undo(3), Edit.undo(1)]
    state = EditState.of(numbered(edits))
    one = state.of_episode(A)
    assert (one.excluded, one.start, one.stop) == (False, 1, 3)  # the cut before counts again
    again = EditState.of(numbered([*edits, Edit.undo(5)]))
    assert again.of_episode(A).excluded
    assert again.undone == {3, 5}


@settings(deadline=None, max_examples=50)
@given(cut=st.integers(0, 400), more=st.integers(1, 3))
def test_a_log_cut_anywhere_keeps_every_whole_entry_and_takes_more(tmp_path_factory, cut, more):
    path = tmp_path_factory.mktemp("store")
    log = EditLog(path)
    acknowledged = [log.append(Edit.note([A], f"note {n}")) for n in range(3)]
    data = log.path.read_bytes()
    log.path.write_bytes(data[: min(cut, len(data))])
    ends = [len(b"".join(data.splitlines(True)[: n + 1])) for n in range(3)]
    # an entry of which only the end of its line is missing says all that it has to say
    whole = [e for e, end in zip(acknowledged, ends) if end - 1 <= min(cut, len(data))]
    log = EditLog(path)
    for n in range(more):
        whole.append(log.append(Edit.note([B], f"more {n}")))
    assert [e.values for e in EditLog(path).edits] == [e.values for e in whole]
    numbers = [e.number for e in EditLog(path).edits]
    assert numbers == list(range(1, len(whole) + 1))


def test_a_damaged_line_is_passed_over_and_named(tmp_path):
    log = EditLog(tmp_path)
    for n in range(3):
        log.append(Edit.note([A], f"note {n}"))
    data = bytearray(log.path.read_bytes())
    data[data.index(b"note 1") + 5] ^= 1
    log.path.write_bytes(bytes(data))
    damaged = EditLog(tmp_path)
    assert [e.values["text"] for e in damaged.edits] == ["note 0", "note 2"]
    assert "line 2" in damaged.warnings[0]


WRITER = """
import sys
from user_core.types import EpisodeKey
from user_learner.edits import Edit, EditLog
log = EditLog(sys.argv[1])
n = 0
while True:
    edit = log.append(Edit.note([EpisodeKey(sys.argv[2], 1, n)], "x" * (n * 37 % 900 + 1), author="w"))
    print(edit.number, sys.argv[2], n, flush=True)
    n += 1
"""


def test_writers_that_are_killed_lose_nothing_that_was_acknowledged(tmp_path):
    """Three processes write at once, each is killed at a random instant, and another takes its place."""
    acknowledged = {}
    for turn in range(2):
        command = [sys.executable, "-c", WRITER, str(tmp_path)]
        writers = [
            subprocess.Popen([*command, f"w{turn}.{n}"], stdout=subprocess.PIPE, text=True)
            for n in range(3)
        ]
        try:
            for writer in writers:
                writer.stdout.readline()  # it writes
            time.sleep(0.05 + 0.03 * turn)
        finally:
            for writer in writers:
                os.kill(writer.pid, signal.SIGKILL)
        for writer in writers:
            text = writer.communicate()[0]
            for line in text.splitlines():
                if len(words := line.split()) == 3:
                    acknowledged[int(words[0])] = (words[1], int(words[2]))
    log = EditLog(tmp_path)
    found = {
        edit.number: (edit.episodes[0].producer, edit.episodes[0].number) for edit in log.edits
    }
    assert list(found) == sorted(found)
    for number, said in acknowledged.items():
        assert found[number] == said
    assert log.append(Edit.exclude([A])).number == max(found) + 1


def test_threads_share_a_log(tmp_path):
    log = EditLog(tmp_path)
    threads = [
        threading.Thread(target=lambda: [log.append(Edit.tag([A], ["t"])) for _ in range(10)])
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [edit.number for edit in log.edits] == list(range(1, 41))


def test_bad_entries_are_refused_with_what_is_wrong(tmp_path):
    log = EditLog(tmp_path)
    for edit, words in (
        (Edit.exclude([]), "at least one"),
        (Edit.cut([A], 5, 5), "start < stop"),
        (Edit.cut([A], -1), "start < stop"),
        (Edit.tag([A], [" "]), "letters"),
        (Edit.tag([A]), "tags"),
        (Edit.relabel([A], Outcome.UNFINISHED), "outcome"),
        (Edit.relabel([A], Outcome.SUCCESS, float("nan")), "finite"),
        (Edit.note([A], ""), "note"),
        (Edit.note([A], "x" * 5000), "note"),
        (Edit.undo(1), "entry to undo"),
    ):
        with pytest.raises(SpecError, match=words):
            log.append(edit)
    assert not EditLog(tmp_path).edits


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_store_that_cannot_be_written_says_so_in_words(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(StoreError, match="--edits"):
            EditLog(tmp_path).append(Edit.exclude([A]))
    finally:
        tmp_path.chmod(0o700)


def test_edits_of_such_a_store_lie_in_a_file_elsewhere(tmp_path):
    file = tmp_path / "old_store.edits"
    EditLog(file).append(Edit.exclude([A]))
    assert states(EditLog(file)).of_episode(A).excluded


def test_a_full_disk_leaves_the_log_as_it_was(tmp_path, monkeypatch):
    log = EditLog(tmp_path)
    log.append(Edit.exclude([A]))
    before, write = log.path.read_bytes(), os.write

    def full(handle, data):
        if len(data) > 20:
            return write(handle, bytes(data)[:20])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("user_learner.edits.log.os.write", full)
        with pytest.raises(StoreFull):
            log.append(Edit.exclude([B]))
    assert log.path.read_bytes() == before
    assert log.append(Edit.exclude([B])).number == 2


def test_a_log_that_was_brought_back_from_a_copy_is_read_anew(tmp_path):
    log = EditLog(tmp_path)
    log.append(Edit.exclude([A]))
    copy = log.path.read_bytes()
    log.append(Edit.exclude([B]))
    log.path.unlink()
    log.path.write_bytes(copy)
    assert log.refresh()
    assert [edit.number for edit in log.edits] == [1]


def test_merging_brings_the_entries_about_episodes_once_with_their_undos(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one, other = EditLog(tmp_path / "a"), EditLog(tmp_path / "b")
    one.append(Edit.note([B], "of this store"))
    first = other.append(Edit.exclude([A], "fell", author="ada"))
    other.append(Edit.cut([B], 2, 5))
    other.append(Edit.undo(first.number))
    other.append(Edit.rewards("mine"))
    assert one.merge(other) == 3
    assert not states(one).of_episode(A).excluded
    assert (states(one).of_episode(B).start, states(one).of_episode(B).stop) == (2, 5)
    assert one.edits[1].author == "ada" and one.edits[1].time_ns == first.time_ns
    assert one.merge(other) == 0
    other.append(Edit.exclude([A], "fell again"))
    assert one.merge(other) == 1 and states(one).of_episode(A).excluded


def test_a_view_sees_what_was_appended_through_its_own_log(tmp_path):
    from user_learner.edits.view import EditedEpisodes
    from user_learner.replay import StoreWriter
    from user_testing.worlds.replay import QUICK, Actor, Plan, fill

    with StoreWriter(tmp_path, config=QUICK) as writer:
        fill(writer, Actor(1), [Plan(3)])
    with EditedEpisodes(tmp_path) as view:
        (episode,) = view.episodes()
        view.log.append(Edit.exclude([episode.key], "x"))
        assert view.refresh()
        assert not list(view.episodes())
        assert not view.refresh()
