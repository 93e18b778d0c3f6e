"""Teleop ``expert``: the scripted expert in a person's place, for simulated tasks."""

from __future__ import annotations

import time
from collections import Counter
from typing import ClassVar, Literal

import numpy as np

from user_core.config import Config, setting
from user_core.errors import DeviceNotConnected
from user_core.interfaces import Teleop, TeleopCommand
from user_core.specs import ActionKind, Array, RobotSpec
from user_core.types import Observation
from user_hal.sim.experts import ScriptedExpert


class ExpertConfig(Config):
    """When the expert takes over. All counts are observations, so that they mean the same in
    real time and as fast as it goes."""

    engage: Literal["always", "never", "episodes", "stretches", "corrects"] = setting(
        "always",
        doc="When the expert drives. episodes: whole episodes, picked at random; stretches: for a "
        "while now and then; corrects: for a while once the robot did something else than the expert "
        "would have, like a person who watches.",
    )
    probability: float = setting(
        0.5, doc="episodes: share of the episodes that the expert drives.", ge=0, le=1
    )
    every: int = setting(40, doc="stretches: mean number of observations between two.", ge=1)
    length: int = setting(15, doc="stretches, corrects: observations that one lasts.", ge=1)
    tolerance: float = setting(
        0.6,
        doc="corrects: how far an element of an action may be from what the expert would have done, as a share "
        "of half its range.",
        gt=0,
        le=2,
    )
    slowest: float = setting(
        0.2,
        doc="corrects: a motion that he wants is not wrong for being slower, down to this share of it. 1: it must be "
        "as fast.",
        ge=0,
        le=1,
    )
    patience: int = setting(
        3, doc="corrects: this many actions in a row must be further away than that.", ge=1
    )
    longest: int = setting(
        40,
        doc="corrects: he takes over, too, once the episode, or the time since his last correction, has lasted this many "
        "observations: the robot gets nowhere. 0: he waits.",
        ge=0,
    )
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
    """Solves the simulated tasks from their observations, and pretends to be a person.

    Attributes:
        causes: Why he corrected, and how often, since he was connected: ``nowhere``, or the element of the action
            that was furthest off.
    """

    Config: ClassVar[type[Config]] = ExpertConfig
    scripted: ClassVar[bool] = True

    def __init__(self, config: ExpertConfig) -> None:
        self.config = config
        self._random = np.random.default_rng(config.seed)
        self._expert: ScriptedExpert | None = None
        self._episode: int | None = None
        self._drives_episode = False
        self._left = self._bad = self._alone = 0
        self._wanted: Array | None = None
        self._looked = 0
        self._furthest = ""
        self.causes: Counter[str] = Counter()

    def connect(self, spec: RobotSpec) -> None:
        """Get ready for a robot. Raises SpecError when the expert does not know its task."""
        self._expert = ScriptedExpert(spec, self.config.noise, self.config.seed)
        self._episode = None
        self.causes.clear()
        self._names = spec.action.names
        self._half = (spec.action.high_array - spec.action.low_array) / 2
        moves = np.full(spec.action.shape, spec.action_kind is not ActionKind.JOINT_POSITION)
        moves[list(spec.grippers)] = False
        self._slowest = np.where(moves, self.config.slowest, 1.0)

    def read(self, observation: Observation) -> TeleopCommand:
        """What the expert wants now."""
        if self._expert is None:
            raise DeviceNotConnected(
                "teleop 'expert'", got="no connection", hint="Call connect() first"
            )
        if observation.episode != self._episode:
            self._begin(observation.episode)
        engaged = self._engaged(observation)
        self._wanted, self._looked = self._expert.act(observation.arrays), observation.sequence
        success = observation.task.success is True
        return TeleopCommand(
            engaged=engaged,
            action=self._wanted,
            stamp_ns=time.time_ns(),
            success=self.config.label and success,
        )

    def close(self) -> None:
        """Nothing to let go of."""
        self._expert = None

    def _begin(self, episode: int) -> None:
        if self._expert is not None:
            self._expert.reset()
        self._episode, self._left, self._bad, self._alone, self._wanted = episode, 0, 0, 0, None
        self._drives_episode = bool(self._random.random() < self.config.probability)

    def _engaged(self, observation: Observation) -> bool:
        mode = self.config.engage
        if mode == "episodes":
            return self._drives_episode
        if mode not in ("stretches", "corrects"):
            return mode == "always"
        self._alone += 1
        if self._left > 0:
            self._left -= 1
            self._alone = 0
        elif mode == "corrects":
            if observation.sequence - self._looked <= 1:  # else what he wanted then is not known
                self._bad = self._bad + 1 if self._is_off(observation) else 0
            too_long = 0 < self.config.longest < self._alone
            if self._bad >= self.config.patience or too_long:
                self.causes["nowhere" if self._bad < self.config.patience else self._furthest] += 1
                self._left, self._bad = self.config.length, 0
        elif self._random.random() < 1.0 / self.config.every:
            self._left = self.config.length
        return self._left > 0

    def _is_off(self, observation: Observation) -> bool:
        """Whether the last action that reached the robot is far from what the expert wanted then."""
        if self._wanted is None or observation.applied is None:
            return False
        did, wanted = observation.applied.action, self._wanted
        nearest = np.clip(did, *np.sort([wanted * self._slowest, wanted], axis=0))
        off = np.abs(did - nearest) / np.maximum(self._half, 1e-9)
        furthest = int(off.argmax())
        self._furthest = self._names[furthest] if self._names else str(furthest)
        return bool(off[furthest] > self.config.tolerance)
