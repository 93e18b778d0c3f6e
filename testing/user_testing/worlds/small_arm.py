"""An arm of a few joints in real time, without ROS, that can be told to misbehave."""

from __future__ import annotations

import time

import numpy as np

from user_core.config import Config, setting
from user_core.errors import DeviceNotConnected
from user_core.interfaces import Robot
from user_core.specs import ActionKind, Array, ArraySpec, RobotSpec
from user_core.types import AppliedAction, Observation


class SmallArmConfig(Config):
    """Parameters of :class:`SmallArm`."""

    kind: ActionKind = setting(ActionKind.JOINT_DELTA, doc="Kind of its actions.")
    follows: tuple[float, ...] = setting(
        (1.0, 1.0), doc="What each joint makes of what it is told: 1 follows, 0 is dead."
    )
    swapped: bool = setting(False, doc="Whether the first two joints are exchanged.")
    period_s: float = setting(0.02, doc="Control period.", unit="s", gt=0)
    fails_every: int = setting(0, doc="Every so many readings fail; 0: none.", ge=0)
    gripper: bool = setting(False, doc="Whether it has a gripper.")


class SmallArm(Robot):
    """Joints ``j1``, ``j2`` ... that go where they are told, at once."""

    Config = SmallArmConfig

    def __init__(self, config: SmallArmConfig) -> None:
        self.config = config
        count = len(config.follows)
        names = tuple(f"j{i + 1}" for i in range(count))
        observation = {
            "joint_position": ArraySpec((count,), "float64", -3.0, 3.0, "rad", "", names)
        }
        low, high = [-0.05] * count, [0.05] * count
        if config.kind is ActionKind.JOINT_POSITION:
            low, high = [-3.0] * count, [3.0] * count
        if config.kind is ActionKind.JOINT_VELOCITY:
            low, high = [-1.0] * count, [1.0] * count
        if config.gripper:
            names, low, high = (*names, "hand"), [*low, 0.0], [*high, 1.0]
            observation["gripper"] = ArraySpec((1,), "float64", 0.0, 1.0)
        self._spec = RobotSpec(
            robot="small_arm",
            observation=observation,
            action=ArraySpec((len(names),), "float32", tuple(low), tuple(high), "rad", "", names),
            action_kind=config.kind,
            period_s=config.period_s,
            grippers=(count,) if config.gripper else (),
        )
        self._told: Array = np.zeros(count)
        self._gripper, self._connected = 1.0, False
        self._reads = self._commands = self._episode = 0
        self._applied: AppliedAction | None = None

    @property
    def spec(self) -> RobotSpec:
        """What it shows and takes."""
        return self._spec

    def connect(self) -> None:
        """It is always there."""
        self._connected = True

    def read(self) -> Observation:
        """Where it is."""
        if not self._connected:
            raise DeviceNotConnected("small arm", got="no connection")
        self._reads += 1
        if self.config.fails_every and self._reads % self.config.fails_every == 0:
            raise DeviceNotConnected("small arm", got="a loose wire")
        joints = self._told * np.array(self.config.follows)
        if self.config.swapped:
            joints[[0, 1]] = joints[[1, 0]]
        arrays: dict[str, Array] = {"joint_position": joints}
        if self.config.gripper:
            arrays["gripper"] = np.array([self._gripper])
        return Observation(
            arrays, time.time_ns(), self._reads, self._episode, applied=self._applied
        )

    def command(self, action: Array) -> Array:
        """Go there."""
        if not self._connected:
            raise DeviceNotConnected("small arm", got="no connection")
        self._spec.action.check(action, "action")
        arm = np.asarray(action[: len(self._told)], float)
        if self.config.kind is ActionKind.JOINT_POSITION:
            self._told = arm
        else:
            velocity = self.config.kind is ActionKind.JOINT_VELOCITY
            self._told = self._told + arm * (self.config.period_s if velocity else 1.0)
        if self.config.gripper:
            self._gripper = float(action[-1])
        self._commands += 1
        self._applied = AppliedAction(action, self._commands, 0, False, time.time_ns())
        return action

    def stop(self) -> None:
        """It stands anyway."""

    def reset(self, seed: int | None = None) -> Observation:
        """All joints to zero."""
        self._told = np.zeros_like(self._told)
        self._episode += 1
        return self.read()

    def close(self) -> None:
        """Let go."""
        self._connected = False
