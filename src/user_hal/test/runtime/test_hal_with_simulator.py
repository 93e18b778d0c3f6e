"""The ready configurations of the simulated arms: safe, and no hindrance to good work."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("mujoco", reason="the simulator is not installed")

from user_core.types import ActionChunk, Observation
from user_hal.robot_file import build_robot, load_robot_file
from user_hal.runtime.control_loop import HalLoop
from user_hal.runtime.leases import LeaseConfig
from user_hal.safety.config import WorkspaceConfig
from user_hal.safety.stops import SafetyState
from user_hal.sim.experts import ScriptedExpert
from user_testing.worlds.robots.hal import FakeTime, InlineStopper

ROBOTS = Path(__file__).parents[3] / "user_bringup" / "config" / "robots"


class Bench:
    """A simulated arm in lockstep behind its gate."""

    def __init__(self, name: str, box: WorkspaceConfig | None = None, **params: object) -> None:
        setup = load_robot_file(ROBOTS / name)
        if box is not None:
            setup = setup.replace(safety=setup.safety.replace(workspace=box))
        params = {**setup.robot.params, "real_time": False, **params}
        setup = setup.replace(robot=setup.robot.replace(params=params))
        self.time = FakeTime()
        self.seen: list[Observation] = []
        self.loop = HalLoop(
            build_robot(setup),
            setup.loop,
            setup.safety,
            LeaseConfig(required=False),
            on_observation=self.seen.append,
            clock=self.time.clock,
            make_stopper=InlineStopper,
        )
        self.loop.step()

    def episode(self, seed: int) -> bool:
        """Let the expert drive; tell whether he solved the task."""
        expert = ScriptedExpert(self.loop.spec)
        done = self.loop.reset(seed)
        self.loop.step()
        observation = done.result(0)
        period_ns = int(self.loop.spec.period_s * 1e9)
        sequence = seed * 1000
        while not (observation.task.terminated or observation.task.truncated):
            sequence += 1
            self.time.now_ns += period_ns
            action = expert.act(observation.arrays)
            self.loop.submit(ActionChunk(action[None], period_ns, sequence=sequence))
            self.loop.step()
            observation = self.seen[-1]
        return observation.task.success is True


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("panda_sim.yaml", {}),
        ("panda_sim.yaml", {"task": "pick_place"}),
        ("ur5e_sim.yaml", {}),
        ("ur5e_sim.yaml", {"task": "peg_insertion"}),
    ],
)
def test_the_expert_solves_the_task_through_the_gate(name, params) -> None:
    bench = Bench(name, **params)
    solved = sum(bench.episode(seed) for seed in range(1, 11))
    status = bench.loop.status()
    assert solved >= 9, f"{solved} of 10; {status}"
    assert status.refused == 0 and status.state is SafetyState.ACTIVE


def test_random_commands_never_lead_the_tool_out_of_its_box() -> None:
    box = WorkspaceConfig(low=(0.38, -0.08, 0.12), high=(0.52, 0.08, 0.24))
    bench = Bench("panda_sim.yaml", box, task="reach", horizon_s=1e6)
    low, high = np.array(box.low), np.array(box.high)
    rng, spec = np.random.default_rng(0), bench.loop.spec
    bench.loop.reset(1)
    bench.loop.step()
    action, entered = spec.action.sample(rng), False
    for sequence in range(1, 1500):
        if sequence % 20 == 0:
            action = (spec.action.sample(rng) * np.float32(3)).clip(
                spec.action.low_array, spec.action.high_array
            )
        bench.time.now_ns += 100_000_000
        bench.loop.submit(ActionChunk(action[None], 100_000_000, sequence=sequence))
        bench.loop.step()
        tool = bench.seen[-1].arrays["tcp_pose"][:3]
        inside = bool((tool > low - box.tolerance).all() and (tool < high + box.tolerance).all())
        entered = entered or inside  # the task starts anywhere; from outside it may only come back
        assert inside or not entered
    assert entered and bench.loop.status().reasons["workspace"] > 100
