"""Teleop ``leader``: another arm, moved by hand, that the robot follows joint by joint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np

from user_core.config import Config, setting
from user_core.errors import ConfigError, DeviceNotConnected
from user_core.interfaces import TeleopCommand
from user_core.reasons import DEVICE_MISFITS, NO_REASON, NOT_ALIGNED, Reason
from user_core.specs import ActionKind, Array, Arrays, RobotSpec
from user_core.types import Observation
from user_hal.teleops.hand_device import Buttons, ButtonsConfig, HandConfig
from user_hal.teleops.topics import JOY, TopicTeleop
from user_hal.topic_io import TopicIo, TopicSubscription

_KINDS = (ActionKind.JOINT_POSITION, ActionKind.JOINT_DELTA, ActionKind.JOINT_VELOCITY)
#: Periods in which a robot that takes velocities makes up for its distance to the leader.
_CATCH_UP = 5
#: Share of the distance between sent and measured joints that is forgotten each period, where
#: actions are differences: commands that were lost must not stay as an offset.
_FORGET = 0.1


class LeaderConfig(HandConfig):
    """Which arm leads, and how its joints become those of the robot."""

    topic: str = setting("leader/joint_states", doc="Topic of the leader's joints.", min_length=1)
    type: Literal["JointState", "JointTrajectory"] = setting(
        "JointState",
        doc="sensor_msgs/JointState, or trajectory_msgs/JointTrajectory, of which the last point "
        "counts.",
    )
    joints: tuple[str, ...] = setting(
        (),
        doc="Names of the leader's joints in the order of the robot's; empty: the same names, or "
        "where its messages have no names, the same order.",
    )
    scale: tuple[float, ...] = setting(
        (1.0,),
        doc="What the robot's joints move by for one unit of the leader's: one number, or one per "
        "joint; negative: the other way. A leader in degrees: 0.0174533.",
        min_length=1,
    )
    offset: tuple[float, ...] = setting(
        (0.0,), doc="What is added then, in the robot's unit: one, or one per joint.", min_length=1
    )
    continuous: tuple[str, ...] = setting(
        (),
        doc="Joints of the robot that turn without an end, by its names (of the action, or of "
        "joint_position): leader and robot may be on different turns, and the short way counts.",
    )
    gripper_joint: str = setting("", doc="Joint that moves the gripper; empty: none.")
    gripper_closed: float = setting(0.0, doc="Its own number when the gripper shall be closed.")
    gripper_opened: float = setting(1.0, doc="Its own number when it shall be open.")
    align: float = setting(
        0.15,
        doc="The person can take over only while every joint of the leader, scaled, stands this "
        "close to the robot's.",
        unit="rad",
        gt=0,
    )
    max_lead: float = setting(
        0.3, doc="How far the leader may lead each joint of the robot.", unit="rad", gt=0
    )
    full_speed: float = setting(
        0.5,
        doc="Speed of a joint that counts as full deflection, for `engagement`, where there is no "
        "dead-man switch.",
        unit="rad/s",
        gt=0,
    )
    buttons_topic: str = setting(
        "", doc="Topic of sensor_msgs/Joy with a pedal or buttons; empty: none."
    )
    buttons: ButtonsConfig = setting(factory=ButtonsConfig, doc="Which button does what.")

    def validate(self) -> None:
        if self.gripper_closed == self.gripper_opened:
            raise ConfigError(
                "gripper_opened", got=self.gripper_opened, expected="not gripper_closed's"
            )
        if any(self.mounted_rpy_rad) or any(sign != 1.0 for sign in self.signs):
            raise ConfigError(
                "signs and mounted_rpy_rad of a leader arm",
                got=f"{self.signs}, {self.mounted_rpy_rad}",
                expected="neither: its joints have scale and offset",
            )


class LeaderTeleop(TopicTeleop):
    """The robot follows another arm: GELLO, the leader of a hobby arm, or a second robot.

    A person can take over only when the leader stands as the robot does, within ``align``, so
    that the robot does not jump. Then it follows while the dead-man switch is held, or without
    one, while the leader moves and for ``engagement.hold_s`` after.
    """

    Config: ClassVar[type[Config]] = LeaderConfig

    def __init__(self, config: LeaderConfig, **options: Any) -> None:
        super().__init__(config, **options)
        self.config = config
        self._buttons = Buttons(config.buttons, self)
        self._spec: RobotSpec | None = None
        self._names: tuple[str, ...] = ()
        self._elements: list[int] = []
        self._turning: Array = np.zeros(0, bool)
        self._scale: Array = np.zeros(0)
        self._offset: Array = np.zeros(0)
        self._joints: Array | None = None
        self._joints_s = 0.0
        self._absent: tuple[str, ...] = ()
        self._following = False
        self._sent: Array | None = None
        self._unaligned = NO_REASON

    def connect(self, spec: RobotSpec) -> None:
        """Listen. Raises ConfigError where the robot's actions or joints do not fit."""
        if spec.action_kind not in _KINDS or "joint_position" not in spec.observation:
            raise ConfigError(
                f"a leader arm for {spec.robot!r}",
                got=f"actions {spec.action_kind.value}, observations {list(spec.observation)}",
                expected=f"actions {[kind.value for kind in _KINDS]} and joint_position",
            )
        self._elements = [i for i in range(spec.action.size) if i not in spec.grippers]
        count, config = len(self._elements), self.config
        own = tuple(spec.action.names[i] for i in self._elements) if spec.action.names else ()
        self._names = config.joints or own
        for name, values in (("joints", self._names or own), ("scale", config.scale),
                             ("offset", config.offset)):  # fmt: skip
            if len(values) not in ((count, 0) if name == "joints" else (count, 1)):
                raise ConfigError(name, got=f"{len(values)} values", expected=f"{count}")
        self._turning = self._find_turning(spec, own)
        self._scale = np.broadcast_to(np.asarray(config.scale, np.float64), count)
        self._offset = np.broadcast_to(np.asarray(config.offset, np.float64), count)
        self._spec = spec
        super().connect(spec)

    def subscribe(self, io: TopicIo) -> list[TopicSubscription]:
        """Listen to the leader, and to its buttons."""
        config = self.config
        self._joints, self._following, self._sent = None, False, None
        trajectory = config.type == "JointTrajectory"
        package = "trajectory_msgs" if trajectory else "sensor_msgs"
        self._type = f"{package}/msg/{config.type}"
        take = self.take_trajectory if trajectory else self.take
        subscriptions = [io.subscribe(config.topic, self._type, take)]
        if config.buttons_topic:
            subscriptions.append(io.subscribe(config.buttons_topic, JOY, self.take_buttons))
        return subscriptions

    def take(self, message: Any) -> None:
        """Take one JointState."""
        self._take(message.name, message.position)

    def take_trajectory(self, message: Any) -> None:
        """Take one JointTrajectory."""
        if message.points:
            self._take(message.joint_names, message.points[-1].positions)

    def take_buttons(self, message: Any) -> None:
        """Take the buttons."""
        self._buttons.take(message.buttons)

    def read(self, observation: Observation) -> TeleopCommand:
        """What the person wants now."""
        spec = self._spec
        command = super().read(observation)  # judges by switch and speed
        with self._lock:
            joints = self._joints
        if spec is None:
            raise DeviceNotConnected("teleop 'leader'", got="no connection")
        measured = self._measured(spec, observation.arrays)
        self._follow(command.engaged, joints, measured)
        if not self._following or joints is None:
            return _still(command, self._resting(observation.arrays))
        action = self._resting(observation.arrays).astype(np.float64)
        low = spec.action.low_array.astype(np.float64)
        high = spec.action.high_array.astype(np.float64)
        lead = np.clip(self._way(joints - measured), -self.config.max_lead, self.config.max_lead)
        target = measured + lead
        action[self._elements] = self._towards(target, measured, low, high)
        return TeleopCommand(
            engaged=True,
            action=np.clip(action, low, high).astype(spec.action.dtype),
            stamp_ns=command.stamp_ns,
            success=command.success,
            failure=command.failure,
            abort=command.abort,
        )

    def inputs(self) -> Sequence[tuple[str, float, str]]:
        """The leader's joints, scaled, and its buttons."""
        with self._lock:
            joints = self._joints
        values = [] if joints is None else joints.tolist()
        names = self._names or [f"joint {i}" for i in range(len(values))]
        return [*((n, v, "") for n, v in zip(names, values)), *self._buttons.inputs()]

    def close(self) -> None:
        """Stop listening."""
        super().close()
        self._joints, self._following, self._sent = None, False, None

    def _take(self, names: Sequence[str], positions: Sequence[float]) -> None:
        by_name = dict(zip(names, positions)) if names else {}
        wanted = self._names
        if by_name and wanted:
            values = [by_name.get(name) for name in wanted]
            absent = tuple(name for name, value in zip(wanted, values) if value is None)
        else:
            values = list(positions[: len(self._elements)])
            absent = tuple(f"joint {i}" for i in range(len(values), len(self._elements)))
        self._absent = absent
        self._grip(by_name)
        if absent or not np.isfinite(np.asarray(values, np.float64)).all():
            return
        joints = np.asarray(values, np.float64) * self._scale + self._offset
        now_s = self._clock_s()
        with self._lock:
            before, before_s = self._joints, self._joints_s
            self._joints, self._joints_s = joints, now_s
        fastest = 0.0
        if before is not None and now_s > before_s:
            moved = np.abs(self._way(joints - before))
            fastest = float(moved.max(initial=0.0)) / (now_s - before_s)
        self.moved([min(fastest / self.config.full_speed, 1.0)], self._buttons.held)

    def _grip(self, by_name: Mapping[str, float]) -> None:
        config = self.config
        value = by_name.get(config.gripper_joint) if config.gripper_joint else None
        if value is not None and np.isfinite(value):
            way = config.gripper_opened - config.gripper_closed
            self.grip(min(max((value - config.gripper_closed) / way, 0.0), 1.0))

    def _measured(self, spec: RobotSpec, arrays: Arrays) -> Array:
        """The robot's joints in the order of the elements of an action."""
        values = arrays["joint_position"].astype(np.float64)
        names, own = spec.observation["joint_position"].names, spec.action.names
        if names and own and all(own[i] in names for i in self._elements):
            return np.asarray([values[names.index(own[i])] for i in self._elements])
        return np.asarray(values[: len(self._elements)])

    def _follow(self, wanted: bool, joints: Array | None, measured: Array) -> None:
        """Begin where the person wants to and the arms stand alike; end where he does not."""
        self._unaligned = NO_REASON
        if not wanted or joints is None:
            self._following, self._sent = False, None
        elif not self._following:
            off = np.abs(self._way(joints - measured))
            worst = int(off.argmax())
            self._following = bool(off[worst] <= self.config.align)
            if not self._following:
                name = self._names[worst] if self._names else f"joint {worst}"
                self._unaligned = Reason(
                    NOT_ALIGNED,
                    f"{name} of the leader stands at {joints[worst]:.2f}, the robot's at "
                    f"{measured[worst]:.2f}: move the leader until they are within "
                    f"{self.config.align:g}",
                )

    def _towards(self, target: Array, measured: Array, low: Array, high: Array) -> Array:
        assert self._spec is not None
        kind, elements = self._spec.action_kind, self._elements
        if kind is ActionKind.JOINT_POSITION:  # on a turn within the bounds of the action
            outside = (target < low[elements]) | (target > high[elements])
            return np.where(outside & self._turning, _turned(target), target)
        if kind is ActionKind.JOINT_VELOCITY:
            velocity: Array = (target - measured) / (_CATCH_UP * self._spec.period_s)
            return velocity
        sent = measured
        if self._sent is not None:
            sent = self._sent + _FORGET * self._way(measured - self._sent)
        step: Array = np.clip(self._way(target - sent), low[elements], high[elements])
        self._sent = sent + step
        return step

    def _find_turning(self, spec: RobotSpec, own: Sequence[str]) -> Array:
        """Which of the joints turn without an end. Raises ConfigError where there is no such joint."""
        names = own or spec.observation["joint_position"].names
        if unknown := [name for name in self.config.continuous if name not in names]:
            raise ConfigError("continuous", got=unknown, expected=f"joints of {list(names)}")
        turning = [name in self.config.continuous for name in names][: len(self._elements)]
        return np.asarray(turning or [False] * len(self._elements))

    def _way(self, difference: Array) -> Array:
        """A difference of joint positions; of joints that turn without an end the short way."""
        return np.where(self._turning, _turned(difference), difference)

    def _resting(self, arrays: Arrays) -> Array:
        """The action that moves no joint; the grippers go where the person wants them."""
        assert self._jog is not None
        self._jog.rest()
        return self._jog.action((), self.opening, arrays)

    def _misfits(self) -> Reason:
        buttons = self._buttons_misfit(self._buttons, self.config.buttons_topic)
        return buttons or self._unaligned

    def trouble(self) -> Reason:
        """Why the leader does not lead: silent, a joint is missing, or it is not aligned."""
        if self._absent and self._subscriptions:
            text = f"{self._subscriptions[0].topic}: no {', '.join(self._absent)} in its messages"
            return Reason(DEVICE_MISFITS, text)
        return super().trouble()


def _turned(angle: Array) -> Array:
    """Within half a turn."""
    return (angle + np.pi) % (2 * np.pi) - np.pi


def _still(command: TeleopCommand, action: Array) -> TeleopCommand:
    return TeleopCommand(
        engaged=False,
        action=action,
        stamp_ns=command.stamp_ns,
        success=command.success,
        failure=command.failure,
        abort=command.abort,
    )
