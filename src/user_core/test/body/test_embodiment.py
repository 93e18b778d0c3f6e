"""A space that robots with different joints share: what it shows, and how actions go there and back."""

from dataclasses import replace

import numpy as np
import pytest

from user_core.body.embodiment import STANDARD, EmbodimentConfig, OwnSpace, space_of
from user_core.errors import ConfigError, SpecError
from user_core.meaning import meaning_differences
from user_core.policies import policy_config_hash
from user_core.specs import ActionKind, ArraySpec, RobotSpec
from user_core.types import ActionChunk, AppliedAction, Observation, TrajectorySchema

POSE = ("x", "y", "z", "qx", "qy", "qz", "qw")


def arm(name, joints, kind=ActionKind.EE_DELTA, names=("dx", "dy", "dz"), step=0.02, **more):
    """An arm whose joints turn by 1 rad, and 2 rad/s, times their number."""
    turn = tuple(float(i + 1) for i in range(joints))
    observation = {
        "joint_position": ArraySpec((joints,), low=tuple(-t for t in turn), high=turn, unit="rad"),
        "joint_velocity": ArraySpec((joints,), low=-2.0, high=2.0, unit="rad/s"),
        "tcp_pose": ArraySpec((7,), unit="m", frame=f"{name}_base", names=POSE),
        "tool_to_goal": ArraySpec((3,), low=-0.3, high=0.3, unit="m", frame=f"{name}_base"),
    }
    step = (step,) * len(names) if isinstance(step, float) else step
    low = tuple(0.0 if n == "gripper" else -s for n, s in zip(names, step))
    return RobotSpec(
        name, observation | more.pop("observation", {}),
        ArraySpec((len(names),), low=low, high=step, unit="m", frame=f"{name}_base", names=names),
        kind, period_s=0.1, **more,
    )  # fmt: skip


def shared(spec, scale=(), **options):
    return space_of(EmbodimentConfig(space="tool_delta", **options), spec, scale)


def seen(spec, **arrays):
    shown = {name: item.zeros() for name, item in spec.observation.items()}
    shown["tcp_pose"][6] = 1.0
    shown |= {name: np.asarray(value, np.float32) for name, value in arrays.items()}
    return Observation(shown, 0, 1, 1)


def chunk(*rows):
    return ActionChunk(np.array(rows, np.float32), 100_000_000)


PANDA, UR5E = arm("panda", 7), arm("ur5e", 6)


def test_two_arms_have_one_spec_one_schema_one_meaning_and_one_policy():
    one, other = shared(PANDA, id=0).spec, shared(UR5E, id=1).spec
    assert replace(one, robot="") == replace(other, robot="")
    assert TrajectorySchema.of(one).hash == TrajectorySchema.of(other).hash
    assert not meaning_differences(one, other)
    hashes = {policy_config_hash("tanh_gaussian", {}, spec) for spec in (one, other)}
    assert len(hashes) == 1
    assert TrajectorySchema.of(PANDA).hash != TrajectorySchema.of(UR5E).hash  # as they are
    assert one.action.names == ("dx", "dy", "dz") and one.action.high == (0.02,) * 3
    assert one.observation["tcp_pose"].frame == "base" == one.observation["tool_to_goal"].frame


def test_joints_are_shares_of_each_robots_own_range_padded_and_masked():
    space = shared(UR5E, id=2)
    joints = np.array([0.5, 1.0, -3.0, 0.0, 2.5, 99.0])
    arrays = space.shown(seen(UR5E, joint_position=joints, joint_velocity=[1.0] * 6)).arrays
    assert arrays["joints"].tolist() == [0.5, 0.5, -1.0, 0.0, 0.5, 1.0, 0.0, 0.0]
    assert arrays["joint_speeds"].tolist() == [0.5] * 6 + [0.0] * 2
    assert arrays["joint_mask"].tolist() == [1.0] * 6 + [0.0] * 2
    assert arrays["embodiment"].tolist() == [0.0, 0.0, 1.0, 0.0]
    assert arrays.keys() == space.spec.observation.keys() and "joint_position" not in arrays
    for name, array in arrays.items():
        space.spec.observation[name].check(array, name)


def test_a_description_tells_kinds_apart_that_nobody_numbered():
    first, second = (
        shared(spec, describe="joints").shown(seen(spec)).arrays["embodiment"]
        for spec in (PANDA, UR5E)
    )
    assert first.shape == second.shape == (9,) and first[0] == 7 / 8 and second[0] == 6 / 8
    assert not np.array_equal(first[1:], second[1:]) and first.max() <= 1
    assert "embodiment" not in shared(PANDA, describe="none").spec.observation


@pytest.mark.parametrize(
    ("spec", "scale", "sent"),
    [
        (PANDA, (), [0.01, -0.02, 0.0]),
        (arm("t", 6, ActionKind.EE_TWIST, ("vx", "vy", "vz"), 0.2), (), [0.1, -0.2, 0.0]),
        (arm("u", 6, step=1.0), (0.02,), [0.5, -1.0, 0.0]),
        (arm("six", 6, names=("dz", "dy", "dx", "drx", "dry", "drz")), (), [0.0, -0.02, 0.01, 0, 0, 0]),
    ],
    ids=["changes", "velocities", "units of its own", "another order, and it turns"],
)  # fmt: skip
def test_actions_go_to_the_drivers_numbers_and_back(spec, scale, sent):
    space = shared(spec, scale, elements=("dx", "dy", "dz"), linear_m=0.02)
    made = space.commanded(chunk([0.01, -0.02, 0.0])).actions_ta
    assert made.dtype == np.float32 and made[0] == pytest.approx(sent)
    assert space.applied(made[0]) == pytest.approx([0.01, -0.02, 0.0])
    observation = replace(seen(spec), applied=AppliedAction(made[0], 7, changed=True))
    applied = space.shown(observation).applied
    assert (applied.sequence, applied.changed) == (7, True)
    assert applied.action == pytest.approx([0.01, -0.02, 0.0])


def test_what_a_robot_cannot_do_is_left_out_and_reported_as_nothing():
    space = shared(PANDA, elements=("dx", "dy", "dz", "rz", "gripper"), angular_rad=0.2)
    made = space.commanded(chunk([0.01, 0.0, 0.0, 0.2, 1.0])).actions_ta[0]
    assert made == pytest.approx([0.01, 0, 0])
    assert space.applied(made) == pytest.approx([0.01, 0, 0, 0, 0])
    with pytest.raises(ConfigError, match="angular_rad.*panda.*rz"):
        shared(PANDA, elements=("dx", "rz"))


def test_long_steps_are_shortened_in_their_direction_and_wild_ones_left_to_the_gate():
    space = shared(PANDA, linear_m=0.04)
    made = space.commanded(chunk([0.04, 0.02, 0.0], [9.0, 0.02, 0.0])).actions_ta
    assert made[0] == pytest.approx([0.02, 0.01, 0.0])
    assert made[1] == pytest.approx([9.0, 0.02, 0.0]), "the gate refuses it, and says so"
    made = space.commanded(chunk([np.nan, 0.0, np.inf])).actions_ta[0]
    assert not np.isfinite(made).all()
    for wrong in (np.zeros((1, 4), np.float32), np.zeros((1, 3))):
        with pytest.raises(SpecError, match=r"float.*float32\[T, 3\]"):
            space.commanded(ActionChunk(wrong, 1))


def test_actions_in_the_frame_of_the_tool_turn_with_it():
    space = shared(PANDA, frame="tool")
    half = np.sqrt(0.5)
    pose = [0, 0, 0, 0, 0, half, half]  # a quarter turn about z: its x is the base's y
    space.shown(seen(PANDA, tcp_pose=pose))
    made = space.commanded(chunk([0.02, 0.0, 0.01])).actions_ta[0]
    assert made == pytest.approx([0.0, 0.02, 0.01], abs=1e-6)
    assert space.applied(made) == pytest.approx([0.02, 0.0, 0.01], abs=1e-6)
    assert space.spec.action.frame == "tool"
    assert [d.key for d in meaning_differences(space.spec, shared(PANDA).spec)] == ["frames"]
    blind = replace(PANDA, observation={"tool_to_goal": ArraySpec((3,))})
    with pytest.raises(ConfigError, match="tcp_pose"):
        shared(blind, frame="tool")


GRIP = ("dx", "dy", "dz", "gripper")


def test_grippers_are_openings_between_0_and_1_or_stay_choices():
    wide = arm("w", 6, names=GRIP, step=(0.02, 0.02, 0.02, 0.08), grippers=(3,),
               observation={"gripper": ArraySpec((1,))})  # fmt: skip
    space = shared(wide)
    assert space.spec.grippers == (3,) and space.spec.action.high[3] == 1.0
    made = space.commanded(chunk([0, 0, 0, 0.5])).actions_ta[0]
    assert made[3] == pytest.approx(0.04) and space.applied(made)[3] == pytest.approx(0.5)
    without = shared(wide, elements=("dx", "dy", "dz"))
    without.shown(seen(wide, gripper=[0.25]))
    assert without.commanded(chunk([0, 0, 0])).actions_ta[0][3] == pytest.approx(0.02), "as it is"
    chosen = arm("c", 6, names=GRIP, step=(0.02, 0.02, 0.02, 2.0), grippers=(3,))
    chosen = replace(chosen, action=replace(chosen.action, categorical=(3,)), hold_choices=(1,))
    space = shared(chosen)
    assert space.spec.action.categorical == (3,) and space.spec.hold_choices == (1,)
    assert space.commanded(chunk([0, 0, 0, 2])).actions_ta[0][3] == 2
    held = shared(chosen, elements=("dx", "dy", "dz")).commanded(chunk([0, 0, 0]))
    assert held.actions_ta[0][3] == 1


def test_what_one_robot_does_not_measure_is_shown_as_absent():
    feels = arm("f", 6, observation={"wrench": ArraySpec((6,), unit="N", frame="f_base")})
    names = ("wrench", "tool_to_goal", "tcp_pose")
    spaces = [shared(spec, observations=names) for spec in (feels, PANDA)]
    assert replace(spaces[0].spec, robot="") == replace(spaces[1].spec, robot="")
    arrays = [s.shown(seen(d)).arrays for s, d in zip(spaces, (feels, PANDA))]
    assert arrays[0]["present"].tolist() == [1, 1] and arrays[1]["present"].tolist() == [1, 0]
    assert arrays[1]["wrench"].tolist() == [0] * 6
    assert spaces[0].spec.observation["wrench"] == STANDARD["wrench"]
    with pytest.raises(ConfigError, match="observations.*lidar"):
        shared(PANDA, observations=("lidar",))


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        (arm("j", 6, ActionKind.JOINT_DELTA), {}, "joint_delta.*controller that moves the tool"),
        (arm("p", 9), {}, "joints.*at least 9"),
        (replace(PANDA, action=ArraySpec((3,))), {}, "without bounds"),
        (arm("n", 6, names=("a", "b", "c")), {}, "elements.*'a'"),
        (arm("u", 6), {"scale": (1.0, 2.0)}, "action_scale.*2 values"),
    ],
    ids=["joints", "too many joints", "no bounds", "no element", "scale"],
)
def test_robots_that_cannot_be_driven_so_are_refused(spec, options, message):
    with pytest.raises(ConfigError, match=message):
        shared(spec, **options)


@pytest.mark.parametrize(
    "options", [{"id": 4}, {"elements": ("dx", "dx")}, {"joints": 0, "describe": "joints"}]
)
def test_settings_that_contradict_each_other_are_refused(options):
    with pytest.raises(ConfigError):
        EmbodimentConfig(space="tool_delta", **options)


def test_without_the_word_nothing_is_translated():
    space = space_of(EmbodimentConfig(), PANDA)
    assert isinstance(space, OwnSpace) and space.spec is PANDA
    observation, sent = seen(PANDA), chunk([1, 2, 3])
    assert space.shown(observation) is observation and space.commanded(sent) is sent
