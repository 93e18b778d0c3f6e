"""Whatever comes in, what comes out of the gate is finite and within every limit."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from user_core.specs import ActionKind, Array
from user_hal.safety.rotation import conjugate, multiply, to_vector
from user_testing.worlds.robots.safety import PERIOD_NS, PERIOD_S, make_gate, reading

ROUNDING = 2e-6
LIMITS = {
    "step": {"each": [0.04], "linear": 0.05, "angular": 0.05},
    "velocity": {"linear": 0.3, "angular": 0.4},
    "acceleration": {"linear": 4.0, "angular": 6.0},
    "workspace": {"low": [0.2, -0.3, 0.05], "high": [0.7, 0.3, 0.6]},
    "target_lead_s": 2.0,
}
JOINT_LIMITS = {
    "step": {"each": [0.04]},
    "velocity": {"each": [0.3]},
    "acceleration": {"each": [4.0]},
    "joint_limits": {"low": [-1.0] * 7, "high": [1.0] * 7, "margin": 0.1},
}
LOW, HIGH = np.array(LIMITS["workspace"]["low"]), np.array(LIMITS["workspace"]["high"])

anything = st.floats(allow_nan=True, allow_infinity=True, width=32)
sensible = st.floats(-1.0, 1.0, width=32)


@st.composite
def courses(draw: st.DrawFn, size: int, reach: float = 1.0) -> list[tuple[int, Array]]:
    """Commands and the time before each: pushes in one direction for a while, at any rhythm,
    with something that must be refused in between."""
    course: list[tuple[int, Array]] = []
    for _ in range(draw(st.integers(1, 5))):
        gap_ns = draw(st.sampled_from([PERIOD_NS, PERIOD_NS, 1_000_000, 0, 3 * PERIOD_NS]))
        push = draw(st.lists(sensible, min_size=size, max_size=size))
        row = (np.asarray(push, np.float32) * np.float32(reach)).astype(np.float32)
        course += [(gap_ns, row)] * draw(st.integers(1, 30))
        if draw(st.booleans()):
            course.append((gap_ns, poisoned(row, draw(anything))))
    return course


@given(course=courses(7, reach=0.05), lag=st.floats(0.0, 0.9))
@settings(deadline=None, max_examples=40)
def test_tool_changes_stay_in_every_limit(course, lag) -> None:
    """A robot that follows its targets with any lag never leaves the box."""
    gate = make_gate(ActionKind.EE_DELTA, **LIMITS)
    tool, target, now, ways = np.array([0.4, 0.0, 0.3]), np.array([0.4, 0.0, 0.3]), 0, [0.0]
    times_s = [0.0]
    for gap, row in course:
        now += gap
        verdict = gate.judge(row, now)
        if verdict.action is None:
            assert verdict.reasons and verdict.detail
            continue
        out = verdict.action.astype(np.float64)
        assert verdict.action.dtype == np.float32 and np.isfinite(out).all()
        assert (verdict.action >= gate.spec.action.low_array).all()
        assert (verdict.action <= gate.spec.action.high_array).all()
        assert np.abs(out[:6]).max() <= 0.04 + ROUNDING
        assert np.linalg.norm(out[:3]) <= 0.05 + ROUNDING
        assert np.linalg.norm(out[3:6]) <= 0.05 + ROUNDING
        target += out[:3]
        tool += (target - tool) * (1 - lag)
        assert (target >= LOW - ROUNDING).all() and (target <= HIGH + ROUNDING).all()
        gate.observe(reading(tcp=tuple(tool)))
        times_s.append(now * 1e-9)
        ways.append(ways[-1] + float(np.linalg.norm(out[:3])))
        # Speed over any stretch of time, one burst included.
        way, time_s = ways[-1] - np.array(ways[:-1]), times_s[-1] - np.array(times_s[1:])
        assert (way <= 0.3 * (time_s + 1.5 * PERIOD_S) + ROUNDING).all()


@given(course=courses(6))
@settings(deadline=None, max_examples=40)
def test_tool_twist_stays_in_the_box_until_the_watchdog_stops_it(course) -> None:
    gate = make_gate(ActionKind.EE_TWIST, watchdog_s=0.5, **LIMITS)
    tool, now = np.array([0.4, 0.0, 0.3]), 0
    for gap, row in course:
        now += gap
        verdict = gate.judge(row, now)
        if verdict.action is None:
            gate.hold()
            continue
        velocity = verdict.action[:3].astype(np.float64)
        assert np.linalg.norm(velocity) <= 0.3 + ROUNDING
        after_watchdog = tool + velocity * 0.5
        assert (after_watchdog >= LOW - ROUNDING).all()
        assert (after_watchdog <= HIGH + ROUNDING).all()
        tool = tool + velocity * min(gap * 1e-9, 0.5)
        gate.observe(reading(tcp=tuple(tool)))


@given(course=courses(8))
@settings(deadline=None, max_examples=40)
def test_poses_stay_in_every_limit(course) -> None:
    gate = make_gate(ActionKind.EE_POSE, **LIMITS)
    target, turn, now = np.array([0.4, 0.0, 0.3]), (0.0, 0.0, 0.0, 1.0), 0
    for gap, row in course:
        now += gap
        verdict = gate.judge(row, now)
        if verdict.action is None:
            continue
        out = verdict.action.astype(np.float64)
        assert np.isfinite(out).all()
        assert np.linalg.norm(out[:3] - target) <= 0.05 + ROUNDING
        assert (out[:3] >= LOW - ROUNDING).all() and (out[:3] <= HIGH + ROUNDING).all()
        unit = tuple(out[3:7] / np.linalg.norm(out[3:7]))
        assert abs(np.linalg.norm(out[3:7]) - 1.0) < 2e-3
        assert math.hypot(*to_vector(multiply(unit, conjugate(turn)))) <= 0.05 + 1e-5
        target, turn = out[:3], unit


@pytest.mark.parametrize("kind", [ActionKind.JOINT_POSITION, ActionKind.JOINT_DELTA])
@given(course=courses(8, reach=0.3), start=st.floats(-1.2, 1.2))
@settings(deadline=None, max_examples=40)
def test_joints_stay_in_every_limit(kind, course, start) -> None:
    """Also a robot that starts outside its range moves in steps, and only towards it."""
    gate = make_gate(kind, **JOINT_LIMITS)
    joints = np.full(7, np.float32(start)).astype(np.float64)
    gate.observe(reading(joints=tuple(joints)))
    now = 0
    for gap, row in course:
        now += gap
        verdict = gate.judge(row, now)
        if verdict.action is None:
            continue
        out = verdict.action[:7].astype(np.float64)
        assert np.isfinite(verdict.action).all()
        step = out - joints if kind is ActionKind.JOINT_POSITION else out
        assert np.abs(step).max() <= 0.04 + ROUNDING
        before = outside(joints)
        joints = joints + step
        assert (outside(joints) <= np.maximum(before, 0) + ROUNDING).all()
        gate.observe(reading(joints=tuple(joints)))


@given(course=courses(7))
@settings(deadline=None, max_examples=40)
def test_joint_velocities_stay_in_every_limit(course) -> None:
    gate = make_gate(ActionKind.JOINT_VELOCITY, watchdog_s=0.4, **JOINT_LIMITS)
    joints, now = np.zeros(7), 0
    for gap, row in course:
        now += gap
        verdict = gate.judge(row, now)
        if verdict.action is None:
            gate.hold()
            continue
        velocity = verdict.action.astype(np.float64)
        assert np.abs(velocity).max() <= 0.3 + ROUNDING
        assert (np.abs(joints + velocity * 0.4) <= 0.9 + ROUNDING).all()
        joints = joints + velocity * min(gap * 1e-9, 0.4)
        gate.observe(reading(joints=tuple(joints)))


@given(course=courses(3))
@settings(deadline=None, max_examples=40)
def test_any_other_action_changes_in_steps(course) -> None:
    gate = make_gate(ActionKind.GENERIC, step={"each": [0.25, 0.5, math.inf]})
    before, now = None, 0
    for gap, row in course:
        now += gap
        verdict = gate.judge(row, now)
        if verdict.action is None:
            continue
        out = verdict.action.astype(np.float64)
        assert (np.abs(out) <= 1.0).all()
        if before is not None:
            assert (np.abs(out - before)[:2] <= np.array([0.25, 0.5]) + ROUNDING).all()
        before = out


@given(
    data=st.one_of(
        st.lists(anything, max_size=12).map(lambda v: np.asarray(v, np.float32)),
        st.lists(anything, min_size=7, max_size=7).map(lambda v: np.asarray(v, np.float64)),
        st.lists(st.integers(-9, 9), min_size=7, max_size=7).map(lambda v: np.asarray(v, np.int32)),
        st.lists(anything, min_size=7, max_size=7).map(lambda v: np.asarray([v], np.float32)),
        st.lists(st.text(), min_size=7, max_size=7).map(np.asarray),
        st.sampled_from([None, "go", 3, b"", [0.0] * 7, np.float32(0), np.array(None)]),
    )
)
@settings(deadline=None, max_examples=150)
def test_nothing_that_is_no_command_passes(data) -> None:
    gate = make_gate(ActionKind.EE_DELTA, **LIMITS)
    verdict = gate.judge(data, 0)
    proper = (
        isinstance(data, np.ndarray)
        and data.shape == (7,)
        and data.dtype == np.float32
        and bool(np.isfinite(data).all())
    )
    if not proper:
        assert verdict.action is None
        assert gate.counters.refused == 1 and gate.counters.reasons[verdict.reasons[0]] == 1


def outside(joints: Array) -> Array:
    """How far each joint is outside its range without the margin, negative inside."""
    return np.abs(joints) - 0.9


def poisoned(row: Array, by: float) -> Array:
    """The command with one element replaced by anything."""
    row = row.copy()
    row[0] = by
    return row
