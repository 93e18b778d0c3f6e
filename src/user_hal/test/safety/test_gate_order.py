"""Grippers and joints are found by what the spec says of them, not by their place in an action."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from user_core.config import from_mapping
from user_core.specs import ActionKind, Array, ArraySpec, RobotSpec
from user_hal.safety import SafetyConfig, SafetyGate
from user_testing.worlds.robots.safety import PERIOD_NS

ROUNDING = 2e-6
LOW, HIGH = (-2.0, 0.0, -2.0, 0.0), (2.0, 1.0, 2.0, 1.0)


def two_arms(
    kind: ActionKind = ActionKind.JOINT_POSITION, names: tuple[str, ...] = ("l", "lg", "r", "rg")
) -> RobotSpec:
    """An arm of one joint and its gripper, and another one behind it, without groups."""
    observation = {
        "joint_position": ArraySpec((2,), low=-2, high=2, names=names[::2] if names else ())
    }
    action = ArraySpec((4,), low=LOW, high=HIGH, names=names)
    return RobotSpec("two", observation, action, kind, 0.1, grippers=(1, 3))


def gate(spec: RobotSpec, joints: tuple[float, ...] = (0.5, -0.5), **config: Any) -> SafetyGate:
    made = SafetyGate(from_mapping(SafetyConfig, config), spec)
    made.observe({"joint_position": np.asarray(joints, np.float32)})
    return made


def row(*values: float) -> Array:
    return np.asarray(values, np.float32)


def test_a_gripper_between_joints_is_no_joint() -> None:
    for names in (("l", "lg", "r", "rg"), ()):
        made = gate(two_arms(names=names), step={"each": [0.1]})
        verdict = made.judge(row(0.9, 1.0, -0.9, 0.0), 0)
        np.testing.assert_allclose(verdict.action, [0.6, 1.0, -0.6, 0.0], atol=ROUNDING)
        verdict = made.judge(row(0.9, 0.0, -0.9, 1.0), PERIOD_NS)
        np.testing.assert_allclose(verdict.action, [0.7, 0.0, -0.7, 1.0], atol=ROUNDING)


def test_limits_stand_as_the_elements_of_the_action_do() -> None:
    limits = {
        "step": {"each": [0.1, 0.2, 0.3, 0.4]},
        "bounds": {"low": [-1, 0, -1, 0.1], "high": [1, 1, 1, 1], "refuse_beyond": 1.0},
    }
    made = gate(two_arms(ActionKind.JOINT_DELTA), **limits)
    verdict = made.judge(row(1, 1, 1, 0), 0)
    np.testing.assert_allclose(verdict.action, [0.1, 0.2, 0.3, 0.1], atol=ROUNDING)


def test_ranges_are_those_of_the_joints() -> None:
    limits = {"low": [-1.0, -0.6], "high": [1.0, 0.6]}
    made = gate(two_arms(ActionKind.JOINT_DELTA), joint_limits=limits)
    verdict = made.judge(row(0.3, 0.9, -0.3, 0.9), 0)
    np.testing.assert_allclose(verdict.action, [0.3, 0.9, -0.1, 0.9], atol=ROUNDING)


def test_a_gripper_in_front_of_the_joints() -> None:
    spec = RobotSpec(
        "r",
        {"joint_position": ArraySpec((2,), names=("a", "b"))},
        ArraySpec((3,), low=-2, high=2, names=("grip", "b", "a")),
        ActionKind.JOINT_POSITION,
    )
    made = gate(spec, joints=(0.5, -0.5), step={"each": [0.1]})
    verdict = made.judge(row(0.05, 0.5, 0.0), 0)
    np.testing.assert_allclose(verdict.action, [0.05, -0.4, 0.4], atol=ROUNDING)


def test_two_grippers_of_a_tool_are_no_rotation() -> None:
    action = ArraySpec((6,), low=-1, high=1, names=("dx", "dy", "dz", "rz", "g1", "g2"))
    spec = RobotSpec(
        "r", {"tcp_pose": ArraySpec((7,))}, action, ActionKind.EE_DELTA, grippers=(4, 5)
    )
    made = SafetyGate(from_mapping(SafetyConfig, {"step": {"angular": 0.1}}), spec)
    verdict = made.judge(row(0, 0, 0, 0.5, 1, 1), 0)
    np.testing.assert_allclose(verdict.action, [0, 0, 0, 0.1, 1, 1], atol=ROUNDING)


@given(
    order=st.permutations(range(4)),
    kind=st.sampled_from(
        [ActionKind.JOINT_POSITION, ActionKind.JOINT_DELTA, ActionKind.JOINT_VELOCITY]
    ),
    course=st.lists(st.lists(st.floats(-1, 1, width=32), min_size=4, max_size=4), max_size=15),
)
@settings(deadline=None, max_examples=40)
def test_the_order_of_the_elements_changes_nothing(order, kind, course) -> None:
    names = ("a", "b", "g1", "g2")
    observation = {"joint_position": ArraySpec((2,), names=("a", "b"))}
    limits = {"step": {"each": [0.1]}, "velocity": {"each": [0.7]}, "acceleration": {"each": [9.0]}}

    def robot(names: tuple[str, ...]) -> RobotSpec:
        grippers = tuple(i for i, name in enumerate(names) if name.startswith("g"))
        return RobotSpec("r", observation, ArraySpec((4,), low=-1, high=1, names=names), kind,
                         0.1, grippers=grippers)  # fmt: skip

    usual = gate(robot(names), **limits)
    other = gate(robot(tuple(names[i] for i in order)), **limits)
    for i, values in enumerate(course):
        expected = usual.judge(row(*values), i * PERIOD_NS)
        got = other.judge(row(*(values[k] for k in order)), i * PERIOD_NS)
        np.testing.assert_array_equal(got.action, expected.action[list(order)])
        assert got.reasons == expected.reasons
