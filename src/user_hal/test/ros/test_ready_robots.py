"""The ready contracts, each against a stand-in with the topics, types and names of the robot's driver."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from user_comm.topic_io import open_topic_io
from user_core.config import from_mapping, load_yaml
from user_core.conformance import check_robot
from user_hal.robots.ros2.contract import Ros2Config
from user_hal.robots.ros2.driver import Ros2Robot
from user_testing.waiting import wait_until
from user_testing.worlds.robots.ros_driver import RosDriver
from user_testing.worlds.robots.ros_robots import DRIVERS

CONFIG = Path(__file__).parents[3] / "user_bringup" / "config"


def merged(data: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """What one does who copies an entry into a file."""
    both = {
        key: merged(data[key], value) if isinstance(data.get(key), dict) else value
        for key, value in more.items()
    }
    return {**data, **both}


def contract(name: str) -> Ros2Config:
    """A ready contract, with a gripper's entry behind a plus. It differs from what is shipped in being patient with a
    busy machine, and in a hurry on the way home, which is a short one here."""
    name, _, gripper = name.partition("+")
    data: dict[str, Any] = load_yaml(CONFIG / "robots" / f"{name}.yaml")["robot"]["params"]
    if gripper:
        if name == "franka_fr3":
            del data["action"]["gripper"]
        data = merged(data, load_yaml(CONFIG / "grippers" / f"{gripper}.yaml"))
    patient = {"connect_timeout_s": 20.0, "max_age_s": 1.0, "max_skew_s": 0.3}
    data["timing"] = {**data.get("timing", {}), **patient}
    for place in (data, *data.get("groups", {}).values()):
        if place.get("home", {}).get("joints"):
            place["home"]["speed_rad_s"] = 1.5
    return from_mapping(Ros2Config, data)


@contextmanager
def connected(name: str) -> Iterator[tuple[Ros2Robot, Ros2Config, RosDriver]]:
    config = contract(name)
    with RosDriver(DRIVERS[name], "robot_driver") as driver, open_topic_io("hal") as io:
        robot = Ros2Robot(config)
        robot.attach(io)
        try:
            robot.connect()
            yield robot, config, driver
        finally:
            robot.close()


def places(robot: Ros2Robot, config: Ros2Config) -> tuple[dict[str, float], int]:
    """Where everything is, by the names that an action's elements have, and when."""
    observation = robot.read()
    found: dict[str, float] = {}
    for name, array in observation.arrays.items():
        group, _, quantity = name.rpartition(".")
        if quantity == "joint_position":
            found |= dict(zip(config.elements(name), array.tolist(), strict=True))
        elif quantity == "tcp_pose":
            found |= dict(zip(("dx", "dy", "dz"), array[:3].tolist(), strict=True))
        elif quantity == "gripper":
            found[f"{group}.gripper" if group else "gripper"] = float(array[0])
        elif name == "base.pose":
            found["base.vx"] = float(np.hypot(array[0], array[1]))
    return found, observation.stamp_ns


def at_rest(robot: Ros2Robot, config: Ros2Config, driver: RosDriver) -> dict[str, float]:
    """Where everything is, once all that was sent is done and two readings a tenth of a second apart are the same.

    A server that takes goals one after another rests between two of them, longer than that.
    """
    wait_until(lambda: driver.has_rested(0.1), "its driver has nothing left to do")
    before = places(robot, config)

    def still() -> bool:
        nonlocal before
        now = places(robot, config)
        if now[1] - before[1] < 100_000_000:
            return False
        moved = max(abs(now[0][name] - before[0][name]) for name in now[0])
        before = now
        return moved < 1e-4

    wait_until(still, "nothing moves")
    return before[0]


@pytest.mark.parametrize("name", sorted(DRIVERS))
def test_a_robot_of_a_ready_contract_goes_home_moves_stops_and_grips(name: str) -> None:
    """And it keeps every promise of a robot, as `user check robot` tries them."""
    with connected(name) as (robot, config, driver):
        robot.reset(seed=0)
        spec = robot.spec
        start = at_rest(robot, config, driver)
        for group in config.groups.values() or [config]:
            tolerance = np.max(group.home.tolerance_rad) + 0.01
            for joint, home in zip(group.joints, group.home.joints, strict=True):
                assert start[joint] == pytest.approx(home, abs=tolerance), joint

        action = (spec.action.high_array / 2).astype(np.float32)
        grippers = list(spec.grippers)
        action[grippers] = 0.0
        told = np.zeros(spec.action.size)
        for _step in range(4):
            told += robot.command(action)
            time.sleep(spec.period_s)
        end = at_rest(robot, config, driver)
        for element, (label, way) in enumerate(zip(spec.action.names, told.tolist(), strict=True)):
            if label in ("base.vx", "dx", "dy", "dz"):  # by twists, which hold for a moment
                way *= spec.period_s if label == "base.vx" else 1.0
                assert 0.7 * way < end[label] - start[label] < 2.5 * way, label
            elif label in start and element not in grippers:
                assert way > 0.005
                assert end[label] - start[label] == pytest.approx(way, rel=0.2, abs=0.005), label

        names = [spec.action.names[element] for element in grippers]
        for opening in (0.0, 1.0):
            action[:] = 0.0
            action[grippers] = opening

            def gripped(opening: float = opening) -> bool:
                robot.command(action)
                now = places(robot, config)[0]
                return all(abs(now[name] - opening) < 0.1 for name in names)

            wait_until(gripped, f"{names} at {opening}")

        action[:] = spec.action.high_array / 2
        action[grippers] = 1.0
        robot.command(action)
        robot.stop()
        stopped = at_rest(robot, config, driver)
        time.sleep(2 * spec.period_s)
        for label, value in at_rest(robot, config, driver).items():
            assert value == pytest.approx(stopped[label], abs=1e-3), label

        robot.close()
        report = check_robot(robot, steps=3)
        assert report.passed, [check for check in report.checks if not check.passed]


def test_a_ur_under_servo_is_given_back_to_its_trajectory_controller() -> None:
    with connected("ur_servo") as (robot, _, driver):
        assert driver.on == {"velocities", "twists"}
        robot.reset(seed=0)
        assert driver.on == {"velocities", "twists"}
    assert driver.on == {"trajectories", "twists"}


def test_a_piper_is_never_sent_a_message_without_its_gripper() -> None:
    """A joint or gripper that is missing in it goes to zero: the node takes them by position."""
    with connected("piper") as (robot, config, driver):
        robot.reset(seed=0)
        robot.command(np.zeros(robot.spec.action.size, np.float32))
        robot.stop()
        wait_until(lambda: len(driver.received.get("/joint_ctrl_single", [])) > 2, "commands")
    for message in driver.received["/joint_ctrl_single"]:
        assert list(message.name) == [*config.joints, "gripper"]
        assert len(message.position) == 7
