"""The gate and choices: one of them, or refused; never clipped, limited, or mixed."""

from dataclasses import replace

import numpy as np
import pytest

from user_core.config import from_mapping
from user_core.reasons import NO_CHOICE, STEP
from user_core.specs import ActionGroup, ActionKind, ArraySpec, RobotSpec
from user_hal.safety import SafetyConfig
from user_hal.safety.gate import SafetyGate

POSE = {"tcp_pose": ArraySpec((7,))}
ARM = ArraySpec(
    (5,), low=(-0.1, -0.1, -0.1, 0.0, -0.5), high=(0.1, 0.1, 0.1, 2.0, 0.5),
    names=("dx", "dy", "dz", "gripper", "rz"), categorical=(3,),
)  # fmt: skip
ROBOT = RobotSpec("r", POSE, ARM, ActionKind.EE_DELTA, grippers=(3,), hold_choices=(1,))
LIMITS = {"step": {"each": [0.05, 0.05, 0.05, 0.001, 0.2]}, "bounds": {"refuse_beyond": 5.0}}


def gate_of(spec, limits=None):
    gate = SafetyGate(from_mapping(SafetyConfig, limits or {}), spec)
    gate.observe({"tcp_pose": np.array([0, 0, 0, 0, 0, 0, 1], np.float32)})
    return gate


@pytest.mark.parametrize("choice", [0.0, 1.0, 2.0])
def test_a_choice_passes_as_it_is_while_the_arm_is_limited(choice):
    gate = gate_of(ROBOT, LIMITS)
    verdict = gate.judge(np.array([0.09, 0, -0.01, choice, 0.4], np.float32), 0)
    assert verdict.reasons == (STEP,)
    np.testing.assert_allclose(verdict.action, [0.05, 0, -0.01, choice, 0.2], atol=1e-6)
    assert verdict.action.dtype == np.float32
    gate.executed(verdict.action)
    same = gate.judge(np.array([0.01, 0, 0, 2 - choice, 0], np.float32), 1)
    assert same.reasons == () and same.action[3] == 2 - choice


@pytest.mark.parametrize("wrong", [0.5, -1.0, 3.0, 1.0001])
def test_what_is_no_choice_is_refused_however_near_it_is(wrong):
    gate = gate_of(ROBOT, LIMITS)
    verdict = gate.judge(np.array([0, 0, 0, wrong, 0], np.float32), 0)
    assert verdict.action is None and verdict.reasons == (NO_CHOICE,)
    assert "gripper" in verdict.detail and "one of 0 to 2" in verdict.detail
    assert gate.counters.reasons == {NO_CHOICE: 1}


def test_an_action_that_is_nothing_but_choices():
    action = ArraySpec((2,), "int64", 0, (1, 4), categorical=(0, 1))
    spec = RobotSpec("r", POSE, action, ActionKind.DISCRETE, lockstep=True)
    gate = gate_of(spec, {"step": {"each": [0.1]}})
    sent = np.array([1, 4])
    assert gate.judge(sent, 0).action is sent
    gate.executed(sent)
    gate.hold()
    assert gate.judge(np.array([2, 0]), 0).reasons == (NO_CHOICE,)
    assert gate.judge(np.array([0.0, 0.0]), 0).action is None  # of another type


def test_between_two_actions_a_choice_is_one_of_both():
    gate = gate_of(ROBOT)
    old, new = np.array([0, 0, 0, 0, 0], np.float32), np.array([0.1, 0, 0, 2, 0.2], np.float32)
    np.testing.assert_allclose(gate.between(old, new, 0.25), [0.025, 0, 0, 0, 0.05], atol=1e-6)
    np.testing.assert_allclose(gate.between(old, new, 0.75), [0.075, 0, 0, 2, 0.15], atol=1e-6)


def test_a_group_of_choices_beside_an_arm():
    groups = (
        ActionGroup("arm", ActionKind.EE_DELTA, 3),
        ActionGroup("hand", ActionKind.DISCRETE, 2),
    )
    action = replace(
        ARM, low=(-0.1, -0.1, -0.1, 0.0, 0.0), high=(0.1, 0.1, 0.1, 2.0, 1.0), categorical=(3, 4)
    )
    spec = RobotSpec("r", POSE, action, ActionKind.MIXED, action_groups=groups)
    gate = gate_of(spec, {"groups": {"arm": {"step": {"each": [0.05]}}}})
    verdict = gate.judge(np.array([0.09, 0, 0, 2, 1], np.float32), 0)
    np.testing.assert_allclose(verdict.action, [0.05, 0, 0, 2, 1], atol=1e-6)
    assert gate.judge(np.array([0, 0, 0, 2, 2], np.float32), 1).reasons == (NO_CHOICE,)


def test_targets_of_a_pose_keep_their_own_limits():
    low, high = (-1.0,) * 7 + (0.0,), (1.0,) * 7 + (2.0,)
    spec = RobotSpec(
        "r", POSE, ArraySpec((8,), low=low, high=high, categorical=(7,)), ActionKind.EE_POSE,
        grippers=(7,),
    )  # fmt: skip
    gate = gate_of(spec, {"step": {"each": [0.05, 0.05, 0.05, 0.1, 0.1, 0.1, 0.001]}})
    verdict = gate.judge(np.array([0.2, 0, 0, 0, 0, 0, 1, 2], np.float32), 0)
    np.testing.assert_allclose(verdict.action, [0.05, 0, 0, 0, 0, 0, 1, 2], atol=1e-6)
