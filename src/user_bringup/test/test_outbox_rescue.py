"""`user outbox`: what a robot that is away has in its outbox, and how it gets into a store."""

import os
import signal
import subprocess
import sys
from contextlib import closing

import numpy as np
import pytest

from user_actor.outbox import Outbox, OutboxConfig
from user_actor.outbox.inspect import find_outboxes, inspect
from user_bringup.cli import outbox as command
from user_bringup.rescue import drain
from user_core.errors import StoreCorrupt, StoreError
from user_core.specs import ArraySpec, RobotSpec
from user_core.types import EpisodeResult, EpisodeSource, FinalObservation, Outcome, Step
from user_learner.replay import StoreReader, StoreWriter
from user_learner.replay.maintenance import verify

SPEC = RobotSpec("r", {"state": ArraySpec((4,), "float64")}, ArraySpec((2,)))
OTHER = RobotSpec("r", {"state": ArraySpec((5,), "float64")}, ArraySpec((2,)))
ACTION = np.zeros(2, np.float32)

# A robot's process that is killed in the middle of its second episode.
ROBOT = """
import sys
from pathlib import Path
sys.path.insert(0, {here!r})
from test_outbox_rescue import *
outbox = Outbox(OutboxConfig(directory=Path({folder!r}), chunk_s=0.02, min_free_bytes=0), "arm", SPEC)
record(outbox, SPEC, 30)
outbox.begin_episode(EpisodeSource.ONLINE)
for number in range(12):
    outbox.append(step(SPEC))
outbox.flush(10)
print("committed", flush=True)
sys.stdin.read()
"""


def step(spec):
    return Step({"state": np.zeros(spec.observation["state"].size)}, ACTION, ACTION, 1.0)


def record(outbox, spec, length):
    key = outbox.begin_episode(EpisodeSource.ONLINE)
    for _ in range(length):
        outbox.append(step(spec))
    outbox.append(FinalObservation({"state": np.zeros(spec.observation["state"].size)}))
    outbox.end_episode(
        EpisodeResult(key, EpisodeSource.ONLINE, Outcome.SUCCESS, length, float(length))
    )


@pytest.fixture
def away(tmp_path, start_process):
    """The outbox of a robot that was killed."""
    program = ROBOT.format(here=os.path.dirname(__file__), folder=str(tmp_path / "outbox"))
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
    assert "0 chunks" in said

    with closing(Outbox(OutboxConfig(directory=away.parent), "arm", SPEC)) as outbox:
        record(outbox, SPEC, 5)  # the robot goes on where it was
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
    with closing(Outbox(config, "other", OTHER)) as outbox:
        record(outbox, OTHER, 3)
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
