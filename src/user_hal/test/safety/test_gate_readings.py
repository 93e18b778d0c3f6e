"""What the gate makes of readings that cannot be true, and of what is known of the joints."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from user_core.body.mobility import Mobility
from user_core.config import from_mapping
from user_core.specs import ActionKind, Array, ArraySpec, RobotSpec
from user_hal.safety import SafetyConfig, SafetyGate
from user_testing.worlds.robots.safety import PERIOD_NS

ROUNDING = 2e-6
READ_NS = 20_000_000
STEP = 0.05
#: How far a joint, and the tool, may be pushed between two readings, jitter included.
PUSHED_RAD, PUSHED_M = 3.0 * 0.04, 1.5 * 0.04


def joints(kind: ActionKind = ActionKind.JOINT_POSITION, **changes: Any) -> RobotSpec:
    """Two joints within half a turn; actions reach as far."""
    return RobotSpec(
        "toy",
        {"joint_position": ArraySpec((2,), low=-math.pi, high=math.pi, names=("a", "b"))},
        ArraySpec((2,), low=-3.15, high=3.15, names=("a", "b")),
        kind,
        0.1,
        **changes,
    )


class Read:
    """A gate whose robot is read every 20 ms."""

    def __init__(self, spec: RobotSpec, mobility: Mobility | None = None, **config: Any) -> None:
        self.gate = SafetyGate(from_mapping(SafetyConfig, config), spec, mobility)
        self.array = next(iter(spec.observation))
        self.stamp_ns = self.now_ns = 0

    def reads(self, *values: float, times: int = 1) -> None:
        for _ in range(times):
            self.stamp_ns += READ_NS
            self.gate.observe({self.array: np.asarray(values, np.float32)}, self.stamp_ns)

    def told(self, *values: float) -> Any:
        self.now_ns += PERIOD_NS
        return self.gate.judge(np.asarray(values, np.float32), self.now_ns)


def test_a_first_command_does_not_start_from_a_reading_that_jumped() -> None:
    arm = Read(joints(), step={"each": [STEP]})
    arm.reads(0.5, 1.4, times=3)
    arm.reads(0.0, 0.0)
    verdict = arm.told(0.0, 0.1)
    assert verdict.action is None and verdict.reasons == ("unsettled",)
    assert "a jumped from 0.500 to 0.000" in verdict.detail
    for _ in range(5):  # the first of them jumps, too
        assert arm.told(0.6, 1.4).action is None
        arm.reads(0.5, 1.4)
    np.testing.assert_allclose(arm.told(0.6, 1.4).action, [0.55, 1.4], atol=ROUNDING)


def test_a_robot_that_was_pushed_somewhere_else_is_believed_once_its_readings_fit() -> None:
    arm = Read(joints(ActionKind.JOINT_DELTA))
    arm.reads(0.5, 1.4, times=3)
    arm.reads(2.0, 1.4)
    assert arm.told(0.01, 0.0).action is None
    arm.reads(2.0, 1.4, times=4)
    assert arm.told(0.01, 0.0).action is not None


def test_a_robot_that_is_outside_of_its_actions_comes_back_by_one_step_or_not_at_all() -> None:
    arm = Read(joints(), step={"each": [STEP]})
    arm.reads(3.19, 0.0)
    np.testing.assert_allclose(arm.told(3.0, 0.0).action, [3.14, 0.0], atol=ROUNDING)
    arm = Read(joints(), step={"each": [STEP]})
    arm.reads(3.5, 0.0)
    verdict = arm.told(3.0, 0.0)
    assert verdict.reasons == ("out_of_bounds",) and "a is at 3.5" in verdict.detail


def test_two_writers_that_disagree_are_never_believed() -> None:
    arm = Read(joints())
    for _ in range(20):
        arm.reads(0.5, 1.4)
        arm.reads(0.0, 0.0)
        if arm.stamp_ns > 2 * READ_NS:
            assert arm.told(0.5, 1.4).action is None


def test_a_stop_and_a_command_without_a_reading_in_between_start_nowhere() -> None:
    arm = Read(joints(), step={"each": [STEP]})
    arm.reads(0.5, 1.4)
    for target in (0.55, 0.6, 0.65, 0.7):
        assert arm.told(target, 1.4).action is not None
    arm.gate.hold()
    assert arm.told(0.7, 1.4).reasons == ("unsettled",)
    arm.reads(0.6, 1.4)
    np.testing.assert_allclose(arm.told(0.7, 1.4).action, [0.65, 1.4], atol=ROUNDING)


def test_a_robot_that_was_reset_is_where_it_says() -> None:
    arm = Read(joints(), step={"each": [STEP]})
    arm.reads(0.5, 1.4)
    arm.reads(-1.0, 0.0)
    arm.gate.hold()
    arm.gate.trust()
    assert arm.told(-1.0, 0.0).action is not None


def test_a_jump_does_not_disturb_targets_that_are_on_their_way() -> None:
    arm = Read(joints(), step={"each": [STEP]})
    arm.reads(0.5, 1.4)
    arm.told(0.55, 1.4)
    arm.reads(-3.0, -3.0)
    np.testing.assert_allclose(arm.told(0.7, 1.4).action, [0.6, 1.4], atol=ROUNDING)


def test_velocities_start_from_nothing_measured_and_pass() -> None:
    arm = Read(joints(ActionKind.JOINT_VELOCITY))
    arm.reads(0.5, 1.4)
    arm.reads(0.0, 0.0)
    assert arm.told(0.1, 0.1).action is not None


def test_a_robot_in_lockstep_is_believed() -> None:
    arm = Read(joints(lockstep=True))
    arm.reads(0.5, 1.4)
    arm.reads(0.0, 0.0)
    assert arm.told(0.0, 0.0).action is not None


def test_a_known_velocity_limit_makes_smaller_jumps_visible_and_slows_targets() -> None:
    lift = Mobility(fastest={"joint_position": (0.1, math.inf)})
    arm = Read(joints(), lift)
    arm.reads(0.5, 1.4)
    np.testing.assert_allclose(arm.told(1.5, 2.4).action, [0.51, 2.4], atol=ROUNDING)
    arm.gate.hold()
    arm.reads(0.52, 1.4)  # further than twice the limit allows
    assert arm.told(0.52, 1.4).action is None


def test_a_lift_is_not_pushed_as_fast_as_a_joint_is_turned() -> None:
    arm = Read(joints(), Mobility(prismatic=("a",)))
    arm.reads(0.5, 1.4)
    arm.reads(0.5, 1.5)
    assert arm.told(0.5, 1.5).action is not None
    arm.gate.hold()
    arm.reads(0.6, 1.5)  # m, within 20 ms
    assert arm.told(0.6, 1.5).reasons == ("unsettled",)


def test_the_slower_of_known_and_configured_limits_holds() -> None:
    known = Mobility(fastest={"joint_position": (0.1, 1.0)})
    arm = Read(joints(ActionKind.JOINT_VELOCITY), known, velocity={"each": [0.5]})
    arm.reads(0, 0)
    np.testing.assert_allclose(arm.told(2.0, 2.0).action, [0.1, 0.5], atol=ROUNDING)


def pose(x: float, angle: float = 0.0) -> tuple[float, ...]:
    return (x, 0.0, 0.3, 0.0, 0.0, math.sin(angle / 2), math.cos(angle / 2))


@pytest.mark.parametrize(("jump", "code"), [(pose(0.7), "tool x"), (pose(0.4, 1.0), "orientation")])
def test_a_tool_that_jumps_or_spins_is_doubted(jump, code) -> None:
    spec = RobotSpec("toy", {"tcp_pose": ArraySpec((7,))}, ArraySpec((7,), low=-2, high=2),
                     ActionKind.EE_POSE, 0.1)  # fmt: skip
    arm = Read(spec)
    arm.reads(*pose(0.4), times=2)
    arm.reads(*jump)
    verdict = arm.told(*pose(0.4))
    assert verdict.reasons == ("unsettled",) and code in verdict.detail


ENDLESS = Mobility(continuous={"joint_position": (0,)})


def test_an_endless_joint_goes_the_short_way_and_stays_in_its_bounds() -> None:
    arm = Read(joints(), ENDLESS, step={"each": [STEP]})
    arm.reads(3.13, 0.0)
    np.testing.assert_allclose(arm.told(-3.13, 0.0).action, [-3.13, 0.0], atol=ROUNDING)
    np.testing.assert_allclose(arm.told(-3.0, 0.0).action, [-3.08, 0.0], atol=ROUNDING)
    np.testing.assert_allclose(arm.told(3.0, 0.0).action, [-3.13, 0.0], atol=ROUNDING)
    out = arm.told(3.0, 0.0).action[0]
    assert abs(out) <= 3.15 and abs(math.remainder(out - (-3.18), math.tau)) < 1e-5


def test_an_endless_joint_that_is_measured_some_turns_away_is_led_as_if_it_were_not() -> None:
    arm = Read(joints(), ENDLESS, step={"each": [STEP]})
    arm.reads(0.3 + 4 * math.pi, 0.0)
    np.testing.assert_allclose(arm.told(0.5, 0.0).action, [0.35, 0.0], atol=1e-5)


def test_a_reading_that_wraps_is_no_jump_and_pulls_no_target() -> None:
    arm = Read(joints(ActionKind.JOINT_DELTA), ENDLESS, joint_limits={"margin": 0.1})
    arm.reads(3.13, 0.0)
    assert arm.told(0.02, 0.0).action is not None
    arm.reads(-3.13, 0.0)
    verdict = arm.told(0.02, 0.0)
    assert verdict.action is not None and not verdict.changed  # no limit of half a turn
    arm.gate.hold()
    arm.reads(3.13, 0.0)
    assert arm.told(0.02, 0.0).action is not None


@pytest.mark.parametrize("share", [0.25, 0.75])
def test_between_two_plans_an_endless_joint_goes_the_short_way_too(share) -> None:
    gate = Read(joints(), ENDLESS).gate
    old, new = np.array([3.1, 0.0], np.float32), np.array([-3.1, 1.0], np.float32)
    between = gate.between(old, new, share)
    assert between.dtype == np.float32 and abs(between[0]) <= 3.15 and between[1] == share
    way = math.remainder(float(between[0]) - 3.1, math.tau)
    np.testing.assert_allclose(way, share * (math.tau - 6.2), atol=1e-5)


def test_between_two_poses_the_tool_turns_the_short_way() -> None:
    spec = RobotSpec("toy", {"tcp_pose": ArraySpec((7,))}, ArraySpec((8,), low=-2, high=2),
                     ActionKind.EE_POSE, 0.1, grippers=(0,))  # fmt: skip
    gate = Read(spec).gate
    old = np.array([0.0, *pose(0.4, 0.2)], np.float32)
    new = np.array([1.0, *pose(0.5, 0.4)], np.float32)
    new[4:] *= -1  # the same orientation
    between = gate.between(old, new, 0.5)
    np.testing.assert_allclose(between, [0.5, *pose(0.45, 0.3)], atol=1e-6)


def test_a_range_that_is_asked_for_holds_for_an_endless_joint_too() -> None:
    limits = {"low": [-1.0, -1.0], "high": [1.0, 1.0]}
    arm = Read(joints(ActionKind.JOINT_DELTA), ENDLESS, joint_limits=limits)
    arm.reads(0.95, 0.0)
    np.testing.assert_allclose(arm.told(0.2, 0.0).action, [0.05, 0.0], atol=1e-5)


vectors = st.lists(st.floats(-3.1, 3.1), min_size=2, max_size=2)
events = st.one_of(
    st.tuples(st.just("reads"), st.none()),
    st.tuples(st.just("jumps"), vectors),
    st.tuples(st.just("told"), vectors),
    st.tuples(st.just("told"), vectors),
    st.tuples(st.just("stops"), st.none()),
)


@given(course=st.lists(events, min_size=5, max_size=60), start=vectors, endless=st.booleans())
@settings(deadline=None, max_examples=80)
def test_targets_start_where_the_robot_is_whatever_single_readings_say(
    course, start, endless
) -> None:
    """A robot that goes where it is told; now and then one reading of it is anything."""
    arm = Read(joints(), ENDLESS if endless else None, step={"each": [STEP]})
    true, target = np.array(start), None
    arm.reads(*true, times=2)
    jumped = False
    for what, values in course:
        if what == "reads" or (what == "jumps" and jumped):
            arm.reads(*true)
            jumped = False
        elif what == "jumps":
            arm.reads(*values)
            jumped = True
        elif what == "stops":
            arm.gate.hold()
            target = None
        else:
            verdict = arm.told(*values)
            if verdict.action is None:
                arm.gate.hold()
                target = None
                continue
            out = verdict.action.astype(float)
            assert (np.abs(out) <= 3.15 + ROUNDING).all()
            way = moved(out - (true if target is None else target), endless)
            allowed = STEP + (PUSHED_RAD if target is None else 0.0)
            assert (np.abs(way) <= allowed + 1e-5).all()
            target = out
            true = true + np.clip(moved(target - true, endless), -0.04, 0.04)


def moved(way: Array, endless: bool) -> Array:
    """The way that joints go; the first may be endless."""
    if endless:
        way = way.copy()
        way[0] = math.remainder(way[0], math.tau)
    return way
