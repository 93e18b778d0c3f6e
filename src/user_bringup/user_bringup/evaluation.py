"""The final evaluation of a run: the newest policy, deterministic, on starts of its own."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from user_bringup.film import Film
from user_bringup.rollout import roll_out
from user_core.interfaces import Policy, Reward, Robot
from user_core.types import Observation, Outcome


@dataclass(frozen=True)
class Evaluation:
    """What came of it.

    Attributes:
        episodes: Number of episodes.
        successes: How many ended in success.
        mean_return: Mean of the undiscounted returns.
        mean_length: Mean number of steps.
        policy_version: Version that acted.
    """

    episodes: int
    successes: int
    mean_return: float
    mean_length: float
    policy_version: int

    def write(self, file: Path) -> None:
        """Write as JSON, where the report looks for it."""
        file.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")


def evaluate(
    robot: Robot,
    policy: Policy,
    reward: Reward,
    *,
    episodes: int = 20,
    seed: int = 1_000_000,
    policy_version: int = 0,
    film: Film | None = None,
    on_episode: Callable[[Outcome], None] = lambda outcome: None,
) -> Evaluation:
    """Run deterministic episodes of a connected robot, without exploration or intervention.

    Args:
        robot: Connected.
        policy: With its weights.
        reward: Judges success.
        episodes: How many.
        seed: Of the first start; far from those of training.
        policy_version: For the record.
        film: Films the first episodes.
        on_episode: Called after each.
    """

    def act(observation: Observation):  # type: ignore[no-untyped-def]
        return policy.act(observation.arrays, deterministic=True)[0]

    outcomes, returns, lengths = [], [], []
    for number in range(episodes):
        policy.reset()
        if film is not None:
            film.begin_episode()
        rollout = roll_out(
            robot, act, reward, seed + number, policy_version=policy_version,
            on_step=film.take if film is not None else lambda: None,
        )  # fmt: skip
        outcomes.append(rollout.outcome)
        returns.append(rollout.episode_return)
        lengths.append(rollout.length)
        on_episode(rollout.outcome)
    return Evaluation(
        episodes,
        sum(outcome is Outcome.SUCCESS for outcome in outcomes),
        sum(returns) / episodes,
        sum(lengths) / episodes,
        policy_version,
    )
