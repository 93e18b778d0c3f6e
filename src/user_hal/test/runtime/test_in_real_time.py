"""Stamps of simulated time, shown by the clock of a machine that is busy."""

from __future__ import annotations

import numpy as np
import pytest

from user_core.fakes import FakeRobot, FakeRobotConfig
from user_core.types import Observation
from user_hal.robots.in_real_time import InRealTime

MS = 1_000_000
ARRAYS = {"position": np.zeros(2, np.float32), "goal": np.zeros(2, np.float32)}


class Simulated(FakeRobot):
    """Reads at a moment of the simulation; the other clock is known from when it was heard last."""

    def __init__(self) -> None:
        super().__init__(FakeRobotConfig())
        self.own_ns = self.now_ns = self.ahead_ns = 0

    def read(self) -> Observation:
        return Observation(ARRAYS, self.own_ns, 0, 0)

    def wall_ns(self, ros_ns: int) -> int:
        return ros_ns + self.ahead_ns


@pytest.mark.parametrize("speed", [0.5, 1.0, 3.0])
def test_stamps_go_on_are_not_of_the_future_and_stay(speed: float) -> None:
    """However late the other clock is heard: its ticks wait for a core, by up to 0.4 s."""
    random = np.random.default_rng(round(10 * speed))
    robot = Simulated()
    seen = InRealTime(robot, robot, lambda: robot.now_ns)
    start_ns, before, off_ms = 10**18, None, []
    for tick in range(2000):
        robot.now_ns = start_ns + tick * 10 * MS
        simulated_ns = int(speed * tick * 10 * MS)
        if random.random() < 0.9:  # heard now, what was published some time ago
            late_ns = int(random.exponential(3 * MS) if random.random() < 0.9 else 400 * MS)
            robot.ahead_ns = robot.now_ns - max(0, simulated_ns - int(speed * late_ns))
        robot.own_ns = max(robot.own_ns, simulated_ns - int(speed * random.exponential(2 * MS)))
        first, again = seen.read(), seen.read()
        assert first.stamp_ns == again.stamp_ns <= robot.now_ns
        if before is not None:
            assert (first.stamp_ns > before[1]) == (robot.own_ns > before[0])
        before = robot.own_ns, first.stamp_ns
        off_ms.append((robot.now_ns - first.stamp_ns) / MS)
    assert np.median(off_ms) < 10


def test_clocks_that_are_set_are_followed() -> None:
    robot = Simulated()
    seen = InRealTime(robot, robot, lambda: robot.now_ns)
    robot.now_ns, robot.own_ns = 10**18, 10**12
    robot.ahead_ns = robot.now_ns - robot.own_ns
    assert seen.read().stamp_ns == robot.now_ns
    robot.own_ns = 10**10  # the simulation begins anew
    robot.now_ns += 5 * MS
    robot.ahead_ns = robot.now_ns - robot.own_ns
    assert seen.read().stamp_ns == robot.now_ns
    robot.now_ns -= 3600 * 1000 * MS  # the machine's is set back by an hour
    robot.own_ns += 5 * MS
    robot.ahead_ns = robot.now_ns - robot.own_ns
    assert seen.read().stamp_ns == robot.now_ns
