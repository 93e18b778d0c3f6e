"""An arm of a few joints in real time, without ROS, that can be told to misbehave.

In a test's own time (:func:`hal_in_test_time`) it is run as in real time, but no machine is too busy for it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from user_core.config import Config, setting
from user_core.errors import DeviceNotConnected
from user_core.interfaces import Robot
from user_core.specs import ActionKind, Array, ArraySpec, RobotSpec
from user_core.types import ActionChunk, AppliedAction, Observation
from user_hal.local import LocalHal
from user_hal.runtime.control_loop import SENTINEL_PERIOD_S, HalLoop, LoopConfig
from user_hal.runtime.leases import LeaseConfig
from user_hal.safety import SafetyConfig
from user_testing.invariant.world import PACKAGES, StepStopper
from user_testing.virtual_time import VirtualTime


class SmallArmConfig(Config):
    """Parameters of :class:`SmallArm`."""

    kind: ActionKind = setting(ActionKind.JOINT_DELTA, doc="Kind of its actions.")
    follows: tuple[float, ...] = setting(
        (1.0, 1.0), doc="What each joint makes of what it is told: 1 follows, 0 is dead."
    )
    swapped: bool = setting(False, doc="Whether the first two joints are exchanged.")
    period_s: float = setting(0.02, doc="Control period.", unit="s", gt=0)
    fails_every: int = setting(0, doc="One in this many readings fails; 0: none.", ge=0)
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


class TimedHal(LocalHal):
    """``LocalHal`` of a robot in real time, whose loop and sentinel run while a test's time passes."""

    def __init__(self, robot: Robot, safety: SafetyConfig, time: VirtualTime) -> None:
        super().__init__(robot, safety)
        self._loop = HalLoop(
            robot, LoopConfig(), safety, LeaseConfig(required=True),
            on_observation=self.observations.put, clock=time, make_stopper=StepStopper,
        )  # fmt: skip
        self._supervisor, self._time = self._loop.path.supervisor, time
        self._stopper: StepStopper = self._loop._stopper  # type: ignore[assignment]
        self._stopper.start()
        self._loop_ns = self._look_ns = time.now_ns
        time.let_pass = self.run
        self._token = self._loop.leases.acquire(self._holder, 60.0).token
        self.run(robot.spec.period_s)

    def send(self, chunk: ActionChunk) -> None:
        super().send(chunk)
        self._loop_ns = self._time.now_ns  # it is woken

    def run(self, duration_s: float) -> None:
        """Let time pass."""
        time = self._time
        end_ns = time.now_ns + round(duration_s * 1e9)
        while True:
            time.now_ns = max(time.now_ns, min(self._look_ns, self._loop_ns, end_ns))
            if time.now_ns >= self._look_ns:
                self._look_ns += int(SENTINEL_PERIOD_S * 1e9)
                self._stopper.pump()
                self._loop.look()
            elif time.now_ns >= self._loop_ns:
                self._loop_ns = max(self._loop.step(), time.now_ns + 1_000_000)
            else:
                return


@contextmanager
def hal_in_test_time(robot: Robot, safety: SafetyConfig) -> Iterator[TimedHal]:
    """A robot behind its gate, open; while the block lasts, ``time`` of the product is the test's."""
    time = VirtualTime()
    with time.instead_of_time(*PACKAGES, __name__):
        hal = TimedHal(robot, safety, time)
        yield hal
        hal.close()
