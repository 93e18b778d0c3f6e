"""Data of one meaning as data of another, with the right values; the rest is refused."""

import json
from contextlib import closing
from dataclasses import replace
from io import StringIO

import numpy as np
import pytest
from rich.console import Console

from user_core.errors import SchemaMismatch, SpecError, StoreError
from user_core.specs import ActionGroup, ActionKind, ArraySpec, RobotSpec
from user_core.types import (
    ChunkId,
    EpisodeKey,
    EpisodeSource,
    TrajectoryChunk,
    TrajectorySchema,
)
from user_learner.cli.replay import main
from user_learner.data.conversion import Conversion, convert
from user_learner.replay import StoreReader, StoreWriter
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


def two_arms(names, kinds, period_s=0.1):
    """Groups of two joints and a gripper each, and a base that is driven."""
    groups = [ActionGroup(name, kind, 3) for name, kind in zip(names, kinds, strict=True)]
    groups.append(ActionGroup("base", ActionKind.BASE_TWIST, 2))
    size = sum(group.size for group in groups)
    observation = {f"{name}.joint_position": ArraySpec((2,), unit="rad") for name in names}
    return RobotSpec(
        "arms", observation, ArraySpec((size,), low=-1.0, high=1.0), ActionKind.MIXED,
        period_s=period_s, grippers=tuple(3 * i + 2 for i in range(len(names))),
        action_groups=tuple(groups),
    )  # fmt: skip


TARGETS, DELTAS = ActionKind.JOINT_POSITION, ActionKind.JOINT_DELTA


def two_arms_episode(spec, steps=4):
    schema = TrajectorySchema.of(spec)
    columns = {n: np.zeros((steps + 1, *c.shape), c.dtype) for n, c in schema.columns.items()}
    k = np.arange(1, steps + 1)
    columns["observation.left.joint_position"][:] = [1.0, 2.0]
    columns["observation.right.joint_position"][:] = [5.0, 6.0]
    left = np.stack([1 + 0.1 * k, 2 + 0.2 * k, k], 1)  # targets and a gripper
    right = np.stack([0 * k + 0.01, 0 * k + 0.02, -k], 1)  # changes and a gripper
    base = np.stack([k, 2 * k], 1)  # velocities
    columns["action"][:steps] = np.concatenate([left, right, base], 1)
    columns["proposed_action"][:] = columns["action"]
    columns["final"][steps] = True
    return columns


def test_each_group_is_converted_by_its_own_kind_and_found_by_its_name():
    data = two_arms(("left", "right"), (TARGETS, DELTAS))
    wanted = two_arms(("right", "left"), (TARGETS, DELTAS), period_s=0.2)
    found = Conversion(data, wanted).apply(two_arms_episode(data))["action"]
    right = [[5.02, 6.04, -2], [5.04, 6.08, -4]]  # where changes have led, from its own joints
    left = [[0.2, 0.4, 2], [0.2, 0.4, 4]]  # changes from target to target, two steps each
    base = [[1.5, 3], [3.5, 7]]  # velocities on the mean
    np.testing.assert_allclose(found[:2], np.concatenate([right, left, base], 1), rtol=1e-5)
    np.testing.assert_allclose(found[2], 0)


def test_groups_may_be_left_out():
    data = two_arms(("left", "right"), (TARGETS, DELTAS))
    one = replace(
        data, action=ArraySpec((3,)), action_groups=data.action_groups[1:2], grippers=(2,),
        action_kind=DELTAS,
    )  # fmt: skip
    found = Conversion(data, one).apply(two_arms_episode(data))["action"]
    np.testing.assert_allclose(found[:4, :2], [[0.01, 0.02]] * 4, rtol=1e-5)
    np.testing.assert_allclose(found[:4, 2], [-1, -2, -3, -4])


def test_groups_that_are_not_there_or_do_other_things_are_refused():
    data = two_arms(("left", "right"), (TARGETS, DELTAS))
    for names, kinds, words in (
        (("left", "middle"), (TARGETS, DELTAS), "action groups|observations"),
        (("left", "right"), (TARGETS, ActionKind.JOINT_VELOCITY), "action kind of element 3"),
    ):
        wanted = two_arms(names, kinds)
        if "middle" in names:
            wanted = replace(wanted, observation={"left.joint_position": ArraySpec((2,))})
        with pytest.raises(SpecError, match=words):
            Conversion(data, wanted)


def test_a_gripper_that_was_closed_or_open_becomes_a_choice():
    open_or_closed = replace(
        DEGREES,
        action=replace(DEGREES.action, low=(-180.0, -180.0, 0.0), high=(180.0, 180.0, 1.0)),
    )
    chooses = replace(
        open_or_closed,
        action=replace(
            open_or_closed.action, high=(180.0, 180.0, 2.0), categorical=(2,),
            names=("shoulder", "elbow", "gripper"),
        ),
        hold_choices=(1,),
    )  # fmt: skip
    columns = episode(open_or_closed)
    columns["action"][:STEPS, 2] = columns["proposed_action"][:STEPS, 2] = [1, 1, 0, 0, 0, 1, 1]
    found = Conversion(open_or_closed, chooses).apply(columns)
    assert found["action"][:, 2].tolist() == [2, 2, 0, 0, 0, 2, 2, 0]
    assert found["action"][:2, 0].tolist() == [22.0, 24.0]  # the others in their own order
    columns["action"][3, 2] = 0.5
    with pytest.raises(SpecError, match="openings of a gripper to choices"):
        Conversion(open_or_closed, chooses).apply(columns)
    with pytest.raises(SpecError, match="choices, by element"):
        Conversion(chooses, open_or_closed)
