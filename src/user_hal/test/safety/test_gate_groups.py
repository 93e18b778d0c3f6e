"""The gate of robots whose actions have groups: each group has limits of its own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from user_core.config import from_mapping
from user_core.errors import ConfigError
from user_core.specs import ActionGroup, ActionKind, Array, ArraySpec, RobotSpec, common_kind
from user_hal.safety import SafetyConfig, SafetyGate
from user_hal.safety.stops import BoundaryStop, ForceStop
from user_testing.worlds.robots.safety import PERIOD_NS, PERIOD_S

ROUNDING = 2e-6


def robot(*groups: tuple[str, ActionKind, int]) -> RobotSpec:
    """A robot whose action elements are all within -1 to 1, and which shows everything of them."""
    made = tuple(ActionGroup(*group) for group in groups)
    size = sum(group.size for group in made)
    observation: dict[str, ArraySpec] = {}
    for group in made:
        if group.kind.value.startswith("joint"):
            observation[f"{group.name}.joint_position"] = ArraySpec((group.size,), low=-2, high=2)
        else:
            observation[f"{group.name}.tcp_pose"] = ArraySpec((7,))
            observation[f"{group.name}.wrench"] = ArraySpec((6,))
    action = ArraySpec((size,), low=-1.0, high=1.0)
    return RobotSpec("toy", observation, action, common_kind(made), PERIOD_S, action_groups=made)


def gate(spec: RobotSpec, **config: Any) -> SafetyGate:
    made = SafetyGate(from_mapping(SafetyConfig, config), spec)
    made.observe(reading(spec))
    return made


def reading(spec: RobotSpec, **arrays: Any) -> dict[str, Array]:
    """Joints at zero, tools at 0.4 0 0.3."""
    shown = {name: np.zeros(of.shape, np.float32) for name, of in spec.observation.items()}
    for name in shown:
        if name.endswith("tcp_pose"):
            shown[name][:] = (0.4, 0, 0.3, 0, 0, 0, 1)
    return {**shown, **{k.replace("__", "."): np.asarray(v, np.float32) for k, v in arrays.items()}}


def row(*values: float) -> Array:
    return np.asarray(values, np.float32)


TWO_ARMS = (("left", ActionKind.JOINT_DELTA, 2), ("right", ActionKind.JOINT_DELTA, 2))
MOBILE = (("arm", ActionKind.EE_DELTA, 3), ("base", ActionKind.BASE_TWIST, 3))


def test_limits_of_all_groups_and_of_one() -> None:
    made = gate(
        robot(*TWO_ARMS), step={"each": [0.5]}, groups={"right": {"step": {"each": [0.1, 0.2]}}}
    )
    verdict = made.judge(row(0.9, 0.3, 0.9, 0.9), 0)
    np.testing.assert_allclose(verdict.action, [0.5, 0.3, 0.1, 0.2], atol=ROUNDING)
    assert verdict.reasons == ("step",)


def test_a_flat_list_has_the_elements_of_all_groups_in_turn() -> None:
    made = gate(robot(*TWO_ARMS), step={"each": [0.1, 0.2, 0.3, 0.4]})
    verdict = made.judge(row(1, 1, 1, 1), 0)
    np.testing.assert_allclose(verdict.action, [0.1, 0.2, 0.3, 0.4], atol=ROUNDING)


def test_bounds_of_one_group() -> None:
    made = gate(robot(*TWO_ARMS), groups={"left": {"bounds": {"low": [-0.5], "high": [0.5]}}})
    verdict = made.judge(row(0.55, 0, 0.55, 0), 0)
    np.testing.assert_allclose(verdict.action, [0.5, 0, 0.55, 0], atol=ROUNDING)


def test_what_one_group_refuses_is_sent_to_none_and_leaves_no_trace() -> None:
    made = gate(robot(*TWO_ARMS), velocity={"each": [1.0]}, bounds={"low": [-0.5], "high": [0.5]})
    for _ in range(5):
        verdict = made.judge(row(0.1, 0.1, 0.9, 0), 0)
        assert verdict.action is None and verdict.reasons == ("out_of_bounds",)
        assert verdict.detail.startswith("right: ")
    # the left arm has spent nothing of its allowance of one and a half periods
    for left in (0.1, 0.05):  # one command moves no further than a period allows
        np.testing.assert_allclose(made.judge(row(0.3, 0, 0, 0), 0).action[0], left, atol=ROUNDING)


def test_each_tool_has_a_box_of_its_own() -> None:
    box = {"low": [0.2, -0.1, 0.0], "high": [0.5, 0.1, 0.6]}
    spec = robot(("left", ActionKind.EE_DELTA, 3), ("right", ActionKind.EE_DELTA, 3))
    made = gate(spec, groups={"right": {"workspace": box}})
    verdict = made.judge(row(0.3, 0, 0, 0.3, 0, 0), 0)
    np.testing.assert_allclose(verdict.action, [0.3, 0, 0, 0.1, 0, 0], atol=1e-5)


def test_a_base_has_velocity_and_acceleration_limits_and_starts_from_rest() -> None:
    made = gate(
        robot(*MOBILE),
        groups={
            "base": {
                "velocity": {"linear": 0.5, "angular": 0.8},
                "acceleration": {"linear": 1.0, "angular": 2.0},
            }
        },
    )
    speeds = []
    for i in range(8):
        speeds.append(made.judge(row(0.2, 0, 0, 0.6, 0.8, 1.0), i * PERIOD_NS).action[3:])
        np.testing.assert_allclose(np.hypot(*speeds[-1][:2]), min(0.1 * (i + 1), 0.5), atol=1e-5)
        np.testing.assert_allclose(speeds[-1][2], min(0.2 * (i + 1), 0.8), atol=1e-5)
    made.hold()
    np.testing.assert_allclose(
        made.judge(row(0, 0, 0, 0.6, 0.8, 1.0), 8 * PERIOD_NS).action[3:],
        [0.06, 0.08, 0.2],
        atol=1e-5,
    )


def test_a_base_that_cannot_go_sideways() -> None:
    made = gate(
        robot(("base", ActionKind.BASE_TWIST, 2)), velocity={"linear": 0.5, "angular": 0.25}
    )
    np.testing.assert_allclose(made.judge(row(-0.9, 0.9), 0).action, [-0.5, 0.25], atol=ROUNDING)


def test_limits_on_the_tool_do_not_ask_joints_for_one() -> None:
    spec = robot(("lift", ActionKind.JOINT_VELOCITY, 1), ("arm", ActionKind.EE_TWIST, 6))
    made = gate(spec, velocity={"linear": 0.5})
    verdict = made.judge(row(0.9, 0.9, 0, 0, 0, 0, 0), 0)
    np.testing.assert_allclose(verdict.action, [0.9, 0.5, 0, 0, 0, 0, 0], atol=ROUNDING)


def test_a_group_that_does_not_move_its_tool_is_watched_at_the_box() -> None:
    box = {"low": [0.2, -0.1, 0.0], "high": [0.5, 0.1, 0.6]}
    spec = robot(*TWO_ARMS)
    spec = RobotSpec.from_dict(
        {
            **spec.to_dict(),
            "observation": {**spec.to_dict()["observation"], "right.tcp_pose": {"shape": [7]}},
        }
    )
    config = from_mapping(SafetyConfig, {"workspace": box})
    (stop,) = BoundaryStop.all_for(config, spec)
    stop.observe(reading(spec))
    assert not stop.check(0)
    stop.observe(reading(spec, right__tcp_pose=(0.4, 0.3, 0.3, 0, 0, 0, 1)))
    assert stop.check(0).code == "workspace" and "right: tool y" in stop.check(0).text


def test_a_force_at_one_tool_stops_the_robot() -> None:
    spec = robot(("left", ActionKind.EE_DELTA, 3), ("right", ActionKind.EE_DELTA, 3))
    config = from_mapping(SafetyConfig, {"groups": {"right": {"force": {"stop_n": 10.0}}}})
    (stop,) = ForceStop.all_for(config, spec)
    stop.observe(reading(spec, left__wrench=[50.0, 0, 0, 0, 0, 0]))
    assert not stop.check(0)
    stop.observe(reading(spec, right__wrench=[50.0, 0, 0, 0, 0, 0]))
    assert stop.check(0).code == "force"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"groups": {"middle": {"step": {"each": [0.1]}}}}, "'left', 'right'"),
        ({"step": {"each": [0.1, 0.2]}}, "2, 2 for the groups in turn"),
        ({"velocity": {"linear": 0.1}}, "tool or base"),
        ({"workspace": {"low": [0, 0, 0], "high": [1, 1, 1]}}, "tcp_pose"),
        ({"groups": {"left": {"velocity": {"linear": 0.1}}}}, "velocity.linear"),
    ],
)
def test_a_configuration_that_fits_no_group_is_refused(config, message) -> None:
    with pytest.raises(ConfigError, match=message):
        gate(robot(*TWO_ARMS), **config)


def test_a_robot_without_groups_takes_no_limits_of_groups() -> None:
    spec = RobotSpec(
        "r", {"joint_position": ArraySpec((2,))}, ArraySpec((2,)), ActionKind.JOINT_DELTA
    )
    with pytest.raises(ConfigError, match="no groups"):
        gate(spec, groups={"left": {"step": {"each": [0.1]}}})


@pytest.mark.parametrize("size", [0, 4])
def test_a_base_of_another_size_is_refused(size) -> None:
    spec = RobotSpec("r", {"x": ArraySpec((2,))}, ArraySpec((size,)), ActionKind.BASE_TWIST)
    with pytest.raises(ConfigError, match="vx, vy, wz"):
        gate(spec)


JOINT_KINDS = (ActionKind.JOINT_POSITION, ActionKind.JOINT_DELTA, ActionKind.JOINT_VELOCITY)
OTHER_KINDS = (
    ActionKind.EE_DELTA,
    ActionKind.EE_TWIST,
    ActionKind.EE_POSE,
    ActionKind.BASE_TWIST,
    ActionKind.GENERIC,
)
pushes = st.lists(st.floats(-1.0, 1.0, width=32), min_size=6, max_size=6)


@given(
    joints=st.sampled_from(JOINT_KINDS),
    other=st.sampled_from(OTHER_KINDS),
    first=st.booleans(),
    course=st.lists(
        st.tuples(
            st.sampled_from([PERIOD_NS, PERIOD_NS, 1_000_000, 3 * PERIOD_NS]), pushes, st.booleans()
        ),
        min_size=1,
        max_size=25,
    ),
)
@settings(deadline=None, max_examples=60)
def test_two_groups_of_different_kinds_each_stay_in_their_limits(
    joints, other, first, course
) -> None:
    """And each is judged as if it were alone."""
    groups = [("arm", joints, 3), ("other", other, 3)]
    limits = {
        "arm": {
            "step": {"each": [0.05]}, "velocity": {"each": [0.6]}, "acceleration": {"each": [5.0]},
            "joint_limits": {"low": [-1.0] * 3, "high": [1.0] * 3},
        },
        "other": {"step": {"each": [0.03]}, "velocity": {"each": [0.4]}, "acceleration": {"each": [3.0]}},
    }  # fmt: skip
    spec = robot(*(groups if first else groups[::-1]))
    both = gate(spec, groups=limits)
    alone = {
        name: gate(robot((name, kind, size)), groups={name: limits[name]})
        for name, kind, size in groups
    }
    here = np.array([0.4, 0.0, 0.3]) if other is ActionKind.EE_POSE else np.zeros(3)
    at, now, before = np.zeros(3), 0, {"arm": np.zeros(3), "other": here}
    for gap_ns, push, stop in course:
        now += gap_ns
        values = dict(zip(("arm", "other") if first else ("other", "arm"), (push[:3], push[3:])))
        verdict = both.judge(row(*push), now)
        single = {name: alone[name].judge(row(*values[name]), now) for name in alone}
        if any(one.action is None for one in single.values()):
            assert verdict.action is None
            return
        for group in both.groups:
            out = verdict.action[group.part].astype(float)
            np.testing.assert_array_equal(out, single[group.name].action)
            assert (np.abs(out) <= 1.0).all() and np.isfinite(out).all()
            kind = group.spec.action_kind
            rate = kind in (ActionKind.JOINT_VELOCITY, ActionKind.EE_TWIST, ActionKind.BASE_TWIST)
            absolute = kind in (
                ActionKind.JOINT_POSITION,
                ActionKind.EE_POSE,
                ActionKind.GENERIC,
            )
            step = out * PERIOD_S if rate else out - before[group.name] if absolute else out
            if kind is not ActionKind.GENERIC or before[group.name].any():
                longest = limits[group.name]["step"]["each"][0]
                assert (np.abs(step) <= longest + ROUNDING).all()
            before[group.name] = out
            if group.name == "arm":
                at = at + step
                assert (np.abs(at) <= 1.0 + ROUNDING).all()
        both.observe(reading(spec, arm__joint_position=at))
        for name, kind, size in groups:
            own = robot((name, kind, size))
            seen = reading(own, arm__joint_position=at) if name == "arm" else reading(own)
            alone[name].observe(seen)
        if stop:
            both.hold()
            for one in alone.values():
                one.hold()
            before["arm"] = at.astype(np.float32).astype(float)
            before["other"] = here
