"""The robot: a contract brought to life."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Sequence

import numpy as np

from user_core.errors import DeviceError, DeviceFault, DeviceNotConnected, SuiteError
from user_core.interfaces import Discovered, Robot
from user_core.reasons import NO_REASON, NOT_FOLLOWED, SEVERAL_PUBLISHERS, Reason
from user_core.specs import Array, RobotSpec
from user_core.types import AppliedAction, Observation
from user_hal.cameras.with_cameras import FrameAligner, build_cameras
from user_hal.robots.ros2.commands import (
    GripperSender,
    Target,
    TargetSender,
    make_targets,
    require_listener,
    sends_velocities,
)
from user_hal.robots.ros2.contract import (
    Ros2Config,
    TriggerConfig,
    command_scaling,
    robot_spec,
)
from user_hal.robots.ros2.following import COMMANDS, FollowWatch
from user_hal.robots.ros2.homing import Homing
from user_hal.robots.ros2.joints import Turns
from user_hal.robots.ros2.messages import (
    JOINT_KINDS,
    JOINT_STATE,
    JOINT_TRAJECTORY,
    NUMBERS,
    TWIST,
)
from user_hal.robots.ros2.observations import Observer
from user_hal.topic_io import TopicIo, attach_topics, topics_read

_log = logging.getLogger(__name__)
_follow_log = logging.getLogger(__name__)

_TRIGGER = "std_srvs/srv/Trigger"


class Ros2Robot(Robot):
    """Any robot that lives on ROS 2 topics. Needs :meth:`attach` before :meth:`connect`.

    Observations are taken at the common moment of all topics and stamped with it; images are
    the nearest to it. ``command`` sends one message and returns the action as it is really
    carried out, within bounds and limits. The last element of an action is the gripper's
    opening, 0 closed to 1 open, where the contract has a gripper.
    """

    Config = Ros2Config

    def __init__(self, config: Ros2Config) -> None:
        self._config = config
        self._observer = Observer(config)
        self._cameras = build_cameras(config.cameras)
        self._aligner = FrameAligner(self._cameras, config.cameras.max_skew_s)
        self._spec = robot_spec(config, {**self._observer.specs, **self._aligner.specs})
        count = len(config.joints)
        self._low, self._high = (
            np.broadcast_to(np.asarray(default if bound is None else bound, float), (count,))
            for bound, default in (
                (config.action.target_low, -np.inf),
                (config.action.target_high, np.inf),
            )
        )
        turns = Turns(config.joints, config.continuous)
        self._targets = make_targets(
            config.action, config.period_s, count, self._low, self._high, turns
        )
        self._follows_joints = config.action.kind in JOINT_KINDS
        self._follow = (
            FollowWatch(0.02, turning=[name in config.continuous for name in config.joints])  # rad
            if self._follows_joints
            else FollowWatch(0.005)  # m
        )
        self._rng = np.random.default_rng()
        self._lock = threading.RLock()  # a command and a stop do not interleave
        self._stops = 0
        self._io: TopicIo | None = None
        self._sender: TargetSender | None = None
        self._home_sender: TargetSender | None = None
        self._gripper: GripperSender | None = None
        self._held: Target | None = None  # what holds the robot since the last stop
        self._sequence = self._commands = self._episode = 0
        self._applied: AppliedAction | None = None

    @property
    def spec(self) -> RobotSpec:
        """What the contract says."""
        return self._spec

    def attach(self, io: TopicIo) -> None:
        """Take the topics to live on."""
        self._io = io
        for camera in self._cameras.values():
            attach_topics(camera, io)

    @property
    def topics_read(self) -> tuple[str, ...]:
        """The topics of the observation, and of cameras."""
        own = tuple(
            part.config.topic or ("/tf" if part.config.tf else "")
            for source in self._observer.sources.values()
            for part in source.parts
        )
        return own + tuple(t for camera in self._cameras.values() for t in topics_read(camera))

    def connect(self) -> None:
        """Subscribe, and wait until every topic and controller is there.

        Raises:
            ConfigError: The contract names a field that its message type has not got.
            TransportError: A message type is not installed.
            DeviceError: A topic, joint, controller or camera is not there, or readings do not fit
                in time; each names what is missing and lists what there is.
        """
        if self._io is None:
            raise DeviceNotConnected(
                f"robot {self._config.robot!r}", got="no topics", hint="Call attach(io) first"
            )
        self.close()
        try:
            self._open_senders(self._io)
            self._observer.open(self._io)
            self._aligner.connect()
            self._wait_for_controllers(self._io)
            for warning in self.warnings():
                _log.warning("%s: %s", warning.code, warning.text)
        except BaseException:
            self.close()
            raise

    def warnings(self) -> list[Reason]:
        """What is suspicious about the topics, although they can be read."""
        source = self._observer.sources.get("joint_position")
        found = []
        for subscription in [] if source is None else source.subscriptions:
            nodes = subscription.publisher_nodes
            if len(nodes) > 1:
                found.append(
                    Reason(
                        SEVERAL_PUBLISHERS,
                        f"{len(nodes)} publishers of {subscription.topic}, which the joints are "
                        f"read from: {', '.join(nodes)}; if two of them publish the same joints, "
                        "end one",
                    )
                )
        return found

    def notes(self) -> list[str]:
        """What is worth knowing about how the robot is read, although nothing is wrong."""
        return self._observer.notes()

    def read(self) -> Observation:
        """The newest moment for which every topic has spoken.

        Raises:
            DeviceTimeout: A topic or camera is silent, or their stamps are too far apart; names it.
            DeviceFault: A message is not what the contract promises, or not finite.
        """
        self._connected()
        arrays, moment_ns = self._observer.read()
        arrays.update(self._aligner.at(moment_ns))
        self._sequence += 1
        return Observation(arrays, moment_ns, self._sequence, self._episode, applied=self._applied)

    def command(self, action: Array) -> Array:
        """Send one action; returns it as it is really carried out.

        Raises:
            SpecError: Wrong shape or type, or not finite.
            DeviceError: What a change starts from is not measured any more, or nothing can be sent.
        """
        sender = self._connected()
        spec = self._spec.action
        spec.check(action, f"action of {self._config.robot!r}")
        bounded = np.clip(action, spec.low_array, spec.high_array).astype(np.float64)
        size = spec.size - (self._gripper is not None)
        needed = self._targets.observation
        with self._lock:
            measured = self._observer.measured(needed) if needed else None
            target, executed = self._targets.next(bounded[:size], measured)
            accepted = sender.accepted(target)
            if accepted is not target:  # the robot's own range of velocities
                per_period = self._spec.action.unit in ("rad", "m")
                step_s = self._config.period_s if per_period else 1.0
                executed = accepted.values[:size] * step_s
            sender.send(target)
            self._watch(accepted)
            if self._gripper is not None:
                executed = np.append(executed, self._gripper.send(float(bounded[-1])))
            self._held = None
            self._commands += 1
            sent: Array = executed.astype(spec.dtype)
            if needed:  # a change back from its target: rounding must not leave the bounds
                sent = np.clip(sent, spec.low_array, spec.high_array)
            changed = not np.allclose(sent, action, rtol=0, atol=1e-6)
            self._applied = AppliedAction(sent, self._commands, 0, changed, time.time_ns())
        return sent

    def trouble(self) -> Reason:
        """Why what was commanded is not what happens; false if nothing is known against it."""
        if self._follow.failed:
            unit = "rad" if self._follows_joints else "m"
            command = self._config.action.command
            return Reason(
                NOT_FOLLOWED,
                f"the robot does not follow {command.topic!r} ({command.type}): it was told to "
                f"move {self._follow.commanded:.3f} {unit}, and moved {self._follow.gone:.3f} {unit} "
                f"in {COMMANDS} commands; is the controller active, in the right mode, and in "
                "the contract's units?",
            )
        return self._gripper.trouble() if self._gripper is not None else NO_REASON

    def _watch(self, target: Target) -> None:
        """Remember what was sent and where the robot is; log when it does not follow."""
        name = "joint_position" if self._follows_joints else "tcp_pose"
        if name not in self._observer.sources:
            return
        try:
            measured = self._observer.measured(name)
        except DeviceError:
            return  # reading tells it
        velocities = target.quantity in ("velocities", "twist")
        told = target.values * self._config.period_s if velocities else target.values
        failed = self._follow.failed
        if self._follows_joints:
            self._follow.note(measured, told, velocities=velocities)
        else:
            self._follow.note(measured[:3], told[:3], velocities=velocities)
        if self._follow.failed and not failed:
            _follow_log.warning("%s", self.trouble().text)

    def stop(self) -> None:
        """Hold where the robot is (or zero velocity); a way home ends. Any thread may call it.

        Raises:
            TransportError: The stop cannot be sent.
        """
        with self._lock:
            self._stops += 1
            self._hold()

    def reset(self, seed: int | None = None) -> Observation:
        """Stop, call the services, go home, open the gripper; returns what is seen then.

        Args:
            seed: Of the noise on the home position.

        Raises:
            DeviceTimeout: Home is not reached, or a service does not answer, in time.
            DeviceFault: A service says no.
            DeviceError: The robot was stopped on the way.
        """
        self._connected()
        if seed is not None:
            self._rng = np.random.default_rng(seed)
        with self._lock:
            stops = self._stops
            self._hold()
        try:
            self._begin(stops)
        except BaseException:
            self.stop()
            raise
        self._episode += 1
        self._applied = None
        return self._read_after(time.monotonic_ns())

    def close(self) -> None:
        """Stop as far as that is possible, and end all subscriptions and publishers."""
        with contextlib.suppress(SuiteError):  # ROS has shut down: nothing more can be sent
            self.stop()
        with self._lock:
            senders = (self._sender, self._home_sender, self._gripper)
            self._sender = self._home_sender = self._gripper = None
            self._held, self._applied = None, None
            self._targets.forget()
        for sender in senders:
            if sender is not None:
                sender.close()
        self._observer.close()
        self._aligner.close()

    @classmethod
    def discover_on(cls, io: TopicIo) -> Sequence[Discovered]:
        """What looks like a robot: joint states, and controllers that could move it."""
        topics = io.topics()
        controllers = [
            topic
            for topic, types in sorted(topics.items())
            if (JOINT_TRAJECTORY in types or NUMBERS in types or TWIST in types)
        ]
        return [
            Discovered(topic, {}, f"joint states; commands could go to {controllers or 'nobody'}")
            for topic, types in sorted(topics.items())
            if JOINT_STATE in types
        ]

    def _connected(self) -> TargetSender:
        if self._sender is None:
            raise DeviceNotConnected(
                f"robot {self._config.robot!r}", got="no connection", hint="Call connect() first"
            )
        return self._sender

    def _open_senders(self, io: TopicIo) -> None:
        config = self._config
        make = (config.joints, config.base_frame, config.period_s, config.frames())
        self._sender = TargetSender(
            io, config.action.command, *make, command_scaling(config, config.action.command)
        )
        if config.home.command is not None:
            self._home_sender = TargetSender(
                io, config.home.command, *make, command_scaling(config, config.home.command)
            )
        if config.action.gripper is not None:
            self._gripper = GripperSender(io, config.action.gripper)

    def _wait_for_controllers(self, io: TopicIo) -> None:
        timeout_s = self._config.timing.connect_timeout_s
        deadline_s = time.monotonic() + timeout_s
        for sender in (self._sender, self._home_sender, self._gripper):
            if sender is None or not sender.config.require_subscriber:
                continue
            while not sender.publisher.subscribers and time.monotonic() < deadline_s:
                time.sleep(0.005)
            require_listener(io, sender.publisher, sender.config.type, timeout_s)

    def _hold(self) -> None:
        """Send what stops the robot; the same again, as long as nothing else was commanded. A
        robot that was never commanded and cannot be seen is left alone. The lock is held."""
        if self._sender is None:
            return
        if self._held is None:
            self._follow.forget()
            self._held = self._targets.hold(self._hold_measured())
            self._targets.forget()
        if self._held is not None:
            self._sender.send(self._held, self._config.stop.time_s)

    def _hold_measured(self) -> Array | None:
        name = self._targets.hold_observation
        if not name or self._config.stop.hold == "target":
            return None
        try:
            return self._observer.measured(name)
        except DeviceError:
            return None  # blind: the last target is the best that is known

    def _begin(self, stops: int) -> None:
        home = self._config.home
        for trigger in home.before:
            self._trigger(trigger)
        if self._gripper is not None and home.gripper is not None:
            self._gripper.forget()
            self._gripper.send(home.gripper)
        if home.joints or home.pose:
            self._go_home(stops)
        for trigger in home.after:
            self._trigger(trigger)

    def _go_home(self, stops: int) -> None:
        """Move to the start; ends with an error as soon as the count of stops is another."""
        config = self._config
        sender = self._home_sender or self._connected()
        name = "joint_position" if config.home.joints else "tcp_pose"
        velocities = sender.config.type == TWIST or sender.config.quantity == "velocity"
        if sender is self._sender and config.home.joints:
            velocities = sends_velocities(config.action)

        def send(target: Target, duration_s: float) -> None:
            with self._lock:
                if self._stops != stops:
                    raise DeviceError("way home", got="the robot was stopped")
                self._held = None
                sender.send(target, duration_s)

        homing = Homing(
            config.home,
            send,
            lambda: self._observer.measured(name),
            velocities,
            config.joints,
            config.action.max_lead_rad if config.home.joints else config.action.max_lead_m,
            Turns(config.joints, config.continuous),
        )
        try:
            homing.go(self._rng)
        finally:
            if velocities:  # however it ended: a velocity goes on until the next one
                sender.send(
                    Target("velocities", np.zeros(len(config.joints)))
                    if config.home.joints
                    else Target("twist", np.zeros(6))
                )

    def _trigger(self, trigger: TriggerConfig) -> None:
        assert self._io is not None  # noqa: S101 - connected
        answer = self._io.call(trigger.service, _TRIGGER, {}, timeout_s=trigger.timeout_s)
        if not answer.success:
            raise DeviceFault(
                f"service {trigger.service!r}", got=f"no: {answer.message}", expected="success"
            )

    def _read_after(self, arrival_ns: int) -> Observation:
        """An observation all of whose sources have spoken since a moment (monotonic)."""
        deadline_s = time.monotonic() + self._config.timing.connect_timeout_s
        while time.monotonic() < deadline_s:
            if all(s.heard_since(arrival_ns) for s in self._observer.sources.values()):
                break
            time.sleep(0.002)
        return self.read()
