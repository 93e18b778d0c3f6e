"""Mixtures: how many steps of a batch come from each stratum."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def split(
    batch_size: int, shares: Sequence[float], available: Sequence[int], rng: np.random.Generator
) -> list[int]:
    """Divide a batch among strata in proportion to their shares.

    A stratum with nothing available gets nothing, and its part goes to the others. What is
    left after rounding down goes to strata at random, in proportion to what was cut off, so
    that the shares hold on average for every size of batch.

    Args:
        batch_size: Steps to divide.
        shares: Of the strata.
        available: Steps that each stratum has; not all 0.
        rng: Used only where there is something left.
    """
    weights = np.array([s if n else 0.0 for s, n in zip(shares, available, strict=True)])
    exact = batch_size * weights / weights.sum()
    counts = np.floor(exact + 1e-9).astype(np.int64)
    left = batch_size - int(counts.sum())
    if left:
        cut = np.maximum(exact - counts, 0.0)
        counts[rng.choice(len(counts), left, replace=False, p=cut / cut.sum())] += 1
    return [int(count) for count in counts]
