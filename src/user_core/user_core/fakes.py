"""Small, complete implementations of every interface, without hardware, ROS or torch.

They are for wiring tests and for reading: each is the shortest honest example of its kind.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from user_core.config import Config, setting
from user_core.errors import DeviceNotConnected, PolicyError, StoreError
from user_core.interfaces import (
    Algorithm,
    Camera,
    Discovered,
    Frame,
    Policy,
    Robot,
    Teleop,
    TeleopCommand,
)
from user_core.specs import ActionKind, Array, Arrays, ArraySpec, RobotSpec
from user_core.types import (
    AppliedAction,
    Batch,
    EpisodeResult,
    FinalObservation,
    Observation,
    PolicyVersion,
    Step,
    TaskFeedback,
)

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
    simulated = True

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


class FakeCameraConfig(Config):
    """Parameters of :class:`FakeCamera`."""

    width: int = setting(64, doc="Width of an image.", unit="px", ge=1)
    height: int = setting(48, doc="Height of an image.", unit="px", ge=1)


class FakeCamera(Camera):
    """Makes a new image at every read; the bar moves one column to the right each time."""

    Config = FakeCameraConfig

    def __init__(
        self, config: FakeCameraConfig, clock_ns: Callable[[], int] = time.time_ns
    ) -> None:
        self.config = config
        self._clock_ns = clock_ns
        self._sequence = 0
        self._connected = False

    @property
    def spec(self) -> ArraySpec:
        return ArraySpec((self.config.height, self.config.width, 3), "uint8", frame="fake_optical")

    def connect(self) -> None:
        self._connected = True

    def read(self) -> Frame:
        if not self._connected:
            raise DeviceNotConnected(
                "fake camera", got="no connection", hint="Call connect() first"
            )
        image_hwc = np.zeros(self.spec.shape, np.uint8)
        image_hwc[:, self._sequence % self.config.width] = 255
        self._sequence += 1
        return Frame(image_hwc, self._clock_ns(), self._sequence)

    def close(self) -> None:
        self._connected = False


class FakeTeleopConfig(Config):
    """Parameters of :class:`FakeTeleop`."""

    engage_every: int = setting(0, doc="Engage on every n-th observation; 0: never.", ge=0)


class FakeTeleop(Teleop):
    """Drives :class:`~user_core.fakes.FakeRobot` straight to its goal when engaged."""

    Config = FakeTeleopConfig

    def __init__(self, config: FakeTeleopConfig) -> None:
        self.config = config
        self._spec: RobotSpec | None = None

    def connect(self, spec: RobotSpec) -> None:
        self._spec = spec

    def read(self, observation: Observation) -> TeleopCommand:
        if self._spec is None:
            raise DeviceNotConnected(
                "fake teleop", got="no connection", hint="Call connect() first"
            )
        arrays, every = observation.arrays, self.config.engage_every
        way = np.zeros(self._spec.action.shape, self._spec.action.dtype)
        if "goal" in arrays and "position" in arrays:
            way[:] = np.clip((arrays["goal"] - arrays["position"]) * 10, -1, 1)
        engaged = every > 0 and observation.sequence % every == 0
        return TeleopCommand(engaged, way, observation.stamp_ns)

    def close(self) -> None:
        self._spec = None


class LinearGaussianConfig(Config):
    """Parameters of :class:`LinearGaussianPolicy`."""

    initial_std: float = setting(1.0, doc="Standard deviation at the start.", ge=0)
    seed: int = setting(0, doc="Seed of the exploration noise.", ge=0)


class LinearGaussianPolicy(Policy):
    """Action = gain x (flattened observation, 1) + noise, clipped to the action bounds.

    Arrays: ``gain`` (A, O + 1) and ``std`` (A,), in the order of the sorted observation names;
    integer arrays (images) are left out.
    """

    Config = LinearGaussianConfig

    def __init__(self, config: LinearGaussianConfig, spec: RobotSpec) -> None:
        self.config, self.spec = config, spec
        self.names = sorted(k for k, v in spec.observation.items() if v.dtype.startswith("float"))
        size = sum(spec.observation[name].size for name in self.names) + 1
        self._rng = np.random.default_rng(config.seed)
        self._gain: Array = np.zeros((spec.action.size, size))
        self._std: Array = np.full(spec.action.size, config.initial_std)

    def features(self, observation: Arrays) -> Array:
        """Flatten observations with any leading dimensions (...) to (..., O + 1)."""
        parts = []
        for name in self.names:
            array = np.asarray(observation[name], dtype=np.float64)
            lead = array.shape[: array.ndim - len(self.spec.observation[name].shape)]
            parts.append(array.reshape(*lead, -1))
        return np.concatenate([*parts, np.ones((*parts[0].shape[:-1], 1))], axis=-1)

    @property
    def acts_without_torch(self) -> bool:
        """Always."""
        return True

    def act(self, observation: Arrays, *, deterministic: bool = False) -> Array:
        action = self._gain @ self.features(observation)
        if not deterministic:
            action = action + self._std * self._rng.standard_normal(action.shape)
        bounds = self.spec.action
        return np.clip(action, bounds.low_array, bounds.high_array).astype(bounds.dtype)[None]

    def arrays(self) -> dict[str, Array]:
        return {"gain": self._gain.copy(), "std": self._std.copy()}

    def load(self, arrays: Arrays) -> None:
        mine = self.arrays()
        shapes = {name: array.shape for name, array in arrays.items()}
        wanted = {name: array.shape for name, array in mine.items()}
        if shapes != wanted:
            raise PolicyError("arrays of a linear-Gaussian policy", got=shapes, expected=wanted)
        self._gain, self._std = np.array(arrays["gain"]), np.array(arrays["std"])


class RewardWeightedRegressionConfig(Config):
    """Parameters of :class:`RewardWeightedRegression`."""

    temperature: float = setting(0.2, doc="Sharpness of the weights; small: greedy.", gt=0)
    step: float = setting(0.2, doc="Share of the new fit that is taken over.", gt=0, le=1)
    min_std: float = setting(0.5, doc="Exploration that always remains.", ge=0)


class RewardWeightedRegression(Algorithm):
    """Fits a linear policy to the actions in the data, each weighted by what it gained.

    The gain of a step is its reward above what the state alone lets one expect (a linear
    baseline), so that good actions count, not good states. After Peters and Schaal,
    "Reinforcement learning by reward-weighted regression for operational space control",
    ICML 2007, for a horizon of one step.
    """

    Config = RewardWeightedRegressionConfig

    def __init__(
        self, config: RewardWeightedRegressionConfig, spec: RobotSpec, policy: LinearGaussianPolicy
    ) -> None:
        self.config, self.policy = config, policy
        self._updates = 0

    def update(self, batch: Batch) -> Mapping[str, float]:
        x = self.policy.features(batch.observation)
        reward = np.asarray(batch.reward, np.float64)
        # Quadratic in the state: the distance to a goal is no linear function of position.
        state = np.concatenate([x, (x[:, :, None] * x[:, None, :]).reshape(len(x), -1)], axis=1)
        gain = reward - _ridge(state, reward[:, None], np.ones(len(x)))[:, 0] @ state.T
        weight = np.exp(np.clip(gain / (gain.std() + 1e-8) / self.config.temperature, -20, 5))
        fit = _ridge(x, np.asarray(batch.action, np.float64), weight).T
        now = self.policy.arrays()
        error = np.asarray(batch.action) - x @ fit.T
        std = np.sqrt((weight[:, None] * error**2).sum(0) / weight.sum())
        step = self.config.step
        self.policy.load(
            {
                "gain": (1 - step) * now["gain"] + step * fit,
                "std": np.maximum((1 - step) * now["std"] + step * std, self.config.min_std),
            }
        )
        self._updates += 1
        return {"reward": float(reward.mean()), "std": float(std.mean())}

    def policy_arrays(self) -> dict[str, Array]:
        return self.policy.arrays()

    def state(self) -> dict[str, Any]:
        return {"policy": self.policy.arrays(), "updates": self._updates}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.policy.load(state["policy"])
        self._updates = int(state["updates"])


def _ridge(x: Array, y: Array, weight: Array) -> Array:
    """Weighted least squares with a little regularisation: (N, O), (N, A), (N,) to (O, A)."""
    weighted = x * weight[:, None]
    solution: Array = np.linalg.solve(x.T @ weighted + 1e-3 * np.eye(x.shape[1]), weighted.T @ y)
    return solution


class MemoryReplay:
    """Keeps all steps in RAM and draws them uniformly; TransitionSink and TransitionSource.

    Args:
        discount: Discount factor per step, gamma.
        seed: Seed of the draws.
    """

    def __init__(self, discount: float = 0.99, seed: int = 0) -> None:
        self.results: list[EpisodeResult] = []
        self._discount = discount
        self._rng = np.random.default_rng(seed)
        self._steps: list[Step] = []
        self._next: list[Arrays] = []

    def __len__(self) -> int:
        return len(self._next)

    def append(self, step: Step | FinalObservation) -> None:
        """Take one step; the observation also completes the step before it."""
        if len(self._next) < len(self._steps):
            self._next.append(step.observation)
        if isinstance(step, Step):
            self._steps.append(step)

    def end_episode(self, result: EpisodeResult) -> None:
        """Close the episode; a step that never got its next observation is forgotten."""
        del self._steps[len(self._next) :]
        self.results.append(result)

    def sample(self, batch_size: int) -> Batch:
        """Draw transitions uniformly, with replacement."""
        if not self._next:
            raise StoreError("sample", got="an empty memory", expected="at least one transition")
        rows = self._rng.integers(0, len(self._next), batch_size)
        steps = [self._steps[row] for row in rows]
        return Batch(
            observation=_stack([step.observation for step in steps]),
            action=np.stack([step.action for step in steps]),
            reward=np.array([step.reward for step in steps], np.float32),
            discount=np.array(
                [0.0 if step.terminated else self._discount for step in steps], np.float32
            ),
            next_observation=_stack([self._next[row] for row in rows]),
            extras={"row": rows},
        )


def _stack(observations: list[Arrays]) -> dict[str, Array]:
    return {name: np.stack([o[name] for o in observations]) for name in observations[0]}


class PolicyMailbox:
    """PolicySink and PolicySource; safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._version: PolicyVersion | None = None

    def publish(self, version: PolicyVersion) -> None:
        """Put a version into the box; an older number than the one there is ignored."""
        with self._lock:
            if self._version is None or version.number > self._version.number:
                self._version = version

    def newest(self, after: int) -> PolicyVersion | None:
        """The version in the box, if its number is above ``after``."""
        with self._lock:
            version = self._version
        return version if version is not None and version.number > after else None
