"""A replay memory in RAM, for one process: both ends of the road from actor to learner."""

from __future__ import annotations

import numpy as np

from user_core.errors import StoreError
from user_core.specs import Array, Arrays
from user_core.types import Batch, EpisodeResult, FinalObservation, Step


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
