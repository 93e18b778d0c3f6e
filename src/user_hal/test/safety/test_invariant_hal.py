"""The invariant of docs/explanation/safety.md over the whole HAL, in generated sequences.

Driver, gate, leases, control loop and ``LocalHal`` run in virtual time in front of a stand-in, and
what reaches it is compared. A long run of the same is ``benchmarks/control/safety_campaign.py``; that the
checks find what is broken is shown in ``test/system/test_safety_campaign.py``.
"""

from __future__ import annotations

import random
from contextlib import ExitStack

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from user_testing.invariant.campaign import virtual_time
from user_testing.invariant.faults import FAULTS, wish
from user_testing.invariant.robots import PERIOD_S, ROBOTS, CampaignRobot
from user_testing.invariant.world import World

seeds = st.integers(0, 2**16)


class Hal(RuleBasedStateMachine):
    """Commands, time and everything that goes wrong, in any order. The world itself compares."""

    def __init__(self) -> None:
        super().__init__()
        self._stack = ExitStack()
        self._time = self._stack.enter_context(virtual_time())

    @initialize(robot=st.sampled_from(ROBOTS), local=st.booleans())
    def begin(self, robot: CampaignRobot, local: bool) -> None:
        self.world = World(robot, self._time, local=local)

    @rule(seed=seeds, count=st.integers(1, 5))
    def commands(self, seed: int, count: int) -> None:
        rng = random.Random(seed)
        for _ in range(count):
            self.world.regain()
            self.world.send(np.array([wish(self.world, rng)]))
            self.world.run(PERIOD_S)

    @rule(name=st.sampled_from(sorted(FAULTS)), seed=seeds)
    def something_goes_wrong(self, name: str, seed: int) -> None:
        fault, _ = FAULTS[name]
        fault(self.world, random.Random(seed))

    @rule(duration_s=st.floats(0.0, 0.6))
    def time_passes(self, duration_s: float) -> None:
        self.world.run(duration_s)

    def teardown(self) -> None:
        with self._stack:
            if hasattr(self, "world"):
                self.world.close()


Hal.TestCase.settings = settings(
    max_examples=40, stateful_step_count=25, deadline=None, derandomize=True
)
TestTheWholeHal = Hal.TestCase
