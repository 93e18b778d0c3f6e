"""Teleop ``expert``: the scripted expert in a person's place, for simulated tasks."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import ClassVar, Literal

import numpy as np

from user_core.config import Config, setting
from user_core.errors import DeviceNotConnected
from user_core.interfaces import Teleop, TeleopCommand
from user_core.specs import RobotSpec
from user_core.types import Observation
from user_hal.sim.experts import ScriptedExpert


class ExpertConfig(Config):
    """When the expert takes over. All counts are observations, so that they mean the same in
    real time and as fast as it goes."""

    engage: Literal["always", "never", "episodes", "stretches"] = setting(
        "always",
        doc="When the expert drives. episodes: whole episodes, picked at random; stretches: for a "
        "while now and then, like a person who corrects.",
    )
    probability: float = setting(
        0.5, doc="episodes: share of the episodes that the expert drives.", ge=0, le=1
    )
    every: int = setting(40, doc="stretches: mean number of observations between two.", ge=1)
    length: int = setting(15, doc="stretches: observations that one lasts.", ge=1)
    noise: float = setting(
        0.0,
        doc="Standard deviation of the noise on actions, as a share of the largest action.",
        ge=0,
    )
    label: bool = setting(
        False, doc="The expert labels the success, like a person does where no reward can tell."
    )
    seed: int = setting(0, doc="Seed of noise and of when the expert drives.", ge=0)


class ExpertTeleop(Teleop):
    """Solves the simulated tasks from their observations, and pretends to be a person."""

    Config: ClassVar[type[Config]] = ExpertConfig
    scripted: ClassVar[bool] = True

    def __init__(self, config: ExpertConfig, stamp_ns: Callable[[], int] = time.time_ns) -> None:
        self.config = config
        self._stamp_ns = stamp_ns
        self._random = np.random.default_rng(config.seed)
        self._expert: ScriptedExpert | None = None
        self._episode: int | None = None
        self._drives_episode = False
        self._left = 0

    def connect(self, spec: RobotSpec) -> None:
        """Get ready for a robot. Raises SpecError when the expert does not know its task."""
        self._expert = ScriptedExpert(spec, self.config.noise, self.config.seed)
        self._episode = None

    def read(self, observation: Observation) -> TeleopCommand:
        """What the expert wants now."""
        if self._expert is None:
            raise DeviceNotConnected(
                "teleop 'expert'", got="no connection", hint="Call connect() first"
            )
        if observation.episode != self._episode:
            self._begin(observation.episode)
        engaged = self._engaged()
        success = observation.task.success is True
        return TeleopCommand(
            engaged=engaged,
            action=self._expert.act(observation.arrays),
            stamp_ns=self._stamp_ns(),
            success=self.config.label and success,
        )

    def close(self) -> None:
        """Nothing to let go of."""
        self._expert = None

    def _begin(self, episode: int) -> None:
        if self._expert is not None:
            self._expert.reset()
        self._episode, self._left = episode, 0
        self._drives_episode = bool(self._random.random() < self.config.probability)

    def _engaged(self) -> bool:
        mode = self.config.engage
        if mode == "episodes":
            return self._drives_episode
        if mode != "stretches":
            return mode == "always"
        if self._left > 0:
            self._left -= 1
        elif self._random.random() < 1.0 / self.config.every:
            self._left = self.config.length
        return self._left > 0
