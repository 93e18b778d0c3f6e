"""A robot in simulated time: followed where use_sim_time says so, at another speed and over jumps too."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import rclpy
import yaml
from rclpy.node import Node
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import JointState

from user_core.config import load_yaml
from user_testing.waiting import wait_until
from user_testing.worlds.robots.hal_node import Client, HalProcess
from user_testing.worlds.robots.sim_ros_robot import SimProcess

pytest.importorskip("mujoco", reason="the simulated robot needs MuJoCo")

READY = Path(__file__).parents[3] / "user_bringup" / "config" / "robots" / "sim_ros_robot.yaml"
#: Simulated seconds in a second, and what the clock shows at first.
SPEED, FIRST_S = 0.5, 1000.0


class Simulation:
    """Publishes /clock, and can stand still or jump."""

    def __init__(self) -> None:
        self._context = rclpy.Context()
        self._context.init()
        self._node = Node("simulation", context=self._context)
        self._clock = self._node.create_publisher(Clock, "/clock", 10)
        self.now_s, self.runs = FIRST_S, True
        self._setting = threading.Lock()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        before_s = time.monotonic()
        while not self._end.wait(0.005):
            with self._setting:
                now_s = time.monotonic()
                self.now_s += SPEED * (now_s - before_s) * self.runs
                before_s = now_s
            message = Clock()
            message.clock.sec, nanosec = divmod(round(self.now_s * 1e9), 10**9)
            message.clock.nanosec = nanosec
            self._clock.publish(message)

    def set(self, now_s: float) -> None:
        """Set the clock."""
        with self._setting:
            self.now_s = now_s

    def close(self) -> None:
        self._end.set()
        self._thread.join()
        self._node.destroy_node()
        self._context.try_shutdown()


@pytest.fixture
def simulation(ros_domain: int) -> Iterator[Simulation]:
    simulation = Simulation()
    yield simulation
    simulation.close()


@pytest.fixture
def client(ros_domain: int) -> Iterator[Client]:
    client = Client()
    yield client
    client.close()


def robot_file(folder: Path) -> Path:
    data = load_yaml(READY)
    data["robot"]["params"].pop("cameras")
    data["robot"]["params"]["timing"] = {"max_age_s": 0.5, "max_skew_s": 0.2}
    data |= {"safety": {"watchdog_s": 0.5}, "lease": {"required": False}}
    data["loop"] = {"driver": {"backoff": {"longest_s": 0.5}}}
    path = folder / "robot.yaml"
    path.write_text(yaml.safe_dump(data), encoding="utf-8")
    return path


def test_simulated_time_is_followed_at_any_speed_when_it_stands_still_and_when_it_jumps(
    simulation: Simulation, client: Client, tmp_path: Path
) -> None:
    others = dict.fromkeys(("robot", "safety", "lease", "loop"))
    params = {"robot_file": str(robot_file(tmp_path)), "use_sim_time": True, **others}
    joints: list[JointState] = []
    client.node.create_subscription(JointState, "joint_states", joints.append, 10)

    def fresh() -> bool:
        """The newest observation is of this moment, by the clock of the machine."""
        seen = client.observations
        return bool(seen) and abs(time.time_ns() - seen[-1].stamp_ns) < 300_000_000

    def simulated() -> bool:
        """Standard topics are stamped as a simulation's other nodes expect."""
        stamp = joints[-1].header.stamp
        return abs(stamp.sec + stamp.nanosec * 1e-9 - simulation.now_s) < 0.5

    sim = {"arm": "ur5e", "task": "pick_place", "use_sim_time": "true"}
    with SimProcess(tmp_path, sim) as robot, HalProcess(tmp_path, params) as hal:
        seen = lambda: f"{hal.log[-3000:]}\n{robot.log[-1000:]}"  # noqa: E731
        wait_until(fresh, "observations", 40.0, seen=seen)
        wait_until(
            lambda: joints and simulated(), "joint states in simulated time", 10.0, seen=seen
        )
        simulation.runs = False
        wait_until(lambda: not fresh(), "a simulation that stands still shows nothing new")
        simulation.runs = True
        wait_until(fresh, "observations again", 20.0, seen=seen)
        simulation.set(10.0)
        time.sleep(0.5)
        wait_until(fresh, "observations after the clock was set back", 20.0, seen=seen)
        client.wait_for(lambda: client.reset().success)  # a reading may come late on a busy machine
        wait_until(simulated, "joint states in simulated time", 10.0, seen=seen)
        count = len(client.observations)
        since = lambda: [o.stamp_ns for o in client.observations[count:]]  # noqa: E731
        wait_until(lambda: len(set(since())) > 20, "they keep coming", 20.0, seen=seen)
        assert (np.diff(since()) >= 0).all()  # one that is shown again keeps its stamp
