"""Sources and frames of a contract over real topics: a stand-in publishes from a node of its own."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest

from user_comm.topic_io import RosTopicIo, open_topic_io
from user_core.config import from_mapping
from user_core.errors import DeviceError, DeviceTimeout
from user_core.reasons import INCOMPATIBLE_QOS
from user_hal.robots.ros2.contract import Ros2Config
from user_hal.robots.ros2.driver import Ros2Robot
from user_testing.interfaces import provide
from user_testing.waiting import wait_until

STATE, NUMBER, BOOL = "sensor_msgs/msg/JointState", "std_msgs/msg/Float64", "std_msgs/msg/Bool"
NUMBERS, TF = "std_msgs/msg/Float64MultiArray", "tf2_msgs/msg/TFMessage"
QUARTER = {"z": math.sqrt(0.5), "w": math.sqrt(0.5)}
URDF = """<robot name="toy"><link name="base"/><link name="l"/><link name="r"/><link name="f"/>
<joint name="l1" type="revolute"><parent link="base"/><child link="l"/>
  <limit lower="-1" upper="0.12" velocity="2"/></joint>
<joint name="r1" type="continuous"><parent link="base"/><child link="r"/>
  <limit velocity="2"/></joint>
<joint name="lift" type="revolute"><parent link="base"/><child link="f"/>
  <limit lower="0" upper="0.8" velocity="2"/></joint></robot>"""


class StandIn:
    """Publishes at 50 Hz whatever it is told to, until the ``with`` block ends."""

    def __init__(self, io: RosTopicIo) -> None:
        self.io = io
        self._each: list[Callable[[], None]] = []
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def stamp(self, header: Any, frame: str = "") -> Any:
        header.stamp.sec, header.stamp.nanosec = divmod(self.io.now_ns(), 10**9)
        header.frame_id = frame
        return header

    def states(self, topic: str, **positions: float) -> None:
        publisher = self.io.publisher(topic, STATE)

        def publish() -> None:
            message = publisher.new()
            self.stamp(message.header)
            message.name, message.position = list(positions), list(positions.values())
            publisher.publish(message)

        self._each.append(publish)

    def number(self, topic: str, value: Any, type_name: str = NUMBER, **quality: bool) -> Any:
        publisher = self.io.publisher(topic, type_name, **quality)
        message = publisher.new()
        message.data = value
        if quality.get("latched"):
            publisher.publish(message)
        else:
            self._each.append(lambda: publisher.publish(message))
        return publisher

    def transform(self, parent: str, child: str, *, fixed: bool = False, **place: float) -> None:
        publisher = self.io.publisher("/tf_static" if fixed else "/tf", TF, latched=fixed)

        def publish() -> None:
            from geometry_msgs.msg import TransformStamped  # of the environment with ROS

            item = TransformStamped()
            self.stamp(item.header, parent)
            item.child_frame_id = child
            for key, number in place.items():
                part = item.transform.translation if key in "xy" else item.transform.rotation
                setattr(part, key, number)
            message = publisher.new()
            message.transforms = [item]
            publisher.publish(message)

        if fixed:
            publish()
        else:
            self._each.append(publish)

    def each(self, publish: Callable[[], None]) -> None:
        self._each.append(publish)

    def __enter__(self) -> StandIn:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._done.wait(0.02):
            for publish in self._each:
                publish()


@pytest.fixture
def stand_in() -> Iterator[StandIn]:
    provide()
    with open_topic_io("stand_in") as io, StandIn(io) as stand_in:
        yield stand_in


@pytest.fixture
def io() -> Iterator[RosTopicIo]:
    with open_topic_io("reader") as io:
        yield io


def joint_contract(joint_position: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "robot": "toy",
        "joints": ["l1", "r1", "lift"],
        "period_s": 0.05,
        "observation": {"joint_position": joint_position},
        "action": {
            "kind": "joint_delta", "low": -0.1, "high": 0.1,
            "command": {"topic": "/c", "type": NUMBERS},
        },
        "timing": {"connect_timeout_s": 10.0, "max_age_s": 5.0, "max_skew_s": 1.0},
        **changes,
    }  # fmt: skip


def connected(stack: ExitStack, io: RosTopicIo, mapping: dict[str, Any]) -> Ros2Robot:
    robot = Ros2Robot(from_mapping(Ros2Config, mapping))
    robot.attach(io)
    stack.callback(robot.close)
    robot.connect()
    return robot


def test_halves_a_lift_and_a_kept_bool_become_one_robot(stand_in: StandIn, io: RosTopicIo) -> None:
    stand_in.states("/arms", l1=0.1)
    stand_in.states("/arms", other=9.0, r1=0.2)
    stand_in.number("/lift", 400.0)
    stand_in.number("/running", True, BOOL, latched=True)
    stand_in.number("/robot_description", URDF, "std_msgs/msg/String", latched=True)
    heard: list[Any] = []
    stand_in.io.subscribe("/c", NUMBERS, heard.append)
    mapping = joint_contract(
        {
            "parts": [
                {"topic": "/arms", "type": STATE, "field": "position"},
                {"topic": "/lift", "type": NUMBER, "field": "data", "elements": ["lift"],
                 "scale": 0.001},
            ]
        },
        urdf={},
    )  # fmt: skip
    mapping["action"]["command"]["scale"] = 1.0
    mapping["action"]["command"]["offset"] = 0.0
    mapping["observation"]["running"] = {
        "topic": "/running", "type": BOOL, "field": "data", "size": 1, "latched": True
    }  # fmt: skip
    with ExitStack() as stack:
        robot = connected(stack, io, mapping)
        arrays = robot.read().arrays
        np.testing.assert_allclose(arrays["joint_position"], [0.1, 0.2, 0.4], rtol=1e-6)
        np.testing.assert_array_equal(arrays["running"], [1.0])
        notes = " ".join(robot.notes())
        assert "'/running'" in notes and "latched" in notes
        assert INCOMPATIBLE_QOS not in {warning.code for warning in robot.warnings()}
        robot.command(np.array([0.1, 0.1, 0.1], np.float32))
        wait_until(lambda: heard, "the command")
        np.testing.assert_allclose(heard[0].data, [0.12, 0.3, 0.5], atol=1e-6)  # l1: the URDF's


def test_pose_and_wrench_come_through_tf_and_the_command_goes_back(
    stand_in: StandIn, io: RosTopicIo
) -> None:
    stand_in.transform("base_link", "controller_base", fixed=True, x=1.0)
    stand_in.transform("base_link", "flange", y=0.5, **QUARTER)
    stand_in.transform("flange", "tool0", fixed=True, x=0.1)
    wrench_publisher = stand_in.io.publisher("/wrench", "geometry_msgs/msg/WrenchStamped")

    def publish_wrench() -> None:
        message = wrench_publisher.new()
        stand_in.stamp(message.header, "flange")
        message.wrench.force.x = 2.0
        wrench_publisher.publish(message)

    stand_in.each(publish_wrench)
    pose = "geometry_msgs/msg/PoseStamped"
    heard: list[Any] = []
    stand_in.io.subscribe("/target", pose, heard.append)
    mapping = joint_contract({})
    mapping |= {
        "joints": [],
        "base_frame": "base_link",
        "use_tf": True,
        "observation": {
            "tcp_pose": {"tf": "tool0"},
            "wrench": {
                "topic": "/wrench", "type": "geometry_msgs/msg/WrenchStamped", "field": "wrench",
                "frame": "base_link",
            },
        },
        "action": {
            "kind": "ee_delta", "rotation": False, "low": -0.1, "high": 0.1,
            "command": {"topic": "/target", "type": pose, "frame": "controller_base"},
        },
    }  # fmt: skip
    with ExitStack() as stack:
        robot = connected(stack, io, mapping)
        arrays = robot.read().arrays
        np.testing.assert_allclose(arrays["tcp_pose"][:3], [0.0, 0.6, 0.0], atol=1e-6)
        # 2 N along y of base_link at (0, 0.5, 0): no torque about the base's z axis
        np.testing.assert_allclose(arrays["wrench"], [0, 2, 0, 0, 0, 0], atol=1e-6)
        robot.command(np.array([0.05, 0.0, 0.0], np.float32))
        wait_until(lambda: heard, "the command")
        target = heard[0]
        assert target.header.frame_id == "controller_base"
        np.testing.assert_allclose(
            [target.pose.position.x, target.pose.position.y], [-0.95, 0.6], atol=1e-6
        )


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ({"topic": "/q", "type": NUMBERS, "field": "data", "reliability": "reliable"},
         r"nothing comes from /stand_in: reliability: best_effort offered, reliable asked for"),
        ({"topic": "/poses", "type": "geometry_msgs/msg/PoseArray",
          "field": "poses[*].position.x", "size": 3}, "nobody publishes it"),
    ],
)  # fmt: skip
def test_what_is_not_heard_is_told(
    stand_in: StandIn, io: RosTopicIo, source: dict[str, Any], text: str
) -> None:
    stand_in.number("/q", [0.1, 0.2, 0.3], NUMBERS, reliable=False)
    mapping = joint_contract(source)
    mapping["timing"]["connect_timeout_s"] = 1.0
    with ExitStack() as stack, pytest.raises(DeviceTimeout, match=text):
        connected(stack, io, mapping)


def test_nested_fields_of_every_element_over_real_messages(
    stand_in: StandIn, io: RosTopicIo
) -> None:
    poses = stand_in.io.publisher("/poses", "geometry_msgs/msg/PoseArray")

    def publish() -> None:
        from geometry_msgs.msg import Pose  # of the environment with ROS

        message = poses.new()
        stand_in.stamp(message.header)
        message.poses = [Pose() for _ in range(3)]
        for number, item in enumerate(message.poses):
            item.position.x = 0.1 * number
        poses.publish(message)

    stand_in.each(publish)
    stand_in.io.subscribe("/c", NUMBERS, lambda message: None)
    entry = {"topic": "/poses", "type": "geometry_msgs/msg/PoseArray"}
    with ExitStack() as stack:
        robot = connected(
            stack, io, joint_contract({**entry, "field": "poses[*].position.x", "size": 3})
        )
        np.testing.assert_allclose(robot.read().arrays["joint_position"], [0.0, 0.1, 0.2])
    with ExitStack() as stack, pytest.raises(Exception, match=r"poses\[\*\].position has no 'q'"):
        connected(stack, io, joint_contract({**entry, "field": "poses[*].position.q"}))


def test_a_missing_link_of_tf_is_named(stand_in: StandIn, io: RosTopicIo) -> None:
    stand_in.transform("wrist", "tool0", fixed=True, x=0.1)
    stand_in.transform("base_link", "arm", x=0.1)
    mapping = joint_contract({}) | {
        "joints": [],
        "observation": {"tcp_pose": {"tf": "tool0"}},
        "action": {
            "kind": "ee_twist", "low": -0.1, "high": 0.1,
            "command": {"topic": "/twist", "type": "geometry_msgs/msg/TwistStamped"},
        },
    }  # fmt: skip
    mapping["timing"]["connect_timeout_s"] = 2.0
    with (
        ExitStack() as stack,
        pytest.raises(DeviceError, match=r"two trees: tool0 < wrist, and base_link.*'wrist'"),
    ):
        connected(stack, io, mapping)
