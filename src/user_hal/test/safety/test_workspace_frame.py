"""A workspace box bounds what is measured and commanded in its own frame, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest

from user_core.config import from_mapping
from user_core.errors import ConfigError
from user_core.specs import ActionKind, RobotSpec
from user_hal.safety import SafetyConfig, SafetyGate
from user_testing.worlds.robots.safety import robot

BOX = {"low": [0.0, -1.0, 0.0], "high": [1.0, 1.0, 1.0]}


def framed(kind: ActionKind, seen: str, commanded: str) -> RobotSpec:
    spec = robot(kind)
    pose = replace(spec.observation["tcp_pose"], frame=seen)
    return replace(
        spec,
        observation={**spec.observation, "tcp_pose": pose},
        action=replace(spec.action, frame=commanded),
    )


@pytest.mark.parametrize(
    ("box_frame", "seen", "commanded", "right"),
    [
        ("", "base", "base", True),
        ("/base", "base", "base", True),
        ("world", "base", "base", False),
        ("base", "base", "world", False),
        ("", "", "base", True),  # a driver that says no frame
    ],
)
def test_a_box_in_another_frame_is_refused(
    box_frame: str, seen: str, commanded: str, right: bool
) -> None:
    config = from_mapping(SafetyConfig, {"workspace": {**BOX, "frame": box_frame}})
    spec = framed(ActionKind.EE_DELTA, seen, commanded)
    if right:
        SafetyGate(config, spec)
        return
    with pytest.raises(ConfigError, match=rf"got world, expected {seen}, the frame of tcp_pose"):
        SafetyGate(config, spec)


def test_the_box_of_an_arm_that_is_driven_by_its_joints_has_a_frame_as_well() -> None:
    config = from_mapping(SafetyConfig, {"workspace": {**BOX, "frame": "world"}})
    with pytest.raises(ConfigError, match=r"workspace.frame: got world, expected base"):
        SafetyGate(config, framed(ActionKind.JOINT_DELTA, "base", ""))
