"""A disk that is really full: a small file system of its own, filled to the last byte."""

import os
import subprocess

import pytest

from user_actor.outbox import Outbox
from user_core.types import EpisodeResult, EpisodeSource, Outcome
from user_testing.waiting import wait_until
from user_testing.worlds.outbox import SPEC, MemoryStore, config_for, final, step

pytestmark = pytest.mark.root


@pytest.fixture
def small_disk(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("mounting a file system takes root")
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", tmp_path],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    try:
        yield tmp_path
    finally:
        subprocess.run(["umount", "-l", tmp_path], check=True)


def fill(path):
    """Take every byte that is left; the file to remove for getting them back."""
    ballast = path / "ballast"
    with open(ballast, "wb", buffering=0) as file:
        while True:
            try:
                if not file.write(bytes(4096)):
                    return ballast
            except OSError:
                return ballast


def test_a_full_disk_pauses_collecting_loses_nothing_and_acks_make_room(small_disk):
    outbox = Outbox(config_for(small_disk, chunk_bytes=65536), "actor", SPEC)
    key, number = outbox.begin_episode(EpisodeSource.ONLINE), 0
    for number in range(40_000):  # noqa: B007
        outbox.append(step(number))
    assert outbox.flush(20)
    ballast = fill(small_disk)
    while "cannot be written" not in outbox.why_paused().text:
        number += 1
        outbox.append(step(number))
        assert number < 500_000
    number += 1
    outbox.append(final(number))  # what is under way is kept in memory meanwhile
    outbox.end_episode(EpisodeResult(key, EpisodeSource.ONLINE, Outcome.ABORTED, number, 0.0))
    assert "full" in outbox.why_paused().text
    store = MemoryStore()
    outbox.deliver_to(store.serve(outbox))
    wait_until(lambda: not outbox.why_paused(), "it resumes once acknowledged chunks made room")
    assert ballast.exists()
    wait_until(lambda: outbox.flush(1) and not outbox.status().pending_chunks, "all is through")
    assert store.stamps() == list(range(number + 1))
    outbox.close()


def test_an_outbox_opens_on_a_full_disk_so_that_acks_can_make_room(small_disk):
    outbox = Outbox(config_for(small_disk), "actor", SPEC)
    key = outbox.begin_episode(EpisodeSource.ONLINE)
    for number in range(2000):
        outbox.append(step(number))
    outbox.append(final(2000))
    outbox.end_episode(EpisodeResult(key, EpisodeSource.ONLINE, Outcome.TIMEOUT, 2000, 0.0))
    outbox.close()
    fill(small_disk)
    again, store = Outbox(config_for(small_disk), "actor", SPEC), MemoryStore()
    again.deliver_to(store.serve(again))
    wait_until(lambda: not again.status().pending_chunks, "all is through")
    assert store.stamps() == list(range(2001))
    again.close()
