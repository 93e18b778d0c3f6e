"""Shares of successes: with their confidence interval, and of evaluations by policy version; and how
much people correct the policy."""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from user_core.types import EpisodeSource, Outcome

#: Quantile of the normal distribution for an interval of 95 %.
_Z = 1.959964
#: Episodes of a version that say something about it alone, and of several versions together.
_OF_ITS_OWN, _TOGETHER = 3, 20
#: Versions of which evaluations are remembered.
_VERSIONS = 1000


@dataclass(frozen=True)
class Share:
    """Successes among episodes of which it is known; others do not count.

    Attributes:
        successes: How many succeeded.
        count: How many were judged.
    """

    successes: int = 0
    count: int = 0

    @property
    def rate(self) -> float:
        """The share; NaN where none was judged."""
        return self.successes / self.count if self.count else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's interval of 95 % (Wilson 1927), which holds for few episodes, too, and for
        shares of 0 and 1; (0, 1) where none was judged."""
        n = self.count
        if not n:
            return 0.0, 1.0
        middle = (self.rate + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
        half = _Z / (1 + _Z**2 / n) * math.sqrt(self.rate * (1 - self.rate) / n + (_Z / n) ** 2 / 4)
        return max(0.0, middle - half), min(1.0, middle + half)

    def plus(self, success: bool) -> Share:
        """With one more episode."""
        return Share(self.successes + success, self.count + 1)

    def __str__(self) -> str:
        """``80% of 20 (58 to 92%)``; a dash where none was judged."""
        if not self.count:
            return "-"
        low, high = self.interval
        return f"{self.rate:.0%} of {self.count} ({100 * low:.0f} to {high:.0%})"


def success_of(outcome: int, source: int) -> bool | None:
    """Whether an episode succeeded; None where it does not count.

    One that was aborted counts as no success while data are collected, for that is what came of
    it. In an evaluation it says nothing about the policy.
    """
    if outcome == Outcome.ABORTED and source != EpisodeSource.EVALUATION:
        return False
    try:
        return Outcome(outcome).success
    except ValueError:  # of a newer version of this program
        return None


def named(versions: Sequence[int]) -> str:
    """Policy versions for people: ``v7``, or ``v3 to v7``; empty for none."""
    if not versions:
        return ""
    return f"v{versions[0]}" + (f" to v{versions[-1]}" if len(versions) > 1 else "")


class Evaluations:
    """Evaluation episodes by the policy version that acted in them.

    Those in which the version changed (with a policy on another host) count for the last one.
    """

    def __init__(self) -> None:
        self.shares: OrderedDict[int, Share] = OrderedDict()
        self.unknown = 0
        self._newest = 0

    def add(self, version: int, success: bool | None) -> None:
        """One more episode."""
        if success is None:
            self.unknown += 1
            return
        self.shares[version] = self.shares.get(version, Share()).plus(success)
        self.shares.move_to_end(version)
        self._newest = version
        while len(self.shares) > _VERSIONS:
            self.shares.popitem(last=False)

    @property
    def newest(self) -> tuple[int, Share]:
        """The version that was evaluated last, and how it did; (0, none) before."""
        return self._newest, self.shares.get(self._newest, Share())

    def last(self, count: int) -> tuple[Share, list[int]]:
        """The versions that were evaluated last, as few as have ``count`` episodes, and their
        share together."""
        successes = judged = 0
        versions: list[int] = []
        for version, share in reversed(self.shares.items()):
            if judged >= count:
                break
            successes, judged = successes + share.successes, judged + share.count
            versions.insert(0, version)
        return Share(successes, judged), versions

    @property
    def shown(self) -> tuple[Share, list[int]]:
        """What tells how good the policy is now, and the versions that it is about.

        The newest version alone, where it has some episodes of its own. With one episode a round
        every version has one, which says nothing: then the newest versions together, as few as have
        20 episodes. The list is empty before the first that was judged.
        """
        version, share = self.newest
        if share.count >= _OF_ITS_OWN:
            return share, [version]
        return self.last(_TOGETHER)

    @classmethod
    def of(cls, episodes: Iterable[Mapping[str, Any]]) -> Evaluations:
        """From the lines of a history."""
        found = cls()
        for episode in episodes:
            if episode["source"] == EpisodeSource.EVALUATION:
                success = success_of(episode["outcome"], episode["source"])
                found.add(int(episode.get("last_version", 0)), success)
        return found


#: Episodes over which corrections are averaged, and those of one bar of their course.
_LATELY, _EACH_BAR, _BARS = 20, 10, 12
_BLOCKS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class Corrected:
    """How much people corrected in one episode, or in several together.

    Attributes:
        takeovers: How often a person (or a script in his place) took over from the policy.
        by_person: Steps that he decided.
        steps: All steps.
        episodes: Episodes.
    """

    takeovers: int = 0
    by_person: int = 0
    steps: int = 0
    episodes: int = 0

    def __add__(self, other: Corrected) -> Corrected:
        return Corrected(
            self.takeovers + other.takeovers,
            self.by_person + other.by_person,
            self.steps + other.steps,
            self.episodes + other.episodes,
        )

    @property
    def per_episode(self) -> float:
        """Times an episode; NaN before the first."""
        return self.takeovers / self.episodes if self.episodes else math.nan

    @property
    def share(self) -> float:
        """Share of the steps that a person decided; NaN before the first."""
        return self.by_person / self.steps if self.steps else math.nan

    def __str__(self) -> str:
        """``1.20 an episode, 18% of the steps by a person``; a dash before the first episode."""
        if not self.episodes:
            return "-"
        share = 0.0 if math.isnan(self.share) else self.share
        return f"{self.per_episode:.2f} an episode, {share:.0%} of the steps by a person"

    @classmethod
    def of(cls, episode: Mapping[str, Any]) -> Corrected:
        """Of one episode in a history; older ones do not tell how often, so that those with any
        correction count for one."""
        by_person = int(episode.get("interventions", 0))
        takeovers = int(episode.get("takeovers", min(by_person, 1)))
        return cls(takeovers, by_person, int(episode.get("length", 0)), 1)


class Corrections:
    """Corrections over time: whether the policy needs the person less and less (Kelly et al. 2019)."""

    def __init__(self) -> None:
        self._last: deque[Corrected] = deque(maxlen=_EACH_BAR * _BARS)
        self.total = Corrected()

    def add(self, one: Corrected) -> None:
        """One more collecting episode."""
        self._last.append(one)
        self.total += one

    @property
    def lately(self) -> Corrected:
        """Of the last 20 episodes together."""
        return sum(list(self._last)[-_LATELY:], Corrected())

    @property
    def course(self) -> str:
        """Corrections an episode as bars, one for ten episodes, the newest last; empty for a few."""
        all_of = list(self._last)
        ends = range(len(all_of), _EACH_BAR - 1, -_EACH_BAR)
        bars = [sum(all_of[end - _EACH_BAR : end], Corrected()).per_episode for end in ends][::-1]
        if len(bars) < 2:
            return ""
        most = max(bars) or 1.0
        return "".join(_BLOCKS[round(value / most * (len(_BLOCKS) - 1))] for value in bars)

    def __str__(self) -> str:
        """Lately, and their course: ``0.30 an episode, 4% of the steps by a person (last 20)  █▅▂▁``."""
        lately = self.lately
        return f"{lately} (last {lately.episodes})  {self.course}".rstrip()
