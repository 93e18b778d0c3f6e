"""Limits that are changed while a robot is driven."""

from __future__ import annotations

from typing import Any

import pytest

from user_core.config import from_mapping
from user_core.errors import ConfigError
from user_core.specs import ActionGroup, ActionKind, ArraySpec, RobotSpec
from user_hal.safety import SafetyConfig
from user_hal.safety.stops import SafetyState
from user_hal.safety.tightening import require_tighter
from user_testing.worlds.robots.hal import World

SPEC = RobotSpec(
    "arm",
    {
        "joint_position": ArraySpec((2,), "float64", -3.0, 3.0, "rad", names=("a", "b")),
        "tcp_pose": ArraySpec((7,), "float64", unit="m", frame="base"),
    },
    ArraySpec((2,), "float32", -0.1, 0.1, names=("a", "b")),
    action_kind=ActionKind.JOINT_DELTA,
)


def config(**keys: Any) -> SafetyConfig:
    return from_mapping(SafetyConfig, keys)


BEFORE = {
    "watchdog_s": 0.5,
    "velocity": {"each": [0.6]},
    "joint_limits": {"low": [-1.0, -1.0], "high": [1.0, 1.0]},
    "workspace": {"low": [0, 0, 0], "high": [1, 1, 1]},
    "force": {"stop_n": 20.0},
}


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"watchdog_s": 0.3},
        {"velocity": {"each": [0.6, 0.2]}},
        {"velocity": {"each": [0.1]}},
        {"step": {"each": [0.01]}},
        {"joint_limits": {"low": [-1.0, -0.5], "high": [0.9, 1.0], "margin": 0.1}},
        {"workspace": {"low": [0, 0, 0.1], "high": [1, 0.5, 1]}},
        {"force": {"stop_n": 10.0}},
        {"bounds": {"low": [-0.05], "high": [0.05]}},
    ],
)
def test_tighter_limits_are_taken(change: dict[str, Any]) -> None:
    require_tighter(config(**BEFORE), config(**{**BEFORE, **change}), SPEC)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"watchdog_s": 0.6}, r"watchdog_s from 0.5 to 0.6"),
        ({"velocity": {}}, r"velocity.each from \[0.6\] to no limit"),
        ({"velocity": {"each": [0.5, 0.7]}}, r"velocity.each from \[0.6\] to \[0.5, 0.7\]"),
        ({"joint_limits": {"low": [-1.1, -1.0], "high": [1.0, 1.0]}}, "joint_limits.low"),
        ({"workspace": {}}, "workspace.low.*workspace.high"),
        ({"force": {"stop_n": 21.0}}, "force.stop_n from 20 to 21"),
        ({"action_scale": [2.0]}, "action_scale .*cannot change"),
    ],
)
def test_looser_ones_are_refused_by_name(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        require_tighter(config(**BEFORE), config(**{**BEFORE, **change}), SPEC)


def test_a_groups_own_limit_that_is_above_that_of_all_is_looser() -> None:
    spec = RobotSpec(
        "two",
        {"joint_position": ArraySpec((2,), "float64", -3.0, 3.0, "rad", names=("a", "b"))},
        ArraySpec((2,), "float32", -0.1, 0.1, names=("a", "b")),
        action_kind=ActionKind.JOINT_DELTA,
        action_groups=(
            ActionGroup("left", ActionKind.JOINT_DELTA, 1),
            ActionGroup("right", ActionKind.JOINT_DELTA, 1),
        ),
    )
    before = config(velocity={"each": [0.6]})
    for speed, fits in ((0.5, True), (0.7, False)):
        after = config(velocity={"each": [0.6]}, groups={"right": {"velocity": {"each": [speed]}}})
        if fits:
            require_tighter(before, after, spec)
            continue
        with pytest.raises(ConfigError, match=r"right: velocity.each from \[0.6\] to \[0.7\]"):
            require_tighter(before, after, spec)


def test_a_robot_that_is_driven_is_stopped_for_it_and_goes_on_within_the_new_limits() -> None:
    safety = {"watchdog_s": 0.2, "step": {"linear": 0.02}}
    world = World(safety)
    world.run(60)
    world.drive(200, 0.01)
    assert world.commands[-1] == pytest.approx(0.01) and world.stops == 0
    with pytest.raises(ConfigError, match=r"step.linear from 0.02 to 0.03"):
        world.loop.tighten(config(**{**safety, "step": {"linear": 0.03}}))
    assert world.state is SafetyState.ACTIVE and world.stops == 0
    world.loop.tighten(config(watchdog_s=0.15, step={"linear": 0.004}))
    assert world.stops == 1 and world.cause == "limits_tightened"
    world.drive(200, 0.01)
    assert world.state is SafetyState.ACTIVE
    assert world.commands[-1] == pytest.approx(0.004)
    assert max(world.commands[5:]) <= 0.004 + 1e-9
    world.run(160)  # the watchdog is the new one, too
    assert world.cause == "watchdog" and "0.15" in world.loop.status().cause.text
    with pytest.raises(ConfigError, match="control period"):
        world.loop.tighten(config(watchdog_s=0.01, step={"linear": 0.004}))
