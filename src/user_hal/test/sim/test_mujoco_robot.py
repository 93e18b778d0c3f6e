"""The driver: conformance, episodes, lockstep and real time, faults."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from user_core.conformance.devices import check_robot
from user_core.errors import ConfigError, DeviceFault, DeviceNotConnected, DeviceTimeout, SpecError
from user_core.plugins import build
from user_core.types import Observation
from user_hal.robots.mujoco import MujocoConfig, MujocoRobot
from user_hal.sim.experts import ScriptedExpert
from user_testing.waiting import wait_until


@pytest.fixture
def make() -> Iterator[Callable[..., MujocoRobot]]:
    """Make connected robots; they are closed whatever happens."""
    made: list[MujocoRobot] = []

    def connected(**params: object) -> MujocoRobot:
        robot = MujocoRobot(MujocoConfig(**params))  # type: ignore[arg-type]
        made.append(robot)
        robot.connect()
        return robot

    yield connected
    for robot in made:
        robot.close()


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"robot": "ur5e", "task": "pick_place", "control": "joint_delta"},
        {"robot": "ur5e", "task": "reach", "control": "joint_position", "rate_hz": 50.0, "substeps": 4},
        {"real_time": True, "max_age_s": 5.0, "task": "pick_place"},
        {"real_time": True, "max_age_s": 5.0, "robot": "ur5e", "control": "joint_delta"},
    ],
    ids=lambda params: "-".join(str(value) for value in params.values()) or "default",
)  # fmt: skip
def test_driver_keeps_its_promises(params: dict[str, object]) -> None:
    report = check_robot(MujocoRobot(MujocoConfig(**params)), steps=8)  # type: ignore[arg-type]
    assert report.passed, str(report)


def test_driver_is_found_by_name_and_discovers_all_scenes() -> None:
    robot = build(
        "robots", "user_hal.robots.mujoco:MujocoRobot", {"robot": "ur5e", "task": "reach"}
    )
    assert robot.spec.robot == "ur5e"
    found = MujocoRobot.discover()
    assert len(found) == 6
    for scene in found:
        MujocoRobot(MujocoConfig(**scene.params))


def test_an_episode_is_truncated_at_its_horizon_and_stays_so(make) -> None:
    robot = make(horizon_s=1.0)
    observation, still = robot.reset(seed=0), np.zeros(3, np.float32)
    for step in range(10):
        assert not observation.task.truncated, step
        robot.command(still)
        observation = robot.read()
    for _ in range(2):
        assert observation.task.truncated and not observation.task.terminated
        assert observation.task.success is False and observation.task.reward == 0.0
        robot.command(still)
        observation = robot.read()
    assert not robot.reset(seed=0).task.truncated


def test_success_terminates_and_pays_once(make) -> None:
    robot = make(task="reach")
    expert, observation, rewards = ScriptedExpert(robot.spec), robot.reset(seed=0), []
    while not (observation.task.terminated or observation.task.truncated):
        sent = robot.command(expert.act(observation.arrays))
        observation = robot.read()
        rewards.append(observation.task.reward)
        assert observation.applied is not None
        assert np.array_equal(observation.applied.action, sent)
    assert observation.task == observation.task.__class__(1.0, True, False, True)
    assert rewards == [0.0] * (len(rewards) - 1) + [1.0]


def test_a_goal_is_reached_at_the_surface_of_the_ball_that_is_drawn(make) -> None:
    radius_m = 0.05
    robot = make(task="reach", goal_radius_m=radius_m)
    assert robot.scene.model.geom(robot.scene.model.body("goal").geomadr[0]).size[0] == radius_m
    expert, observation = ScriptedExpert(robot.spec), robot.reset(seed=0)
    while not (observation.task.terminated or observation.task.truncated):
        assert np.linalg.norm(observation.arrays["tool_to_goal"]) >= radius_m - 1e-6
        robot.command(expert.act(observation.arrays))
        observation = robot.read()
    assert observation.task.success
    assert 0.02 < np.linalg.norm(observation.arrays["tool_to_goal"]) < radius_m


def test_what_was_sent_is_within_the_bounds_and_reported(make) -> None:
    robot = make()
    assert robot.reset(seed=0).applied is None
    sent = robot.command(np.array([9.0, -9.0, 0.001], np.float32))
    np.testing.assert_allclose(sent, [0.01, -0.01, 0.001], rtol=1e-6)
    applied = robot.read().applied
    assert applied is not None and applied.sequence == 1 and np.array_equal(applied.action, sent)


def test_lockstep_time_passes_by_commands_only(make) -> None:
    robot = make()
    assert robot.read().episode == 0
    start = robot.reset(seed=3)
    assert start.episode == 1
    again = robot.read()
    assert again.sequence == start.sequence + 1
    assert np.array_equal(start.arrays["joint_position"], again.arrays["joint_position"])
    robot.command(np.full(3, 0.01, np.float32))
    assert not np.array_equal(start.arrays["tcp_pose"], robot.read().arrays["tcp_pose"])
    np.testing.assert_array_equal(start.arrays["tcp_pose"], again.arrays["tcp_pose"])


def test_the_same_seeds_and_actions_give_the_same_run(make) -> None:
    runs = []
    for _ in range(2):
        robot, random = make(task="pick_place"), np.random.default_rng(0)
        robot.reset(seed=5)
        for _ in range(15):
            robot.command(robot.spec.action.sample(random))
        runs.append(robot.read().arrays)
    for name in runs[0]:
        assert np.array_equal(runs[0][name], runs[1][name]), name


def test_real_time_passes_by_itself_at_the_speed_of_the_clock(make) -> None:
    """On a busy host it falls behind, but it never runs ahead of its clock."""
    slow = make(real_time=True, speed=1.0, task="reach")
    fast = make(real_time=True, speed=4.0, task="reach")
    assert fast.spec.period_s == pytest.approx(0.025) and not fast.spec.lockstep
    start_s = {robot: robot.scene.data.time for robot in (slow, fast)}
    began_s = time.monotonic()

    def passed_s(robot) -> float:
        return robot.scene.data.time - start_s[robot]

    wait_until(lambda: passed_s(fast) > 2.0 and passed_s(fast) > 2 * passed_s(slow) > 0)
    for robot, speed in ((slow, 1.0), (fast, 4.0)):
        simulated_s = passed_s(robot)
        assert simulated_s <= speed * (time.monotonic() - began_s) + 2 * 0.1


def test_real_time_commands_return_at_once_and_are_carried_out(make) -> None:
    robot = make(real_time=True, task="reach")
    before = robot.reset(seed=1)
    direction = np.sign(0.45 - before.arrays["tcp_pose"][0])
    robot.command(np.array([0.02 * direction, 0, 0], np.float32))

    def moved_m() -> float:
        return float(
            direction * (robot.read().arrays["tcp_pose"][0] - before.arrays["tcp_pose"][0])
        )

    wait_until(lambda: moved_m() > 0.018)


def test_real_time_episode_starts_with_the_first_command_and_is_cut_by_the_clock(make) -> None:
    robot = make(real_time=True, horizon_s=0.3)
    robot.reset(seed=0)
    waited_until = robot.scene.data.time + 0.5
    wait_until(lambda: robot.scene.data.time > waited_until)
    assert not robot.read().task.truncated
    robot.command(np.zeros(3, np.float32))
    wait_until(lambda: robot.read().task.truncated)
    assert robot.read().task.terminated is False


def test_real_time_expert_succeeds_and_the_episode_terminates(make) -> None:
    robot = make(real_time=True, speed=4.0)
    observation, expert = robot.reset(seed=2), ScriptedExpert(robot.spec)
    deadline_s = time.monotonic()
    while not (observation.task.terminated or observation.task.truncated):
        robot.command(expert.act(observation.arrays))
        deadline_s += robot.spec.period_s
        time.sleep(max(0.0, deadline_s - time.monotonic()))
        observation = robot.read()
    assert observation.task.success and observation.task.reward == 1.0


@pytest.mark.parametrize("real_time", [False, True])
def test_stop_may_come_from_any_thread(make, real_time: bool) -> None:
    robot = make(real_time=real_time, task="reach")
    robot.reset(seed=0)
    stopping = threading.Event()

    def stop_often() -> None:
        while not stopping.is_set():
            robot.stop()

    thread = threading.Thread(target=stop_often)
    thread.start()
    try:
        for _ in range(30):
            robot.command(np.full(3, 0.01, np.float32))
            assert np.isfinite(robot.read().arrays["joint_position"]).all()
    finally:
        stopping.set()
        thread.join()
    if real_time:
        wait_until(lambda: np.abs(robot.read().arrays["joint_velocity"]).max() < 0.02)


def test_broken_physics_is_a_fault_until_the_next_reset(make) -> None:
    robot = make(real_time=True)
    robot.reset(seed=0)
    with robot._lock:
        robot.scene.data.qvel[0] = np.nan

    def faulty() -> bool:
        try:
            robot.read()
        except DeviceFault:
            return True
        return False

    wait_until(faulty)
    with pytest.raises(DeviceFault, match="physics"):
        robot.command(np.zeros(3, np.float32))
    recovered: Observation = robot.reset(seed=0)
    assert np.isfinite(recovered.arrays["joint_position"]).all()
    robot.command(np.zeros(3, np.float32))


def test_an_old_state_is_refused(make) -> None:
    robot = make(real_time=True, max_age_s=0.05)
    robot.reset(seed=0)
    with robot._lock:  # the physics thread cannot go on meanwhile
        time.sleep(0.1)
        with pytest.raises(DeviceTimeout, match="expected at most 0.05 s"):
            robot._check_age()


def test_a_program_may_end_without_closing_its_robot() -> None:
    program = """
from user_hal.robots.mujoco import MujocoConfig, MujocoRobot
robots = [MujocoRobot(MujocoConfig(real_time=True, substeps=20)) for _ in range(3)]
for robot in robots:
    robot.connect()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_bad_input_is_refused_with_its_reason(make) -> None:
    robot = MujocoRobot(MujocoConfig())
    with pytest.raises(DeviceNotConnected):
        robot.reset()
    robot = make()
    with pytest.raises(SpecError):
        robot.command(np.zeros(4, np.float32))
    with pytest.raises(SpecError):
        robot.command(np.array([0, np.nan, 0], np.float32))
    with pytest.raises(ConfigError, match="substeps"):
        MujocoConfig(rate_hz=10.0, substeps=5)
    with pytest.raises(ConfigError, match="kuka"):
        build("robots", "user_hal.robots.mujoco:MujocoRobot", {"robot": "kuka"})
