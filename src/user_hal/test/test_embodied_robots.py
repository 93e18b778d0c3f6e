"""Two arms with other joints, driven in one space behind their own safety gates."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from user_core.config import from_mapping
from user_core.errors import SafetyError
from user_core.types import ActionChunk
from user_hal.local import LocalHal
from user_hal.robot_file import RobotFile, build_robot, spec_of
from user_hal.sim.experts import ScriptedExpert


def file_of(arm: str, number: int, task: str = "reach", **safety: Any) -> RobotFile:
    return from_mapping(
        RobotFile,
        {
            "robot": {"plugin": "mujoco", "params": {"robot": arm, "task": task}},
            "embodiment": {"space": "tool_delta", "id": number},
            "safety": safety,
        },
    )


PERIOD_NS = 100_000_000


def test_the_gate_keeps_to_each_robots_own_joints_and_limits() -> None:
    """Limits of seven and of six joints fit the drivers' spaces, and no other."""
    limits: dict[str, Any] = {"joint_limits": {"margin": 0.05}, "step": {"linear": 0.01}}
    for number, arm in enumerate(("panda", "ur5e")):
        file = file_of(arm, number, **limits)
        with LocalHal.of(file) as hal:
            first = hal.reset(1).result(60)
            assert first.arrays["joint_mask"].sum() == 7 - number
            assert first.arrays["embodiment"].argmax() == number
            hal.send(ActionChunk(np.array([[0.03, 0, 0]], np.float32), PERIOD_NS, 0, 1))
            seen = hal.observations.newest
            assert seen is not None and seen.applied is not None
            assert seen.applied.changed and seen.applied.action == pytest.approx([0.01, 0, 0])
            assert hal.status().reasons == {"step": 1}
            with pytest.raises(SafetyError, match=r"shape.*float32\[1, 7\].*\[T, 3\]"):
                hal.send(ActionChunk(np.zeros((1, 7), np.float32), PERIOD_NS, 0, 2))
            assert hal.status().reasons["shape"] == 1
            hal.send(ActionChunk(np.array([[5.0, 0, 0]], np.float32), PERIOD_NS, 0, 3))
            assert "out_of_bounds" in hal.trouble().text


@pytest.mark.parametrize("task", ["reach", "pick_place"])
def test_the_expert_solves_the_tasks_in_the_common_space(task: str) -> None:
    specs = []
    for number, arm in enumerate(("panda", "ur5e")):
        with LocalHal.of(file_of(arm, number, task)) as hal:
            specs.append(replace(hal.spec, robot=""))
            expert = ScriptedExpert(hal.spec)
            seen = hal.reset(5).result(60)
            for sequence in range(1, 100):
                for name, array in seen.arrays.items():
                    hal.spec.observation[name].check(array, name)
                if seen.task.terminated or seen.task.truncated:
                    break
                hal.send(ActionChunk(expert.act(seen.arrays)[None], PERIOD_NS, 0, sequence))
                assert hal.observations.newest is not None
                seen = hal.observations.newest
            assert seen.task.success
    assert specs[0] == specs[1]


def test_the_spec_of_a_file_is_that_of_who_drives_it() -> None:
    file = file_of("ur5e", 1)
    robot = build_robot(file)
    try:
        assert robot.spec.observation["joint_position"].size == 6
        assert spec_of(file, robot).observation["joints"].size == 8
    finally:
        robot.close()
