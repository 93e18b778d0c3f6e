"""The teleop node as a process, beside a hal: from a device's messages to interventions."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import JointState, Joy
from user_msgs.msg import Intervention as InterventionMessage
from user_msgs.msg import Observation as ObservationMessage
from user_msgs.msg import RobotSpec as RobotSpecMessage

from user_comm import topics
from user_comm.converters import Intervention, RobotDescription, intervention_from_message
from user_comm.converters.robot import (
    label_of,
    observation_to_message,
    robot_description_to_message,
)
from user_core.specs import ActionGroup, ActionKind, ArraySpec, RobotSpec
from user_core.types import Label, Observation
from user_testing.worlds.robots.hal_node import NAMESPACE, Client, HalProcess

DEADMAN, OPEN, SUCCESS = 5, 2, 3


class Pad:
    """Publishes what a gamepad's ROS driver does, at 50 Hz."""

    def __init__(self, client: Client) -> None:
        self._publisher = client.node.create_publisher(Joy, "joy", 1)
        self.axes, self.pressed = [0.0] * 6, set[int]()
        self.silent = False
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._end.wait(0.02):
            if not self.silent:
                buttons = [int(i in self.pressed) for i in range(8)]
                self._publisher.publish(Joy(axes=self.axes, buttons=buttons))

    def close(self) -> None:
        self._end.set()
        self._thread.join()


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    client = Client()
    yield client
    client.close()


@pytest.fixture(scope="module")
def pad(client: Client) -> Iterator[Pad]:
    pad = Pad(client)
    yield pad
    pad.close()


@pytest.fixture(scope="module")
def wishes(client: Client, pad: Pad, tmp_path_factory: Any) -> Iterator[list[Intervention]]:
    """The interventions of a teleop node that stands beside a hal."""
    wishes: list[Intervention] = []
    client.hear(topics.INTERVENTION, lambda m: wishes.append(intervention_from_message(m)))
    command = [sys.executable, "-m", "user_hal.nodes.teleop", "--ros-args"]
    command += ["-r", f"__ns:={NAMESPACE}", "-p", "autostart:=true", "-p", "teleop.plugin:=joy"]
    process = subprocess.Popen(command, env=dict(os.environ))
    try:
        with HalProcess(tmp_path_factory.mktemp("hal")):
            client.wait_for(lambda: wishes, 60.0)
            yield wishes
    finally:
        process.kill()
        process.wait()


def test_every_observation_is_answered(wishes, client) -> None:
    client.wait_for(lambda: len(wishes) > 40)
    answered = [wish.observation_sequence for wish in wishes[10:40]]
    assert answered == sorted(set(answered))  # each once, in order
    # Commands are kept one deep: on a busy machine a newer answer overtakes some.
    assert answered[-1] - answered[0] < 2 * len(answered)
    assert wishes[-1].device == "joy" and not wishes[-1].scripted


def test_a_person_drives_while_the_dead_man_button_is_held(wishes, client, pad) -> None:
    pad.axes[1] = 0.5
    client.wait_for(lambda: not wishes[-1].command.engaged)
    pad.pressed.add(DEADMAN)
    client.wait_for(lambda: wishes[-1].command.engaged)
    x = float(wishes[-1].command.action[0])
    assert 0.02 < x < 0.03  # half of the largest step, less the deadband
    pad.pressed.clear()
    client.wait_for(lambda: not wishes[-1].command.engaged)


def test_a_device_that_falls_silent_lets_go(wishes, client, pad) -> None:
    pad.pressed.add(DEADMAN)
    client.wait_for(lambda: wishes[-1].command.engaged)
    pad.silent = True
    client.wait_for(lambda: not wishes[-1].command.engaged)
    pad.silent = False
    client.wait_for(lambda: wishes[-1].command.engaged)
    pad.pressed.clear()


def test_a_verdict_is_said_once(wishes, client, pad) -> None:
    before = len(wishes)
    pad.pressed.add(SUCCESS)
    client.wait_for(lambda: any(label_of(w.command) is Label.SUCCESS for w in wishes[before:]))
    client.wait_for(lambda: len(wishes) > before + 30)
    said = [w for w in wishes[before:] if label_of(w.command) is Label.SUCCESS]
    assert len(said) == 1
    pad.pressed.clear()


def test_a_device_that_nobody_hears_is_not_called_connected(wishes, client) -> None:
    command = [sys.executable, "-m", "user_hal.nodes.teleop", "--ros-args"]
    command += ["-r", f"__ns:={NAMESPACE}", "-r", "__node:=deaf", "-p", "autostart:=true"]
    command += ["-p", "teleop.plugin:=joy", "-p", "teleop.params.topic:=nowhere"]
    process = subprocess.Popen(command, env=dict(os.environ))

    def said() -> Any:
        return client.diagnostics.get(f"{NAMESPACE.lstrip('/')}/deaf: device")

    def says(what: str) -> bool:
        return said() is not None and what in said().message

    publisher = None
    try:
        client.wait_for(lambda: says("nobody publishes /r0/nowhere"), 60.0)
        assert said().level == b"\x01"
        publisher = client.node.create_publisher(Joy, "nowhere", 1)
        client.wait_for(lambda: says("no message came yet"))

        def fits(buttons: int, what: str) -> bool:
            publisher.publish(Joy(axes=[0.0] * 6, buttons=[0] * buttons))
            return says(what)

        client.wait_for(lambda: fits(4, "deadman is button 5 of 4"))
        client.wait_for(lambda: fits(8, "joy is connected"))
    finally:
        process.kill()
        process.wait()
        if publisher is not None:
            client.node.destroy_publisher(publisher)


def test_each_group_of_a_robot_is_driven_by_a_device_of_its_own(client) -> None:
    """An arm follows its leader while the base stands; the spec with its groups came on a topic."""
    groups = (
        ActionGroup("arm", ActionKind.JOINT_POSITION, 2),
        ActionGroup("base", ActionKind.BASE_TWIST, 2),
    )
    spec = RobotSpec(
        "rover",
        {"arm.joint_position": ArraySpec((2,), names=("a", "b"))},
        ArraySpec((4,), low=-2.0, high=2.0, names=("a", "b", "base.vx", "base.wz")),
        ActionKind.MIXED,
        action_groups=groups,
    )
    wishes: list[Intervention] = []
    node = client.node
    node.create_subscription(
        InterventionMessage, "/r1/intervention",
        lambda m: wishes.append(intervention_from_message(m)), 10,
    )  # fmt: skip
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    specs = node.create_publisher(RobotSpecMessage, "/r1/robot_spec", latched)
    specs.publish(robot_description_to_message(RobotDescription(spec)))
    seen = node.create_publisher(ObservationMessage, "/r1/observation", 10)
    lead = node.create_publisher(JointState, "/lead", 10)
    pedal = node.create_publisher(Joy, "/pedal", 10)
    command = [sys.executable, "-m", "user_hal.nodes.teleop", "--ros-args", "-r", "__ns:=/r1"]
    command += ["-p", "autostart:=true", "-p", "teleop.plugin:=groups"]
    device = "teleop.params.devices.arm"
    for name, value in (
        ("plugin", "leader"), ("params.topic", "/lead"), ("params.buttons_topic", "/pedal"),
        ("params.buttons.deadman", "0"),
    ):  # fmt: skip
        command += ["-p", f"{device}.{name}:={value}"]
    process = subprocess.Popen(command, env=dict(os.environ))
    arrays = {"arm.joint_position": np.array([0.1, 0.2], np.float32)}
    sequence = iter(range(1, 10_000))

    def follows() -> bool:
        lead.publish(JointState(name=["a", "b"], position=[0.15, 0.2]))
        pedal.publish(Joy(buttons=[1]))
        now_ns = time.time_ns()
        seen.publish(observation_to_message(Observation(arrays, now_ns, next(sequence), 1)))
        return any(wish.command.engaged for wish in wishes)

    try:
        client.wait_for(follows, 60.0)
        driven = next(wish.command for wish in wishes if wish.command.engaged)
        np.testing.assert_allclose(driven.action, [0.15, 0.2, 0, 0], atol=1e-6)
    finally:
        process.kill()
        process.wait()
