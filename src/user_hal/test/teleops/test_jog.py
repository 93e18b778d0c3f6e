"""From the deflection of a device to an action."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from user_core.errors import ConfigError
from user_core.specs import ActionGroup, ActionKind, ArraySpec, RobotSpec, common_kind
from user_hal.teleops.hand_device import Jog, JogConfig
from user_testing.worlds.robots.teleop import ACTIONS, robot, seen

CONFIG = JogConfig(deadband=0.0)
FULL_X = [1.0, 0.0, 0.0, 0.0, 0.0, 0.0]


def test_axes_move_what_their_names_say() -> None:
    jog = Jog(CONFIG, robot(ActionKind.EE_DELTA, 0.5))
    action = jog.action([0.2, -0.4, 0.0, 0.9, 0.9, 1.0], 0.25, seen().arrays)
    np.testing.assert_allclose(action, [0.1, -0.2, 0.0, 0.5, 0.25])
    twist = Jog(CONFIG, robot(ActionKind.EE_TWIST)).action([0, 0, 0, 0, 1, 0], None, seen().arrays)
    np.testing.assert_allclose(twist, [0, 0, 0, 0, 0.5, 0])


def test_changes_of_the_rotation_are_named_as_contracts_name_them() -> None:
    names = ("dx", "dy", "dz", "drx", "dry", "drz")
    spec = RobotSpec("arm", {"x": ArraySpec((1,))}, ArraySpec((6,), low=-1.0, high=1.0, names=names),
                     ActionKind.EE_DELTA)  # fmt: skip
    axes = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    np.testing.assert_allclose(Jog(CONFIG, spec).action(axes, None, {}), axes)


@pytest.mark.parametrize("names", [(), ("vx", "wz"), ("vx", "vy", "wz")])
def test_a_base_is_turned_by_the_axis_that_turns(names) -> None:
    size = len(names) or 2
    action = ArraySpec((size,), low=-1.0, high=1.0, names=names)
    jog = Jog(CONFIG, RobotSpec("base", {"x": ArraySpec((1,))}, action, ActionKind.BASE_TWIST))
    expected = [0.5, 0.25] if size == 2 else [0.5, -1.0, 0.25]
    np.testing.assert_allclose(jog.action([0.5, -1.0, 0, 0, 0, 0.25], None, {}), expected)


@pytest.mark.parametrize(
    "kinds",
    [
        (ActionKind.JOINT_POSITION, ActionKind.BASE_TWIST),
        (ActionKind.EE_DELTA, ActionKind.EE_DELTA),
    ],
)
def test_one_device_for_several_groups_is_refused_with_what_to_do(kinds) -> None:
    groups = tuple(ActionGroup(name, kind, 3) for name, kind in zip("ab", kinds))
    spec = RobotSpec("two", {"joint_position": ArraySpec((3,))}, ArraySpec((6,), low=-1, high=1),
                     common_kind(groups), action_groups=groups)  # fmt: skip
    with pytest.raises(ConfigError, match="plugin groups"):
        Jog(CONFIG, spec)


def test_the_gripper_stays_as_it_is_unless_it_is_told() -> None:
    jog = Jog(CONFIG, robot())
    assert jog.action([], None, seen(gripper=0.3).arrays)[-1] == pytest.approx(0.3)


def test_a_joint_that_is_called_gripper_is_a_joint() -> None:
    action = ArraySpec((3,), low=-0.05, high=0.05, names=("pan", "lift", "gripper"))
    observation = {"joint_position": ArraySpec((3,)), "gripper": ArraySpec((1,))}
    spec = RobotSpec("so101", observation, action, ActionKind.JOINT_DELTA, 0.05)
    jog = Jog(CONFIG, spec)
    arrays = {"joint_position": np.zeros(3), "gripper": np.ones(1)}
    assert not jog.action([0.0] * 6, None, arrays).any()  # sticks at rest: nothing moves
    np.testing.assert_allclose(jog.action([0, 0, -1, 0, 0, 0], 1.0, arrays), [0, 0, -0.05])


def test_two_grippers_each_stay_as_they_are() -> None:
    names = ("left_gripper", "j1", "right_gripper", "j2")
    action = ArraySpec((4,), low=(0.0, -1.0, 0.0, -1.0), high=1.0, names=names)
    observation = {"joint_position": ArraySpec((2,)), "left_gripper": ArraySpec((1,)),
                   "right_gripper": ArraySpec((1,))}  # fmt: skip
    spec = RobotSpec("two", observation, action, ActionKind.JOINT_POSITION, 0.1, grippers=(0, 2))
    arrays = {"joint_position": np.array([0.2, -0.3]), "left_gripper": np.array([0.25]),
              "right_gripper": np.array([0.75])}  # fmt: skip
    action_now = Jog(CONFIG, spec).action([0.0] * 6, None, arrays)
    np.testing.assert_allclose(action_now, [0.25, 0.2, 0.75, -0.3])


def test_joint_targets_count_on_from_the_target_before_and_do_not_run_away() -> None:
    jog = Jog(JogConfig(deadband=0.0, joint_speed_rad_s=0.5), robot(ActionKind.JOINT_POSITION, 3.0))
    first = jog.action(FULL_X, None, seen(joints=0.1).arrays)
    np.testing.assert_allclose(first[:3], [0.15, 0.1, 0.1], atol=1e-6)
    sagging = seen(joints=0.09)  # the robot hangs a little below its target
    second = jog.action([0.0] * 6, None, sagging.arrays)
    np.testing.assert_allclose(second[:3], [0.15, 0.1, 0.1], atol=1e-6)
    for _ in range(30):
        blocked = jog.action(FULL_X, None, sagging.arrays)
    assert blocked[0] == pytest.approx(0.09 + 5 * 0.05, abs=1e-6)
    jog.rest()
    np.testing.assert_allclose(jog.action([0.0] * 6, None, sagging.arrays)[:6], 0.09, atol=1e-6)


def test_an_answer_that_takes_the_place_of_another_makes_no_further_step() -> None:
    jog = Jog(JogConfig(deadband=0.0, joint_speed_rad_s=0.5), robot(ActionKind.JOINT_POSITION, 3.0))
    first = seen(joints=0.1)
    jog.action(FULL_X, None, first.arrays)
    for _ in range(5):  # what the person does changes while one observation is the newest
        jog.again()
        anew = jog.action(FULL_X, None, first.arrays)
    np.testing.assert_allclose(anew[:3], [0.15, 0.1, 0.1], atol=1e-6)
    following = jog.action(FULL_X, None, seen(joints=0.1).arrays)
    np.testing.assert_allclose(following[:3], [0.2, 0.1, 0.1], atol=1e-6)
    jog.rest()
    jog.again()
    np.testing.assert_allclose(jog.action([0.0] * 6, None, first.arrays)[:3], 0.1, atol=1e-6)


def test_poses_move_and_turn_in_the_base_frame() -> None:
    jog = Jog(JogConfig(deadband=0.0), robot(ActionKind.EE_POSE, 2.0))
    pose = jog.action([0, 0, -1.0, 0, 0, 1.0], 1.0, seen().arrays)
    turned = [0, 0, math.sin(0.025), math.cos(0.025)]
    np.testing.assert_allclose(pose, [0.4, 0, 0.29, *turned, 1.0], atol=1e-6)


def test_the_deadband_hides_small_deflections_without_a_jump_beside_it() -> None:
    jog = Jog(JogConfig(deadband=0.2), robot())
    values = [float(jog.action([x], None, seen().arrays)[0]) for x in (0.19, 0.2, 0.21, 0.6, 1.0)]
    np.testing.assert_allclose(values, [0, 0, 0.00625, 0.25, 0.5], atol=1e-6)
    assert jog.deflection([0.1, -1.0]) == pytest.approx(1.0)


def test_targets_need_something_to_start_from() -> None:
    spec = RobotSpec("blind", {"x": ArraySpec((1,))}, ArraySpec((6,)), ActionKind.JOINT_POSITION)
    with pytest.raises(ConfigError, match="joint_position"):
        Jog(CONFIG, spec)


@pytest.mark.parametrize("kind", list(ACTIONS))
@given(
    axes=st.lists(st.floats(-3, 3), max_size=6),
    opening=st.none() | st.floats(0, 1),
)
@settings(deadline=None, max_examples=30)
def test_every_action_fits_the_robot(kind, axes, opening) -> None:
    spec = robot(kind)
    action = Jog(JogConfig(), spec).action(axes, opening, seen().arrays)
    spec.action.check(action)
    assert (action >= spec.action.low_array).all() and (action <= spec.action.high_array).all()
