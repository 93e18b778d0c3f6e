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
from user_core.specs import Array
from user_hal.robots.ros2.contract import Ros2Config
from user_hal.robots.ros2.driver import Ros2Robot
from user_testing.waiting import wait_until
from user_testing.worlds.ros_driver import RosDriver
from user_testing.worlds.ros_robots import DRIVERS

CONTRACTS = Path(__file__).parents[3] / "user_bringup" / "config" / "robots"


def contract(name: str) -> dict[str, Any]:
    """Its parameters; where they differ from what is shipped: patient with a busy machine, and in a hurry on the
    way home, which is a short one here."""
    data: dict[str, Any] = load_yaml(CONTRACTS / f"{name}.yaml")["robot"]["params"]
    data["timing"] = {
        **data.get("timing", {}),
        "connect_timeout_s": 20.0,
        "max_age_s": 1.0,
        "max_skew_s": 0.3,
    }
    data["home"]["speed_rad_s"] = 1.5
    return data


@contextmanager
def connected(name: str) -> Iterator[tuple[Ros2Robot, RosDriver]]:
    with RosDriver(DRIVERS[name], f"{name}_driver") as driver, open_topic_io("hal") as io:
        robot = Ros2Robot(from_mapping(Ros2Config, contract(name)))
        robot.attach(io)
        robot.connect()
        yield robot, driver
        robot.close()


def at_rest(robot: Ros2Robot) -> Array:
    """Joint positions, once those of two readings a tenth of a second apart are the same."""
    before = robot.read()

    def still() -> bool:
        nonlocal before
        now = robot.read()
        if now.stamp_ns - before.stamp_ns < 100_000_000:
            return False
        moved = np.abs(now.arrays["joint_position"] - before.arrays["joint_position"]).max()
        before = now
        return bool(moved < 1e-4)

    wait_until(still, "the joints rest", timeout_s=20.0)
    return before.arrays["joint_position"]


@pytest.mark.parametrize("name", sorted(DRIVERS))
def test_a_robot_of_a_ready_contract_goes_home_moves_stops_and_grips(name: str) -> None:
    with connected(name) as (robot, _):
        home = np.asarray(contract(name)["home"]["joints"])
        tolerance = contract(name)["home"].get("tolerance_rad", 0.02) + 0.01
        first = robot.reset()
        np.testing.assert_allclose(first.arrays["joint_position"], home, atol=tolerance)

        spec = robot.spec
        start = at_rest(robot)
        action = np.where(spec.action.high_array > 0, spec.action.high_array / 2, 0).astype(
            np.float32
        )
        for gripper in spec.grippers:
            action[gripper] = 0.0
        told = np.zeros(len(start))
        for _ in range(4):
            applied = robot.command(action)
            told += np.delete(applied, spec.grippers)
            time.sleep(spec.period_s)
        np.testing.assert_allclose(at_rest(robot) - start, told, atol=0.02)
        assert told.min() > 0.02, "it moved"

        if spec.grippers:
            wait_until(
                lambda: robot.read().arrays["gripper"][0] < 0.1,
                "the gripper is closed",
                timeout_s=20.0,
            )
            action[spec.grippers[0]] = 1.0
            robot.command(action)
            wait_until(
                lambda: robot.read().arrays["gripper"][0] > 0.9,
                "the gripper is open",
                timeout_s=20.0,
            )
        robot.command(action)
        robot.stop()
        stopped = at_rest(robot)
        time.sleep(2 * spec.period_s)
        np.testing.assert_allclose(at_rest(robot), stopped, atol=1e-3)


def test_a_ready_contract_keeps_every_promise_of_a_robot() -> None:
    with RosDriver(DRIVERS["kinova_gen3"]), open_topic_io("hal") as io:
        robot = Ros2Robot(from_mapping(Ros2Config, contract("kinova_gen3")))
        robot.attach(io)
        report = check_robot(robot, steps=5)
    assert report.passed, report
