"""A point on a plane that can be driven to a goal: the smallest robot there is."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from user_core.config import Config, setting
from user_core.errors import DeviceNotConnected
from user_core.interfaces import Discovered, Robot
from user_core.specs import ActionKind, Array, ArraySpec, RobotSpec
from user_core.types import AppliedAction, Observation, TaskFeedback

_REACH_M = 0.5
_SUCCESS_M = 0.05


class FakeRobotConfig(Config):
    """Parameters of :class:`FakeRobot`."""

    image_size: int = setting(0, doc="Side of the camera image; 0: no image.", unit="px", ge=0)
    episode_steps: int = setting(40, doc="Steps until an episode is truncated.", ge=1)
    period_s: float = setting(0.1, doc="Control period.", unit="s", gt=0)
    max_step_m: float = setting(0.1, doc="Largest move in one step per axis.", unit="m", gt=0)


class FakeRobot(Robot):
    """A point mass without mass: an action moves it, within a square of 1 m.

    Observation: ``position`` (2,) m, ``goal`` (2,) m, and with ``image_size`` also
    ``image_front`` (h, w, 3). Action: move in x and y as a share of ``max_step_m``, -1 to 1.
    Reward: minus the distance to the goal in metres. Success within 5 cm.
    """

    Config = FakeRobotConfig

    def __init__(self, config: FakeRobotConfig, clock_ns: Callable[[], int] = time.time_ns) -> None:
        self.config = config
        self._clock_ns = clock_ns
        self._rng = np.random.default_rng()
        self._connected = False
        self._position_m: Array = np.zeros(2, np.float32)
        self._goal_m: Array = np.zeros(2, np.float32)
        self._step = self._sequence = self._episode = self._commands = 0
        self._applied: AppliedAction | None = None
        plane = ArraySpec((2,), "float32", -_REACH_M, _REACH_M, "m", "base", ("x", "y"))
        observation = {"position": plane, "goal": plane}
        if config.image_size:
            observation["image_front"] = ArraySpec(
                (config.image_size, config.image_size, 3), "uint8", frame="front_optical"
            )
        self._spec = RobotSpec(
            robot="fake",
            observation=observation,
            action=ArraySpec((2,), "float32", -1.0, 1.0, "", "base", ("dx", "dy")),
            action_kind=ActionKind.EE_DELTA,
            period_s=config.period_s,
            lockstep=True,
            task_reward=True,
        )

    @property
    def spec(self) -> RobotSpec:
        return self._spec

    @classmethod
    def discover(cls) -> Sequence[Discovered]:
        return (Discovered("fake", {}, "a point on a plane, always there"),)

    def connect(self) -> None:
        self._connected = True

    def read(self) -> Observation:
        self._require_connection()
        self._sequence += 1
        arrays: dict[str, Array] = {
            "position": self._position_m.copy(),
            "goal": self._goal_m.copy(),
        }
        if self.config.image_size:
            arrays["image_front"] = self._image()
        distance_m = float(np.linalg.norm(self._position_m - self._goal_m))
        success = distance_m < _SUCCESS_M
        return Observation(
            arrays,
            self._clock_ns(),
            self._sequence,
            self._episode,
            TaskFeedback(
                reward=-distance_m,
                terminated=success,
                truncated=not success and self._step >= self.config.episode_steps,
                success=success,
            ),
            self._applied,
        )

    def command(self, action: Array) -> Array:
        self._require_connection()
        self._spec.action.check(action, "action")
        executed = np.clip(action, -1.0, 1.0)
        moved = self._position_m + executed * np.float32(self.config.max_step_m)
        self._position_m = np.clip(moved, -_REACH_M, _REACH_M)
        self._step += 1
        self._commands += 1
        changed = bool((executed != action).any())
        self._applied = AppliedAction(executed, self._commands, 0, changed, self._clock_ns())
        return executed

    def stop(self) -> None:
        """Nothing to do: the point stands still between commands."""

    def reset(self, seed: int | None = None) -> Observation:
        self._require_connection()
        if seed is not None:
            self._rng = np.random.default_rng(seed)
        self._position_m, self._goal_m = self._rng.uniform(-0.45, 0.45, (2, 2)).astype(np.float32)
        self._step = 0
        self._episode += 1
        self._applied = None
        return self.read()

    def close(self) -> None:
        self._connected = False

    def _require_connection(self) -> None:
        if not self._connected:
            raise DeviceNotConnected("fake robot", got="no connection", hint="Call connect() first")

    def _image(self) -> Array:
        size = self.config.image_size
        image = np.full((size, size, 3), 40, np.uint8)
        for place_m, colour in ((self._goal_m, (0, 200, 0)), (self._position_m, (230, 230, 230))):
            column, row = ((place_m * (1, -1) + _REACH_M) * (size - 1)).round().astype(int)
            image[max(row - 2, 0) : row + 3, max(column - 2, 0) : column + 3] = colour
        return image
