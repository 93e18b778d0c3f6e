"""Which robots bring data that look wrong, told from what all of them bring.

A broken gripper, a camera that shows the wall, a reward that is wired wrongly: the data of such a robot are taken
like those of the others, and spoil what is learned from all. So each robot is compared with its peers, block by block:
once it has brought a number of new episodes (20), these are judged, together with what its peers brought in the same
time, and never again. Three things are looked at:

* **Success far below its peers.** Fisher's exact test, one-sided: if the robot were like its peers, would so few of
  its episodes succeed by chance? It must be less probable than ``significance``, divided by the number of robots
  (Bonferroni) so that the chance of a false alarm is that of one look at all of them; and the share must be less than
  half of its peers', so that a small difference of a large number is not an alarm. Both sides are of the same time, so
  that a policy that improves meanwhile makes no difference between them.
* **Rewards constant.** All rewards of its episodes are one number, and those of its peers' are not: the same test, of
  episodes whose rewards are all equal. Without peers: all are one number although some succeed and some do not, which
  needs no test.
* **Actions clipped all the time.** In nine of ten episodes at least nine of ten actions of the policy were changed on
  their way to the robot. The policy learns from what was done, but never does what it wants to. This is a rule; it
  needs no peers.

Only episodes of learning count: a person's demonstrations and evaluations say nothing of a robot's data. What was found
stands until the next block of the same robot, or until it has not been heard of for a while.

It is made from chunks, so one of these, beside the store, sees all robots wherever they are.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from user_core.config import Config, setting
from user_core.reasons import ACTIONS_CLIPPED, BELOW_PEERS, REWARDS_CONSTANT, Reason
from user_core.specs import Array, ArraySpec
from user_core.types import (
    ActedBy,
    EpisodeKey,
    EpisodeSource,
    Outcome,
    TrajectoryChunk,
    TrajectorySchema,
)

#: Episodes of all robots that are remembered for comparisons.
_REMEMBERED = 5000
#: Episodes that were begun and not ended, at most: of robots that were cut off.
_OPEN = 1000
#: A change of less than this part of an action's range is none: rounding.
_UNCHANGED = 0.01


class RobotWatchConfig(Config):
    """When the data of a robot look wrong."""

    block: int = setting(
        20, doc="Episodes of a robot that are judged together, each once; 0: none is judged.", ge=0
    )
    significance: float = setting(
        0.001,
        doc="Chance of a false alarm when all robots are looked at once, by Fisher's exact test.",
        gt=0,
        lt=0.5,
    )
    fewer: float = setting(
        0.5, doc="Share of its peers' success below which a robot is flagged.", gt=0, le=1
    )
    clipped: float = setting(
        0.9, doc="Share of changed actions in an episode, and of such episodes, that is too much.",
        gt=0, le=1,
    )  # fmt: skip
    forget_s: float = setting(
        600.0, doc="A robot that was not heard of for this long is not flagged any more.", unit="s", gt=0
    )  # fmt: skip


@dataclass(frozen=True)
class WatchedEpisode:
    """What an episode says of its robot's data.

    Attributes:
        robot: Name of the robot.
        number: Counts the episodes of all robots as they end.
        success: Whether it succeeded, which one that was aborted did not; None where nobody can tell.
        reward: The only reward that its steps had; None where they had several.
        clipped: Share of the policy's actions that were changed on their way; NaN without any.
    """

    robot: str
    number: int
    success: bool | None
    reward: float | None
    clipped: float


@dataclass
class _Open:
    """An episode whose end has not come."""

    least: float = math.inf
    most: float = -math.inf
    actions: int = 0
    changed: int = 0


@dataclass
class _Watched:
    """A robot, with the episodes since it was judged last."""

    block: list[WatchedEpisode] = field(default_factory=list)
    began: int = 0
    flags: list[Reason] = field(default_factory=list)
    heard_s: float = 0.0


class RobotWatch:
    """Judges robots by their chunks. May be used from any thread.

    Args:
        config: When data look wrong.
        clock_s: Monotonic seconds.
    """

    def __init__(
        self, config: RobotWatchConfig | None = None, clock_s: Callable[[], float] = time.monotonic
    ) -> None:
        self.config, self._clock_s = config or RobotWatchConfig(), clock_s
        self._lock = threading.Lock()
        self._open: dict[EpisodeKey, _Open] = {}
        self._episodes: deque[WatchedEpisode] = deque(maxlen=_REMEMBERED)
        self._robots: dict[str, _Watched] = {}
        self._count = 0
        self._newest: dict[str, tuple[int, int]] = {}  # incarnation and sequence, by producer

    def take(self, chunk: TrajectoryChunk, schema: TrajectorySchema) -> None:
        """Take notice of a chunk that the store took. One that comes again, because the disk failed before it
        was durable, counts once.

        Args:
            chunk: It.
            schema: Of its rows; the bounds of actions say what is a change.
        """
        if not self.config.block or chunk.source is not EpisodeSource.ONLINE:
            return
        with self._lock:
            incarnation, newest = self._newest.get(chunk.id.producer, (0, 0))
            if chunk.id.incarnation == incarnation and chunk.id.sequence <= newest:
                return
            self._newest[chunk.id.producer] = (chunk.id.incarnation, chunk.id.sequence)
            episode = self._open.setdefault(chunk.episode, _Open())
            _add(episode, chunk, schema.columns["action"])
            if chunk.result is not None:
                del self._open[chunk.episode]
                self._end(chunk, episode)
            while len(self._open) > _OPEN:
                del self._open[next(iter(self._open))]

    def flags(self) -> dict[str, list[Reason]]:
        """What looks wrong, by robot; only of those that were heard of lately."""
        with self._lock:
            since_s = self._clock_s() - self.config.forget_s
            found = {n: list(r.flags) for n, r in self._robots.items() if r.heard_s >= since_s}
        return {name: flags for name, flags in sorted(found.items()) if flags}

    def reasons(self) -> list[Reason]:
        """The same as one list; each text names its robot."""
        return [flag for flags in self.flags().values() for flag in flags]

    def _end(self, chunk: TrajectoryChunk, episode: _Open) -> None:
        assert chunk.result is not None  # noqa: S101 - who calls has looked
        name = chunk.robot or chunk.id.producer
        self._count += 1
        ended = WatchedEpisode(
            name,
            self._count,
            False if chunk.result.outcome is Outcome.ABORTED else chunk.result.outcome.success,
            episode.least if episode.least == episode.most else None,
            episode.changed / episode.actions if episode.actions else math.nan,
        )
        self._episodes.append(ended)
        robot = self._robots.setdefault(name, _Watched())
        robot.heard_s = self._clock_s()
        if not robot.block:
            robot.began = self._count
        robot.block.append(ended)
        if len(robot.block) >= self.config.block:
            peers = [e for e in self._episodes if e.number >= robot.began and e.robot != name]
            robot.flags = judge(name, robot.block, peers, self.config)
            robot.block = []


def judge(
    name: str,
    block: Sequence[WatchedEpisode],
    peers: Sequence[WatchedEpisode],
    config: RobotWatchConfig,
) -> list[Reason]:
    """What looks wrong with these episodes of a robot.

    Args:
        name: The robot.
        block: Its episodes.
        peers: Those of other robots in the same time.
        config: When data look wrong.
    """
    limit = config.significance / (1 + len({e.robot for e in peers}))
    found = [
        _below_peers(name, block, peers, config, limit),
        _constant(name, block, peers, limit),
        _clipped(name, block, config),
    ]
    return [reason for reason in found if reason]


def _below_peers(
    name: str,
    block: Sequence[WatchedEpisode],
    peers: Sequence[WatchedEpisode],
    config: RobotWatchConfig,
    limit: float,
) -> Reason:
    mine = [e.success for e in block if e.success is not None]
    others = [e.success for e in peers if e.success is not None]
    if not mine or not others:
        return Reason()
    share, theirs = sum(mine) / len(mine), sum(others) / len(others)
    chance = fisher_at_most(sum(mine), len(mine), sum(others), len(others))
    if share >= config.fewer * theirs or chance >= limit:
        return Reason()
    return Reason(
        BELOW_PEERS,
        f"{name}: {sum(mine)} of its last {len(mine)} episodes succeeded, and {theirs:.0%} of its peers' in the "
        f"same time (chance {chance:.1g} if it were like them)",
    )


def _constant(
    name: str, block: Sequence[WatchedEpisode], peers: Sequence[WatchedEpisode], limit: float
) -> Reason:
    rewards = {e.reward for e in block}
    if len(rewards) != 1 or None in rewards:
        return Reason()
    text = f"{name}: every reward of its last {len(block)} episodes was {rewards.pop():g}"
    if len({e.success for e in block} - {None}) == 2:
        return Reason(REWARDS_CONSTANT, f"{text}, of those that succeeded and of the others")
    varied = sum(e.reward is None for e in peers)
    chance = fisher_at_most(0, len(block), varied, len(peers))
    if not varied or chance >= limit:
        return Reason()
    return Reason(
        REWARDS_CONSTANT,
        f"{text}, and {varied} of {len(peers)} episodes of its peers had several (chance {chance:.1g})",
    )


def _clipped(name: str, block: Sequence[WatchedEpisode], config: RobotWatchConfig) -> Reason:
    shares = [e.clipped for e in block if not math.isnan(e.clipped)]
    many = sum(share >= config.clipped for share in shares)
    if not shares or many < config.clipped * len(block):
        return Reason()
    return Reason(
        ACTIONS_CLIPPED,
        f"{name}: in {many} of its last {len(block)} episodes nearly all actions of the policy were changed on their "
        f"way to the robot, {float(np.mean(shares)):.0%} in the mean",
    )


def fisher_at_most(successes: int, count: int, other_successes: int, other_count: int) -> float:
    """Fisher's exact test, one-sided: the chance of at most this many successes among ``count``, if
    all successes of both sides were dealt out at random (Fisher 1935; hypergeometric)."""
    total, good = count + other_count, successes + other_successes

    def log_choose(n: int, k: int) -> float:
        return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)

    first = max(0, count - (total - good))
    chance = sum(
        math.exp(
            log_choose(good, k) + log_choose(total - good, count - k) - log_choose(total, count)
        )
        for k in range(first, successes + 1)
    )
    return min(1.0, chance)


def _add(episode: _Open, chunk: TrajectoryChunk, action: ArraySpec) -> None:
    """Count the steps of a chunk."""
    columns = chunk.columns
    steps = ~columns["final"].astype(bool)
    if not steps.any():
        return
    rewards = columns["reward"][steps]
    episode.least = min(episode.least, float(rewards.min()))
    episode.most = max(episode.most, float(rewards.max()))
    decided = steps & (columns["acted_by"] == int(ActedBy.POLICY))
    done, wanted = columns["action"][decided], columns["proposed_action"][decided]
    if not len(done):
        return
    episode.actions += len(done)
    episode.changed += int(_changed(done, wanted, action).sum())


def _changed(done: Array, wanted: Array, action: ArraySpec) -> Array:
    """Which rows of actions (n, A) were not done as they were wanted, (n,)."""
    low, high = action.low_array.astype(float), action.high_array.astype(float)
    span = np.where(np.isfinite(high - low) & (high - low < 1e6), high - low, 1.0)
    away = np.abs(done.astype(float) - wanted.astype(float)) > _UNCHANGED * span
    changed: Array = away.reshape(len(done), -1).any(axis=1)
    return changed
