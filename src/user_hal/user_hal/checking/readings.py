"""How often the driver's own reading fails over some seconds, and why."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from user_core.errors import SuiteError
from user_core.interfaces import Robot

#: Time between two readings at most: more of them than a control loop makes, to see rare failures.
_PERIOD_S = 0.02


@dataclass
class Readings:
    """What came of many readings.

    Attributes:
        count: How many.
        failures: How many failed, by what failed.
        examples: The whole text of the last failure of each.
        ages_s: Of the observations, oldest last.
        slowest_s: Longest time that one reading took.
    """

    count: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    ages_s: list[float] = field(default_factory=list)
    slowest_s: float = 0.0

    @property
    def failed(self) -> int:
        """How many failed."""
        return sum(self.failures.values())

    @property
    def failed_share(self) -> float:
        """Share that failed, 0 to 1."""
        return self.failed / max(self.count, 1)


def watch_readings(
    robot: Robot,
    seconds: float,
    now_ns: Callable[[], int] = time.time_ns,
    progress: Callable[[float], None] = lambda share: None,
) -> Readings:
    """Read a connected robot for some seconds.

    Args:
        robot: The robot; its time passes by itself.
        seconds: How long.
        now_ns: The clock of its stamps.
        progress: Told the share that is done.
    """
    found = Readings()
    start_s = due_s = time.monotonic()
    period_s = min(robot.spec.period_s, _PERIOD_S)
    while due_s < start_s + seconds:
        time.sleep(max(0.0, due_s - time.monotonic()))
        begin_s = time.monotonic()
        try:
            observation = robot.read()
            found.ages_s.append((now_ns() - observation.stamp_ns) / 1e9)
        except SuiteError as error:
            what = f"{error.code}: {error.what}"
            found.failures[what] += 1
            found.examples[what] = str(error)
        found.count += 1
        found.slowest_s = max(found.slowest_s, time.monotonic() - begin_s)
        due_s = max(due_s + period_s, time.monotonic())
        progress((due_s - start_s) / seconds)
    found.ages_s.sort()
    return found
