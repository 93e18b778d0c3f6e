"""What a HAL publishes for people's nodes."""

from __future__ import annotations

from typing import Any

import numpy as np

from user_comm.topics import CONSOLE_NODE, CONSOLE_SELDOM_NODE
from user_core.specs import ActionGroup, ActionKind, ArraySpec, RobotSpec
from user_core.types import Observation
from user_hal.nodes import standard_topics
from user_hal.nodes.standard_topics import StandardTopics, markers
from user_hal.robot_file import DisplayConfig
from user_hal.runtime.control_loop import HalStatus
from user_hal.safety.config import WorkspaceConfig
from user_hal.safety.stops import SafetyState

LEFT, RIGHT = "left.joint_position", "right.joint_position"


def published(observation: dict[str, ArraySpec]) -> dict[str, Any]:
    """The messages of a robot of two groups that shows these arrays; their values count up."""
    groups = tuple(ActionGroup(name, ActionKind.JOINT_DELTA, 2) for name in ("left", "right"))
    spec = RobotSpec(
        "two", observation, ArraySpec((4,)), ActionKind.JOINT_DELTA, action_groups=groups
    )
    messages: dict[str, Any] = {}

    def advertise(topic: Any) -> Any:
        class Publisher:
            wanted, readers = True, frozenset({"rviz"})

            def publish(self, message: Any) -> None:
                messages[topic.name] = message

        return Publisher()

    standard = StandardTopics(spec, DisplayConfig(), advertise)
    values = iter(range(100))
    arrays = {
        name: np.array([next(values) for _ in range(item.size)], np.float32)
        for name, item in observation.items()
    }
    standard._publish(Observation(arrays, 1, 1, 1))
    return messages


class Reader:
    """A camera's topic and who subscribes to it, and when an image was made."""

    def __init__(self, *readers: str) -> None:
        self.readers, self.wanted, self.images = set(readers), bool(readers), 0

    def publish(self, message: Any) -> None:
        self.images += 1


def images_of_two_seconds(monkeypatch: Any, **readers: Reader) -> None:
    """Two seconds of a robot at 20 Hz, whose observations come a little early and late."""
    now = [100.0]
    monkeypatch.setattr(standard_topics.time, "monotonic", lambda: now[0])
    shape = ArraySpec((2, 2, 3), "uint8")
    spec = RobotSpec("one", {f"image_{name}": shape for name in readers}, ArraySpec((1,)))
    standard = StandardTopics(
        spec, DisplayConfig(),
        lambda topic: readers.get(topic.name.split("/")[1]) if topic.name.endswith("raw") else None,
    )  # fmt: skip
    arrays = {name: np.zeros((2, 2, 3), np.uint8) for name in spec.observation}
    for step in range(40):
        now[0] = 100.0 + step / 20 + (0.004 if step % 3 else -0.004)
        standard._publish(Observation(arrays, 1, step, 1))


def test_images_come_as_often_as_they_are_looked_at(monkeypatch: Any) -> None:
    page, both, nobody = Reader(CONSOLE_NODE), Reader(CONSOLE_NODE, "rosbag2_recorder"), Reader()
    seldom, two = Reader(CONSOLE_SELDOM_NODE), Reader(CONSOLE_SELDOM_NODE, CONSOLE_NODE)
    images_of_two_seconds(monkeypatch, page=page, both=both, nobody=nobody, seldom=seldom, two=two)
    assert (both.images, nobody.images) == (40, 0)
    assert 19 <= page.images <= 21 and 19 <= two.images <= 21
    assert 8 <= seldom.images <= 10


def test_joints_of_all_groups_are_in_one_message() -> None:
    message = published(
        {
            LEFT: ArraySpec((2,), names=("l1", "l2")),
            RIGHT: ArraySpec((2,)),
            "left.joint_velocity": ArraySpec((2,)),
            "right.joint_velocity": ArraySpec((2,)),
            "left.joint_effort": ArraySpec((2,)),
        }
    )["joint_states"]
    assert message.name == ["l1", "l2", "right_joint_1", "right_joint_2"]
    assert list(message.position) == [0, 1, 2, 3] and list(message.velocity) == [4, 5, 6, 7]
    assert not message.effort  # only some joints have one


def test_the_boxes_of_groups_are_drawn_each_in_its_frame() -> None:
    status = HalStatus.__new__(HalStatus)
    object.__setattr__(status, "state", SafetyState.IDLE)
    box = WorkspaceConfig(low=(0, 0, 0), high=(1, 1, 1))
    drawn = markers(
        Observation({}, 1, 1, 1), status, None, DisplayConfig(base_frame="torso"),
        WorkspaceConfig(), {"left": (box, "left_base"), "right": (box, "")},
    ).markers  # fmt: skip
    frames = {marker.ns: marker.header.frame_id for marker in drawn}
    assert frames["workspace_left"] == "left_base" and frames["workspace_right"] == "torso"


def test_joints_that_all_groups_share_are_published_once() -> None:
    message = published({"joint_position": ArraySpec((4,)), LEFT: ArraySpec((2,))})["joint_states"]
    assert len(message.name) == 4
