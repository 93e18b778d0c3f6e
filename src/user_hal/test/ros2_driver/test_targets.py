"""From actions to targets: sums, limits, and what was really asked."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from transforms3d.quaternions import axangle2quat, qmult

from user_core.config import from_mapping
from user_core.errors import DeviceFault, ImplausibleReading, SpecError
from user_core.specs import Array
from user_hal.robots.ros2.commanding.targets import Target, Targets, make_targets, moved, way
from user_hal.robots.ros2.contract import ActionConfig
from user_hal.robots.ros2.joints import Turns

JTC, NUMBERS = "trajectory_msgs/msg/JointTrajectory", "std_msgs/msg/Float64MultiArray"
TWIST, POSE = "geometry_msgs/msg/TwistStamped", "geometry_msgs/msg/PoseStamped"
START = np.array([0.4, 0.0, 0.3, 1.0, 0.0, 0.0, 0.0])

numbers = st.floats(-0.4, 0.4)
changes = arrays(np.float64, 6, elements=numbers)


def make(kind: str, type_name: str, **rest: Any) -> Targets:
    command = {"topic": "/c", "type": type_name, **rest.pop("command", {})}
    config = from_mapping(
        ActionConfig, {"kind": kind, "low": -1, "high": 1, "command": command, **rest}
    )
    return make_targets(config, 0.1, 2, np.array([-1.0, -1.0]), np.array([1.0, 1.0]))


def xyzw(axis: Array, angle: float) -> Array:
    w, x, y, z = axangle2quat(axis, angle)
    return np.array([x, y, z, w])


def test_joint_positions_pass_within_their_limits() -> None:
    targets = make("joint_position", JTC)
    target, executed = targets.next(np.array([0.5, 1.5]), np.array([0.4, 0.9]))
    assert target.quantity == "positions"
    np.testing.assert_array_equal(target.values, [0.5, 1.0])
    np.testing.assert_array_equal(executed, [0.5, 1.0])


def test_the_first_joint_position_after_a_stop_is_within_the_lead_and_says_so() -> None:
    targets = make("joint_position", JTC, max_lead_rad=0.2)
    here, far = np.zeros(2), np.array([0.9, -0.05])
    targets.next(here, here)
    held = targets.hold(here)
    assert held is not None
    targets.overridden(held)  # the gate was shown a false reading, and let what is far away pass
    target, executed = targets.next(far, here)
    np.testing.assert_allclose(target.values, [0.2, -0.05])
    np.testing.assert_allclose(executed, target.values, atol=1e-12)


def test_an_absolute_robot_stops_where_it_is_on_its_way_and_nowhere_else() -> None:
    targets = make("joint_position", JTC, max_lead_rad=0.2)
    targets.next(np.array([0.9, 0.0]), np.zeros(2))
    for measured, held in (
        ([0.4, 0.0], [0.4, 0.0]),
        ([0.4, 0.5], [0.9, 0.0]),  # nobody has sent it there
        ([-0.9, 0.0], [0.9, 0.0]),
    ):
        stop = targets.hold(np.array(measured))
        assert stop is not None
        np.testing.assert_array_equal(stop.values, held)
    targets.next(np.array([0.9, 0.0]), np.array([0.9, 0.0]))  # it has arrived
    stop = targets.hold(np.zeros(2))
    assert stop is not None
    np.testing.assert_array_equal(stop.values, [0.9, 0.0])


def test_changes_add_up_on_the_target_so_that_a_sagging_arm_does_not_drift() -> None:
    targets = make("joint_delta", NUMBERS)
    assert targets.observation == "joint_position"
    measured = np.zeros(2)
    for count in range(1, 4):
        target, executed = targets.next(np.array([0.05, 0.0]), measured - 0.01)
        np.testing.assert_allclose(target.values, [0.05 * count - 0.01, -0.01], atol=1e-12)
        np.testing.assert_allclose(executed, [0.05, 0.0])
    targets.forget()
    target, _ = targets.next(np.zeros(2), np.array([0.2, 0.2]))
    np.testing.assert_allclose(target.values, [0.2, 0.2])


@pytest.mark.parametrize("kind", ["joint_delta", "joint_position"])
def test_the_first_target_after_a_stop_is_near_what_holds_the_robot(kind: str) -> None:
    targets = make(kind, NUMBERS, max_lead_rad=0.2)
    here = np.array([0.5, 0.5])
    targets.next(np.zeros(2) if kind == "joint_delta" else here, here)
    held = targets.hold(here)
    assert held is not None
    targets.overridden(held)
    with pytest.raises(ImplausibleReading, match=r"joint '1'.*0\.000.*0\.500"):
        targets.next(np.zeros(2), np.zeros(2))
    targets.start_anywhere()  # a reset says that it may have been moved
    target, _ = targets.next(np.zeros(2), np.zeros(2))
    np.testing.assert_array_equal(target.values, np.zeros(2))


@pytest.mark.parametrize(("kind", "size"), [("joint_velocity", 2), ("ee_twist", 6)])
def test_velocities_that_are_summed_up_go_on_for_the_time_that_passes(kind: str, size: int) -> None:
    targets = make(kind, JTC if size == 2 else POSE, max_lead_rad=3, max_lead_m=3)
    here = np.zeros(2) if size == 2 else START
    start, target, action = here[0], here, np.full(size, 0.5)
    for _ in range(20):  # commands at twice the rate, half a period apart
        sent, executed = targets.next(action, target, 0.05)
        target = sent.values
        np.testing.assert_allclose(executed, action, atol=1e-9)
    assert target[0] - start == pytest.approx(0.5 * (20 * 0.05 + 0.1))  # and half a burst


def test_what_is_left_of_an_absolute_target_is_an_action_of_the_spec() -> None:
    command = {"topic": "/c", "type": NUMBERS}
    action = {"kind": "joint_position", "low": -3.2, "high": 3.2, "command": command}
    config = from_mapping(ActionConfig, {**action, "max_lead_rad": 0.2})
    limits = np.full(1, 9.0)
    targets = make_targets(config, 0.1, 1, -limits, limits, Turns(["a"], ["a"]))
    here = np.array([1.0])
    targets.overridden(targets.next(here, here)[0])
    target, executed = targets.next(np.array([-3.1]), here)  # the short way is up, over a half turn
    np.testing.assert_allclose(target.values, [1.2])
    np.testing.assert_allclose(executed, [1.2])
    tool = make("ee_pose", POSE, low=-1, high=1, max_lead_m=0.05)
    outside = np.array([1.3, 0.0, 0.3, 1.0, 0.0, 0.0, 0.0])
    tool.overridden(Target("pose", outside))
    with pytest.raises(DeviceFault, match="outside of the bounds"):
        tool.next(START, outside)


def test_a_false_reading_turns_no_continuous_joint_round() -> None:
    command = {"topic": "/c", "type": NUMBERS}
    config = from_mapping(
        ActionConfig, {"kind": "joint_delta", "low": -1, "high": 1, "command": command}
    )
    limits = np.full(1, 9.0)
    targets = make_targets(config, 0.1, 1, -limits, limits, Turns(["a"], ["a"]))
    target, _ = targets.next(np.zeros(1), np.array([0.5]))
    target, _ = targets.next(np.zeros(1), np.array([5.0]))
    assert target.values[0] == pytest.approx(0.5)
    target, _ = targets.next(np.zeros(1), np.array([0.5 + 2 * np.pi]))  # an encoder that wraps
    assert target.values[0] == pytest.approx(0.5 + 2 * np.pi)


def test_changes_on_the_measured_position() -> None:
    targets = make("joint_delta", NUMBERS, base="measured")
    for measured in ([0.0, 0.0], [0.2, 0.1]):
        target, _ = targets.next(np.array([0.05, 0.0]), np.array(measured))
        np.testing.assert_allclose(target.values, np.add(measured, [0.05, 0.0]))


@settings(max_examples=40, deadline=None)
@given(st.lists(arrays(np.float64, 2, elements=numbers), min_size=1, max_size=30))
def test_a_blocked_joint_is_never_led_far_and_the_executed_changes_tell_the_truth(
    actions: list[Array],
) -> None:
    targets = make("joint_delta", NUMBERS, max_lead_rad=0.15)
    blocked = np.array([0.95, 0.2])
    total = blocked.copy()
    for action in actions:
        target, executed = targets.next(action, blocked)
        total += executed
        assert (np.abs(target.values - blocked) <= 0.15 + 1e-12).all()
        assert (np.abs(target.values) <= 1.0).all()
        np.testing.assert_allclose(target.values, total, atol=1e-9)


def test_velocities_straight_and_summed_up() -> None:
    target, executed = make("joint_velocity", NUMBERS).next(np.array([0.5, -0.5]), None)
    assert target.quantity == "velocities"
    np.testing.assert_array_equal(target.values, [0.5, -0.5])
    target, executed = make("joint_velocity", JTC).next(np.array([0.5, -0.5]), np.zeros(2))
    assert target.quantity == "positions"
    np.testing.assert_allclose(target.values, [0.05, -0.05])
    np.testing.assert_allclose(executed, [0.5, -0.5])
    by_speed = make("joint_delta", NUMBERS, command={"quantity": "velocity"})
    np.testing.assert_allclose(by_speed.next(np.array([0.05, 0.0]), None)[0].values, [0.5, 0.0])


def test_tool_changes_become_twists() -> None:
    target, executed = make("ee_delta", TWIST).next(np.array([0.01, 0, 0, 0, 0, 0.02]), None)
    np.testing.assert_allclose(target.values, [0.1, 0, 0, 0, 0, 0.2])
    np.testing.assert_allclose(executed, [0.01, 0, 0, 0, 0, 0.02])
    target, _ = make("ee_delta", TWIST, rotation=False).next(np.array([0.01, 0, 0]), None)
    np.testing.assert_allclose(target.values, [0.1, 0, 0, 0, 0, 0])
    target, _ = make("ee_twist", TWIST).next(np.array([0.1, 0, 0, 0, 0, 0.2]), None)
    np.testing.assert_allclose(target.values, [0.1, 0, 0, 0, 0, 0.2])


def test_tool_changes_add_up_to_poses_about_the_axes_of_the_base() -> None:
    targets = make("ee_delta", POSE)
    pose = START
    for axis, angle in (([1, 0, 0], 0.2), ([0, 0, 1], -0.25)):
        action = np.concatenate([[0.01, 0.0, 0.02], np.array(axis) * angle])
        target, executed = targets.next(action, pose)
        w, x, y, z = qmult(axangle2quat(axis, angle), [pose[6], *pose[3:6]])
        expected = np.array([x, y, z, w])
        assert abs(float(expected @ target.values[3:])) == pytest.approx(1.0, abs=1e-12)
        np.testing.assert_allclose(target.values[:3], np.add(pose[:3], [0.01, 0.0, 0.02]))
        np.testing.assert_allclose(executed, action, atol=1e-12)
        pose = target.values


@settings(max_examples=40, deadline=None)
@given(changes, changes)
def test_the_way_between_two_poses_leads_there(first: Array, second: Array) -> None:
    start = moved(START, first)
    end = moved(start, second)
    np.testing.assert_allclose(way(start, end), second, atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(st.lists(changes, min_size=1, max_size=15))
def test_a_blocked_tool_is_never_led_far(actions: list[Array]) -> None:
    targets = make("ee_delta", POSE, max_lead_m=0.05, max_lead_rad=0.1)
    for action in actions:
        target, _ = targets.next(action, START)
        lead = way(START, target.values)
        assert np.linalg.norm(lead[:3]) <= 0.05 + 1e-9
        assert np.linalg.norm(lead[3:]) <= 0.1 + 1e-9


def test_absolute_poses_are_normalised_and_a_missing_rotation_refused() -> None:
    targets = make("ee_pose", POSE)
    action = np.array([0.4, 0.0, 0.3, *(2 * xyzw(np.array([0, 1, 0]), math.pi / 3))])
    here = np.array([0.4, 0.0, 0.3, *xyzw(np.array([0, 1, 0]), math.pi / 3 - 0.1)])
    target, executed = targets.next(action, here)
    np.testing.assert_allclose(target.values[3:], xyzw(np.array([0, 1, 0]), math.pi / 3))
    np.testing.assert_allclose(executed, target.values)
    with pytest.raises(SpecError, match="quaternion of a pose"):
        targets.next(np.zeros(7), here)


def test_holding() -> None:
    here = np.array([0.1, 0.2])
    joints = make("joint_delta", NUMBERS)
    assert joints.hold(None) is None
    held = joints.hold(here)
    assert held is not None and held.quantity == "positions"
    np.testing.assert_array_equal(held.values, here)
    joints.next(np.array([0.05, 0.0]), here)
    last = joints.hold(None)
    assert last is not None
    np.testing.assert_allclose(last.values, [0.15, 0.2])
    for targets, size in ((make("ee_twist", TWIST), 6), (make("joint_velocity", NUMBERS), 2)):
        zero = targets.hold(None)
        assert zero is not None
        np.testing.assert_array_equal(zero.values, np.zeros(size))


readings = arrays(np.float64, 2, elements=st.floats(-4.0, 4.0))
bounded = arrays(np.float64, 2, elements=st.floats(-0.05, 0.05))


def test_a_zeroed_reading_does_not_move_the_target() -> None:
    """UniversalRobots/Universal_Robots_ROS_Driver#302: one reading of zeros among good ones."""
    targets = make_targets(
        from_mapping(
            ActionConfig,
            {
                "kind": "joint_delta",
                "low": -0.05,
                "high": 0.05,
                "max_lead_rad": 0.2,
                "command": {"topic": "/c", "type": JTC},
            },
        ),
        0.05,
        3,
        np.full(3, -np.inf),
        np.full(3, np.inf),
    )
    real = np.array([0.5, -1.2, 1.4])
    last = targets.next(np.full(3, 0.001), real)[0].values
    for reading in (np.zeros(3), real, np.zeros(3), real):
        target, executed = targets.next(np.full(3, 0.001), reading)
        assert (np.abs(target.values - last) <= 0.001 + 1e-12).all()
        assert (np.abs(executed) <= 0.001 + 1e-12).all()
        last = target.values
    held = targets.hold(np.zeros(3))
    assert held is not None
    np.testing.assert_array_equal(held.values, last)


@pytest.mark.parametrize("kind", ["joint_delta", "joint_velocity"])
@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(readings, bounded), min_size=2, max_size=30))
def test_whatever_is_measured_a_joint_target_goes_no_further_than_its_action(
    kind: str, steps: list[tuple[Array, Array]]
) -> None:
    targets = make(kind, JTC, low=-0.05, high=0.05)
    step_s = 0.1 if kind == "joint_velocity" else 1.0
    last = targets.next(steps[0][1], steps[0][0])[0].values
    for measured, action in steps[1:]:
        target, executed = targets.next(action, measured)
        assert (np.abs(target.values - last) <= np.abs(action) * step_s + 1e-12).all()
        np.testing.assert_allclose(target.values - last, executed * step_s, atol=1e-12)
        held = targets.hold(measured)
        assert held is not None
        assert (np.abs(held.values - target.values) <= 0.3 + 1e-5).all()
        last = target.values


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(readings, bounded), min_size=2, max_size=30))
def test_whatever_is_measured_a_target_from_the_measured_joints_stays_within_bounds(
    steps: list[tuple[Array, Array]],
) -> None:
    targets = make("joint_delta", JTC, low=-0.05, high=0.05, base="measured")
    last = targets.next(steps[0][1], steps[0][0])[0].values
    for measured, action in steps[1:]:
        target, executed = targets.next(action, measured)
        assert (np.abs(target.values - last) <= 0.05 + 1e-12).all()
        assert (np.abs(executed) <= 0.05 + 1e-12).all()
        last = target.values


@pytest.mark.parametrize("base", ["target", "measured"])
@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            arrays(np.float64, 6, elements=st.floats(-1.0, 1.0)),
            arrays(np.float64, 6, elements=st.floats(-0.05, 0.05)),
        ),
        min_size=2,
        max_size=20,
    )
)
def test_whatever_is_measured_a_pose_goes_no_further_than_an_action(
    base: str, steps: list[tuple[Array, Array]]
) -> None:
    targets = make("ee_delta", POSE, low=-0.05, high=0.05, base=base)
    last = targets.next(steps[0][1], moved(START, steps[0][0]))[0].values
    for offset, action in steps[1:]:
        target, executed = targets.next(action, moved(START, offset))
        step = way(last, target.values)
        assert (np.abs(step) <= 0.05 + 1e-9).all()
        assert (np.abs(executed) <= 0.05 + 1e-9).all()
        if base == "target":
            for part in (slice(0, 3), slice(3, 6)):
                assert np.linalg.norm(step[part]) <= np.linalg.norm(action[part]) + 1e-9
            np.testing.assert_allclose(step, executed, atol=1e-9)
        last = target.values
