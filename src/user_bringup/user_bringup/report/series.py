"""Series for plots, taken from the lines of a history."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Line = Mapping[str, Any]
SUCCESS = 1


@dataclass(frozen=True)
class Curve:
    """Values over time and over environment steps.

    Attributes:
        minutes: Since the first line of the history, (n,).
        steps: Environment steps in the store at that time, (n,).
        values: (n,).
    """

    minutes: npt.NDArray[np.float64]
    steps: npt.NDArray[np.float64]
    values: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.values)


class RunSeries:
    """The history of one run as curves."""

    def __init__(self, lines: Sequence[Line]) -> None:
        self.states = [line for line in lines if line["kind"] == "state"]
        self.episodes = [line for line in lines if line["kind"] == "episode"]
        self._start_s = min((line["t"] for line in lines), default=0.0)
        known = [s for s in self.states if "environment_steps" in s]
        self._clock_s = np.array([s["t"] for s in known] or [self._start_s], float)
        self._steps = np.array([s["environment_steps"] for s in known] or [0], float)

    def state(self, name: str) -> Curve:
        """One number of the system's state; lines without it are left out."""
        rows = [(s["t"], s[name]) for s in self.states if _is_number(s.get(name))]
        return self._curve([t for t, _ in rows], [v for _, v in rows])

    def metric(self, name: str) -> Curve:
        """One metric of the algorithm."""
        rows = [
            (s["t"], s["metrics"][name])
            for s in self.states
            if _is_number(s.get("metrics", {}).get(name))
        ]
        return self._curve([t for t, _ in rows], [v for _, v in rows])

    def metric_names(self) -> list[str]:
        """Names of all metrics that occur."""
        return sorted({name for s in self.states for name in s.get("metrics", {})})

    def success(self, source: int, window: int = 20) -> Curve:
        """Share of successes over the last ``window`` episodes of a source."""
        return self._running(source, lambda e: float(e["outcome"] == SUCCESS), window)

    def returns(self, source: int, window: int = 20) -> Curve:
        """Mean return over the last ``window`` episodes of a source."""
        return self._running(source, lambda e: float(e["episode_return"]), window)

    def _running(self, source: int, value: Any, window: int) -> Curve:
        rows = [e for e in self.episodes if e["source"] == source]
        values = [value(e) for e in rows]
        means = [float(np.mean(values[max(0, i + 1 - window) : i + 1])) for i in range(len(rows))]
        return self._curve([e["t"] for e in rows], means)

    def _curve(self, times_s: Sequence[float], values: Sequence[float]) -> Curve:
        at_s = np.array(times_s, float)
        return Curve(
            (at_s - self._start_s) / 60,
            np.interp(at_s, self._clock_s, self._steps),
            np.array(values, float),
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
