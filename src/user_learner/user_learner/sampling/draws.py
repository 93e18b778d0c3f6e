"""Which steps are drawn: the population of each stratum, and its part of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from user_core.specs import Array
from user_learner.sampling.catalog import Snapshot
from user_learner.sampling.config import Stratum


@dataclass(frozen=True)
class Population:
    """Steps that can be drawn, as pieces of runs.

    Attributes:
        run: Index of the run of each piece, (P,) int64.
        offset: First row of the piece within its run, (P,).
        count: Steps of the piece, (P,), at least 1.
    """

    run: Array
    offset: Array
    count: Array

    @cached_property
    def ends(self) -> Array:
        """Steps up to and including each piece, (P,)."""
        return np.cumsum(self.count)

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.count) else 0

    def pick(self, index: Array) -> tuple[Array, Array]:
        """Run and offset within it of the steps with these indices, 0 to ``len(self) - 1``."""
        piece = np.searchsorted(self.ends, index, side="right")
        before = self.ends[piece] - self.count[piece]
        return self.run[piece], self.offset[piece] + index - before


def population(snapshot: Snapshot, stratum: Stratum, required: int) -> Population:
    """The steps of a stratum that are followed by at least ``required`` rows of their episode.

    The row after a step is its next observation; so the last row there is, the final
    observation or the newest row of an episode that goes on, cannot be drawn.
    """
    runs = snapshot.runs
    count = np.clip(runs.rows + runs.after - required, 0, runs.rows)
    count[~np.isin(runs.source, [int(source) for source in stratum.sources])] = 0
    run = np.flatnonzero(count)
    found = Population(run, np.zeros(len(run), np.int64), count[run])
    if stratum.acted_by:
        found = _acted_by(snapshot, found, [int(who) for who in stratum.acted_by])
    if stratum.newest_steps and len(found) > stratum.newest_steps:
        found = _newest(snapshot, found, stratum.newest_steps)
    return found


def _newest(snapshot: Snapshot, found: Population, steps: int) -> Population:
    """The ``steps`` that arrived last."""
    latest = np.lexsort((found.offset, snapshot.runs.order[found.run]))[::-1]
    run, offset, count = found.run[latest], found.offset[latest], found.count[latest]
    excess = np.clip(np.cumsum(count) - steps, 0, count)  # taken off the oldest one's front
    keep = count > excess
    return Population(run[keep], (offset + excess)[keep], (count - excess)[keep])


def _acted_by(snapshot: Snapshot, found: Population, actors: list[int]) -> Population:
    """The steps that were decided by one of ``actors``: ranges of addresses, intersected."""
    start = snapshot.runs.address[found.run] + found.offset
    order = np.argsort(start)
    start, run, count = start[order], found.run[order], found.count[order]
    end = start + count
    acted = snapshot.actors[np.isin(snapshot.actors[:, 2], actors)]
    low, high = acted[:, 0], acted[:, 0] + acted[:, 1]
    first = np.searchsorted(end, low, side="right")
    hits = np.maximum(0, np.searchsorted(start, high, side="left") - first)
    which = np.repeat(np.arange(len(acted)), hits)
    nth = np.arange(len(which)) - np.repeat(np.cumsum(hits) - hits, hits)
    piece = first[which] + nth
    begin = np.maximum(start[piece], low[which])
    stop = np.minimum(end[piece], high[which])
    return Population(run[piece], begin - snapshot.runs.address[run[piece]], stop - begin)


def split_batch(
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
