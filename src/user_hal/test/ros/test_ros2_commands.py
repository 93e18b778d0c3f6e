"""Commands, calls and stop conditions of driver ``ros2`` over real topics, services and actions.

The ready contracts (test_ready_robots.py) try what robots' own drivers take; here is what those
never do: replace goals, reject a stop, abort, answer with no, say once what holds from then on.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import rclpy
from rclpy.action.server import ActionServer, CancelResponse, GoalResponse
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.executors import MultiThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.serialization import serialize_message
from rclpy.signals import SignalHandlerOptions

from user_comm.start import end_spinning
from user_comm.topic_io import RosTopicIo, open_topic_io
from user_comm.topics import interface_class
from user_core.config import from_mapping
from user_core.errors import DeviceFault, DeviceTimeout, TransportError
from user_hal.robots.ros2.commanding.grippers import GripperSender
from user_hal.robots.ros2.commanding.senders import TargetSender
from user_hal.robots.ros2.commanding.targets import Target
from user_hal.robots.ros2.contract import CommandConfig, GripperConfig, Ros2Config
from user_hal.robots.ros2.driver import Ros2Robot
from user_hal.robots.ros2.field_paths import FieldPath
from user_testing.interfaces import provide
from user_testing.waiting import wait_until

FOLLOW = "control_msgs/action/FollowJointTrajectory"
SWITCH = "controller_manager_msgs/srv/SwitchController"
NUMBERS = "std_msgs/msg/Float64MultiArray"
JOINTS = ("a", "b")
SPEED = 1.0  # rad/s


class Arm:
    """Two joints behind a trajectory action whose goals replace each other, as those of
    ros2_controllers do, and behind a topic of positions.

    Attributes:
        position: Of the joints.
        goals: Every goal that came.
        takes: Whether goals are accepted.
        aborts: Whether goals are aborted at once.
        calls: Requests that came, with what they asked for.
    """

    def __init__(self) -> None:
        provide()
        self.position: Any = np.zeros(2)
        self.goals: list[Any] = []
        self.calls: list[Any] = []
        self.takes, self.aborts = True, False
        self._active: Any = None
        self._context = rclpy.Context()
        rclpy.init(context=self._context, args=[], signal_handler_options=SignalHandlerOptions.NO)
        node = self.node = Node("arm", context=self._context, start_parameter_services=False)
        group = ReentrantCallbackGroup()
        self._states = node.create_publisher(
            interface_class("sensor_msgs/msg/JointState"), "/js", 5
        )
        node.create_timer(0.01, self._publish, callback_group=group)
        self._server = ActionServer(
            node, interface_class(FOLLOW), "/follow", self._execute, callback_group=group,
            goal_callback=self._goal, cancel_callback=lambda _: CancelResponse.ACCEPT,
        )  # fmt: skip
        node.create_subscription(interface_class(NUMBERS), "/positions", self._take, 5)
        node.create_service(interface_class(SWITCH), "/switch", self._switch, callback_group=group)
        once = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self.door = node.create_publisher(interface_class("std_msgs/msg/Bool"), "/door", once)
        self.say(False)
        self._executor = MultiThreadedExecutor(4, context=self._context)
        self._executor.add_node(node)
        self._thread = threading.Thread(target=self._executor.spin, daemon=True)

    def __enter__(self) -> Arm:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._active = None
        if end_spinning(self._thread, self._executor):
            self._server.destroy()
            self.node.destroy_node()
        rclpy.shutdown(context=self._context)

    def say(self, is_open: bool) -> None:
        """Once; who comes later hears it as well."""
        self.door.publish(interface_class("std_msgs/msg/Bool")(data=is_open))

    def _publish(self) -> None:
        message = interface_class("sensor_msgs/msg/JointState")()
        message.header.stamp = self.node.get_clock().now().to_msg()
        message.name, message.position = list(JOINTS), self.position.tolist()
        self._states.publish(message)

    def _take(self, message: Any) -> None:
        self.position = np.array(message.data)

    def _goal(self, goal: Any) -> GoalResponse:
        self.goals.append(goal.trajectory)
        return GoalResponse.ACCEPT if self.takes else GoalResponse.REJECT

    def _execute(self, handle: Any) -> Any:
        self._active, result = handle, interface_class(FOLLOW).Result()
        target = np.array(handle.request.trajectory.points[-1].positions)
        if self.aborts:
            handle.abort()
            result.error_code, result.error_string = -4, "path tolerance violated"
            return result
        while self._active is handle and not handle.is_cancel_requested:
            way = target - self.position
            if np.abs(way).max() < 1e-6:
                handle.succeed()
                return result
            self.position = self.position + np.clip(way, -SPEED * 0.005, SPEED * 0.005)
            time.sleep(0.005)
        if handle.is_cancel_requested:
            handle.canceled()
        else:
            handle.abort()  # replaced; some servers cancel such goals, some abort them
        return result

    def _switch(self, request: Any, response: Any) -> Any:
        self.calls.append(
            (list(request.activate_controllers), list(request.deactivate_controllers))
        )
        response.ok = "locked" not in request.activate_controllers
        return response


@pytest.fixture(scope="module")
def arm() -> Iterator[Arm]:
    with Arm() as arm:
        yield arm


@pytest.fixture(autouse=True)
def _as_before(arm: Arm) -> Iterator[None]:
    yield
    arm.takes, arm.aborts, arm._active = True, False, None
    arm.calls.clear()
    arm.say(False)


def contract(kind: str, command: dict[str, Any], **changes: Any) -> Ros2Config:
    reach = 3.0 if kind == "joint_position" else 0.05
    return from_mapping(
        Ros2Config,
        {
            "robot": "arm",
            "joints": list(JOINTS),
            "period_s": 0.05,
            "timing": {"connect_timeout_s": 20.0, "max_age_s": 1.0},
            "observation": {
                "joint_position": {
                    "topic": "/js", "type": "sensor_msgs/msg/JointState", "field": "position",
                },
            },
            "action": {"kind": kind, "low": -reach, "high": reach, "command": command},
            **changes,
        },
    )  # fmt: skip


@contextmanager
def connected(config: Ros2Config) -> Iterator[Ros2Robot]:
    with open_topic_io("hal") as io:
        robot = Ros2Robot(config)
        robot.attach(io)
        try:
            robot.connect()
            yield robot
        finally:
            robot.close()


def act(*values: float) -> Any:
    return np.array(values, np.float32)


def test_goals_replace_each_other_and_a_stop_holds(arm: Arm) -> None:
    with connected(contract("joint_delta", {"topic": "/follow", "type": FOLLOW})) as robot:
        start, told = arm.position.copy(), np.zeros(2)
        for _ in range(8):
            told += robot.command(act(0.04, -0.02))
            time.sleep(0.05)
        assert told[0] > 0.2
        wait_until(lambda: np.abs(arm.position - start - told).max() < 1e-3)
        assert not robot.trouble()  # goals that others replaced are no failures
        robot.command(act(0.05, 0.0))
        robot.stop()
        wait_until(lambda: arm.goals[-1].points[0].time_from_start.nanosec == 200_000_000)
        held = arm.goals[-1].points[0].positions  # of the stop, in stop.time_s
        wait_until(lambda: np.abs(arm.position - held).max() < 1e-3)
        assert abs(arm.position[0] - start[0] - told[0]) <= 0.05 + 1e-3


def test_a_stop_that_the_server_rejects_cancels_what_goes_on(arm: Arm) -> None:
    config = contract("joint_position", {"topic": "/follow", "type": FOLLOW})
    with connected(config) as robot:
        far = arm.position[0] + 2.0
        robot.command(act(far, 0.0))
        begun = arm.position[0]
        wait_until(lambda: arm.position[0] > begun + 0.05)
        arm.takes = False
        robot.stop()
        wait_until(lambda: arm._active is not None and not arm._active.is_active)
        assert arm.position[0] < far - 0.5
        assert robot.trouble().code == "command_rejected"


def test_goals_lead_home(arm: Arm) -> None:
    home = {"joints": (arm.position + np.array((0.3, -0.1))).tolist(), "speed_rad_s": 0.8}
    with connected(
        contract("joint_delta", {"topic": "/follow", "type": FOLLOW}, home=home)
    ) as robot:
        count = len(arm.goals)
        seen = robot.reset().arrays["joint_position"]
        np.testing.assert_allclose(seen, home["joints"], atol=0.021)
        assert len(arm.goals) - count < 40  # a goal is no stream
        assert not robot.trouble()


def test_what_a_server_aborts_is_told_in_its_words(arm: Arm) -> None:
    config = contract("joint_delta", {"topic": "/follow", "type": FOLLOW})
    with connected(config) as robot:
        arm.aborts = True
        robot.command(act(0.01, 0.0))
        wait_until(lambda: robot.trouble().code == "command_rejected")
        assert "aborted a goal: error_code=-4, error_string='path tolerance violated'" in (
            robot.trouble().text
        )
        arm.aborts = False
        robot.command(act(0.01, 0.0))
        wait_until(lambda: not robot.trouble())


def switch(*names: str, **more: Any) -> dict[str, Any]:
    return {"service": "/switch", "type": SWITCH, "timeout_s": 20.0,
            "request": {"activate_controllers": list(names), "strictness": 2}, **more}  # fmt: skip


def test_calls_are_made_and_taken_back_while_nobody_spins_the_node(arm: Arm) -> None:
    """As in a HAL that is deactivated: its only executor waits for the driver."""
    undo = {"request": {"deactivate_controllers": ["arm"], "strictness": 2}, "timeout_s": 20.0}
    config = contract(
        "joint_delta", {"topic": "/positions", "type": NUMBERS}, before=[switch("arm", undo=undo)]
    )
    context = rclpy.Context()
    rclpy.init(context=context, args=[], signal_handler_options=SignalHandlerOptions.NO)
    node = Node("still", context=context, start_parameter_services=False)
    io = RosTopicIo(node)
    try:
        robot = Ros2Robot(config)
        robot.attach(io)
        robot.connect()
        robot.close()
        assert arm.calls == [(["arm"], []), ([], ["arm"])]
        goal = interface_class(FOLLOW).Goal()
        goal.trajectory.points.append(interface_class("trajectory_msgs/msg/JointTrajectoryPoint")())
        goal.trajectory.points[0].positions = (arm.position + 0.05).tolist()
        ended, result = io.act("/follow", FOLLOW, goal, timeout_s=20.0)
        assert (ended, result.error_code) == ("succeeded", 0)
        goal.trajectory.points[0].positions = (arm.position + 3.0).tolist()
        with pytest.raises(DeviceTimeout, match="action '/follow': got not done within 0.5 s"):
            io.act("/follow", FOLLOW, goal, timeout_s=0.5)
        wait_until(lambda: not arm._active.is_active)  # and it was cancelled
        arm.takes = False
        assert io.act("/follow", FOLLOW, goal, timeout_s=20.0) == ("rejected", None)
    finally:
        io.close()
        node.destroy_node()
        rclpy.shutdown(context=context)


def test_a_call_that_is_answered_with_no_says_so_and_what_is_not_installed_too(arm: Arm) -> None:
    command = {"topic": "/positions", "type": NUMBERS}
    with (
        pytest.raises(DeviceFault, match="service '/switch': got no: .*expected ok"),
        connected(contract("joint_delta", command, before=[switch("locked")])),
    ):
        pass
    odd = {"service": "/switch", "type": "nobody_msgs/srv/Odd"}
    with (
        pytest.raises(TransportError, match="nobody_msgs/srv/Odd"),
        connected(contract("joint_delta", command, home={"before": [odd]})),
    ):
        pass
    assert arm.calls == [(["locked"], [])]


def test_what_was_said_once_before_anybody_listened_stops_the_robot(arm: Arm) -> None:
    door = {"topic": "/door", "type": "std_msgs/msg/Bool", "field": "data", "equals": True}
    config = contract("joint_delta", {"topic": "/positions", "type": NUMBERS}, stop_when=[door])
    with connected(config) as robot:
        robot.command(act(0.01, 0.0))
        arm.say(True)
        wait_until(lambda: robot.trouble().code == "robot_stop")
        with pytest.raises(DeviceFault, match="'/door' says data = True"):
            robot.command(act(0.01, 0.0))
        arm.say(False)
        wait_until(lambda: not robot.trouble())
        robot.command(act(0.01, 0.0))
    arm.say(True)
    with connected(config) as robot:  # nobody says it again
        with pytest.raises(DeviceFault, match="'/door' says data = True"):
            robot.command(act(0.01, 0.0))


# --- messages as ROS takes them --------------------------------------------------------------------

TARGETS = [
    ("trajectory_msgs/msg/JointTrajectory", "positions", "points[0].positions"),
    (FOLLOW, "positions", "trajectory.points[0].positions"),
    (NUMBERS, "velocities", "data"),
    ("sensor_msgs/msg/JointState", "positions", "position"),
    ("sensor_msgs/msg/JointState", "velocities", "velocity"),
    ("sensor_msgs/msg/JointState", "efforts", "effort"),
    ("control_msgs/msg/JointJog", "velocities", "velocities"),
    ("geometry_msgs/msg/Twist", "twist", "linear.y"),
    ("geometry_msgs/msg/TwistStamped", "twist", "twist.linear.y"),
    ("geometry_msgs/msg/Pose", "pose", "position.y"),
    ("geometry_msgs/msg/PoseStamped", "pose", "pose.position.y"),
]


@pytest.mark.parametrize(("type_name", "quantity", "path"), TARGETS)
def test_targets_fill_the_messages_of_ros(type_name: str, quantity: Any, path: str) -> None:
    provide()
    values = np.array([0.1, 0.2, 0.3, 0.0, 0.0, 0.0, 1.0])
    size = {"pose": 7, "twist": 6}.get(quantity, 2)
    sent: list[Any] = []
    with open_topic_io("sender") as io:
        config = from_mapping(CommandConfig, {"topic": "/target", "type": type_name})
        sender = TargetSender(io, config, quantity, JOINTS, "base_link", 0.1)
        sender.publisher.publish = sent.append  # type: ignore[method-assign]
        sender.send(Target(quantity, values[:size]))
        sender.close()
    found = FieldPath(path).get(sent[0])
    assert np.atleast_1d(found).tolist() == ([0.2] if size > 2 else [0.1, 0.2])
    assert serialize_message(sent[0])


GRIPPERS: list[tuple[dict[str, Any], str, list[Any]]] = [
    ({"type": "std_msgs/msg/Float64", "opened": 0.08}, "data", [0.04]),
    ({"type": NUMBERS, "closed": [0.0, 0.0], "opened": [0.1, -0.1]}, "data", [0.05, -0.05]),
    ({"type": "std_msgs/msg/Bool"}, "data", [True]),
    ({"type": "trajectory_msgs/msg/JointTrajectory", "joints": ["g"]}, "points[0].positions", [0.5]),
    ({"type": "sensor_msgs/msg/JointState", "joints": ["g"], "max_effort": 5.0}, "effort", [5.0]),
    ({"type": "control_msgs/action/GripperCommand"}, "command.position", [0.5]),
    ({"type": "control_msgs/action/ParallelGripperCommand", "joints": ["g"]}, "command.position",
     [0.5]),
    ({"type": "franka_msgs/action/Grasp", "opened": 0.08,
      "fields": {"width": "value", "epsilon": {"inner": 0.01, "outer": 0.01}, "speed": 0.1}},
     "width", [0.04]),
    ({"type": "std_msgs/msg/UInt8", "opened": 255, "fields": {"data": "value"}}, "data", [128]),
    ({"type": "std_srvs/srv/SetBool", "fields": {"data": "open"}}, "data", [True]),
]  # fmt: skip


@pytest.mark.parametrize(("keys", "path", "wanted"), GRIPPERS)
def test_grippers_fill_the_messages_of_ros(
    keys: dict[str, Any], path: str, wanted: list[Any]
) -> None:
    provide()
    sent: list[Any] = []
    with open_topic_io("sender") as io:
        gripper = GripperSender(io, from_mapping(GripperConfig, {"topic": "/grip", **keys}))
        gripper.port.send = sent.append  # type: ignore[method-assign]
        gripper.send(0.5)
        gripper.close()
    assert np.atleast_1d(FieldPath(path).get(sent[0])).tolist() == pytest.approx(wanted)
    assert serialize_message(sent[0])


def test_a_gripper_behind_a_service(arm: Arm) -> None:
    seen: list[bool] = []

    def serve(request: Any, response: Any) -> Any:
        seen.append(request.data)
        response.success = len(seen) != 2
        response.message = "stuck"
        return response

    kind = "std_srvs/srv/SetBool"
    service = arm.node.create_service(interface_class(kind), "/vacuum", serve)
    keys = {"topic": "/vacuum", "type": kind, "fields": {"data": "open"}, "threshold": 0.5,
            "timeout_s": 20.0}  # fmt: skip
    try:
        with open_topic_io("sender") as io:
            gripper = GripperSender(io, from_mapping(GripperConfig, keys))
            gripper.send(1.0)
            wait_until(lambda: seen == [True] and gripper.port.accepted)
            gripper.send(0.0)
            wait_until(lambda: gripper.port.accepted is False)
            assert gripper.send(0.0) == 1.0  # it is still open
            assert "no: stuck" in gripper.trouble().text
            wait_until(lambda: gripper.send(0.0) == 0.0)  # tried again
            assert seen == [True, False, False]
            gripper.close()
    finally:
        arm.node.destroy_service(service)
