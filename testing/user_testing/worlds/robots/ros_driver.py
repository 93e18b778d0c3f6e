"""A robot's ROS driver, from a short description: the topics, types, names and rates of a maker's
driver in front of joints that follow at a limited speed.

It speaks real ROS from a thread of this process, so that a contract can be tried on it without the
robot. What it refuses (a wrong number of joints, an unknown name, motion before a service was
called) the real one refuses as well, silently.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import rclpy
from rclpy.action.server import ActionServer, GoalResponse
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, qos_profile_sensor_data
from rclpy.signals import SignalHandlerOptions
from rclpy.task import Future

from user_comm.start import end_spinning
from user_comm.topics import interface_class
from user_core.specs import Array
from user_hal.safety.rotation import from_vector
from user_testing.interfaces import provide

#: By how much six joints carry the tool in a rad: m, and rad.
_TOOL_PER_RAD = np.array([0.5, 0.5, 0.5, 1.0, 1.0, 1.0])


@dataclass(frozen=True)
class State:
    """One topic that the driver publishes.

    Attributes:
        topic: Its name.
        type: Its interface; :data:`_FILL` says what is known.
        joints: Joints in it, in the message's order.
        names: Their names in the message, where they are others, or more.
        frame: ``header.frame_id``.
        velocity: Whether a JointState carries velocities.
        velocities: Of how many joints, if not of all.
        every: Published at every n-th tick.
        turned: A pose in a frame that is turned by 180 degrees about z.
        latched: Published once, to whoever comes.
        fields: Fixed fields of any other message, by name.
    """

    topic: str
    type: str
    joints: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    frame: str = ""
    velocity: bool = True
    velocities: int | None = None
    every: int = 1
    turned: bool = False
    latched: bool = False
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Command:
    """One topic or action that the driver obeys.

    Attributes:
        topic: Its name.
        type: Its interface; :data:`_TAKE` says what is known.
        joints: The joints that it moves; all of them are needed, in this order where the message has no names.
        name: Name of the group or joint, where the message has one.
        needs: What must have been switched on first; empty: nothing.
        busy_s: An action's server that takes this long for each goal, one after another.
        frame: Frame that a twist must be in; empty: any.
        hold_s: How long a twist holds.
        factor: From a message's number to the joint's.
        called: What a JointTrajectory calls its joints, where that is something else.
    """

    topic: str
    type: str
    joints: tuple[str, ...] = ()
    name: str = ""
    needs: str = ""
    busy_s: float = 0.0
    frame: str = ""
    hold_s: float = 0.25
    factor: float = 1.0
    called: tuple[str, ...] = ()


@dataclass(frozen=True)
class Service:
    """One service.

    Attributes:
        name: Its name.
        type: Its interface.
        answer: Fields of the answer.
        when: Fields that a request must have to take effect.
        sets: What is switched on then, and what (with a minus in front) off.
    """

    name: str
    type: str
    answer: Mapping[str, Any] = field(default_factory=dict)
    when: Mapping[str, Any] = field(default_factory=dict)
    sets: tuple[str, ...] = ()


@dataclass(frozen=True)
class Driver:
    """Everything that is seen of a driver from outside.

    Attributes:
        joints: Where each joint is at first, rad or m.
        speed: How fast each moves at most.
        states: What it publishes.
        commands: What it obeys.
        services: What it answers.
        rate_hz: Of its ticks.
        on: What is switched on from the beginning.
        tool_joints: Six joints that carry the tool along x, y and z, half a metre in a rad, and
            turn it about x, y and z: no arm's kinematics, but one that leads home. Empty: no tool.
    """

    joints: Mapping[str, float]
    states: tuple[State, ...]
    commands: tuple[Command, ...]
    services: tuple[Service, ...] = ()
    speed: Mapping[str, float] | float = 2.0
    rate_hz: float = 50.0
    on: tuple[str, ...] = ()
    tool_joints: tuple[str, ...] = ()


class RosDriver:
    """The driver, while the ``with`` block lasts.

    Args:
        driver: Its description.
        name: Name of its node.

    Attributes:
        position: Where the joints are.
        target: Where they are going.
        base: Place of a mobile base: x, y (m), heading (rad).
        on: What is switched on.
        received: Messages, goals and requests by topic, the newest last.
    """

    def __init__(self, driver: Driver, name: str = "driver") -> None:
        provide()
        self.driver = driver
        self.position = dict(driver.joints)
        self.target = dict(driver.joints)
        self.base = [0.0, 0.0, 0.0]
        self.on = set(driver.on)
        self.received: dict[str, list[Any]] = {}
        self._moved = dict.fromkeys(driver.joints, 0.0)
        self._speeds: dict[str, tuple[float, ...]] = {}
        self._speeds_until_s: dict[str, float] = {}
        self._waiting: list[tuple[Callable[[], bool], Future[None]]] = []
        self._free_s: dict[str, float] = {}
        self._ticks = self._busy_tick = 0
        self._goals = 0
        self._context = rclpy.Context()
        rclpy.init(context=self._context, args=[], signal_handler_options=SignalHandlerOptions.NO)
        self._node = Node(name, context=self._context, start_parameter_services=False)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._by_topic: dict[str, Any] = {}
        self._servers: list[Any] = []
        self._publishers = [(state, self._publisher(state)) for state in driver.states]
        for command in driver.commands:
            self._obey(command)
        for name in dict.fromkeys(service.name for service in driver.services):
            self._answer([service for service in driver.services if service.name == name])
        self._last_s = time.monotonic()
        self._node.create_timer(1.0 / driver.rate_hz, self._tick)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._spin, name=name, daemon=True)

    def __enter__(self) -> RosDriver:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        if end_spinning(self._thread, self._executor):
            for server in self._servers:  # else they stay in the graph
                server.destroy()
            self._node.destroy_node()
        rclpy.shutdown(context=self._context)

    def newest(self, topic: str) -> Any:
        """The newest message, goal or request that came to a topic; None before the first."""
        return self.received.get(topic, [None])[-1]

    def has_rested(self, seconds: float) -> bool:
        """Whether it has had no goal, waiting ones among them, and not moved for this long by its own ticks: what was
        sent before has come by then, however late a busy machine lets it run."""
        return self._ticks - self._busy_tick > seconds * self.driver.rate_hz

    def _spin(self) -> None:
        while not self._stopping.is_set():
            self._executor.spin_once(timeout_sec=0.5)

    # -- motion -----------------------------------------------------------------------------

    def _tick(self) -> None:
        now_s = time.monotonic()
        elapsed_s, self._last_s = min(now_s - self._last_s, 0.1), now_s
        for joint, target in self.target.items():
            step = self._speed(joint) * elapsed_s
            moved = max(-step, min(step, target - self.position[joint]))
            self.position[joint] += moved
            self._moved[joint] = moved / elapsed_s if elapsed_s else 0.0
        for topic, until_s in list(self._speeds_until_s.items()):
            if now_s > until_s:
                del self._speeds_until_s[topic]
            else:
                self._drive(self._speeds[topic], elapsed_s)
        for entry in [entry for entry in self._waiting if entry[0]()]:
            self._waiting.remove(entry)
            entry[1].set_result(None)
        if self._goals or self._speeds_until_s or any(self._moved.values()):
            self._busy_tick = self._ticks
        for state, publisher in self._publishers:
            if not state.latched and self._ticks % state.every == 0:
                publisher.publish(self._message(state))
        self._ticks += 1

    def _speed(self, joint: str) -> float:
        speed = self.driver.speed
        return speed if isinstance(speed, float) else speed.get(joint, 2.0)

    @property
    def tool(self) -> Array:
        """Way of the tool from where it was at first: x, y, z (m), and a rotation vector (rad)."""
        start = self.driver.joints
        ways = [self.position[joint] - start[joint] for joint in self.driver.tool_joints]
        return np.array(ways or [0.0] * 6) * _TOOL_PER_RAD

    def _drive(self, twist: Sequence[float], elapsed_s: float) -> None:
        """A tool takes its joints along; a base moves by the first two numbers and the last."""
        speeds = (np.array(twist) / _TOOL_PER_RAD).tolist()
        for joint, speed in zip(self.driver.tool_joints, speeds, strict=False):
            self.position[joint] += speed * elapsed_s
            self.target[joint] = self.position[joint]
            self._moved[joint] = speed
        x, y, heading = self.base
        ahead, left = twist[0] * elapsed_s, twist[1] * elapsed_s
        self.base = [
            x + ahead * math.cos(heading) - left * math.sin(heading),
            y + ahead * math.sin(heading) + left * math.cos(heading),
            heading + twist[5] * elapsed_s,
        ]

    # -- what it publishes --------------------------------------------------------------------

    def _publisher(self, state: State) -> Any:
        cls = interface_class(state.type)
        if not state.latched:
            if state.topic not in self._by_topic:  # messages of two kinds may share a publisher
                publisher = self._node.create_publisher(cls, state.topic, qos_profile_sensor_data)
                self._by_topic[state.topic] = publisher
            return self._by_topic[state.topic]
        profile = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        publisher = self._node.create_publisher(cls, state.topic, profile)
        publisher.publish(self._message(state))
        return publisher

    def _message(self, state: State) -> Any:
        message = interface_class(state.type)()
        if hasattr(message, "header"):
            message.header.stamp = self._node.get_clock().now().to_msg()
            message.header.frame_id = state.frame
        fill = _FILL.get(state.type)
        if fill is not None:
            fill(self, state, message)
        for name, value in state.fields.items():
            setattr(message, name, value)
        return message

    def fill_joints(self, state: State, message: Any) -> None:
        """A JointState."""
        message.name = list(state.names or state.joints)
        message.position = [self.position[joint] for joint in state.joints]
        if state.velocity:
            message.velocity = [self._moved[joint] for joint in state.joints[: state.velocities]]

    def fill_pose(self, state: State, message: Any) -> None:
        """A PoseStamped of the tool."""
        pose, tool = message.pose, self.tool
        sign = -1.0 if state.turned else 1.0
        position, rotation = pose.position, pose.orientation
        position.x, position.y, position.z = sign * (0.4 + tool[0]), sign * tool[1], 0.3 + tool[2]
        x, y, z, w = from_vector(tuple(tool[3:].tolist()))
        # Turned by 180 degrees about z: the quaternion (0, 0, 1, 0) in front.
        x, y, z, w = (-y, x, w, -z) if state.turned else (x, y, z, w)
        rotation.x, rotation.y, rotation.z, rotation.w = x, y, z, w

    def fill_tool_vector(self, state: State, message: Any) -> None:
        """A ToolVectorActual: mm and degrees; of the rotation that about z."""
        x, y, z = (1000 * self.tool[:3]).tolist()
        message.x, message.y, message.z = 400 + x, y, 300 + z
        message.rz = math.degrees(self.tool[5])

    def fill_odometry(self, state: State, message: Any) -> None:
        """An Odometry of the base."""
        pose, (x, y, heading) = message.pose.pose, self.base
        pose.position.x, pose.position.y = x, y
        pose.orientation.z, pose.orientation.w = math.sin(heading / 2), math.cos(heading / 2)
        for topic in self._speeds_until_s:
            message.twist.twist.linear.x = self._speeds[topic][0]
            message.twist.twist.angular.z = self._speeds[topic][5]

    # -- what it obeys ------------------------------------------------------------------------

    def _obey(self, command: Command) -> None:
        take = _TAKE[command.type]
        if "/action/" in command.type:
            server = ActionServer(
                self._node,
                interface_class(command.type),
                command.topic,
                execute_callback=self._executing(command, take),
                goal_callback=lambda goal: self._may_accept(command, goal),
            )
            self._servers.append(server)
            return

        def receive(message: Any) -> None:
            self.received.setdefault(command.topic, []).append(message)
            if self._allowed(command):
                take(self, command, message)

        self._node.create_subscription(interface_class(command.type), command.topic, receive, 1)

    def _allowed(self, command: Command) -> bool:
        return not command.needs or command.needs in self.on

    def _may_accept(self, command: Command, goal: Any) -> GoalResponse:
        self.received.setdefault(command.topic, []).append(goal)
        return GoalResponse.ACCEPT if self._allowed(command) else GoalResponse.REJECT

    def _executing(self, command: Command, take: Callable[..., None]) -> Callable[..., Any]:
        async def execute(handle: Any) -> Any:
            self._goals += 1
            try:
                return await carry_out(handle)
            finally:
                self._goals -= 1

        async def carry_out(handle: Any) -> Any:
            if command.busy_s:  # one after another, as in a server that sleeps in its callback
                start_s = max(time.monotonic(), self._free_s.get(command.topic, 0.0))
                self._free_s[command.topic] = start_s + command.busy_s
                await self._until(lambda: time.monotonic() >= start_s)
            take(self, command, handle.request)
            wanted = {joint: self.target[joint] for joint in command.joints}
            await self._until(
                lambda: any(
                    self.target[joint] != target  # another goal came
                    or abs(self.position[joint] - target) < 1e-3
                    for joint, target in wanted.items()
                )
            )
            handle.succeed()
            return interface_class(command.type).Result()

        return execute

    def _until(self, condition: Callable[[], bool]) -> Future[None]:
        done: Future[None] = Future(executor=self._executor)
        self._waiting.append((condition, done))
        return done

    def _go(self, names: Sequence[str], positions: Sequence[float], wanted: Sequence[str]) -> None:
        """Set targets; a controller takes its own joints only, and all of them."""
        if len(names) == len(positions) and set(wanted) <= set(names) <= set(self.target):
            self.target.update(zip(names, (float(value) for value in positions), strict=True))

    def take_trajectory(self, command: Command, message: Any) -> None:
        """A JointTrajectory; of a FollowJointTrajectory its ``trajectory``."""
        trajectory = getattr(message, "trajectory", message)
        own = dict(zip(command.called or command.joints, command.joints, strict=True))
        if set(trajectory.joint_names) == set(own) and trajectory.points:
            names = [own[name] for name in trajectory.joint_names]
            self._go(names, trajectory.points[-1].positions, command.joints)

    def take_numbers(self, command: Command, message: Any) -> None:
        """A Float64MultiArray in the controller's order."""
        if len(message.data) == len(command.joints):
            self._go(command.joints, message.data, command.joints)

    def take_joint_state(self, command: Command, message: Any) -> None:
        """A JointState; what is missing in it goes to zero, as piper_ros has it."""
        positions = dict(zip(message.name, message.position, strict=True))
        values = [positions.get(joint, 0.0) for joint in command.joints]
        self._go(command.joints, values, command.joints)

    def take_group(self, command: Command, message: Any) -> None:
        """An interbotix_xs_msgs/JointGroupCommand."""
        if message.name == command.name and len(message.cmd) == len(command.joints):
            self._go(command.joints, message.cmd, command.joints)

    def take_single(self, command: Command, message: Any) -> None:
        """An interbotix_xs_msgs/JointSingleCommand."""
        if message.name == command.name:
            self._go(command.joints, [message.cmd * command.factor], command.joints)

    def take_twist(self, command: Command, message: Any) -> None:
        """A Twist or TwistStamped, which holds for a while."""
        twist = message
        if hasattr(message, "header"):
            twist = message.twist
            if command.frame and message.header.frame_id != command.frame:
                return
        linear, angular = twist.linear, twist.angular
        self._speeds[command.topic] = (
            linear.x, linear.y, linear.z, angular.x, angular.y, angular.z,
        )  # fmt: skip
        self._speeds_until_s[command.topic] = time.monotonic() + command.hold_s

    def take_opening(self, command: Command, message: Any) -> None:
        """A GripperCommand, a ParallelGripperCommand, or a franka_msgs Move or Grasp."""
        if hasattr(message, "width"):
            value = message.width / 2  # of one finger
        elif hasattr(message.command, "name"):
            value = message.command.position[0]
        else:
            value = message.command.position
        self._go(command.joints, [value] * len(command.joints), command.joints)

    # -- what it answers ----------------------------------------------------------------------

    def _answer(self, services: list[Service]) -> None:
        """One server; each of its effects has a description of its own."""
        first = services[0]

        def call(request: Any, response: Any) -> Any:
            self.received.setdefault(first.name, []).append(request)
            for service in services:
                wanted = service.when.items()
                if all(_plain(getattr(request, name)) == value for name, value in wanted):
                    self.on |= {name for name in service.sets if name[0] != "-"}
                    self.on -= {name[1:] for name in service.sets if name[0] == "-"}
            for name, value in first.answer.items():
                setattr(response, name, value)
            return response

        self._node.create_service(interface_class(first.type), first.name, call)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, list | tuple) else value


_FILL: dict[str, Callable[[RosDriver, State, Any], None]] = {
    "sensor_msgs/msg/JointState": RosDriver.fill_joints,
    "geometry_msgs/msg/PoseStamped": RosDriver.fill_pose,
    "nav_msgs/msg/Odometry": RosDriver.fill_odometry,
    "dobot_msgs_v4/msg/ToolVectorActual": RosDriver.fill_tool_vector,
}
_TAKE: dict[str, Callable[[RosDriver, Command, Any], None]] = {
    "trajectory_msgs/msg/JointTrajectory": RosDriver.take_trajectory,
    "control_msgs/action/FollowJointTrajectory": RosDriver.take_trajectory,
    "std_msgs/msg/Float64MultiArray": RosDriver.take_numbers,
    "sensor_msgs/msg/JointState": RosDriver.take_joint_state,
    "interbotix_xs_msgs/msg/JointGroupCommand": RosDriver.take_group,
    "interbotix_xs_msgs/msg/JointSingleCommand": RosDriver.take_single,
    "geometry_msgs/msg/Twist": RosDriver.take_twist,
    "geometry_msgs/msg/TwistStamped": RosDriver.take_twist,
    "control_msgs/action/GripperCommand": RosDriver.take_opening,
    "control_msgs/action/ParallelGripperCommand": RosDriver.take_opening,
    "franka_msgs/action/Grasp": RosDriver.take_opening,
    "franka_msgs/action/Move": RosDriver.take_opening,
}
