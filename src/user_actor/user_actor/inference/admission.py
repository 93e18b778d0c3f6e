"""How many robots an inference host has room for."""

from __future__ import annotations

from collections import deque

import numpy as np

from user_actor.inference.config import BatchingConfig

_REMEMBERED = 64
#: What of the times of equally large batches counts: all but the slowest few.
_USUAL_PERCENT = 95
#: Overload must last before a robot loses its place, seconds.
_PATIENCE_S = 3.0
#: More robots than one host ever serves.
_MOST = 4096


class Admission:
    """Gives robots places, as many as can be answered in time. Pure.

    With N robots and batches of at most n an observation may have to wait for a batch that has just begun and for
    those of the others, and is answered with the last of ceil(N / n) batches. So N robots fit if
    (ceil(N / n) + 1) times what such a batch takes, and the time that a batch waits for its last, are within the
    budget. How long batches take is measured: before the first robot comes, and all the time afterwards.

    Args:
        config: Budget and sizes.

    Attributes:
        robots: Those that have a place, in the order in which they got it.
    """

    def __init__(self, config: BatchingConfig) -> None:
        self._config = config
        self._times_s: dict[int, deque[float]] = {}
        self._usual_s: dict[int, float] = {}
        self._heard_s: dict[str, float] = {}
        self._over_since_s: float | None = None

    @property
    def robots(self) -> tuple[str, ...]:
        return tuple(self._heard_s)

    def measured(self, size: int, took_s: float) -> None:
        """A batch of this size took so long."""
        times_s = self._times_s.setdefault(size, deque(maxlen=_REMEMBERED))
        times_s.append(took_s)
        self._usual_s[size] = float(np.percentile(times_s, _USUAL_PERCENT))

    def takes_s(self, size: int) -> float:
        """What a batch of this size takes, from those that were measured; 0 where none was."""
        known = sorted(self._usual_s)
        if not known:
            return 0.0
        found = [self._usual_s[n] for n in known]
        found = list(np.maximum.accumulate(found))  # a larger one does not take less
        if size <= known[-1]:
            return float(np.interp(size, known, found))
        if len(known) == 1:
            return found[0] * size / known[0]
        slope = (found[-1] - found[-2]) / (known[-1] - known[-2])
        return found[-1] + slope * (size - known[-1])

    def worst_s(self, robots: int) -> float:
        """The longest time from an observation to its answer with so many robots."""
        config = self._config
        size = min(robots, config.most)
        waits_s = config.wait_s if size > 1 else 0.0
        return (-(-robots // config.most) + 1) * self.takes_s(size) + waits_s

    @property
    def capacity(self) -> int:
        """Robots that fit; one always does, however slow the policy is."""
        fits, many = 1, _MOST + 1
        while many - fits > 1:  # more robots never take less
            robots = (fits + many) // 2
            fits, many = (robots, many) if self._fit(robots) else (fits, robots)
        return fits

    def _fit(self, robots: int) -> bool:
        return robots <= 1 or self.worst_s(robots) <= self._config.budget_s

    def admit(self, robot: str, now_s: float) -> str:
        """An observation of a robot came; why it has no place, empty if it has one."""
        for silent in [r for r, at in self._heard_s.items() if now_s - at > self._config.forget_s]:
            del self._heard_s[silent]
        if robot not in self._heard_s and not self._fit(len(self._heard_s) + 1):
            return self._full(len(self._heard_s) + 1)
        self._heard_s[robot] = now_s
        return ""

    def shed(self, now_s: float) -> str:
        """The robot that loses its place, because the host has been too slow for all of them for a while; or empty."""
        if self._fit(len(self._heard_s)):
            self._over_since_s = None
            return ""
        if self._over_since_s is None:
            self._over_since_s = now_s
        if now_s - self._over_since_s < _PATIENCE_S:
            return ""
        self._over_since_s = None
        robot = list(self._heard_s)[-1]
        del self._heard_s[robot]
        return robot

    def leave(self, robot: str) -> None:
        """A robot is gone."""
        self._heard_s.pop(robot, None)

    def _full(self, wanted: int) -> str:
        size = min(wanted, self._config.most)
        return (
            f"the inference host has room for {self.capacity} robots: with {wanted} an answer could take "
            f"{self.worst_s(wanted) * 1e3:.0f} ms (a batch of {size} takes {self.takes_s(size) * 1e3:.0f} ms), and "
            f"batching.budget_s promises {self._config.budget_s * 1e3:.0f} ms"
        )
