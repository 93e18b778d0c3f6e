"""A hal node that runs a robot by its contract: two processes beside this one."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from std_srvs.srv import Trigger
from user_msgs.msg import SafetyStatus

from user_comm.topic_io import open_topic_io
from user_core.config import load_yaml
from user_core.errors import DeviceInUse
from user_hal.local import LocalHal
from user_hal.robot_file import build_robot, load_robot_file
from user_hal.topic_io import attach_topics
from user_testing.waiting import wait_until
from user_testing.worlds.robots.hal_node import Client, HalProcess
from user_testing.worlds.robots.sim_ros_robot import SimProcess

pytest.importorskip("mujoco", reason="the simulated robot needs MuJoCo")


READY = Path(__file__).parents[3] / "user_bringup" / "config" / "robots" / "sim_ros_robot.yaml"
WATCHDOG_S = 0.5
PERIOD_S = 0.1
SIM = {"arm": "ur5e", "task": "pick_place"}


def robot_file(folder: Path, **changes: Any) -> Path:
    """The ready robot file, without images, with other parameters of the driver."""
    data = load_yaml(READY)
    params = data["robot"]["params"]
    params.pop("cameras")
    params["timing"] = {"connect_timeout_s": 3.0, "max_age_s": 0.5, "max_skew_s": 0.2}
    params.update(changes)
    data["safety"] = {"watchdog_s": WATCHDOG_S}
    data["lease"] = {"required": False}
    data["loop"] = {"driver": {"backoff": {"longest_s": 0.5}}}
    path = folder / "robot.yaml"
    path.write_text(yaml.safe_dump(data), encoding="utf-8")
    return path


def hal_of(folder: Path, file: Path) -> HalProcess:
    of_the_mock = dict.fromkeys(("robot", "safety", "lease", "loop"))
    return HalProcess(folder, {"robot_file": str(file), **of_the_mock})


@pytest.fixture
def client() -> Iterator[Client]:
    client = Client()
    yield client
    client.close()


def push(x: float) -> Any:
    """One row of ee_delta with an open gripper."""
    row = np.zeros((1, 7), np.float32)
    row[0, 0], row[0, 6] = x, 1.0
    return row


def tool_x(client: Client) -> float:
    return float(client.observations[-1].arrays["tcp_pose"][0])


def named(client: Client, text: str) -> bool:
    """Whether a diagnostic of the hal is not well and says so."""
    return any(
        status.level > b"\x00" and text in status.message + str(status.values)
        for status in client.diagnostics.values()
    )


def publishers(client: Client, topic: str) -> list[str]:
    """Nodes that publish on a topic."""
    return [info.node_name for info in client.node.get_publishers_info_by_topic(topic)]


def until_still(count: Any, what: str, still_s: float = 1.5) -> None:
    """Wait until a number, which would grow ten times a second, has stayed the same for long."""
    last, since_s = count(), time.monotonic()

    def is_still() -> bool:
        nonlocal last, since_s
        if (now := count()) != last:
            last, since_s = now, time.monotonic()
        return time.monotonic() - since_s > still_s

    wait_until(is_still, what, 20.0)


def test_it_is_driven_stopped_when_a_topic_goes_silent_and_goes_on_by_itself(
    client: Client, tmp_path: Path
) -> None:
    with (
        SimProcess(tmp_path, SIM) as sim,
        hal_of(tmp_path, robot_file(tmp_path)) as hal,
        open_topic_io("saboteur") as io,
    ):
        client.wait_for(lambda: client.observations, 60.0)
        client.wait_for(lambda: client.reset().success, 60.0)
        start = tool_x(client)
        client.drive(push(0.004), period_ns=int(PERIOD_S * 1e9))
        client.wait_active()
        client.wait_for(lambda: tool_x(client) > start + 0.02)

        sim.set(io, "silent", ["/joint_states"])
        client.wait_for(lambda: client.status.cause not in ("", "none"), 60.0)
        client.wait_for(lambda: named(client, "/joint_states"))
        held = []
        io.subscribe(
            "/tcp_pose_broadcaster/pose",
            "geometry_msgs/msg/PoseStamped",
            lambda message: held.append(message.pose.position.x),
        )
        wait_until(lambda: len(held) > 20)
        first = held[-1]
        wait_until(lambda: len(held) > 70)
        assert abs(held[-1] - first) < 0.003, "nobody sees it, and it moves"

        sim.set(io, "silent", [""])
        client.wait_active()  # the actor never stopped, the process was never restarted
        client.stop_driving()
        assert hal.interrupt() == 0


def test_a_second_process_is_told_who_drives_the_robot_and_drives_it_once_that_has_ended(
    client: Client, tmp_path: Path
) -> None:
    # Patient: the robot is there in this test, only busy at times.
    timing = {"connect_timeout_s": 20.0, "max_age_s": 0.5, "max_skew_s": 0.2}
    file = robot_file(tmp_path, timing=timing)
    with SimProcess(tmp_path, SIM), open_topic_io("second") as io:
        with hal_of(tmp_path, file) as first:
            client.wait_for(lambda: client.observations, 60.0)
            robot = build_robot(load_robot_file(file))
            attach_topics(robot, io)
            second = LocalHal.of(load_robot_file(file), robot)
            with pytest.raises(DeviceInUse, match=rf"process {first.pid} \(.*hal"):
                second.open()
            assert first.interrupt() == 0
        with second:
            assert second.observations.newest is not None


def test_a_robot_that_comes_later_or_dies_is_waited_for(client: Client, tmp_path: Path) -> None:
    with hal_of(tmp_path, robot_file(tmp_path)):
        client.wait_for(
            lambda: named(client, "nobody publishes it") and named(client, "/joint_states"), 40.0
        )
        with SimProcess(tmp_path, SIM) as sim:
            client.wait_for(lambda: client.observations, 60.0)
            sim.kill()
            client.wait_for(lambda: named(client, "a newest message"), 60.0)
            seen = len(client.observations)
            sim.start()
            client.wait_for(lambda: len(client.observations) > seen + 5, 60.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"joints": ["base_joint", "shoulder_lift_joint", "elbow_joint", "wrist_1_joint",
                        "wrist_2_joint", "wrist_3_joint"]},
            "none with ['base_joint']",
        ),
        (
            {"home": {}, "action": {"kind": "ee_delta", "low": -0.02, "high": 0.02, "command": {
                "topic": "/servo/twist", "type": "geometry_msgs/msg/TwistStamped"}}},
            "nobody listens to it",
        ),
    ],
)  # fmt: skip
def test_a_contract_that_names_what_is_not_there_never_moves_the_robot(
    client: Client, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with SimProcess(tmp_path, SIM), hal_of(tmp_path, robot_file(tmp_path, **changes)):
        client.drive(push(0.004), period_ns=int(PERIOD_S * 1e9))
        client.wait_for(lambda: named(client, message), 60.0)
        with open_topic_io("watching") as io:
            positions: list[Any] = []
            io.subscribe(
                "/joint_states",
                "sensor_msgs/msg/JointState",
                lambda state: positions.append(list(state.position)),
            )
            wait_until(lambda: positions)
            time.sleep(1.0)
            assert np.allclose(positions[0], positions[-1], atol=1e-3)
        client.stop_driving()


def test_a_robot_that_has_died_is_not_kept_alive_by_what_the_hal_publishes(
    client: Client, tmp_path: Path
) -> None:
    """The hal's own joint_states has the name of the topic that it reads, as without a namespace."""
    observation = load_yaml(READY)["robot"]["params"]["observation"]
    own = {"joint_states": "/r0/joint_states", "gripper_controller/commands": "/r0/gripper"}
    action = load_yaml(READY)["robot"]["params"]["action"]
    action["gripper"]["topic"] = own["gripper_controller/commands"]
    for source in observation.values():
        source["stamp"] = "arrival"
        if source["topic"] == "/joint_states":
            source["topic"] = own["joint_states"]
    heard: list[Any] = []
    with (
        hal_of(tmp_path, robot_file(tmp_path, observation=observation, action=action)) as hal,
        open_topic_io("listener") as io,
    ):
        io.subscribe(own["joint_states"], "sensor_msgs/msg/JointState", heard.append)
        with SimProcess(tmp_path, SIM, own):
            client.wait_for(lambda: client.observations, 60.0)
            # Which node a publisher is of is known a moment after the publisher is.
            client.wait_for(lambda: publishers(client, own["joint_states"]) == ["sim_ros_robot"])
            client.wait_for(lambda: publishers(client, "/r0/gripper") == ["hal"])  # the driver's
            # Nor does it count what the hal said while it waited for the robot.
            client.wait_for(lambda: not named(client, "joint_states"))
        client.wait_for(lambda: named(client, "joint_states"))
        until_still(lambda: len(client.observations), "no observations of a robot that is dead")
        until_still(lambda: len(heard), "nothing speaks for it")
        assert hal.interrupt() == 0


def test_a_door_stops_it_and_a_latched_one_needs_a_person(client: Client, tmp_path: Path) -> None:
    kind = "std_msgs/msg/Bool"
    doors = [
        {"topic": f"/{name}", "type": kind, "field": "data", "equals": True, "latched": latched,
         "reason": f"{name} is open"}
        for name, latched in (("door", False), ("gate", True))
    ]  # fmt: skip
    with (
        SimProcess(tmp_path, SIM),
        open_topic_io("cell") as io,
        hal_of(tmp_path, robot_file(tmp_path, stop_when=doors)),
    ):
        publishers = {
            name: io.publisher(f"/{name}", kind, latched=True) for name in ("door", "gate")
        }

        def say(name: str, is_open: bool) -> None:
            message = publishers[name].new()
            message.data = is_open
            publishers[name].publish(message)

        say("door", False)
        say("gate", False)
        client.wait_for(lambda: client.observations, 60.0)
        client.drive(push(0.0), period_ns=int(PERIOD_S * 1e9))
        client.wait_active()
        say("door", True)
        client.wait_for(lambda: client.status.cause == "robot_stop")
        assert "door is open" in client.status.detail
        client.wait_for(lambda: named(client, "door is open"))
        say("door", False)
        client.wait_active()

        say("gate", True)
        client.wait_for(lambda: client.status.cause == "emergency_stop")
        assert "gate is open" in client.status.detail
        say("gate", False)

        def let_go() -> bool:  # while the hal has not heard of the gate, it stops again
            assert client.call("reset_emergency_stop", Trigger).success
            return bool(client.status.state == SafetyStatus.ACTIVE)

        client.wait_for(let_go)
        client.stop_driving()
