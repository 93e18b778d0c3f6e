"""`user demos record` and `user evaluate` on a robot on ROS topics, in another process."""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from user_comm.topic_io import open_topic_io
from user_core.codecs.weights import encode_version
from user_core.config import load_yaml
from user_core.types import PolicyVersion
from user_hal.robot_file import find_robot_file
from user_hal.sim.arms import arm_named
from user_hal.sim.kinematics import Kinematics
from user_learner.replay import StoreReader
from user_testing.processes import Process
from user_testing.waiting import wait_until
from user_testing.worlds.robots.sim_ros_robot import SimProcess

#: Buttons and axes as the teleop `joy` takes a common gamepad.
DEADMAN, SUCCESS, X_AXIS = 5, 3, 1
READY = load_yaml(find_robot_file(Path(__file__).parents[2] / "config/robots/sim_ros_robot.yaml"))
_JOINTS = np.asarray(READY["robot"]["params"]["home"]["joints"])
HOME_M = Kinematics(arm_named("ur5e")).tcp_pose(_JOINTS)[:3, 3]


class Pad:
    """A gamepad on `joy`: real messages, at 50 Hz, from a node of its own."""

    def __init__(self, io: Any) -> None:
        self._publisher = io.publisher("joy", "sensor_msgs/msg/Joy")
        self.push, self.held, self.success = 0.0, False, False
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._end.wait(0.02):
            message = self._publisher.new()
            axes, buttons = [0.0] * 6, [0] * 8
            axes[X_AXIS], buttons[DEADMAN] = self.push, int(self.held)
            buttons[SUCCESS] = int(self.success)
            message.axes, message.buttons = axes, buttons
            self._publisher.publish(message)

    def close(self) -> None:
        self._end.set()
        self._thread.join(60)


@pytest.fixture
def io(ros_domain: int) -> Iterator[Any]:
    with open_topic_io("test") as io:
        yield io


@pytest.fixture
def sim(io: Any, tmp_path: Path) -> Iterator[SimProcess]:
    with SimProcess(tmp_path, {"arm": "ur5e", "task": "reach"}) as sim:
        yield sim


def robot_file(folder: Path) -> Path:
    """The ready robot, without camera; its home is 10 cm inside the box, towards x."""
    data = yaml.safe_load(yaml.safe_dump(READY))
    params = data["robot"]["params"]
    del params["cameras"]
    params["timing"] = {"connect_timeout_s": 30.0, "max_age_s": 1.0, "max_skew_s": 0.5}
    data["safety"] = {
        "watchdog_s": 1.0,
        "max_observation_age_s": 2.0,
        "workspace": {
            "low": (HOME_M - 0.3).tolist(), "high": (HOME_M + np.array([0.1, 0.3, 0.3])).tolist(),
            "tolerance": 0.001,
        },
        "velocity": {"linear": 0.1},
    }  # fmt: skip
    path = folder / "robot.yaml"
    path.write_text(yaml.safe_dump(data), encoding="utf-8")
    return path


def tool_x(io: Any) -> list[float]:
    """Where the tool was, as the robot tells it; grows."""
    seen: list[float] = []
    io.subscribe(
        "/tcp_pose_broadcaster/pose",
        "geometry_msgs/msg/PoseStamped",
        lambda message: seen.append(message.pose.position.x),
    )
    return seen


def at_home(xs: list[float]) -> bool:
    """Whether the tool has come to rest where an episode starts."""
    return len(xs) > 50 and bool(np.abs(np.asarray(xs[-50:]) - HOME_M[0]).max() < 0.005)


def counts(text: str) -> tuple[int, int, int]:
    """Passed, changed, refused, as the command tells them at its end."""
    found = re.search(r"safety gate: (\d+) passed, (\d+) changed, (\d+) refused", text)
    assert found, text
    return int(found[1]), int(found[2]), int(found[3])


def test_a_person_with_a_gamepad_demonstrates(io: Any, sim: SimProcess, tmp_path: Path) -> None:
    pad, xs = Pad(io), tool_x(io)
    record = Process(
        ["user", "demos", "record", str(robot_file(tmp_path)), "--teleop", "joy", "--episodes", "1",
         "--out", str(tmp_path / "store"), "hal.task:=push",
         "teleop.teleop.params.jog.linear_speed_m_s:=0.2"],
        tmp_path / "record.log",
    )  # fmt: skip
    try:
        wait_until(lambda: xs, seen=lambda: sim.log)
        with record:
            # nothing moves the robot until the person holds the dead-man switch
            wait_until(lambda: at_home(xs) or not record.is_running, seen=lambda: record.log)
            pad.push, pad.held = 1.0, True
            wait_until(lambda: xs[-1] > HOME_M[0] + 0.05 or not record.is_running)
            pad.push = 0.0
            pad.success = True  # the person's verdict is the reward
            assert record.wait() == 0, record.log
    finally:
        pad.close()
    text = record.log
    assert "1 demonstration, " in text, text
    passed, changed, refused = counts(text)
    assert changed > 0, "the gate limits 0.2 m/s to 0.1 m/s"
    assert "velocity" in text and refused == 0
    reader = StoreReader(tmp_path / "store")
    try:
        (episode,) = reader.episodes()
        columns = reader.read_episode(episode)
        assert columns["reward"].sum() == 1 and columns["terminated"].sum() == 1
        assert (columns["acted_by"][:-1] == 1).all(), "a person acted"
        moved = columns["observation.tcp_pose"][-1, 0] - columns["observation.tcp_pose"][0, 0]
        assert moved > 0.04
        assert episode.rows - 1 <= passed + changed
    finally:
        reader.close()


POLICY = '''
import numpy as np
from user_core.interfaces import Policy

class Push(Policy):
    """Pushes towards x for ever."""

    def __init__(self, config, spec):
        self._action = spec.action.zeros()
        self._action[0] = 0.01

    def act(self, observation, *, deterministic=False):
        assert deterministic
        return self._action[None]

    def arrays(self):
        return {"w": np.zeros(1, np.float32)}

    def load(self, arrays):
        assert list(arrays) == ["w"]
'''


def run_folder(folder: Path, robot: Path) -> Path:
    """A run as an earlier release has recorded it, mappings as text."""
    learner = folder / "learner"
    learner.mkdir(parents=True)
    version = PolicyVersion(7, {"w": np.zeros(1, np.float32)})
    (learner / "policy.safetensors").write_bytes(encode_version(version))
    policy = {"plugin": "pushing:Push", "params": {}}
    processes = [
        {"name": "hal", "package": "user_hal", "executable": "hal_node", "namespace": "/robot0",
         "parameters": {"robot_file": str(robot), "task": "push", "params": "{}"}},
        {"name": "actor", "package": "user_actor", "executable": "actor_node",
         "namespace": "/robot0",
         "parameters": {"policy": policy, "reward": {"plugin": "operator", "params": "{}"},
                        "loop": {"max_episode_steps": 8}}},
        {"name": "learner", "package": "user_learner", "executable": "learner_node",
         "parameters": {"policy": policy, "directory": str(learner)}},
    ]  # fmt: skip
    record = {"name": "real_robot", "processes": processes}
    (folder / "deployment.yaml").write_text(yaml.safe_dump(record), encoding="utf-8")
    return folder


def test_a_policy_is_evaluated_and_what_the_gate_refuses_is_seen(
    io: Any, sim: SimProcess, tmp_path: Path
) -> None:
    (tmp_path / "pushing.py").write_text(POLICY, encoding="utf-8")
    run = run_folder(tmp_path / "runs" / "real", robot_file(tmp_path))
    words = ["user", "evaluate", str(run), "--episodes", "2"]
    with Process(words, tmp_path / "evaluate.log", _path(tmp_path)) as process:
        assert process.wait(120.0) == 0, process.log
    assert "0 of 2 episodes succeed with policy version 7" in process.log
    assert "mean length 8.0 steps" in process.log
    assert counts(process.log)[2] == 0

    # what it asks for is too much for this configuration, and the robot is stopped at once
    words += ["hal.safety.bounds.high:=[0.005]", "hal.safety.bounds.refuse_beyond:=0.0"]
    with Process(words, tmp_path / "refused.log", _path(tmp_path)) as process:
        assert process.wait(120.0) == 0, process.log
    passed, _, refused = counts(process.log)
    assert (passed, refused) == (0, 2) and "2 were aborted" in process.log, process.log
    assert "(out_of_bounds 2)" in process.log and "safety stop: out_of_bounds" in process.log
    assert json.loads((run / "evaluation.json").read_text())["gate"]["out_of_bounds"] == 2


def _path(folder: Path) -> dict[str, str]:
    return {"PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])}
