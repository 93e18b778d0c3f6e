"""The experts solve their tasks, in every way of commanding an arm, within the bounds."""

from __future__ import annotations

import json

import numpy as np
import pytest

from user_core.errors import SpecError
from user_core.specs import ActionKind, ArraySpec, RobotSpec
from user_hal.robots.mujoco import MujocoConfig, MujocoRobot
from user_hal.sim.arms import ARMS
from user_hal.sim.experts import ScriptedExpert, yaw_error_rad
from user_hal.sim.tasks import TASKS

SEEDS = range(4)


def run(robot: MujocoRobot, expert: ScriptedExpert, seed: int) -> bool:
    """One episode; True where it was solved."""
    observation, action_spec = robot.reset(seed=seed), robot.spec.action
    expert.reset()
    while not (observation.task.terminated or observation.task.truncated):
        action = expert.act(observation.arrays)
        action_spec.check(action)
        assert (action >= action_spec.low_array).all() and (action <= action_spec.high_array).all()
        robot.command(action)
        observation = robot.read()
    return bool(observation.task.success)


@pytest.mark.parametrize("task", list(TASKS))
@pytest.mark.parametrize("arm", list(ARMS))
@pytest.mark.parametrize("control", ["ee_delta", "joint_delta", "joint_position"])
def test_expert_solves_every_scene(arm: str, task: str, control: str) -> None:
    robot = MujocoRobot(MujocoConfig(robot=arm, task=task, control=control))
    robot.connect()
    spec = RobotSpec.from_dict(json.loads(json.dumps(robot.spec.to_dict())))  # another process
    expert = ScriptedExpert(spec)
    failed = [seed for seed in SEEDS if not run(robot, expert, seed)]
    robot.close()
    assert not failed


@pytest.mark.parametrize("task", list(TASKS))
def test_expert_copes_with_its_own_noise(task: str) -> None:
    robot = MujocoRobot(MujocoConfig(task=task))
    robot.connect()
    solved = sum(run(robot, ScriptedExpert(robot.spec, noise=0.1), seed) for seed in SEEDS)
    robot.close()
    assert solved >= len(SEEDS) - 1


def test_a_noisy_hand_does_not_press_beyond_the_limit_of_force() -> None:
    """With 60 N as limit, as in `panda_sim`, more insertions were stopped than done."""
    robot = MujocoRobot(MujocoConfig())
    robot.connect()
    pressed = []
    for seed in range(8):
        expert, observation, peak_n = ScriptedExpert(robot.spec, 0.3, seed), robot.reset(seed), 0.0
        while not (observation.task.terminated or observation.task.truncated):
            robot.command(expert.act(observation.arrays))
            observation = robot.read()
            peak_n = max(peak_n, float(np.linalg.norm(observation.arrays["wrench"][:3])))
        pressed.append(peak_n)
    robot.close()
    assert sum(peak_n >= 60.0 for peak_n in pressed) <= 1


def test_noise_is_reproducible() -> None:
    robot = MujocoRobot(MujocoConfig())
    robot.connect()
    arrays = robot.reset(seed=0).arrays
    one, two, other = (ScriptedExpert(robot.spec, 0.2, seed).act(arrays) for seed in (1, 1, 2))
    robot.close()
    assert np.array_equal(one, two) and not np.array_equal(one, other)


def test_insertion_searches_where_the_calibration_is_wrong() -> None:
    robot = MujocoRobot(MujocoConfig(calibration_noise_m=0.0015))
    robot.connect()
    expert = ScriptedExpert(robot.spec)
    solved = sum(run(robot, expert, seed) for seed in range(10))
    robot.close()
    assert solved >= 8


def test_unknown_robots_are_refused_with_a_reason() -> None:
    spec = RobotSpec("other", {"state": ArraySpec((3,))}, ArraySpec((3,), low=-1.0, high=1.0))
    with pytest.raises(SpecError, match="peg_to_hole"):
        ScriptedExpert(spec)
    spec = RobotSpec(
        "panda",
        {"tool_to_goal": ArraySpec((3,))},
        ArraySpec((6,), low=-1.0, high=1.0),
        ActionKind.EE_TWIST,
    )
    with pytest.raises(SpecError, match="ee_twist"):
        ScriptedExpert(spec)


def test_yaw_error_takes_the_nearest_side_of_the_cube() -> None:
    def tool(yaw: float) -> np.ndarray:
        return np.array([0, 0, 0, np.cos(yaw / 2), np.sin(yaw / 2), 0, 0])

    def cube(yaw: float) -> np.ndarray:
        return np.array([0, 0, 0, 0, 0, np.sin(yaw / 2), np.cos(yaw / 2)])

    assert yaw_error_rad(tool(0.0), cube(0.3)) == pytest.approx(0.3)
    assert yaw_error_rad(tool(0.2), cube(-0.1)) == pytest.approx(-0.3)
    assert yaw_error_rad(tool(0.0), cube(1.5)) == pytest.approx(1.5 - np.pi / 2)
