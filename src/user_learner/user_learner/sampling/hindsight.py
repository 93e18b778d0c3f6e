"""Hindsight: drawn steps of which the goal is one that the episode reached later.

Hindsight experience replay, Andrychowicz et al. 2017, strategy ``future``: for a share
``k / (k + 1)`` of the drawn steps the desired goal is replaced by the goal achieved in a row that
is drawn uniformly from those that follow in the same episode, the final observation included, and
the rewards are computed anew by a goal reward. The store stays what it is: experience.

**Episodes that are not complete** (they go on, or their end was lost) give what there is of them so
far. **Truncation** is no termination, for any goal. **Termination**: where the episode terminated
because its own goal was reached, it does not for another; where the goal reward does not explain
it (the arm hit the table), it is one for every goal. **n-step**: all n rewards are those for the new
goal, and where it terminates the task within them, the sum ends there.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from user_core.errors import ConfigError
from user_core.interfaces import GoalOutcome, GoalReward
from user_core.reasons import HINDSIGHT_REWARD, Reason
from user_core.specs import Array, ArraySpec
from user_core.types import OBSERVATION
from user_learner.replay.layout import LARGE_NBYTES
from user_learner.sampling.catalog import RunTable
from user_learner.sampling.config import HindsightConfig

#: Rewards that differ by less are the same: goals are stored as float32.
_SAME = 1e-3
#: Share of rewards that may differ from those of the store, and draws of the running mean.
_MANY, _DRAWS = 0.01, 5000


@dataclass(frozen=True)
class Relabelled:
    """Which of the drawn steps get another goal.

    Attributes:
        which: (B,) bool.
        address: Of the rows whose achieved goals are theirs, (M,), one for each True of ``which``.
    """

    which: Array
    address: Array

    def part(self, which: Array) -> Relabelled:
        """Only the steps of these numbers, (M,), which rise."""
        place = np.cumsum(self.which) - 1  # of a step's address among the addresses
        return Relabelled(self.which[which], self.address[place[which[self.which[which]]]])


def check_hindsight(config: HindsightConfig, observation: Mapping[str, ArraySpec]) -> None:
    """Raise ConfigError unless a robot that shows this has the goals that are named."""
    if not config.enabled:
        return
    for what, name in (
        ("achieved", config.achieved), ("desired", config.desired),
        *(("differences", name) for name in config.differences),
    ):  # fmt: skip
        spec = observation.get(name)
        if spec is None:
            raise ConfigError(
                f"hindsight.{what}", got=f"{name!r}, which is no observation",
                expected=f"one of {sorted(observation)}",
                hint="Hindsight relabelling is for robots that show a goal, and what they reached",
            )  # fmt: skip
        if spec.nbytes >= LARGE_NBYTES:
            raise ConfigError(
                f"hindsight.{what}", got=f"{name!r} of {spec.nbytes} bytes",
                expected=f"numbers of less than {LARGE_NBYTES} bytes",
            )  # fmt: skip
    elements, size = config.achieved_elements, observation[config.achieved].size
    if elements and max(elements) >= size:
        raise ConfigError(
            "hindsight.achieved_elements", got=list(elements), expected=f"0 to {size - 1}"
        )
    achieved = len(elements) or size
    for name in (config.desired, *config.differences):
        if observation[name].size != achieved:
            raise ConfigError(
                f"hindsight: size of {name!r}", got=observation[name].size,
                expected=f"{achieved}, as the achieved goal has",
                hint="achieved_elements chooses those of its elements that are the goal",
            )  # fmt: skip


class Hindsight:
    """Draws goals, and changes batches.

    Args:
        config: Its settings.
        observation: Specs of the observations in the store, by name.

    Raises:
        ConfigError: The store has not the goals that are named.
    """

    def __init__(self, config: HindsightConfig, observation: Mapping[str, ArraySpec]) -> None:
        check_hindsight(config, observation)
        self.config = config
        self._reward: GoalReward = config.goal_reward.build(
            "goal_rewards", path="hindsight.goal_reward"
        )
        self._share = config.k / (config.k + 1)
        self._size = observation[config.desired].size
        self._elements = list(config.achieved_elements) or slice(None)
        self._achieved = f"{OBSERVATION}{config.achieved}"
        self._desired = f"{OBSERVATION}{config.desired}"
        self._lock, self._differing = threading.Lock(), 0.0

    def plan(self, address: Array, runs: RunTable, rng: np.random.Generator) -> Relabelled:
        """Draw which of the steps at these addresses get a goal, and where that was achieved."""
        chance, where = rng.random(len(address)), rng.random(len(address))
        run, offset = runs.locate(address)
        rest = np.where(run >= 0, runs.rows[run] - offset - 1 + runs.after[run], 0)
        which = (chance < self._share) & (rest > 0)
        run, offset, rest = run[which], offset[which], rest[which]
        ahead = np.minimum((where[which] * rest).astype(np.int64), rest - 1) + 1
        return Relabelled(which, runs.ahead(run, offset + ahead))

    def goals(self, records: Array) -> Array:
        """The goals that rows of records achieved, (..., G)."""
        array = records[self._achieved]
        flat: Array = array.reshape(*records.shape, -1)[..., self._elements]
        return flat

    def rewards(
        self, records: Array, which: Array, goal: Array, steps: Array
    ) -> tuple[Array, Array, Array]:
        """Rewards and ends of gathered steps, those with another goal judged anew.

        Args:
            records: Of the steps and the H rows after each, (B, H + 1).
            which: Those that get another goal, (B,) bool.
            goal: It, (M, G).
            steps: Steps that are there, (B,), at most H.

        Returns:
            Rewards (B, H) float32; whether these steps terminated, (B, H) bool; and how many steps
            count, (B,): none after the first that terminated.
        """
        reward, ended = records["reward"][:, :-1].copy(), records["terminated"][:, :-1].copy()
        after = records[:, 1:]
        own = after[self._desired].reshape(*after.shape, -1)
        by_own = self._judge(self.goals(after), own)
        self._compare(by_own.reward[~which, 0], reward[~which, 0])
        explained = by_own.terminated
        if by_own.reached is not None:
            explained = explained | by_own.reached
        new = self._judge(self.goals(after[which]), goal[:, None].repeat(after.shape[1], 1))
        reward[which] = new.reward
        ended[which] = new.terminated | (ended[which] & ~explained[which])
        first = np.where(ended.any(1), ended.argmax(1) + 1, after.shape[1])
        return reward, ended, np.minimum(steps, first)

    def relabel(
        self, observation: Mapping[str, Array], records: Array, which: Array, goal: Array
    ) -> None:
        """Write goals into the arrays of a batch, (B, ...) by column, that show ``records`` (B,)."""
        desired = observation[self._desired]
        desired[which] = goal.reshape(-1, *desired.shape[1:])
        for name in self.config.differences:
            array = observation[f"{OBSERVATION}{name}"]
            difference = goal - self.goals(records[which])
            array[which] = difference.reshape(-1, *array.shape[1:])

    def warnings(self) -> list[Reason]:
        """What a person should look at."""
        share = self._differing
        if share <= _MANY:
            return []
        text = (
            f"the goal reward {self.config.goal_reward.plugin} differs from {100 * share:.2g} % of the "
            "rewards in the store: with another goal, steps are judged in another way than with "
            "their own (sampler.hindsight.goal_reward)"
        )
        return [Reason(HINDSIGHT_REWARD, text)]

    def _judge(self, achieved: Array, desired: Array) -> GoalOutcome:
        """Of goals (M, H, G): outcomes (M, H)."""
        shape = achieved.shape[:2]
        outcome = self._reward(achieved.reshape(-1, self._size), desired.reshape(-1, self._size))
        reached = None if outcome.reached is None else outcome.reached.reshape(shape)
        return GoalOutcome(
            outcome.reward.reshape(shape), outcome.terminated.reshape(shape), reached
        )

    def _compare(self, computed: Array, stored: Array) -> None:
        if not len(stored):
            return
        differing = float(
            (np.abs(computed - stored) > _SAME * np.maximum(1, np.abs(stored))).mean()
        )
        with self._lock:
            self._differing += min(1.0, len(stored) / _DRAWS) * (differing - self._differing)
