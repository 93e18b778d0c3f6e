"""The promises of a reward."""

from __future__ import annotations

import math

import numpy as np

from user_core.conformance.report import Report, expect
from user_core.interfaces import Reward
from user_core.specs import RobotSpec
from user_core.types import TaskFeedback


def check_reward(reward: Reward, spec: RobotSpec, *, seed: int = 0) -> Report:
    """Try a reward on random observations of a robot with this spec."""
    report = Report(f"reward {type(reward).__module__}.{type(reward).__qualname__}")
    rng = np.random.default_rng(seed)
    task = TaskFeedback(reward=0.5, success=False)
    steps = [
        (
            {k: v.sample(rng) for k, v in spec.observation.items()},
            spec.action.sample(rng),
            {k: v.sample(rng) for k, v in spec.observation.items()},
        )
        for _ in range(20)
    ]
    with report.promise("it gives finite rewards") as seen:
        rewards = [reward(*step, task).reward for step in steps]
        expect(all(math.isfinite(r) for r in rewards), f"{rewards}")
        seen.append(f"{min(rewards):.3g} to {max(rewards):.3g}")
    with report.promise("it is pure: the same step gives the same verdict, in any order"):
        forward = [reward(*step, task) for step in steps]
        backward = [reward(*step, task) for step in reversed(steps)][::-1]
        expect(forward == backward, "the verdicts depend on what was judged before")
    with report.promise("it leaves its arguments alone"):
        before, action, after = steps[0]
        copies = {k: v.copy() for k, v in before.items()}
        reward(before, action, after, task)
        expect(all(np.array_equal(before[k], copies[k]) for k in copies), "it wrote to them")
    return report
