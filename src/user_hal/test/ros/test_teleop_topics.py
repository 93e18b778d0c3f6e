"""Hand devices over real topics, where their types are not the expected ones."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest

from user_comm.topic_io import open_topic_io
from user_core.specs import ActionKind
from user_hal.teleops.hand_device import JogConfig
from user_hal.teleops.leader import LeaderConfig, LeaderTeleop
from user_hal.teleops.topics import JoyConfig, JoyTeleop, TwistConfig, TwistTeleop
from user_testing.waiting import wait_until
from user_testing.worlds.robots.teleop import robot, seen


@pytest.fixture(scope="module")
def device() -> Iterator[Any]:
    """The driver of a device: a node of its own."""
    with open_topic_io("device") as io:
        yield io


@pytest.mark.parametrize("kind", ["Twist", "TwistStamped"])
def test_spacenav_drives_by_a_twist_of_either_type(device: Any, kind: str) -> None:
    topic = f"/spacenav_{kind.lower()}/twist"
    teleop = TwistTeleop(TwistConfig(topic=topic, jog=JogConfig(deadband=0.0)))
    with open_topic_io("teleop") as io:
        teleop.attach(io)
        teleop.connect(robot())  # before the device is there
        assert "nobody publishes" in str(teleop.trouble())
        publisher = device.publisher(topic, f"geometry_msgs/msg/{kind}")
        message = publisher.new()
        getattr(message, "twist", message).linear.x = 0.5

        def drives() -> bool:
            publisher.publish(message)
            return teleop.read(seen()).engaged

        try:
            wait_until(drives)
            assert teleop.read(seen()).action[0] == pytest.approx(0.25)
            assert not teleop.trouble()
        finally:
            teleop.close()
            publisher.close()


def test_a_topic_of_another_type_is_named(device: Any) -> None:
    publisher = device.publisher("/odd_joy", "geometry_msgs/msg/Twist")
    teleop = JoyTeleop(JoyConfig(topic="/odd_joy"))
    with open_topic_io("teleop") as io:
        teleop.attach(io)
        teleop.connect(robot())
        try:
            wait_until(lambda: "carries geometry_msgs/msg/Twist" in str(teleop.trouble()))
        finally:
            teleop.close()
            publisher.close()


def test_a_leader_arm_leads_once_it_stands_as_the_robot(device: Any) -> None:
    publisher = device.publisher("/leader/joint_states", "sensor_msgs/msg/JointState")
    config = LeaderConfig(topic="/leader/joint_states", joints=tuple("abcdef"), scale=(0.01,))
    teleop = LeaderTeleop(config)

    def stands(*degrees: float) -> Any:
        message = publisher.new()
        message.name, message.position = list("fedcba"), list(reversed(degrees))
        publisher.publish(message)
        return teleop.read(seen(joints=0.1))

    with open_topic_io("teleop") as io:
        teleop.attach(io)
        teleop.connect(robot(ActionKind.JOINT_POSITION, 3.0))
        swing = itertools.cycle((0.0, 2.0))
        try:
            far = lambda: stands(90.0 + next(swing), *[10.0] * 5)  # noqa: E731
            wait_until(lambda: not far().engaged and "a of the leader" in str(teleop.trouble()))
            wait_until(lambda: stands(10.0 + next(swing), *[10.0] * 5).engaged)
        finally:
            teleop.close()
            publisher.close()
