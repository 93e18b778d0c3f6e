"""Which kind of episode comes next."""

from __future__ import annotations

from dataclasses import dataclass

from user_actor.loop.config import ActorLoopConfig
from user_core.types import EpisodeSource


@dataclass(frozen=True)
class EpisodePlan:
    """The next episode.

    Attributes:
        source: Why it is recorded.
        seed: Seed of the reset; None: none is given.
    """

    source: EpisodeSource
    seed: int | None


class Schedule:
    """Mixes evaluation episodes into the others. Pure."""

    def __init__(self, config: ActorLoopConfig) -> None:
        self._config = config
        self._finished = 0  # since the last evaluation
        self._evaluating = 0  # evaluation episodes still to come of this round
        self._started = 0

    def next(self, may_evaluate: bool) -> EpisodePlan:
        """Plan an episode; evaluation only if there is a policy worth it."""
        config, evaluation = self._config, self._config.evaluation
        if config.mode == "evaluation":
            return EpisodePlan(
                EpisodeSource.EVALUATION, self._seed(evaluation.seed, self._finished)
            )
        if not self._evaluating and evaluation.every and self._finished >= evaluation.every:
            self._evaluating, self._finished = evaluation.episodes, 0
        if self._evaluating and may_evaluate:
            done = evaluation.episodes - self._evaluating
            return EpisodePlan(EpisodeSource.EVALUATION, self._seed(evaluation.seed, done))
        source = EpisodeSource.ONLINE
        if config.mode == "demonstration":
            source = EpisodeSource.DEMONSTRATION
        seed = self._seed(config.seed, self._started)
        self._started += 1
        return EpisodePlan(source, seed)

    def finished(self, plan: EpisodePlan) -> None:
        """An episode came to an end that counts; one that was aborted is tried again."""
        if plan.source is EpisodeSource.EVALUATION and self._evaluating:
            self._evaluating -= 1
        else:
            self._finished += 1

    def _seed(self, first: int, offset: int) -> int | None:
        return None if first < 0 else first + offset
