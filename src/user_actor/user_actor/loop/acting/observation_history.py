"""The last observations of an episode, for a policy that sees several at once."""

from __future__ import annotations

from collections import deque
from dataclasses import replace

import numpy as np

from user_core.specs import Arrays
from user_core.types import Observation


class ObservationHistory:
    """Puts observations of an episode one behind the other; see
    :attr:`~user_core.interfaces.Policy.observation_history`.

    What was seen while nothing could be decided does not count: it is not in the stored episode either.

    Args:
        size: N.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._before: deque[Arrays] = deque(maxlen=max(1, size - 1))

    def begin(self) -> None:
        """An episode begins."""
        self._before.clear()

    def with_past(self, observation: Observation) -> Observation:
        """An observation with those before it: arrays (N, ...), oldest first. The first one of an episode stands for
        those that were not seen. For N = 1 as it is."""
        if self._size == 1:
            return observation
        newest = observation.arrays
        known = [*self._before, newest]
        frames = known[:1] * (self._size - len(known)) + known
        arrays = {name: np.stack([one[name] for one in frames]) for name in newest}
        return replace(observation, arrays=arrays)

    def decided(self, observation: Observation) -> None:
        """Something was done on it."""
        if self._size > 1:
            self._before.append(observation.arrays)
