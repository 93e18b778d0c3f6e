"""What a step costs through ``LocalHal``, beside the bare calls of the same driver.

Two robots of one kind, in lockstep. One is commanded and read directly. The other is driven by
``LocalHal``: lease, chunk validation, safety gate, driver guard, observation box. They take turns
in one process, an episode of 50 steps each, so that a busy machine slows both alike; the gate's
own time is measured beside and told apart. Beside physics, which fill the processor's caches, the
same code takes about twice the time.

    python benchmarks/control/local_hal.py [--steps 4000]
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from user_core.command_line import Parser
from user_core.interfaces import Robot
from user_core.plugins import build
from user_core.runtime.observation_box import ObservationBox
from user_core.types import ActionChunk
from user_hal.local import LocalHal

BUDGET_US = 30.0
#: Or this share of the driver's own step, where that is more.
BUDGET_SHARE = 0.3
PERIOD_NS = 100_000_000
BLOCK = 50
ROBOTS: dict[str, tuple[str, dict[str, Any]]] = {
    "fake": ("fake", {}),
    "panda, peg insertion": ("mujoco", {"robot": "panda", "task": "peg_insertion"}),
}


def bare_step(robot: Robot, box: ObservationBox, chunk: ActionChunk) -> int:
    begin_ns = time.perf_counter_ns()
    robot.command(chunk.actions_ta[0])
    box.put(robot.read())
    return time.perf_counter_ns() - begin_ns


def step(hal: LocalHal, chunk: ActionChunk) -> int:
    begin_ns = time.perf_counter_ns()
    hal.send(chunk)
    trouble = hal.trouble()
    spent_ns = time.perf_counter_ns() - begin_ns
    assert not trouble, trouble
    return spent_ns


def measure(plugin: str, params: dict[str, Any], steps: int) -> tuple[float, float, float]:
    """Medians of a bare step, of one through LocalHal, and of what the gate takes of that, us."""
    robot, box = build("robots", plugin, params), ObservationBox()
    robot.connect()
    bare: list[int] = []
    through: list[int] = []
    judged: list[int] = []
    with LocalHal(build("robots", plugin, params)) as hal:
        gate = hal._loop.path.gate
        judge, observe = gate.judge, gate.observe
        zero = np.zeros((1, *robot.spec.action.shape), robot.spec.action.dtype)
        for begin in range(0, steps, BLOCK):
            chunks = [ActionChunk(zero, PERIOD_NS, 0, begin + k + 1) for k in range(BLOCK)]
            robot.reset(begin)
            hal.reset(begin).result()
            bare += [bare_step(robot, box, chunk) for chunk in chunks]
            through += [step(hal, chunk) for chunk in chunks]
            arrays = hal.observations.newest.arrays  # type: ignore[union-attr]
            for _ in chunks:
                begin_ns = time.perf_counter_ns()
                judge(zero[0], time.monotonic_ns())
                observe(arrays)
                judged.append(time.perf_counter_ns() - begin_ns)
    robot.close()
    p50 = [float(np.median(took)) / 1e3 for took in (bare, through, judged)]
    return p50[0], p50[1], p50[2]


def main() -> int:
    parser = Parser(description=__doc__)
    parser.add_argument("--steps", type=int, default=4000)
    steps = parser.parse_args().steps
    print(
        f"{steps} steps each, median us; budget beside driver and gate: {BUDGET_US:g} us, or "
        f"{BUDGET_SHARE:.0%} of the driver"
    )
    print(
        "| robot | bare driver | LocalHal | of that the gate | the rest | |\n|---|---|---|---|---|---|"
    )
    good = True
    for name, (plugin, params) in ROBOTS.items():
        bare, through, gate = measure(plugin, params, steps)
        rest = through - bare - gate
        within = rest <= max(BUDGET_US, BUDGET_SHARE * bare)
        good &= within
        verdict = "ok" if within else "TOO SLOW"
        print(f"| {name} | {bare:.1f} | {through:.1f} | {gate:.1f} | {rest:.1f} | {verdict} |")
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
