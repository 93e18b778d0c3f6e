"""Grippers: by topic, action, service or calls, of one or more fingers, or in the arm's message."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from user_core.config import from_mapping
from user_core.errors import ConfigError
from user_hal.fakes import LocalTopics, local_topics
from user_hal.fakes.topic_arm import TopicArm
from user_hal.robots.ros2.commanding import grippers
from user_hal.robots.ros2.commanding.grippers import GripperSender
from user_hal.robots.ros2.contract import GripperConfig, Ros2Config
from user_hal.robots.ros2.driver import Ros2Robot
from user_testing.waiting import wait_until

SERVICE = "xarm_msgs/srv/GripperMove"
MOVE, GRASP = "franka_msgs/action/Move", "franka_msgs/action/Grasp"


@dataclass
class MoveRequest:
    """Of a service, or goal of an action."""

    width: float = 0.0
    speed: int = 0
    open: bool = False


@pytest.fixture
def io(monkeypatch: pytest.MonkeyPatch) -> LocalTopics:
    monkeypatch.setitem(local_topics.SERVICES, SERVICE, MoveRequest)
    for name in (MOVE, GRASP):
        monkeypatch.setitem(local_topics.ACTIONS, name, MoveRequest)
    return LocalTopics()


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    seconds = [100.0]
    monkeypatch.setattr(grippers.time, "monotonic", lambda: seconds[0])
    return seconds


def sender(io: LocalTopics, **keys: Any) -> GripperSender:
    return GripperSender(io, from_mapping(GripperConfig, keys))


def listen(io: LocalTopics, topic: str, type_name: str) -> list[Any]:
    received: list[Any] = []
    io.subscribe(topic, type_name, received.append)
    return received


def test_fingers_have_numbers_of_their_own(io: LocalTopics) -> None:
    received = listen(io, "/fingers", "std_msgs/msg/Float64MultiArray")
    gripper = sender(io, topic="/fingers", type="std_msgs/msg/Float64MultiArray",
                     closed=[0.015, -0.015], opened=[0.057, -0.057])  # fmt: skip
    gripper.send(0.0)
    gripper.send(0.5)
    gripper.send(1.0)
    np.testing.assert_allclose(
        [m.data for m in received], [[0.015, -0.015], [0.036, -0.036], [0.057, -0.057]]
    )


def test_a_bool_switches_with_hysteresis_and_reports_what_holds(io: LocalTopics) -> None:
    received = listen(io, "/valve", "std_msgs/msg/Bool")
    gripper = sender(io, topic="/valve", type="std_msgs/msg/Bool", closed=0, opened=1)
    held = [gripper.send(o) for o in (0.2, 0.52, 0.56, 0.48, 0.46, 0.44, 0.9)]
    assert held == [0.0, 0.0, 1.0, 1.0, 1.0, 0.0, 1.0]
    assert [m.data for m in received] == [False, True, False, True]


def test_a_bool_may_mean_closed(io: LocalTopics) -> None:
    received = listen(io, "/valve", "std_msgs/msg/Bool")
    gripper = sender(io, topic="/valve", type="std_msgs/msg/Bool", closed=1, opened=0)
    assert gripper.send(1.0) == 1.0
    assert [m.data for m in received] == [False]


def test_any_message_by_its_fields(io: LocalTopics) -> None:
    received = listen(io, "/grip", "std_msgs/msg/Int32")
    gripper = sender(io, topic="/grip", type="std_msgs/msg/Int32", closed=0, opened=850,
                     fields={"data": "value"})  # fmt: skip
    gripper.send(0.5)
    assert received[-1].data == 425


def test_any_action_by_its_goal(io: LocalTopics) -> None:
    goals: list[Any] = []
    io.serve("/move", MOVE, goals.append)
    gripper = sender(io, topic="/move", type=MOVE, closed=0.0, opened=0.08,
                     fields={"width": "value", "speed": 2, "open": "open"})  # fmt: skip
    assert gripper.send(0.75) == 0.75
    assert [(goal.width, goal.speed, goal.open) for goal in goals] == [
        (pytest.approx(0.06), 2, True)
    ]


def test_a_low_rate_for_servers_that_block(io: LocalTopics, now: list[float]) -> None:
    goals: list[Any] = []
    io.serve("/move", MOVE, goals.append)
    gripper = sender(io, topic="/move", type=MOVE, closed=0.0, opened=1.0, min_interval_s=1.0,
                     fields={"width": "value"})  # fmt: skip
    held = []
    for opening in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.0):
        held.append(gripper.send(opening))
        now[0] += 0.3
    assert [goal.width for goal in goals] == pytest.approx([0.0, 0.8])
    assert held == pytest.approx([0.0, 0.0, 0.0, 0.0, 0.8, 0.8, 0.8])  # what it was really told


def test_a_service_that_blocks_holds_nobody_up_and_the_newest_wish_wins(io: LocalTopics) -> None:
    requests: list[float] = []
    go = threading.Event()

    def serve(request: Any) -> Any:
        requests.append(request.width)
        assert go.wait(60)
        return SimpleNamespace(ret=0 if request.width < 9 else 22, message="too wide")

    io.services["/set"] = serve
    gripper = sender(io, topic="/set", type=SERVICE, closed=0.0, opened=10.0, success={"ret": 0},
                     fields={"width": "value"})  # fmt: skip
    try:
        gripper.send(0.1)
        wait_until(lambda: requests)
        gripper.send(0.3)
        gripper.send(0.5)
        go.set()
        wait_until(lambda: len(requests) == 2 and gripper.port.accepted)
        assert requests == [1.0, 5.0]
        assert gripper.send(0.5) == 0.5 and not gripper.trouble()
        gripper.send(1.0)
        wait_until(lambda: gripper.port.accepted is False)
        assert gripper.send(1.0) == 0.5
        trouble = gripper.trouble()
        assert trouble.code == "gripper_rejected"
        assert "service '/set': got ret = 22" in trouble.text
    finally:
        go.set()
        gripper.close()


def test_two_calls_open_and_close(io: LocalTopics) -> None:
    made: list[Any] = []
    io.serve("/open", MOVE, lambda goal: made.append(("open", goal.width)))
    io.serve("/grasp", GRASP, lambda goal: made.append(("close", goal.width)))
    gripper = sender(
        io,
        open={"action": "/open", "type": MOVE, "request": {"width": 0.08}},
        close={"action": "/grasp", "type": GRASP, "request": {"width": 0.01}},
    )
    assert [gripper.send(o) for o in (1.0, 0.9, 0.1, 0.2, 0.8)] == [1.0, 1.0, 0.0, 0.0, 1.0]
    assert made == [("open", 0.08), ("close", 0.01), ("open", 0.08)]
    gripper.close()


def test_two_services_open_and_close(io: LocalTopics) -> None:
    made: list[str] = []

    def serve(name: str) -> Any:
        def call(_: Any) -> Any:
            made.append(name)
            return SimpleNamespace(success=True)

        return call

    for name in ("open", "close"):
        io.services[f"/{name}"] = serve(name)
    gripper = sender(io, open={"service": "/open"}, close={"service": "/close"})
    gripper.send(1.0)
    wait_until(lambda: made == ["open"])
    gripper.send(0.0)
    wait_until(lambda: made == ["open", "close"])
    wait_until(lambda: gripper.send(0.0) == 0.0 and not gripper.trouble())
    gripper.close()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({}, "one of topic, in_command, and open with close"),
        ({"topic": "/g", "in_command": True, "type": "std_msgs/msg/Float64"}, "one of topic"),
        ({"open": {"service": "/o"}}, "expected both"),
        ({"topic": "/g", "type": "x_msgs/msg/Y"}, "or fields beside it"),
        ({"topic": "/g", "type": "std_msgs/msg/Float64", "closed": [0.0, 0.0, 1.0],
          "opened": [1.0, 1.0]}, "opened of the gripper: got 2 numbers, expected 3"),
        ({"topic": "/g", "type": "std_msgs/msg/Float64", "success": {"ret": 0}}, "a service"),
    ],
)  # fmt: skip
def test_grippers_that_cannot_be_are_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_mapping(GripperConfig, keys)


def test_fields_are_checked_against_the_type(io: LocalTopics) -> None:
    with pytest.raises(ConfigError, match=r"gripper.fields.widht: .*did you mean 'width'"):
        sender(io, topic="/set", type=SERVICE, fields={"widht": "value"})


# --- in the arm's message -------------------------------------------------------------------------

STATE = "sensor_msgs/msg/JointState"


def in_message(command: dict[str, Any], **gripper: Any) -> dict[str, Any]:
    finger = {"topic": "/joint_states", "type": STATE, "field": "position", "names": ["finger"]}
    return {
        "robot": "toy",
        "joints": ["shoulder", "elbow", "wrist"],
        "period_s": 0.05,
        "timing": {"connect_timeout_s": 0.5, "max_age_s": 0.5},
        "observation": {
            "joint_position": {"topic": "/joint_states", "type": STATE, "field": "position"},
            "gripper": {**finger, "scale": 25.0},
        },
        "action": {
            "kind": "joint_delta", "low": -0.1, "high": 0.1, "command": command,
            "gripper": {"in_command": True, "closed": -10.0, "opened": 100.0, **gripper},
        },
    }  # fmt: skip


@pytest.fixture
def arm(io: LocalTopics) -> Iterator[TopicArm]:
    with TopicArm(io) as arm:
        yield arm


def connected(io: LocalTopics, mapping: dict[str, Any]) -> Ros2Robot:
    robot = Ros2Robot(from_mapping(Ros2Config, mapping))
    robot.attach(io)
    robot.connect()
    return robot


def test_the_gripper_is_the_last_element_of_the_arms_message(
    io: LocalTopics, arm: TopicArm
) -> None:
    received = listen(io, "/all", "std_msgs/msg/Float64MultiArray")
    command = {"topic": "/all", "type": "std_msgs/msg/Float64MultiArray", "scale": 57.29578}
    arm.gripper_m = 0.02  # half open
    robot = connected(io, in_message(command))
    wait_until(lambda: robot.read().arrays["gripper"][0] == pytest.approx(0.5))
    robot.stop()
    if received:  # a stop before the first command leaves the gripper as it is
        assert received[-1].data[3] == pytest.approx(45.0)
    sent = robot.command(np.array([0.1, 0, 0, 1.0], np.float32))
    np.testing.assert_allclose(sent, [0.1, 0, 0, 1.0], atol=1e-6)
    np.testing.assert_allclose(received[-1].data, [5.729578, 0, 0, 100.0], rtol=1e-5)
    robot.command(np.array([0.0, 0, 0, 0.25], np.float32))
    robot.stop()
    assert received[-1].data[3] == pytest.approx(17.5)  # as it was told last
    robot.close()


def test_by_names_and_in_other_types(io: LocalTopics, arm: TopicArm) -> None:
    received = listen(io, "/all", STATE)
    command = {"topic": "/all", "type": STATE}
    robot = connected(io, in_message(command, joints=["g"]))
    robot.command(np.array([0.1, 0, 0, 0.0], np.float32))
    assert received[-1].name == ["shoulder", "elbow", "wrist", "g"]
    assert received[-1].position == pytest.approx([0.1, 0, 0, -10.0])
    robot.close()
    fields = {"name": ["arm"], "position": "arm", "effort": "fingers"}
    robot = connected(io, in_message({**command, "fields": fields}, closed=[0, 0], opened=[1, -1]))
    robot.command(np.array([0.1, 0, 0, 0.5], np.float32))
    assert (len(received[-1].position), received[-1].effort) == (3, [0.5, -0.5])
    robot.close()


def test_a_stop_must_know_how_wide_it_is_open() -> None:
    mapping = in_message({"topic": "/all", "type": "std_msgs/msg/Float64MultiArray"})
    del mapping["observation"]["gripper"]
    with pytest.raises(ConfigError, match="gripper: the opening, as a stop must leave it"):
        from_mapping(Ros2Config, mapping)


def test_velocities_leave_no_room_for_a_gripper() -> None:
    mapping = in_message({"topic": "/all", "type": "std_msgs/msg/Float64MultiArray",
                          "quantity": "velocity"})  # fmt: skip
    with pytest.raises(ConfigError, match="in_command: .*of velocities, expected positions"):
        from_mapping(Ros2Config, mapping)


# --- several grippers beside one controller ------------------------------------------------------


def two_hands(grippers: dict[str, Any], fields: dict[str, Any]) -> dict[str, Any]:
    command = {"topic": "/all", "type": "std_msgs/msg/Float64MultiArray", "fields": fields}
    mapping = in_message(command)
    del mapping["action"]["gripper"]
    mapping["action"]["grippers"] = grippers
    mapping["observation"]["gripper"]["names"] = ["finger", "shoulder"]
    mapping["observation"]["gripper"]["scale"] = 1.0
    return mapping


def test_one_message_for_two_arms_and_their_grippers(io: LocalTopics, arm: TopicArm) -> None:
    received = listen(io, "/all", "std_msgs/msg/Float64MultiArray")
    hand = {"in_command": True, "closed": 0.0, "opened": 10.0}
    data = ["values[0]", "fingers[0]", "values[1]", "values[2]", "fingers[1]"]
    mapping = two_hands({"left": hand, "right": {**hand, "opened": -10.0}}, {"data": data})
    mapping["home"] = {"gripper": [0.5, 0.0]}
    arm.gripper_m, arm.joints = 0.3, np.array([0.1, 0.2, 0.4])
    robot = connected(io, mapping)
    assert robot.spec.action.names[-2:] == ("left_gripper", "right_gripper")
    assert robot.spec.grippers == (3, 4)
    wait_until(lambda: robot.read().arrays["joint_position"][2] == pytest.approx(0.4))
    robot.reset()
    assert received[-1].data == pytest.approx([0.1, 5.0, 0.2, 0.4, 0.0])  # opened at the start
    sent = robot.command(np.array([0.1, 0, 0, 1.0, 0.25], np.float32))
    np.testing.assert_allclose(sent, [0.1, 0, 0, 1.0, 0.25], atol=1e-6)
    assert received[-1].data == pytest.approx([0.2, 10.0, 0.2, 0.4, -2.5])
    robot.stop()
    assert received[-1].data[1] == 10.0 and received[-1].data[4] == -2.5
    robot.close()


def test_two_grippers_with_topics_of_their_own(io: LocalTopics, arm: TopicArm) -> None:
    listen(io, "/all", "std_msgs/msg/Float64MultiArray")
    hands = {side: listen(io, f"/{side}", "std_msgs/msg/Float64") for side in ("left", "right")}
    grippers = {
        side: {"topic": f"/{side}", "type": "std_msgs/msg/Float64", "closed": 0, "opened": 1}
        for side in hands
    }
    robot = connected(io, two_hands(grippers, {"data": "values"}))
    robot.command(np.array([0.0, 0, 0, 1.0, 0.25], np.float32))
    assert [hand[-1].data for hand in hands.values()] == [1.0, 0.25]
    robot.close()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gripper": {"in_command": True}}, "grippers: got given beside gripper"),
        ({"grippers": {"left": {"in_command": True}, "right": {"in_command": True},
                       "third": {"in_command": True}}}, "gripper: the opening.*3 numbers"),
    ],
)  # fmt: skip
def test_several_grippers_that_cannot_be(changes: dict[str, Any], message: str) -> None:
    mapping = two_hands({"left": {"in_command": True}}, {"data": "values"})
    mapping["action"] |= changes
    with pytest.raises(ConfigError, match=message):
        from_mapping(Ros2Config, mapping)


def test_fields_that_say_the_same_whatever_the_opening_are_refused(io: LocalTopics) -> None:
    """A text stays as it is: the gripper was told to open for ever, and that was recorded."""
    string = {"topic": "/g", "type": "std_msgs/msg/String", "closed": 0.0, "opened": 1.0}
    with pytest.raises(ConfigError, match="the same message whatever the opening.*two calls"):
        sender(io, **string, fields={"data": "open"})
