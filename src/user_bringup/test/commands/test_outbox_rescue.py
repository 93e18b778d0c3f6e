"""`user outbox`: what a robot that is away has in its outbox, and how it gets into a store."""

import signal
import subprocess
import sys
from contextlib import closing
from dataclasses import replace

import pytest

from user_actor.outbox import Outbox, OutboxConfig
from user_actor.outbox.inspect import find_outboxes, inspect, keep_meaning, read_meanings
from user_bringup.cli import outbox as command
from user_bringup.rescue import drain
from user_core.errors import StoreCorrupt, StoreError
from user_core.types import Outcome
from user_learner.replay import StoreReader, StoreWriter
from user_learner.replay.maintenance import verify
from user_testing.worlds.outbox import OTHER_SPEC, SPEC, episode

# A robot's process that is killed in the middle of its second episode.
ROBOT = """
import sys
from pathlib import Path
from user_actor.outbox import Outbox
from user_core.types import EpisodeSource
from user_testing.worlds.outbox import SPEC, config_for, episode, step
outbox = Outbox(config_for(Path({folder!r})), "arm", SPEC)
episode(outbox, 0, 30)
outbox.begin_episode(EpisodeSource.ONLINE)
for number in range(31, 43):
    outbox.append(step(number))
outbox.flush(10)
print("committed", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def away(tmp_path, start_process):
    """The outbox of a robot that was killed."""
    program = ROBOT.format(folder=str(tmp_path / "outbox"))
    robot = start_process(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert robot.stdout.readline() == "committed\n"
    assert inspect(tmp_path / "outbox/arm").steps == 42, "it can be looked into while it is in use"
    with pytest.raises(StoreError, match="in use"):
        drain(tmp_path / "outbox/arm", tmp_path / "store")
    robot.send_signal(signal.SIGKILL)
    robot.wait()
    return tmp_path / "outbox/arm"


def test_all_that_was_committed_gets_into_the_store_once(away, tmp_path, capsys):
    store = tmp_path / "store"
    assert inspect(away).pending > 0
    drained = drain(away, store)
    assert drained.chunks > 0
    assert drained.after.pending == 0
    assert not drained.refused
    again = drain(away, store)
    assert (again.chunks, again.known) == (0, 0)
    reader = StoreReader(store)
    assert sum(reader.meta.steps.values()) == 42
    assert [e.result.outcome for e in reader.episodes()] == [Outcome.SUCCESS, Outcome.UNFINISHED]
    reader.close()
    assert verify(store).ok
    assert command.main(["info", str(away.parent)]) == 0
    said = capsys.readouterr().out
    assert "42 steps in all" in said
    assert "waiting      nothing" in said

    with closing(Outbox(OutboxConfig(directory=away.parent), "arm", SPEC)) as outbox:
        episode(outbox, 50, 5)  # the robot goes on where it was
    assert drain(away, store).after.pending == 0
    reader = StoreReader(store)
    assert sum(reader.meta.steps.values()) == 47
    reader.close()


def test_what_the_store_has_already_is_not_written_again(away, tmp_path):
    """The answer to the first chunk was lost on its way."""
    with StoreWriter(tmp_path / "store") as writer:
        outbox = Outbox(OutboxConfig(directory=away.parent), "arm")
        first = outbox._database.read(1)
        outbox.close()
        writer.append(first)
        writer.commit()
    drained = drain(away, tmp_path / "store")
    assert drained.after.pending == 0
    reader = StoreReader(tmp_path / "store")
    assert sum(reader.meta.steps.values()) == 42
    reader.close()


def test_what_the_store_refuses_stays_in_the_outbox(away, tmp_path, capsys):
    config = OutboxConfig(directory=tmp_path / "o", min_free_bytes=0)
    with closing(Outbox(config, "other", OTHER_SPEC)) as outbox:
        episode(outbox, 0, 3, OTHER_SPEC)
    drain(tmp_path / "o/other", tmp_path / "store")
    assert command.main(["drain", str(away), "--into", str(tmp_path / "store")]) == 1
    assert "state" in capsys.readouterr().out
    report = inspect(away)
    assert sum(aside.chunks for aside in report.aside) > 0
    assert command.main(["info", str(away)]) == 0
    assert "kept aside" in capsys.readouterr().out


def test_what_is_no_outbox_is_refused(tmp_path):
    with pytest.raises(StoreError, match="none"):
        find_outboxes(tmp_path)
    (tmp_path / "outbox.sqlite").write_bytes(b"no database" * 1000)
    with pytest.raises(StoreCorrupt):
        inspect(tmp_path)


def test_a_rescue_compares_what_the_numbers_mean(away, tmp_path, capsys):
    store = tmp_path / "store"
    config = OutboxConfig(directory=tmp_path / "o", min_free_bytes=0)
    with closing(Outbox(config, "first", replace(SPEC, period_s=SPEC.period_s / 3))) as outbox:
        episode(outbox, 0, 3)
    assert drain(tmp_path / "o/first", store).after.pending == 0
    refused = drain(away, store)
    assert refused.chunks == 0
    assert "period" in refused.refused[0]
    assert "Hz" in refused.refused[0]
    accepting = ["drain", str(away), "--into", str(store), "--accept", "period"]
    assert command.main(accepting) == 1, "what was set aside stays there"
    reader = StoreReader(store)
    assert sum(reader.meta.steps.values()) == 3
    reader.close()


def test_an_outbox_of_two_robots_is_compared_with_both_and_one_of_none_says_so(away, tmp_path):
    known = read_meanings(away)
    assert known == (SPEC,)
    keep_meaning(away, replace(SPEC, period_s=1.0), alone=False)
    assert [spec.period_s for spec in read_meanings(away)] == [SPEC.period_s, 1.0]
    keep_meaning(away, SPEC, alone=True)
    assert read_meanings(away) == (SPEC,)
    (away / "robot_spec.json").unlink()
    assert "not compared" in drain(away, tmp_path / "store").notes[0]
