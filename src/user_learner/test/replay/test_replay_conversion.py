"""Data of one meaning as data of another, with the right values; the rest is refused."""

import json
from contextlib import closing
from dataclasses import replace
from io import StringIO

import numpy as np
import pytest
from rich.console import Console

from user_core.errors import SchemaMismatch, SpecError, StoreError
from user_core.specs import ActionKind, ArraySpec, RobotSpec
from user_core.types import (
    ChunkId,
    EpisodeKey,
    EpisodeSource,
    TrajectoryChunk,
    TrajectorySchema,
)
from user_learner.cli.replay import main
from user_learner.replay import StoreReader, StoreWriter
from user_learner.replay.conversion import Conversion, convert
from user_learner.replay.meaning import read_meaning, write_meaning
from user_testing.worlds.replay import QUICK

NAMES = ("shoulder", "elbow", "gripper")
#: As somebody recorded: targets in degrees at 30 Hz, elbow first.
DEGREES = RobotSpec(
    "theirs",
    {
        "joint_position": ArraySpec((2,), unit="deg", names=("elbow", "shoulder")),
        "extra": ArraySpec((5,)),
    },
    ArraySpec((3,), low=-180.0, high=180.0, names=("elbow", "shoulder", "gripper")),
    ActionKind.JOINT_POSITION, period_s=1 / 30, grippers=(2,),
)  # fmt: skip
#: What the robot is: changes in radians at 10 Hz, shoulder first.
RADIANS = RobotSpec(
    "ours",
    {"joint_position": ArraySpec((2,), unit="rad", names=("shoulder", "elbow"))},
    ArraySpec((3,), low=-0.05, high=0.05, names=NAMES),
    ActionKind.JOINT_DELTA, period_s=0.1, grippers=(2,),
)  # fmt: skip
STEPS = 7  # at 30 Hz: three at 10, of which the last is short


def with_unit(spec, unit):
    return replace(spec, action=replace(spec.action, unit=unit))


def episode(spec=DEGREES):
    schema = TrajectorySchema.of(spec)
    columns = {n: np.zeros((STEPS + 1, *c.shape), c.dtype) for n, c in schema.columns.items()}
    k = np.arange(STEPS + 1)
    columns["observation.joint_position"][:] = np.stack([10.0 + k, 20.0 + 2 * k], 1)
    action = np.stack([11.0 + k, 22.0 + 2 * k, k], 1)
    columns["action"][:STEPS] = columns["proposed_action"][:STEPS] = action[:STEPS]
    columns["reward"][:STEPS] = 1.0
    columns["stamp_ns"][:] = k
    columns["terminated"][STEPS - 1], columns["final"][STEPS] = True, True
    return columns


def store(path, spec=DEGREES, meaning=True):
    columns = episode(spec)
    key, schema = EpisodeKey("a", 1, 1), TrajectorySchema.of(spec)
    chunk = TrajectoryChunk(
        ChunkId("a", 1, 1), key, EpisodeSource.DEMONSTRATION, 0, columns, schema.hash
    )
    with StoreWriter(path, config=QUICK) as writer:
        assert writer.append(chunk).status == "staged"
    if meaning:
        write_meaning(path, spec)
    return path


DATA, WANTED = with_unit(DEGREES, "deg"), with_unit(RADIANS, "rad")


def test_degrees_at_30_hz_become_changes_in_radians_at_10():
    found = Conversion(DATA, WANTED).apply(episode())
    # moves 1 (elbow) and 2 (shoulder) degrees a step: 3 steps, 3 steps, and the one that is left
    degrees = np.array([[6, 3], [6, 3], [2, 1]])
    np.testing.assert_allclose(found["action"][:3, :2], np.radians(degrees), rtol=1e-5)
    np.testing.assert_allclose(found["action"][3], 0)
    assert found["reward"].tolist() == [3, 3, 1, 0]
    assert found["terminated"].tolist() == [False, False, True, False]
    assert found["final"].tolist() == [False, False, False, True]
    assert found["stamp_ns"].tolist() == [0, 3, 6, 7]
    np.testing.assert_allclose(
        found["observation.joint_position"][:, 0], np.radians([20, 26, 32, 34]), rtol=1e-6
    )
    assert set(found) == set(TrajectorySchema.of(WANTED).columns)


def test_a_gripper_is_an_opening_whatever_the_unit_of_the_joints_and_the_last_one_counts():
    found = Conversion(DATA, WANTED).apply(episode())
    assert found["action"][:3, 2].tolist() == [2, 5, 6]


def test_changes_become_targets_again():
    slow = replace(WANTED, period_s=DATA.period_s)
    there = Conversion(DATA, slow).apply(episode())
    back = replace(DATA, observation={"joint_position": DATA.observation["joint_position"]})
    found = Conversion(slow, back).apply(there)
    np.testing.assert_allclose(
        found["action"][:STEPS, :2], episode()["action"][:STEPS, :2], rtol=1e-4
    )


@pytest.mark.parametrize(
    "wanted",
    [
        replace(WANTED, period_s=0.08),
        replace(WANTED, period_s=1 / 60),
        replace(WANTED, action_kind=ActionKind.EE_DELTA),
        with_unit(WANTED, "N"),
        replace(WANTED, observation={"tcp_pose": ArraySpec((7,))}),
        replace(WANTED, action=replace(WANTED.action, names=("wrist", "elbow", "gripper"))),
    ],
    ids=["period", "faster", "kind", "unit", "observation", "name"],
)
def test_what_cannot_be_said_exactly_is_refused(wanted):
    with pytest.raises(SpecError, match="conversion of data"):
        Conversion(DATA, wanted)


def test_a_store_is_converted_once_and_says_what_it_means(tmp_path):
    source = store(tmp_path / "theirs", DATA)
    for taken in (1, 0):
        with StoreWriter(tmp_path / "ours", config=QUICK) as target:
            report = convert(source, target, WANTED)
            assert (report.episodes, report.duplicates) == (taken, 1 - taken)
    with closing(StoreReader(tmp_path / "ours")) as reader:
        [one] = reader.episodes()
        assert one.rows == 4 and one.source is EpisodeSource.DEMONSTRATION
        assert read_meaning(tmp_path / "ours", reader.schema).spec == WANTED
    with StoreWriter(tmp_path / "ours", config=QUICK) as target:
        with pytest.raises(SchemaMismatch):
            convert(source, target, replace(WANTED, period_s=1 / 30))


def test_the_command_takes_a_run_a_store_or_a_spec(tmp_path):
    source = store(tmp_path / "theirs", DATA, meaning=False)
    for name, spec in (("ours", WANTED), ("data", DATA)):
        (tmp_path / f"{name}.json").write_text(json.dumps(spec.to_dict()))
    console = Console(file=StringIO(), width=200)
    words = ["convert", str(source), "--into", str(tmp_path / "new")]
    assert main([*words, "--like", str(tmp_path / "ours.json")], console) == 2
    assert "nobody knows what it means" in console.file.getvalue()
    data = ["--from", str(tmp_path / "data.json")]
    assert main([*words, "--like", str(tmp_path / "ours.json"), *data], console) == 0
    assert main([*words, "--like", str(tmp_path / "new"), *data], console) == 0
    with pytest.raises(StoreError), StoreWriter(tmp_path / "x") as target:
        convert(source, target, WANTED)
