"""Driver ``mujoco``: a simulated arm with a task, in lockstep or in real time."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np

from user_core.config import Config, setting
from user_core.errors import ConfigError, DeviceFault, DeviceNotConnected, DeviceTimeout
from user_core.interfaces import Discovered, Robot
from user_core.specs import Array, RobotSpec
from user_core.types import AppliedAction, Observation
from user_hal.cameras.calibration import Calibration
from user_hal.sim.arms import ARMS
from user_hal.sim.control import control_named
from user_hal.sim.mjcf import FRONT, wrist_view
from user_hal.sim.periodic import PeriodicThread
from user_hal.sim.rendering import SceneImages, Snapshot
from user_hal.sim.scene import Scene, observation_arrays, observation_specs
from user_hal.sim.tasks import TASKS, Episode, task_named
from user_hal.sim.urdf import arm_urdf

#: In real time, physics is advanced in pieces of about this duration, wall clock.
TICK_S = 0.005


class MujocoConfig(Config):
    """Which arm does what, how it is commanded, and how time passes."""

    robot: Literal["panda", "ur5e"] = setting("panda", doc="The arm.")
    task: Literal["reach", "pick_place", "peg_insertion"] = setting(
        "peg_insertion", doc="The task, with its objects."
    )
    control: Literal["ee_delta", "joint_delta", "joint_position"] = setting(
        "ee_delta", doc="What the numbers of an action mean."
    )
    rate_hz: float = setting(10.0, doc="Actions a second.", unit="Hz", gt=0, le=200)
    substeps: int = setting(20, doc="Physics steps for one action.", ge=1, le=1000)
    real_time: bool = setting(
        False, doc="Time passes by itself, as with a real robot; otherwise only by commands."
    )
    speed: float = setting(1.0, doc="Simulated seconds in a second, in real time.", gt=0, le=100)
    cameras: tuple[Literal["front", "wrist"], ...] = setting(
        (), doc="Cameras whose images are in an observation.", max_length=2
    )
    image_height: int = setting(128, doc="Height of an image.", unit="px", ge=8, le=1080)
    image_width: int = setting(128, doc="Width of an image.", unit="px", ge=8, le=1920)
    image_rate_hz: float = setting(
        0.0,
        doc="In real time, draw images at this rate beside the readings, which then wait for "
        "none; 0 draws them for each reading, of the very same moment.",
        unit="Hz",
        ge=0,
        le=200,
    )
    horizon_s: float = setting(
        0.0,
        doc="Simulated time after which an episode is cut; 0 is the task's own.",
        unit="s",
        ge=0,
    )
    calibration_noise_m: float = setting(
        0.0005,
        doc="Standard deviation of the reported place of the hole of peg_insertion, per axis.",
        unit="m",
        ge=0,
        le=0.01,
    )
    goal_radius_m: float = setting(
        0.015,
        doc="Radius of the goal of reach, as it is drawn.",
        unit="m",
        gt=0,
        le=0.1,
    )
    max_age_s: float = setting(
        0.5, doc="In real time, age from which a reading is refused.", unit="s", gt=0
    )
    seed: int = setting(0, doc="Seed of starts for which none is given.", ge=0)

    def validate(self) -> None:
        """Refuse time steps that no physics survives."""
        timestep_s = 1.0 / (self.rate_hz * self.substeps)
        if timestep_s > 0.0101:
            raise ConfigError(
                "substeps",
                got=f"{self.substeps} at {self.rate_hz:g} Hz, a time step of {timestep_s:.4f} s",
                expected="a time step of at most 0.01 s",
            )


class MujocoRobot(Robot):
    """A simulated arm in front of a task.

    In lockstep, :meth:`command` simulates one control period and returns. In real time, a
    thread of its own keeps the physics at the wall clock (absolute deadlines), commands set
    targets and return at once, and :meth:`read` gives the state of the last tick.

    After success or time-out the robot goes on obeying, as a real one does; the verdict of
    the episode stays until the next :meth:`reset`.
    """

    Config: ClassVar[type[Config]] = MujocoConfig
    simulated: ClassVar[bool] = True

    def __init__(self, config: MujocoConfig) -> None:
        self.config = config
        self._period_s = 1.0 / config.rate_hz
        task = task_named(config.task, config.calibration_noise_m, config.goal_radius_m)
        control = control_named(config.control)
        timestep_s = self._period_s / config.substeps
        self.scene = Scene(config.robot, task, timestep_s, control.drive)
        self._control = control(self.scene, self._period_s)
        self._episode = Episode(config.horizon_s or task.horizon_s)
        self._random = np.random.default_rng(config.seed)
        self._lock = threading.Lock()
        self._images: SceneImages | None = None
        self._physics: PeriodicThread | None = None
        self._connected = False
        self._stamp_ns = self._sequence = self._episodes = self._commands = 0
        self._applied: AppliedAction | None = None
        action = self._control.spec
        self._low, self._high = action.low_array, action.high_array
        self._tick_steps = self._steps_in_a_tick()
        self._spec = RobotSpec(
            robot=config.robot,
            observation=observation_specs(
                self.scene, config.cameras, (config.image_height, config.image_width)
            ),
            action=action,
            action_kind=self._control.kind,
            period_s=self._period_s / config.speed if config.real_time else self._period_s,
            lockstep=not config.real_time,
            task_reward=True,
            grippers=(action.size - 1,) if self.scene.has_gripper else (),
        )

    @property
    def gripper_joints(self) -> dict[str, tuple[float, float]]:
        """Positions of its fingers, closed and open, metres, by the names that the URDF has."""
        gripper = self.scene.arm.gripper
        opened = gripper.stroke_m if self.scene.has_gripper else 0.0  # or else it holds something
        return dict.fromkeys(gripper.finger_names, (0.0, opened))

    @property
    def urdf(self) -> str:
        """The arm's URDF."""
        return arm_urdf(self.scene.arm)

    def calibrations(self) -> dict[str, Calibration]:
        """Of its images, by the name of the observation."""
        views = {"front": FRONT, "wrist": wrist_view(self.scene.arm.gripper)}
        width, height = self.config.image_width, self.config.image_height
        return {
            f"image_{camera}": Calibration.ideal(width, height, views[camera].fovy_deg)
            for camera in self.config.cameras
        }

    def _steps_in_a_tick(self) -> int:
        wanted = round(TICK_S * self.config.speed / self.scene.timestep_s)
        return min(max(wanted, 1), self.config.substeps)

    @property
    def spec(self) -> RobotSpec:
        return self._spec

    def connect(self) -> None:
        if self._connected:
            return
        config = self.config
        self._begin_episode(self._random)
        self._episodes = 0  # not reset yet
        if config.cameras:
            self._images = SceneImages(
                self.scene.model,
                config.cameras,
                (config.image_height, config.image_width),
                config.image_rate_hz if config.real_time else 0.0,
                self._take_snapshot,
                config.max_age_s,
            )
        self._connected = True
        self._start_physics()

    def _start_physics(self) -> None:
        if not self.config.real_time or (self._physics and self._physics.error is None):
            return
        period_s = self._tick_steps * self.scene.timestep_s / self.config.speed
        self._stamp_ns = time.time_ns()
        self._physics = PeriodicThread(period_s, self._tick, "mujoco-physics")
        self._physics.start()

    def _tick(self) -> None:
        with self._lock:
            self._advance(self._tick_steps)

    def _advance(self, substeps: int) -> None:
        self.scene.advance(substeps)
        self._episode.advance(substeps * self.scene.timestep_s, self.scene.succeeded())
        self._stamp_ns = time.time_ns()

    def read(self) -> Observation:
        self._check()
        with self._lock:
            self._check_age()
            state = self.scene.state()
            snapshot = Snapshot.of(self.scene.data) if self._images else None
            self._sequence += 1
            observation = (self._stamp_ns, self._sequence, self._episodes)
            task, applied = self._episode.feedback, self._applied
        arrays = observation_arrays(state, gripper=self.scene.has_gripper)
        if self._images:
            arrays.update(self._images.of(snapshot))
        return Observation(arrays, *observation, task, applied)

    def command(self, action: Array) -> Array:
        self._check()
        self._spec.action.check(action, "action")
        executed: Array = np.minimum(np.maximum(action, self._low), self._high)
        with self._lock:
            self._control.apply(executed)
            self._episode.begin()
            self._commands += 1
            self._applied = AppliedAction(executed, self._commands, stamp_ns=time.time_ns())
            if not self.config.real_time:
                self._advance(self.config.substeps)
        return executed

    def stop(self) -> None:
        with self._lock:
            self.scene.hold()

    def reset(self, seed: int | None = None) -> Observation:
        if not self._connected:
            raise _not_connected()
        random = self._random if seed is None else np.random.default_rng(seed)
        with self._lock:
            self._begin_episode(random)
        self._start_physics()
        return self.read()

    def _begin_episode(self, random: np.random.Generator) -> None:
        self.scene.reset(random)
        self._episode.reset()
        self._episodes += 1
        self._applied = None
        self._stamp_ns = time.time_ns()

    def close(self) -> None:
        if self._physics:
            self._physics.stop()
            self._physics = None
        if self._images:
            self._images.close()
            self._images = None
        if self._connected:
            self.stop()
        self._connected = False

    def _take_snapshot(self) -> Snapshot:
        with self._lock:
            return Snapshot.of(self.scene.data)

    def _check(self) -> None:
        if not self._connected:
            raise _not_connected()
        if self._physics and self._physics.error is not None:
            raise DeviceFault(
                "simulated physics stopped",
                got=repr(self._physics.error),
                hint="Reset the robot; more substeps where it was unstable",
            ) from self._physics.error

    def _check_age(self) -> None:
        age_s = (time.time_ns() - self._stamp_ns) * 1e-9
        if self._physics and age_s > self.config.max_age_s:
            raise DeviceTimeout(
                "newest state of the simulation",
                got=f"{age_s:.2f} s old",
                expected=f"at most {self.config.max_age_s:g} s",
                hint="The host is too slow for this real-time simulation",
            )

    @classmethod
    def discover(cls) -> Sequence[Discovered]:
        return [
            Discovered(
                f"{arm}_{task}",
                {"robot": arm, "task": task},
                f"simulated {len(ARMS[arm].joints)}-joint arm, {task.replace('_', ' ')}",
            )
            for arm in ARMS
            for task in TASKS
        ]


def _not_connected() -> DeviceNotConnected:
    return DeviceNotConnected(
        "simulated robot", got="a call before connect or after close", hint="Call connect() first"
    )
