"""Frames of observations and commands are relations that are checked, and applied where known."""

from __future__ import annotations

import math
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from user_core.config import from_mapping
from user_core.errors import ConfigError, DeviceFault
from user_hal.fakes import LocalTopics
from user_hal.fakes.topic_arm import TopicArm
from user_hal.robots.ros2.contract import Ros2Config
from user_hal.robots.ros2.driver import Ros2Robot
from user_hal.robots.ros2.frames import Frames
from user_hal.robots.ros2.reading.observations import Observer, Source

POSE = "geometry_msgs/msg/PoseStamped"
TWIST = "geometry_msgs/msg/TwistStamped"
#: As on a UR: base is base_link turned by 180 degrees about z.
TURNED = {"base": {"parent": "base_link", "rpy": [0.0, 0.0, math.pi]}}


def contract(**changes: Any) -> Ros2Config:
    """A robot that is driven by its tool; the arm says that its pose is in ``base``."""
    entry: dict[str, Any] = {"topic": "/tcp_pose_broadcaster/pose", "type": POSE, "field": "pose"}
    if "frame" in changes:
        entry["frame"] = changes.pop("frame")
    command = changes.pop("command", {"topic": "/servo/pose", "type": POSE})
    return from_mapping(
        Ros2Config,
        {
            "robot": "ur",
            "base_frame": "base_link",
            "period_s": 0.02,
            "observation": {"tcp_pose": entry},
            "action": {"kind": "ee_delta", "low": -0.1, "high": 0.1, "command": command},
            "timing": {"connect_timeout_s": 0.5, "max_age_s": 0.25},
            **changes,
        },
    )


@pytest.fixture
def io() -> LocalTopics:
    return LocalTopics()


@pytest.fixture
def arm(io: LocalTopics) -> Iterator[TopicArm]:
    with TopicArm(io) as arm:
        arm.pose[:3] = [0.4, 0.1, 0.3]
        yield arm


def connected(io: LocalTopics, config: Ros2Config) -> Ros2Robot:
    robot = Ros2Robot(config)
    robot.attach(io)
    robot.connect()
    return robot


@pytest.mark.parametrize("command", [POSE, TWIST])
def test_a_pose_in_another_frame_than_the_command_is_refused_at_build(command: str) -> None:
    with pytest.raises(ConfigError, match=r"tcp_pose.frame.*got base, .*base_link.*transforms"):
        contract(frame="base", command={"topic": "/c", "type": command})


@pytest.mark.parametrize("command", [POSE, TWIST])
def test_a_command_in_another_frame_than_the_action_is_refused_at_build(command: str) -> None:
    with pytest.raises(ConfigError, match=r"action.command.frame.*got tool0, .*base_link"):
        contract(command={"topic": "/c", "type": command, "frame": "tool0"})


def test_a_message_in_another_frame_is_refused_at_connect(io: LocalTopics, arm: TopicArm) -> None:
    with pytest.raises(DeviceFault, match=r"pose'.*frame_id.*got 'base'.*expected base_link"):
        connected(io, contract())
    assert not arm.received


@pytest.mark.parametrize("entry", [{}, {"frame": "base"}])
def test_a_known_transform_is_applied(
    io: LocalTopics, arm: TopicArm, entry: dict[str, Any]
) -> None:
    robot = connected(io, contract(transforms=TURNED, **entry))
    assert robot.spec.observation["tcp_pose"].frame == "base_link"
    seen = robot.read().arrays["tcp_pose"]
    np.testing.assert_allclose(seen[:3], [-0.4, -0.1, 0.3], atol=1e-6)
    robot.command(np.zeros(6, np.float32))  # a robot that was never commanded is left alone
    robot.stop()
    message = arm.received["/servo/pose"][-1]
    assert message.header.frame_id == "base_link"
    np.testing.assert_allclose([message.pose.position.x, message.pose.position.y], [-0.4, -0.1])
    robot.close()


@pytest.mark.parametrize("kind", [POSE, TWIST])
def test_commands_are_taken_to_the_frame_of_their_topic(
    io: LocalTopics, arm: TopicArm, kind: str
) -> None:
    topic = "/servo/pose" if kind == POSE else "/servo/twist"
    command = {"topic": topic, "type": kind, "frame": "base"}
    robot = connected(io, contract(transforms=TURNED, frame="base", command=command))
    robot.command(np.array([0.01, 0, 0, 0, 0, 0], np.float32))
    message = arm.received[topic][0]
    assert message.header.frame_id == "base"
    if kind == TWIST:  # 10 mm in 20 ms along x of base_link
        np.testing.assert_allclose(message.twist.linear.x, -0.5, atol=1e-6)
    else:
        np.testing.assert_allclose(message.pose.position.x, 0.39, atol=1e-6)
    robot.close()


def test_transforms_of_each_layout() -> None:
    way = Frames({"b": ("a", (1.0, 0.0, 0.0), (0.0, 0.0, math.pi / 2))}).between("b", "a")
    assert way is not None
    pose = way.apply("pose", np.array([1.0, 0, 0, 0, 0, 0, 1]))
    np.testing.assert_allclose(pose[:3], [1, 1, 0], atol=1e-12)
    np.testing.assert_allclose(pose[3:], [0, 0, math.sqrt(0.5), math.sqrt(0.5)])
    twist = way.apply("twist", np.array([1.0, 0, 0, 0, 1, 0]))
    np.testing.assert_allclose(twist, [0, 1, 0, -1, 0, 0], atol=1e-12)
    wrench = way.apply("wrench", np.array([1.0, 0, 0, 0, 0, 0]))  # 1 N along y, 1 m away
    np.testing.assert_allclose(wrench, [0, 1, 0, 0, 0, 1], atol=1e-12)
    assert not way.can("vector3")  # a point, or a direction


def test_the_way_leads_through_a_tree_in_both_directions() -> None:
    frames = Frames(
        {
            "b": ("a", (1.0, 2.0, 0.0), (0.1, 0.2, 0.3)),
            "c": ("b", (0.0, 0.5, 0.0), (0.0, 0.4, 0.0)),
            "d": ("a", (0.0, 0.0, 3.0), (0.0, 0.0, 1.0)),
        }
    )
    there, back = frames.between("c", "/d"), frames.between("d", "c")
    assert there is not None and back is not None
    pose = np.array([0.3, 0.2, 0.1, 0, 0, 0, 1.0])
    np.testing.assert_allclose(back.apply("pose", there.apply("pose", pose)), pose, atol=1e-12)
    assert frames.between("c", "elsewhere") is None
    with pytest.raises(ConfigError, match="above itself"):
        Frames({"a": ("b", (0, 0, 0), (0, 0, 0)), "b": ("a", (0, 0, 0), (0, 0, 0))})


def test_a_wrench_whose_frame_is_not_stated_is_taken_as_it_comes(io: LocalTopics) -> None:
    wrench = {"topic": "/w", "type": "geometry_msgs/msg/WrenchStamped", "field": "wrench"}
    config = contract()
    tool = from_mapping(type(config.observation["tcp_pose"]), wrench)
    source = Source("wrench", config.replace(observation={**config.observation, "wrench": tool}))
    source.prepare(io)
    zero = SimpleNamespace(x=0.0, y=0.0, z=0.0)
    source.parts[0].receive(
        SimpleNamespace(
            header=SimpleNamespace(frame_id="tool0", stamp=SimpleNamespace(sec=1, nanosec=0)),
            wrench=SimpleNamespace(force=zero, torque=zero),
        )
    )
    assert source.newest(1_000_000_000)


def test_an_empty_frame_is_taken_only_where_the_contract_says_the_frame(
    io: LocalTopics, arm: TopicArm
) -> None:
    arm.frame_id = ""
    with pytest.raises(DeviceFault, match=r"frame_id: got an empty name.*Write frame: base_link"):
        connected(io, contract())
    robot = connected(io, contract(frame="base_link"))
    assert any("frame_id is empty; taken as 'base_link'" in note for note in robot.notes())
    np.testing.assert_allclose(robot.read().arrays["tcp_pose"][:3], [0.4, 0.1, 0.3], atol=1e-6)
    robot.close()


def test_a_frame_that_the_contract_leaves_open_is_noted_and_stays(io: LocalTopics) -> None:
    wrench = {"topic": "/w", "type": "geometry_msgs/msg/WrenchStamped", "field": "wrench"}
    config = contract()
    entry = from_mapping(type(config.observation["tcp_pose"]), wrench)
    observer = Observer(config.replace(observation={**config.observation, "wrench": entry}))
    observer.subscribe(io)
    publisher = io.publisher("/w", "geometry_msgs/msg/WrenchStamped")
    for frame in ("tool0", "tool0", "base"):
        message = publisher.new()
        message.header.frame_id = frame
        publisher.publish(message)
        if frame == "tool0":
            observer.measured("wrench")
            assert "write frame: tool0" in " ".join(observer.notes())
    with pytest.raises(DeviceFault, match="frame_id: got 'base', after 'tool0', expected one"):
        observer.measured("wrench")


def test_a_twist_of_bare_numbers_has_a_frame_as_well(io: LocalTopics) -> None:
    numbers = "std_msgs/msg/Float64MultiArray"
    entry = {
        "topic": "/v", "type": numbers, "field": "data", "layout": "vector", "size": 6,
        "frame": "base",
    }  # fmt: skip
    config = contract(transforms=TURNED)
    config = config.replace(
        observation={
            **config.observation,
            "tcp_velocity": from_mapping(type(config.observation["tcp_pose"]), entry),
        }
    )
    observer = Observer(config)
    observer.subscribe(io)
    message = io.publisher("/v", numbers).new()
    message.data = [1.0, 2.0, 3.0, 0.1, 0.2, 0.3]
    io.publisher("/v", numbers).publish(message)
    np.testing.assert_allclose(
        observer.measured("tcp_velocity"), [-1.0, -2.0, 3.0, -0.1, -0.2, 0.3], atol=1e-9
    )
    assert observer.specs["tcp_velocity"].frame == "base_link"
