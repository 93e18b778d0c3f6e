"""The gate, rule by rule."""

from __future__ import annotations

import math

import numpy as np
import pytest

from user_core.config import from_mapping
from user_core.errors import ConfigError
from user_core.specs import ActionKind, ArraySpec, RobotSpec
from user_hal.safety import SafetyConfig, SafetyGate
from user_testing.worlds.robots.safety import PERIOD_NS, command, make_gate, reading, robot

BOX = {"low": [0.2, -0.3, 0.05], "high": [0.7, 0.3, 0.6]}
STILL = (0.0,) * 7


def test_what_is_within_all_limits_passes_as_it_came() -> None:
    gate = make_gate(ActionKind.EE_DELTA, workspace=BOX, step={"linear": 0.05})
    action = command(0.01, 0.0, -0.01, 0.0, 0.1, 0.0, 1.0)
    verdict = gate.judge(action, 0)
    assert verdict.action is action and not verdict.changed
    assert gate.counters.passed == 1


@pytest.mark.parametrize(
    ("action", "code", "detail"),
    [
        (np.zeros(6, np.float32), "shape", "needs (7,)"),
        (np.zeros((1, 7), np.float32), "shape", "needs (7,)"),
        ([0.0] * 7, "shape", "list"),
        (np.zeros(7, np.float64), "dtype", "float64, needs float32"),
        (command(0, math.nan, 0, 0, 0, 0, 0), "not_finite", "dy = nan"),
        (command(0, 0, 0, 0, 0, -math.inf, 0), "not_finite", "rz = -inf"),
        (command(0.5, 0, 0, 0, 0, 0, 0), "out_of_bounds", "dx = 0.5, allowed -0.05 to 0.05"),
    ],
)
def test_what_is_no_command_is_refused_with_its_reason(action, code, detail) -> None:
    gate = make_gate(ActionKind.EE_DELTA)
    verdict = gate.judge(action, 0)
    assert verdict.action is None and verdict.reasons == (code,) and detail in verdict.detail
    assert gate.counters.refused == 1 and gate.counters.reasons == {code: 1}


def test_a_little_out_of_bounds_is_clipped_and_counted() -> None:
    gate = make_gate(ActionKind.EE_DELTA, bounds={"high": [0.03, 0.03, 0.03, 0.2, 0.2, 0.2, 1.0]})
    verdict = gate.judge(command(0.034, 0, 0, 0, 0, 0, 0), 0)
    assert verdict.changed and verdict.reasons == ("bounds",)
    assert verdict.action is not None
    assert float(verdict.action[0]) <= 0.03 < float(np.nextafter(verdict.action[0], np.float32(1)))


def test_the_robots_own_bounds_cannot_be_widened() -> None:
    gate = make_gate(ActionKind.EE_DELTA, bounds={"low": [-9.0], "high": [9.0]})
    assert gate.judge(command(1, 0, 0, 0, 0, 0, 0), 0).reasons == ("out_of_bounds",)


def test_a_step_keeps_its_direction_when_its_length_is_limited() -> None:
    gate = make_gate(ActionKind.EE_DELTA, step={"linear": 0.025, "angular": 0.1})
    verdict = gate.judge(command(0.03, 0.04, 0.0, 0.2, 0.0, 0.0, 0.7), 0)
    assert verdict.reasons == ("step",)
    np.testing.assert_allclose(verdict.action, [0.015, 0.02, 0, 0.1, 0, 0, 0.7], atol=1e-6)


@pytest.mark.parametrize("limit", [{"linear": 0.1}, {"each": [0.1]}])
def test_commands_that_come_too_often_move_no_faster(limit) -> None:
    gate = make_gate(ActionKind.EE_DELTA, velocity=limit)
    fast = command(0.01, 0, 0, 0, 0, 0, 0)
    way = sum(float(gate.judge(fast, i * PERIOD_NS // 10).action[0]) for i in range(101))
    assert way == pytest.approx(0.1 * (1.0 + 0.15), rel=1e-3)  # one second, and one burst


def test_commands_in_rhythm_with_jitter_lose_nothing() -> None:
    gate = make_gate(ActionKind.EE_DELTA, velocity={"linear": 0.1})
    full = command(0.01, 0, 0, 0, 0, 0, 0)
    for i in range(50):
        jitter_ns = 20_000_000 * (-1) ** i
        assert not gate.judge(full, i * PERIOD_NS + jitter_ns).changed


def test_stops_in_between_win_no_speed() -> None:
    gate = make_gate(ActionKind.EE_DELTA, velocity={"linear": 0.1})
    way = 0.0
    for i in range(51):
        way += float(gate.judge(command(0.01, 0, 0, 0, 0, 0, 0), i * PERIOD_NS // 2).action[0])
        gate.hold()
    assert way == pytest.approx(0.1 * (2.5 + 0.15), rel=1e-3)


def test_one_command_moves_no_further_than_the_velocity_does_in_a_period() -> None:
    gate = make_gate(ActionKind.EE_DELTA, velocity={"linear": 0.1})
    for i in range(4):  # what was not used up is for commands that come early, not for leaps
        verdict = gate.judge(command(0.05, 0, 0, 0, 0, 0, 0), 4 * i * PERIOD_NS)
        assert float(verdict.action[0]) == pytest.approx(0.01)


@pytest.mark.parametrize("kind", [ActionKind.EE_DELTA, ActionKind.JOINT_POSITION])
def test_the_next_command_is_judged_against_what_was_carried_out(kind: ActionKind) -> None:
    gate = make_gate(kind, acceleration={"each": [1.0]}, step={"each": [0.05]})
    absolute = kind is ActionKind.JOINT_POSITION

    def ask(time_ns: int) -> float:
        asked = command(1.0 if absolute else 0.05, *[0.0] * (7 if absolute else 6))
        verdict = gate.judge(asked, time_ns)
        assert verdict.action is not None
        return float(verdict.action[0])

    sent = [ask(i * PERIOD_NS) for i in range(6)][-1]  # at full speed
    held = sent - 0.05 if absolute else 0.0  # the driver could not move it any further
    gate.executed(command(held, *[0.0] * (7 if absolute else 6)))
    assert ask(6 * PERIOD_NS) - held == pytest.approx(0.01, abs=1e-6)  # and it starts from rest


def test_velocity_changes_no_faster_than_the_acceleration_allows() -> None:
    gate = make_gate(ActionKind.EE_DELTA, acceleration={"linear": 1.0})  # 0.01 m per period^2
    full, still = command(0.05, 0, 0, 0, 0, 0, 0), command(*STILL)
    steps = [float(gate.judge(full, i * PERIOD_NS).action[0]) for i in range(6)]
    np.testing.assert_allclose(steps, [0.01, 0.02, 0.03, 0.04, 0.05, 0.05], atol=1e-6)
    assert float(gate.judge(still, 6 * PERIOD_NS).action[0]) == pytest.approx(0.04)
    gate.hold()
    assert not gate.judge(still, 7 * PERIOD_NS).changed  # a stopped robot does not go on


def test_a_step_that_would_leave_the_box_ends_at_its_wall() -> None:
    gate = make_gate(ActionKind.EE_DELTA, workspace=BOX)
    gate.observe(reading(tcp=(0.68, 0.0, 0.3)))
    verdict = gate.judge(command(0.05, 0.01, 0, 0, 0, 0, 0), 0)
    assert verdict.reasons == ("workspace",)
    np.testing.assert_allclose(verdict.action[:3], [0.02, 0.01, 0], atol=1e-6)


@pytest.mark.parametrize(("start", "push"), [(0.60, 0.05), (0.30, -0.05)])
def test_a_robot_that_lags_behind_its_target_is_kept_in_the_box_too(start, push) -> None:
    gate = make_gate(ActionKind.EE_DELTA, workspace=BOX, target_lead_s=1.0)
    gate.observe(reading(tcp=(start, 0.0, 0.3)))  # and it does not move
    way = sum(float(gate.judge(command(push, *STILL[1:]), i).action[0]) for i in range(9))
    assert abs(way) == pytest.approx(0.1, abs=1e-6)


def test_a_little_overshoot_only_keeps_it_from_going_further_out() -> None:
    gate = make_gate(ActionKind.EE_DELTA, workspace=BOX)
    gate.observe(reading(tcp=(0.71, 0.0, 0.3)))
    verdict = gate.judge(command(0.03, 0.01, 0, 0, 0, 0, 0), 0)
    assert verdict.reasons == ("workspace",)
    np.testing.assert_allclose(verdict.action[:3], [0, 0.01, 0], atol=1e-7)


def test_outside_the_box_only_the_way_back_is_open() -> None:
    gate = make_gate(ActionKind.EE_DELTA, workspace=BOX)
    gate.observe(reading(tcp=(0.75, 0.0, 0.3)))
    outward = gate.judge(command(0.01, 0, 0, 0, 0, 0, 0), 0)
    assert outward.action is None and outward.reasons == ("workspace",)
    assert "tool x is at 0.7500" in outward.detail
    back = gate.judge(command(-0.04, 0.01, 0, 0, 0, 0, 0), PERIOD_NS)
    assert back.action is not None and not back.changed


def test_a_blocked_robot_runs_up_no_endless_target() -> None:
    gate = make_gate(ActionKind.EE_DELTA, workspace=BOX)
    for i in range(40):  # pushes against a table at z = 0.3 while the box goes down to 0.05
        gate.judge(command(0, 0, -0.05, 0, 0, 0, 0), i * PERIOD_NS)
        gate.observe(reading())
    gate.observe(reading(tcp=(0.4, 0.0, 0.54)))  # comes free, and has the whole way up
    assert not gate.judge(command(0, 0, 0.05, 0, 0, 0, 0), 41 * PERIOD_NS).changed


def test_a_joint_target_beyond_a_limit_ends_at_the_limit() -> None:
    gate = make_gate(ActionKind.JOINT_POSITION, joint_limits={"high": [1.0] * 7, "margin": 0.1})
    gate.observe(reading(joints=(0.8,) * 7))
    verdict = gate.judge(command(*([0.95] * 7), 0.5), 0)
    assert verdict.reasons == ("joint_limits",)
    np.testing.assert_allclose(verdict.action, [0.9] * 7 + [0.5], atol=1e-6)


def test_a_limit_is_kept_although_the_robot_may_only_slow_down_slowly() -> None:
    gate = make_gate(
        ActionKind.JOINT_POSITION,
        bounds={"high": [0.5] * 7 + [1.0]},
        acceleration={"each": [2.0]},  # 0.02 rad per period^2
    )
    targets = []
    for i in range(12):
        targets.append(float(gate.judge(command(*([0.5] * 7), 0.0), i * PERIOD_NS).action[0]))
    assert max(targets) == 0.5 == targets[-1]
    back = gate.judge(command(*([0.0] * 7), 0.0), 13 * PERIOD_NS)  # from standstill
    np.testing.assert_allclose(back.action[:7], 0.48, atol=1e-6)


def test_the_first_target_is_a_step_from_where_the_robot_is() -> None:
    gate = make_gate(ActionKind.JOINT_POSITION, step={"each": [0.1]})
    gate.observe(reading(joints=(1.0,) * 7))
    verdict = gate.judge(command(*([0.0] * 7), 0.0), 0)
    np.testing.assert_allclose(verdict.action[:7], 0.9, atol=1e-6)


def test_targets_are_not_judged_before_the_robot_was_read() -> None:
    gate = SafetyGate(SafetyConfig(), robot(ActionKind.JOINT_POSITION))
    assert gate.judge(np.zeros(8, np.float32), 0).reasons == ("no_observation",)


def test_normalised_actions_are_limited_in_metres() -> None:
    spec = RobotSpec(
        "normalised",
        robot(ActionKind.EE_DELTA).observation,
        ArraySpec((4,), low=-1.0, high=1.0, names=("dx", "dy", "dz", "gripper")),
        ActionKind.EE_DELTA,
    )
    config = {"action_scale": [0.05, 0.05, 0.05, 1.0], "workspace": BOX}
    gate = SafetyGate(from_mapping(SafetyConfig, config), spec)
    gate.observe(reading(tcp=(0.68, 0.0, 0.3)))
    verdict = gate.judge(command(1.0, 0.0, 0.0, -1.0), 0)
    np.testing.assert_allclose(verdict.action, [0.4, 0.0, 0.0, -1.0], atol=1e-6)


def test_a_pose_turns_in_steps_and_its_quaternion_is_mended() -> None:
    gate = make_gate(ActionKind.EE_POSE, step={"angular": 0.1})
    half = math.pi / 4
    turned = gate.judge(command(0.4, 0, 0.3, 0, 0, math.sin(half), math.cos(half), 1), 0)
    np.testing.assert_allclose(
        turned.action, [0.4, 0, 0.3, 0, 0, math.sin(0.05), math.cos(0.05), 1], atol=1e-6
    )
    mended = make_gate(ActionKind.EE_POSE).judge(command(0.4, 0, 0.3, 0, 0, 0, 0.5, 0), 0)
    assert mended.reasons == ("quaternion",)
    np.testing.assert_allclose(mended.action, [0.4, 0, 0.3, 0, 0, 0, 1, 0], atol=1e-6)
    zero = gate.judge(command(0.4, 0, 0.3, 0, 0, 0, 0, 0), PERIOD_NS)
    assert zero.action is None and zero.reasons == ("quaternion",)


def test_a_discrete_action_out_of_range_is_refused_not_clipped() -> None:
    spec = RobotSpec("game", {"x": ArraySpec((2,))}, ArraySpec((1,), "int64", 0, 3))
    gate = SafetyGate(SafetyConfig(), spec)
    assert gate.judge(np.array([3]), 0).action is not None
    assert gate.judge(np.array([4]), 0).reasons == ("out_of_bounds",)


@pytest.mark.parametrize(
    ("kind", "config", "message"),
    [
        (ActionKind.EE_DELTA, {"step": {"each": [0.1, 0.2]}}, "step.each: got 2 limits"),
        (ActionKind.JOINT_DELTA, {"velocity": {"linear": 1.0}}, "velocity.linear"),
        (ActionKind.EE_DELTA, {"bounds": {"low": [0.01]}}, "allow a ee_delta of 0"),
        (ActionKind.EE_DELTA, {"bounds": {"low": [0.1], "high": [-0.1]}}, "low <= high"),
        (ActionKind.JOINT_POSITION, {"action_scale": [2.0]}, "no scale"),
        (ActionKind.EE_DELTA, {"action_scale": [2.0, 1.0]}, "action_scale: got 2 values"),
        (ActionKind.JOINT_DELTA, {"joint_limits": {"low": [0.0]}}, "expected 7"),
        (ActionKind.JOINT_DELTA, {"joint_limits": {"margin": 3.0}}, "low < high for every joint"),
        (ActionKind.EE_DELTA, {"workspace": {"low": [0, 0, 1], "high": [1, 1, 0]}}, "low < high"),
        (ActionKind.EE_DELTA, {"workspace": {"low": [0, 0, 1]}}, "three numbers each"),
        (ActionKind.EE_DELTA, {"force": {"stop_n": 10.0, "resume_n": 11.0}}, "at most stop"),
    ],
)
def test_a_configuration_that_does_not_fit_the_robot_is_refused(kind, config, message) -> None:
    with pytest.raises(ConfigError, match=message.replace("(", r"\(")):
        make_gate(kind, **config)


def test_a_box_needs_a_robot_that_shows_its_tool() -> None:
    spec = RobotSpec("blind", {"x": ArraySpec((2,))}, ArraySpec((3,)), ActionKind.EE_DELTA)
    with pytest.raises(ConfigError, match="tcp_pose"):
        SafetyGate(from_mapping(SafetyConfig, {"workspace": BOX}), spec)
