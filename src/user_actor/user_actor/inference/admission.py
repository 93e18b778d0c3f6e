"""How many robots an inference host has room for."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Hashable

import numpy as np

from user_actor.inference.config import BatchingConfig

_REMEMBERED = 64
#: The slowest few of equally large batches do not count: this share of them, and one at least.
_SLOWEST = 0.05
#: Batches after which a size that did not come is no longer known as it was.
_STALE = 256
#: The same, seconds: a policy that takes half a second a batch makes so few that they are not counted.
_STALE_S = 15.0
#: What batches took this long ago is no longer what they take, seconds; of the last few it is.
_RECENT_S, _FEW = 30.0, 4
#: Who lost its place gets one again after this time at the earliest, seconds; each time that it loses that one too,
#: after twice as long, up to the second. Who kept it for longer than the second begins anew.
_AWAY_S, _AWAY_MOST_S = 10.0, 320.0
#: Overload must last before a robot loses its place, seconds.
_PATIENCE_S = 3.0
#: After so many periods of preparing in a row that took more of the time than what lay between them, that is how the host
#: is. So it is after one that goes on for this long, seconds: processes that prepare in turn, or one that hangs.
_IN_A_ROW, _LONG_S = 3, 1800.0
#: More robots than one host ever serves.
_MOST = 4096


class Admission:
    """Gives robots places, as many as can be answered in time. Pure.

    With N robots and batches of at most n an observation may have to wait for a batch that has just begun and for those
    of the others, and is answered with the last of ceil(N / n) batches. So N robots fit if (ceil(N / n) + 1) times what
    such a batch takes, and the time that a batch waits for its last, are within the budget. Robots with other versions
    have batches of their own, which come on top. How long batches take is measured: before the first robot comes, and
    all the time afterwards. A robot that lost its place as batches took longer comes back by itself once they are
    quicker; one that loses it again and again, after ever longer times.

    While a policy is prepared beside the one that acts (weights are loaded, graphs are recorded) batches may take many
    times as long, and that passes: they do not count, unless nothing else is known yet. Where versions come so often
    that for most of the time one is prepared, or it goes on for half an hour, they count as all do.

    Args:
        config: Budget and sizes.

    Attributes:
        robots: Those that have a place, in the order in which they got it.
    """

    def __init__(self, config: BatchingConfig) -> None:
        self._config = config
        self._times_s: dict[int, deque[float]] = {}
        self._at_s: dict[int, deque[float]] = {}
        self._now_s = 0.0
        self._away: dict[
            str, tuple[float, float]
        ] = {}  # when each lost its place, and for how long
        self._usual_s: dict[int, float] = {}
        self._quickest_s: dict[int, float] = {}
        self._batches, self._newest_of = 0, dict[int, int]()
        self._expected_s: dict[int, float] = {}
        self._heard_s: dict[str, float] = {}
        self._version_of: dict[str, Hashable] = {}
        self._over_since_s: float | None = None
        self._before_s, self._period = 0.0, 0
        self._between_known = False  # what batches take while nothing is prepared
        # of each of the last periods of preparing: seconds in it, and after it until the next
        self._periods: deque[list[float]] = deque(maxlen=_IN_A_ROW + 1)

    @property
    def robots(self) -> tuple[str, ...]:
        return tuple(self._heard_s)

    def measured(self, size: int, took_s: float, now_s: float = 0.0, period: int = 0) -> None:
        """A batch of this size took this long.

        Args:
            size: Observations in it.
            took_s: Seconds.
            now_s: The time, seconds; 0: not known, and only batches are counted.
            period: Number of the period in which a policy was prepared meanwhile; 0: none.
        """
        if not self._counts(period, took_s, now_s):
            return
        self._now_s = max(self._now_s, now_s)
        times_s = self._times_s.setdefault(size, deque(maxlen=_REMEMBERED))
        at_s = self._at_s.setdefault(size, deque(maxlen=_REMEMBERED))
        if self._expected_s and (not times_s or self._is_stale(size)):
            expected_s = self.takes_s(size)
            times_s.clear()  # one batch that happens to be slow says little: it stands beside what was expected
            at_s.clear()
            times_s.append(expected_s)
            at_s.append(self._now_s)
        times_s.append(took_s)
        at_s.append(self._now_s)
        while len(at_s) > _FEW and self._now_s - at_s[0] > _RECENT_S:
            times_s.popleft()
            at_s.popleft()
        self._batches += 1
        self._newest_of[size] = self._batches
        left_out = min(len(times_s) - 1, max(1, round(_SLOWEST * len(times_s))))
        self._usual_s[size] = sorted(times_s)[-1 - left_out]
        self._quickest_s[size] = min(took_s, self._quickest_s.get(size, took_s))
        self._expected_s = self._expected()

    def _counts(self, period: int, took_s: float, now_s: float) -> bool:
        """Whether a batch says what batches take."""
        since_s = max(took_s, now_s - self._before_s) if self._before_s else took_s
        self._before_s = now_s
        if period > self._period:
            self._period = period
            self._periods.append([0.0, 0.0])
        if self._periods:
            self._periods[-1][0 if period else 1] += since_s
        whole = list(self._periods)[:-1]  # the newest goes on
        mostly = len(whole) == _IN_A_ROW and all(during > after for during, after in whole)
        if period and not mostly and self._periods[-1][0] < _LONG_S:
            return not self._between_known
        if not self._between_known:
            self._between_known = True
            for known in (
                self._times_s,
                self._at_s,
                self._usual_s,
                self._quickest_s,
                self._newest_of,
                self._expected_s,
            ):
                known.clear()
        return True

    def _is_stale(self, size: int) -> bool:
        times = self._at_s.get(size)
        since_s = self._now_s - times[-1] if times else 0.0
        batches = self._batches - self._newest_of.get(size, self._batches)
        return batches >= _STALE or (since_s > _STALE_S and batches > 0)

    def _expected(self) -> dict[int, float]:
        """What batches take, by size. Of a size that has not come for long, as robots have lost their places, it is not
        what it took when the host was slow: it is as much above its quickest as of the sizes that come."""
        slower = max(
            self._usual_s[size] / max(quickest_s, 1e-9)
            for size, quickest_s in self._quickest_s.items()
            if not self._is_stale(size)
        )
        quickest_s = self._quickest_s
        return {
            size: min(usual_s, slower * min(s for n, s in quickest_s.items() if n >= size))
            if self._is_stale(
                size
            )  # one that came only when the host was slow: no slower than a larger one
            else usual_s
            for size, usual_s in self._usual_s.items()
        }

    def takes_s(self, size: int) -> float:
        """What a batch of this size takes, from those that were measured; 0 where none was."""
        expected_s = self._expected_s
        known = sorted(expected_s)
        if not known:
            return 0.0
        found = [expected_s[n] for n in known]
        found = list(np.maximum.accumulate(found))  # a larger one does not take less
        if size <= known[-1]:
            return float(np.interp(size, known, found))
        if len(known) == 1:
            return found[0] * size / known[0]
        slope = (found[-1] - found[-2]) / (known[-1] - known[-2])
        return found[-1] + slope * (size - known[-1])

    def worst_s(self, *robots: int) -> float:
        """The longest time from an observation to its answer, with this many robots of each version."""
        config, begun_s, all_s = self._config, 0.0, 0.0
        for count in robots:
            takes_s = self.takes_s(min(count, config.most))
            waits_s = config.wait_s if min(count, config.most) > 1 else 0.0
            begun_s = max(begun_s, takes_s)
            all_s += -(-count // config.most) * takes_s + waits_s
        return begun_s + all_s

    @property
    def capacity(self) -> int:
        """Robots that fit if all have one version; one always does, however slow the policy is."""
        fits, many = 1, _MOST + 1
        while many - fits > 1:  # more robots never take less
            robots = (fits + many) // 2
            fits, many = (robots, many) if self._fit(robots) else (fits, robots)
        return fits

    def _fit(self, *robots: int) -> bool:
        return sum(robots) <= 1 or self.worst_s(*robots) <= self._config.budget_s

    def _of_versions(self, *more: Hashable) -> list[int]:
        """How many robots have each version, with those that would have these."""
        return list(
            Counter([*(self._version_of[robot] for robot in self._heard_s), *more]).values()
        )

    def admit(self, robot: str, now_s: float, version: Hashable = None) -> str:
        """An observation of a robot came; why it has no place, empty if it has one.

        Args:
            robot: Its name.
            now_s: The time, seconds.
            version: Robots with the same may be answered by one batch.
        """
        self._forget_silent(now_s)
        if robot not in self._heard_s:
            if not self._fit(*(wanted := self._of_versions(version))):
                return self._full(wanted)
            lost_s, away_s = self._away.get(robot, (0.0, 0.0))
            if self._heard_s and now_s < lost_s + away_s:
                return (
                    f"{robot} lost its place on the inference host {now_s - lost_s:.0f} s ago, as batches took too long; "
                    f"it gets one again in {lost_s + away_s - now_s:.0f} s if they are still quick enough then"
                )
        self._heard_s[robot], self._version_of[robot] = now_s, version
        return ""

    def shed(self, now_s: float) -> str:
        """The robot that loses its place, because the host has been too slow for all of them for a while; or empty."""
        self._forget_silent(now_s)
        if self._fit(*self._of_versions()):
            self._over_since_s = None
            return ""
        if self._over_since_s is None:
            self._over_since_s = now_s
        if now_s - self._over_since_s < _PATIENCE_S:
            return ""
        self._over_since_s = None
        robot = list(self._heard_s)[-1]
        del self._heard_s[robot]
        lost_s, away_s = self._away.get(robot, (-math.inf, 0.0))
        again = now_s - (lost_s + away_s) < _AWAY_MOST_S
        self._away[robot] = now_s, min(2 * away_s, _AWAY_MOST_S) if again else _AWAY_S
        return robot

    def leave(self, robot: str) -> None:
        """A robot is gone."""
        self._heard_s.pop(robot, None)
        self._away.pop(robot, None)

    def _forget_silent(self, now_s: float) -> None:
        for silent in [r for r, at in self._heard_s.items() if now_s - at > self._config.forget_s]:
            del self._heard_s[silent]

    def _full(self, wanted: list[int]) -> str:
        size = min(max(wanted), self._config.most)
        room, of = self.capacity, ""
        if len(wanted) > 1:
            room, of = len(self._heard_s), f" of {len(wanted)} versions"
        return (
            f"the inference host has room for {room} robots: with {sum(wanted)}{of} an answer could take "
            f"{self.worst_s(*wanted) * 1e3:.0f} ms (a batch of {size} takes {self.takes_s(size) * 1e3:.0f} ms), and "
            f"batching.budget_s promises {self._config.budget_s * 1e3:.0f} ms"
        )
