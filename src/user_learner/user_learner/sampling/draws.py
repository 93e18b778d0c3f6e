"""Which steps are drawn: the population of each stratum, and its part of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from user_core.specs import Array
from user_learner.sampling.catalog import Snapshot
from user_learner.sampling.config import BalanceConfig, SamplerConfig, Stratum
from user_learner.sampling.takeovers import PERSONS, before_takeovers, overlaps


@dataclass(frozen=True)
class Population:
    """Steps that can be drawn, as pieces of runs.

    Attributes:
        run: Index of the run of each piece, (P,) int32.
        offset: First row of the piece within its run, (P,).
        count: Steps of the piece, (P,), at least 1.
        share: Their part of a batch, in proportion to the shares of the others.
        stratum: Number of the stratum that they are of.
        robot: The robot that they are from, where robots are told apart.
        led_to_takeover: Whether a person took over soon after; then they have a share of their own.
    """

    run: Array
    offset: Array
    count: Array
    share: float = 1.0
    stratum: int = 0
    robot: str = ""
    led_to_takeover: bool = False

    @property
    def name(self) -> str:
        """Tells it from others, also after a restart."""
        name = f"{self.stratum} {self.robot}" if self.robot else str(self.stratum)
        return f"{name} led to a takeover" if self.led_to_takeover else name

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
    run = np.flatnonzero(count).astype(np.int32)
    found = Population(run, np.zeros(len(run), np.int32), count[run])
    if stratum.acted_by:
        actors = [int(who) for who in stratum.acted_by]
        found = _acted_by(snapshot, found, actors, stratum.before_steps, required)
    if stratum.newest_steps and len(found) > stratum.newest_steps:
        found = _newest(snapshot, found, stratum.newest_steps)
    return found


class Populations:
    """The populations of all strata, of each robot apart where the draws are balanced over robots.

    The place of one in the list stays the same as long as this lives; one that lost all of its steps is empty.

    Args:
        config: What is drawn.
    """

    def __init__(self, config: SamplerConfig) -> None:
        self._config = config
        self._places: dict[tuple[int, str, bool], int] = {}

    def of(self, snapshot: Snapshot) -> list[Population]:
        """What can be drawn in a state of the stores."""
        config, parts = self._config, list[Population]()
        for number, stratum in enumerate(config.strata):
            whole = population(snapshot, stratum, config.required)
            whole = replace(whole, share=stratum.share, stratum=number)
            robots = [whole]
            if config.balance.by == "robots":
                robots = _by_robot(snapshot, whole, config.balance)
            # What of a stratum of people begins before they took over is given, and not learned: it is no bad example.
            given = stratum.before_steps and set(PERSONS).issuperset(stratum.acted_by)
            weight = 1.0 if given else config.takeovers.weight
            for part in robots:
                parts += _by_takeover(snapshot, part, weight)
        for part in parts:
            place = (part.stratum, part.robot, part.led_to_takeover)
            self._places.setdefault(place, len(self._places))
        none = np.empty(0, np.int64)
        found = [Population(none, none, none, 0.0, *place) for place in self._places]
        for part in parts:
            found[self._places[part.stratum, part.robot, part.led_to_takeover]] = part
        return found


def _by_takeover(snapshot: Snapshot, whole: Population, weight: float) -> list[Population]:
    """A population, divided into the steps that led to no takeover and those that did, where these
    are drawn less often."""
    ranges = snapshot.before_takeovers
    if weight == 1 or not len(ranges):
        return [whole]
    # All addresses but these ranges are ranges, too.
    edges = np.concatenate([[0], ranges.reshape(-1), [np.iinfo(np.int64).max]])
    usual = _within(snapshot, whole, edges[0::2], edges[1::2])
    if weight == 0:
        return [usual]
    led = replace(_within(snapshot, whole, ranges[:, 0], ranges[:, 1]), led_to_takeover=True)
    counts = np.array([len(usual), weight * len(led)])
    shares = whole.share * counts / max(counts.sum(), 1e-300)
    return [
        replace(part, share=float(share)) for part, share in zip((usual, led), shares, strict=True)
    ]


def _by_robot(snapshot: Snapshot, whole: Population, balance: BalanceConfig) -> list[Population]:
    """A population, divided by robots, with the share of each."""
    robot = snapshot.runs.robot[whole.run]
    numbers = np.unique(robot)
    which = [robot == number for number in numbers]
    shares = robot_shares([int(whole.count[here].sum()) for here in which], balance)
    return [
        replace(
            whole,
            run=whole.run[here],
            offset=whole.offset[here],
            count=whole.count[here],
            share=whole.share * share,
            robot=snapshot.robots[number] if number >= 0 else "",
        )
        for number, here, share in zip(numbers.tolist(), which, shares, strict=True)
    ]


def robot_shares(steps: Sequence[int], balance: BalanceConfig) -> list[float]:
    """The share of each robot, of together 1.

    In proportion to its steps to the power of 1 - ``strength``, and at most ``most`` times what its steps
    would get alone; what that takes from a robot goes to the others.

    Args:
        steps: Of each robot.
        balance: How they are balanced.
    """
    count = np.asarray(steps, float)
    if not count.sum():
        return [0.0] * len(count)
    most = balance.most * count / count.sum()
    weight = np.where(count > 0, np.power(np.maximum(count, 1), 1 - balance.strength), 0.0)
    shares, free, left = np.zeros(len(count)), count > 0, 1.0
    while free.any():
        wanted = np.where(free, left * weight / weight[free].sum(), 0.0)
        over = free & (wanted > most)
        if not over.any():
            return [float(share) for share in shares + wanted]
        shares[over] = most[over]
        left, free = 1.0 - float(shares.sum()), free & ~over
    return [float(share) for share in shares]


def _newest(snapshot: Snapshot, found: Population, steps: int) -> Population:
    """The ``steps`` that arrived last."""
    latest = np.lexsort((found.offset, snapshot.runs.order[found.run]))[::-1]
    run, offset, count = found.run[latest], found.offset[latest], found.count[latest]
    excess = np.clip(np.cumsum(count) - steps, 0, count)  # taken off the oldest one's front
    keep = count > excess
    return Population(run[keep], (offset + excess)[keep], (count - excess)[keep])


def _acted_by(
    snapshot: Snapshot, found: Population, actors: list[int], before_steps: int, required: int
) -> Population:
    """The steps that were decided by one of ``actors``, and this many before them, where the first of those can be
    drawn itself (else nothing of a window would count): ranges of addresses, intersected."""
    acted = snapshot.actors[np.isin(snapshot.actors[:, 2], actors)]
    low, high = acted[:, 0], acted[:, 0] + acted[:, 1]
    if before_steps:
        led = before_takeovers(snapshot.runs, snapshot.actors, before_steps, actors, required)
        low, high = np.append(low, led[:, 0]), np.append(high, led[:, 1])
        order = np.argsort(low)
        low, high = low[order], high[order]
    return _within(snapshot, found, low, high)


def _within(snapshot: Snapshot, found: Population, low: Array, high: Array) -> Population:
    """The steps that lie in ranges of addresses, from ``low`` up to ``high``, (N,) each."""
    start = snapshot.runs.address[found.run] + found.offset
    order = np.argsort(start)
    start, run, count = start[order], found.run[order], found.count[order]
    end = start + count
    piece, which = overlaps(start, end, low, high)
    begin = np.maximum(start[piece], low[which])
    stop = np.minimum(end[piece], high[which])
    offset = begin - snapshot.runs.address[run[piece]]
    return replace(found, run=run[piece], offset=offset, count=stop - begin)


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
