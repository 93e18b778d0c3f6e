"""Which rows of a batch one of several learner processes gets."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from user_core.errors import ConfigError
from user_core.specs import Array


@dataclass(frozen=True)
class Share:
    """One of several processes that train together, each on its part of every batch.

    All draw the same numbers at random and take each its own of the rows, so that together they have
    the batch that one process would have, on the same data to the row; while the store grows, one may know of
    rows that another does not know yet, and what is drawn is as uniform as ever.

    A batch is cut into minibatches, of which the i-th has every G-th row from row i on. Each process
    has an equal part of each of them.

    Attributes:
        rank: Which part, from 0.
        of: How many there are, W.
        minibatches: Into how many a batch is cut, G.
    """

    rank: int = 0
    of: int = 1
    minibatches: int = 1

    def rows(self, batch_size: int) -> Array:
        """Numbers of the own rows of a batch, (B / W,).

        Raises ConfigError where the rows of a minibatch cannot be divided evenly.
        """
        each = batch_size // self.minibatches
        if batch_size % self.minibatches or each % self.of:
            raise ConfigError(
                "training.batch_size", got=each,
                expected=f"a multiple of the {self.of} processes that train together",
            )  # fmt: skip
        row = np.arange(batch_size)
        own: Array = row[(row // self.minibatches) % self.of == self.rank]
        return own
