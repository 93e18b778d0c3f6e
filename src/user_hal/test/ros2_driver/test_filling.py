"""Fields of messages of any type, filled by a mapping that is checked against the type."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import pytest

from user_core.errors import ConfigError
from user_hal.fakes import LocalTopics
from user_hal.fakes.local_topics import Header, JointTrajectory, Pose, SetBoolRequest
from user_hal.robots.ros2.filling import Duration, Template, constants
from user_hal.robots.ros2.frames import from_rpy, to_rpy

WORDS: dict[str, Any] = {
    "values": [0.1, -0.2],
    "joints": ["a", "b"],
    "opening": 0.7,
    "open": True,
    "duration": Duration(1.25),
    "frame": "base",
}


@dataclass
class GroupCommand:
    """Like interbotix_xs_msgs/msg/JointGroupCommand, with more kinds of fields."""

    header: Header = field(default_factory=Header)
    name: str = ""
    cmd: list[float] = field(default_factory=list)
    mode: int = 0
    brake: bool = False
    labels: list[str] = field(default_factory=list)
    pose: Pose = field(default_factory=Pose)
    duration: float = 0.0
    POSITION: ClassVar[int] = 3


def template(fields: dict[str, Any], cls: type[Any] = GroupCommand) -> Template:
    return Template(LocalTopics(lambda: 5 * 10**9), cls, "x_msgs/msg/X", fields, WORDS, "fields")


def filled(fields: dict[str, Any], cls: type[Any] = GroupCommand) -> Any:
    return template(fields, cls).fill(cls(), WORDS)


def test_words_numbers_and_texts_stand_where_they_are_said_to_stand() -> None:
    message = filled({"name": "arm", "cmd": "values", "mode": 3, "brake": "open",
                      "labels": "joints", "duration": "duration",
                      "pose.orientation.w": 0.5, "pose.position.x": "values[1]"})  # fmt: skip
    assert (message.name, message.cmd, message.mode) == ("arm", [0.1, -0.2], 3)
    assert message.brake is True and message.labels == ["a", "b"] and message.duration == 1.25
    assert (message.pose.orientation.w, message.pose.position.x) == (0.5, -0.2)
    assert (message.header.stamp.sec, message.header.frame_id) == (5, "base")


def test_a_text_field_takes_texts_and_no_words() -> None:
    assert filled({"name": "values"}).name == "values"


def test_constants_of_the_type_stand_by_their_names() -> None:
    assert filled({"mode": "POSITION"}).mode == 3
    with pytest.raises(ConfigError, match="got 'VELOCITY', expected int, or one of the words"):
        filled({"mode": "VELOCITY"})


def test_lists_of_messages_and_durations() -> None:
    for fields in (
        {"joint_names": "joints", "points": [{"positions": "values", "time_from_start": "duration"}]},
        {"joint_names": "joints", "points[0].positions": "values",
         "points[0].time_from_start": "duration"},
    ):  # fmt: skip
        message = filled(fields, JointTrajectory)
        (point,) = message.points
        assert message.joint_names == ["a", "b"] and point.positions == [0.1, -0.2]
        assert (point.time_from_start.sec, point.time_from_start.nanosec) == (1, 250_000_000)


def test_every_message_is_filled_anew() -> None:
    made = template({"cmd": "values", "labels": ["p", "q"]})
    first = made.fill(GroupCommand(), WORDS)
    second = made.fill(GroupCommand(), {**WORDS, "values": [1.0, 2.0]})
    first.labels.append("r")
    assert (first.cmd, second.cmd, second.labels) == ([0.1, -0.2], [1.0, 2.0], ["p", "q"])


def test_numbers_become_what_the_field_takes() -> None:
    assert filled({"mode": "opening"}).mode == 1
    assert filled({"brake": "opening"}).brake is True


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"cmds": "values"}, r"fields.cmds: got x_msgs/msg/X has no 'cmds'.*did you mean 'cmd'"),
        ({"pose.posit.x": 1.0}, r"fields.pose.posit: .*did you mean 'position'"),
        ({"cmd": "value"}, r"got 'value', expected float\[\], or one of the words.*'values'"),
        ({"cmd": "opening"}, r"got 'opening', one, expected float\[\]"),
        ({"mode": "values"}, "several, expected int"),
        ({"mode": "values[2]"}, r"got 'values\[2\]' of 2"),
        ({"mode": 1.5}, "got 1.5, expected int"),
        ({"brake": 1}, "got 1, expected bool"),
        ({"name": 3}, "got 3, expected string"),
        ({"cmd": "joints"}, "'joints', str, expected float"),
        ({"pose": 1.0}, "fields.pose: got 1.0, expected Pose"),
        ({"duration": {"sec": 1}}, "fields.duration: got .*expected float"),
    ],
)
def test_what_does_not_fit_the_type_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        template(fields)


def test_requests_have_no_words() -> None:
    io = LocalTopics()
    assert constants(io, SetBoolRequest, "std_srvs/srv/SetBool", {"data": True}, "before[0]").data
    with pytest.raises(ConfigError, match=r"before\[0\].data"):
        constants(io, SetBoolRequest, "std_srvs/srv/SetBool", {"data": "true"}, "before[0]")


def test_angles_of_a_rotation_are_those_that_it_was_made_of() -> None:
    rng = np.random.default_rng(3)
    for _ in range(100):
        angles = rng.uniform([-3.1, -1.5, -3.1], [3.1, 1.5, 3.1])
        np.testing.assert_allclose(to_rpy(np.array(from_rpy(*angles))), angles, atol=1e-9)
    for pitch in (np.pi / 2, -np.pi / 2):  # roll and yaw about one axis
        turn = np.array(from_rpy(0.4, pitch, 0.9))
        again = np.array(from_rpy(*to_rpy(turn)))
        assert abs(float(turn @ again)) == pytest.approx(1.0, abs=1e-9)
