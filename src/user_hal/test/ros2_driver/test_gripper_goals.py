"""A goal that a gripper's action server rejects is not carried out, and is tried again."""

from __future__ import annotations

from typing import Any

import pytest

from user_core.config import from_mapping
from user_hal.fakes import LocalTopics
from user_hal.robots.ros2.commanding import grippers
from user_hal.robots.ros2.commanding.grippers import GripperSender
from user_hal.robots.ros2.contract import GripperConfig

ACTION = "control_msgs/action/GripperCommand"


class Server:
    """Rejects goals while it is not homed."""

    def __init__(self, io: LocalTopics) -> None:
        self.homed, self.goals = True, [0.0] * 0
        io.serve("/gripper", ACTION, self.take)

    def take(self, goal: Any) -> bool:
        self.goals.append(goal.command.position)
        return self.homed


def test_a_rejected_goal_is_not_applied_and_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(grippers.time, "monotonic", lambda: now[0])
    io = LocalTopics()
    server = Server(io)
    config = {"topic": "/gripper", "type": ACTION, "closed": 0.0, "opened": 0.08}
    sender = GripperSender(io, from_mapping(GripperConfig, config))
    assert sender.send(0.25) == 0.25
    assert not sender.trouble()

    server.homed = False
    assert sender.send(1.0) == 0.25
    assert "'/gripper'" in sender.trouble().text and sender.trouble().code == "gripper_rejected"
    now[0] += 0.1
    assert sender.send(1.0) == 0.25
    assert len(server.goals) == 2  # not in every period

    server.homed = True
    now[0] += 0.5
    assert sender.send(1.0) == 1.0
    assert not sender.trouble()
    now[0] += 5.0
    assert sender.send(1.0) == 1.0
    assert server.goals == pytest.approx([0.02, 0.08, 0.08])


def test_an_answer_that_is_not_there_yet_leaves_what_was_applied() -> None:
    io = LocalTopics()
    Server(io)
    config = {"topic": "/gripper", "type": ACTION, "closed": 0.0, "opened": 0.08}
    sender = GripperSender(io, from_mapping(GripperConfig, config))
    sender.send(0.25)
    publisher: Any = sender.publisher
    send = publisher.publish

    def publish(message: Any) -> None:
        send(message)
        publisher.accepted = None

    publisher.publish = publish
    assert sender.send(1.0) == 0.25
    publisher.accepted = True
    assert sender.send(1.0) == 1.0
