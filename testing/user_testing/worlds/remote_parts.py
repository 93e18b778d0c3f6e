"""A robot and policies for tests of remote inference; plugins by their path,
``user_testing.worlds.remote_parts:Name``."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from user_core.config import Config, setting
from user_core.fakes import FakeRobot, FakeRobotConfig, LinearGaussianConfig, LinearGaussianPolicy
from user_core.interfaces import Policy, Query
from user_core.specs import Array, Arrays, RobotSpec
from user_core.types import Observation


class PictureRobotConfig(FakeRobotConfig):
    """Parameters of :class:`PictureRobot`."""

    image_size: int = setting(48, doc="Side of the picture.", unit="px", ge=16)
    episode_steps: int = setting(100_000, doc="Steps until an episode is truncated.", ge=1)
    period_s: float = setting(0.05, doc="Control period.", unit="s", gt=0)
    max_step_m: float = setting(0.03, doc="Largest move in one step per axis.", unit="m", gt=0)
    read_s: float = setting(0.0, doc="Time that a reading takes.", unit="s", ge=0)
    noise: bool = setting(True, doc="Pictures are noise; else the fake robot's.")
    log_file: str = setting("", doc="Where commands and stops are noted, as JSON lines.")


class PictureRobot(FakeRobot):
    """The fake robot in real time. Its pictures are noise that their first pixels know the seed of,
    so that a picture which was ever coded with loss gives itself away."""

    Config = PictureRobotConfig

    def __init__(self, config: PictureRobotConfig) -> None:
        super().__init__(config)
        self._spec = replace(self._spec, lockstep=False)

    def read(self) -> Observation:
        time.sleep(self.config.read_s)
        observation = super().read()
        if not self.config.noise:
            return observation
        image = noise(time.time_ns() // 1000 % 2**32, self.config.image_size)
        return replace(observation, arrays={**observation.arrays, "image_front": image})

    def command(self, action: Array) -> Array:
        self._note("command")
        return super().command(action)

    def stop(self) -> None:
        self._note("stop")

    def reset(self, seed: int | None = None) -> Observation:
        self._note("reset")
        return super().reset(seed)

    def _note(self, what: str) -> None:
        with open(self.config.log_file, "a", encoding="utf-8") as stream:
            stream.write(json.dumps({"what": what, "monotonic_ns": time.monotonic_ns()}) + "\n")


def noise(seed: int, size: int) -> Array:
    """A picture (size, size, 3) that is made from a seed, which its first four bytes are."""
    image = np.random.default_rng(seed).integers(0, 256, (size, size, 3), np.uint8)
    image.reshape(-1)[:4] = np.frombuffer(np.uint32(seed).tobytes(), np.uint8)
    return image


def is_raw(image: Array) -> bool:
    """Whether a picture is, bit for bit, what the robot saw."""
    seed = int(np.frombuffer(image.tobytes()[:4], np.uint32)[0])
    return bool((noise(seed, len(image)) == image).all())


class GoThereConfig(Config):
    """Parameters of the policies that go somewhere."""

    rows: int = setting(16, doc="Actions that are planned ahead.", ge=1)
    thinks_s: float = setting(0.0, doc="Time that a decision takes, as a large model's.", ge=0)


class GoThere(Policy):
    """Drives the fake robot, or the simulated arm's ``reach``, straight to its goal: a model of one
    line, rolled out for as many rows as are wanted."""

    Config = GoThereConfig

    def __init__(self, config: GoThereConfig, spec: RobotSpec) -> None:
        self.config, self.spec = config, spec
        action = spec.action
        # the fake robot's actions are shares of its largest step, the arm's are metres
        self._step_m = 0.03 if "position" in spec.observation else float(action.high_array[0])
        self._scale = action.high_array[0] / self._step_m

    def act(self, observation: Arrays, *, deterministic: bool = False) -> Array:
        time.sleep(self.config.thinks_s)
        if "position" in observation:
            way_m = (observation["goal"] - observation["position"]).astype(np.float64)
        else:
            way_m = observation["tool_to_goal"].astype(np.float64)
        rows = []
        for _ in range(self.config.rows):
            longest_m = max(float(np.abs(way_m).max()), 1e-9)
            move_m = 0.8 * way_m * min(1.0, self._step_m / longest_m)
            way_m = way_m - move_m
            rows.append(move_m * self._scale)
        bounds = self.spec.action
        return np.clip(rows, bounds.low_array, bounds.high_array).astype(bounds.dtype)

    def arrays(self) -> dict[str, Array]:
        return {}

    def load(self, arrays: Arrays) -> None:
        """There is nothing to learn."""


class SlowToPrepareConfig(LinearGaussianConfig):
    """Parameters of :class:`SlowToPrepare`."""

    answer_s: float = setting(0.02, doc="Time that an answer takes of the device.", unit="s", ge=0)
    prepare_s: float = setting(5.0, doc="Time for which weights are loaded.", unit="s", ge=0)
    piece_s: float = setting(
        0.2, doc="Time for which a piece of that keeps the device.", unit="s", ge=0
    )


class SlowToPrepare(LinearGaussianPolicy):
    """Acts on a device that does one thing after the other, and loads its weights there in long pieces, between which
    answers have to find a place: so a large policy is prepared on a GPU. The device is a lock, and its work is sleep."""

    Config = SlowToPrepareConfig
    _device = threading.Lock()

    def act(self, observation: Arrays, *, deterministic: bool = False) -> Array:
        return self.act_batch([Query(observation, deterministic)])[0]

    def act_batch(self, queries: Sequence[Query]) -> list[Array]:
        with self._device:
            time.sleep(self.config.answer_s)
        return [super(SlowToPrepare, self).act(q.observation, deterministic=True) for q in queries]

    def load(self, arrays: Arrays) -> None:
        super().load(arrays)
        end_s = time.monotonic() + self.config.prepare_s
        while time.monotonic() < end_s:
            with self._device:
                time.sleep(self.config.piece_s)
            time.sleep(1e-3)  # whoever waits for a lock gets it only then
