"""What the safety gate costs per command, beside a bare ``numpy.clip`` of the same vector.

The contenders take turns in one process, command by command, so that a busy machine slows all
of them alike. "Passing" commands are within every limit; "limited" ones are changed by several
rules each, the worst case. All limits are on.

    python benchmarks/control/gate.py [--commands 20000]
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from user_core.command_line import Parser
from user_core.config import from_mapping
from user_core.specs import ActionGroup, ActionKind, Array, ArraySpec, RobotSpec
from user_hal.safety import SafetyConfig, SafetyGate

PERIOD_NS = 100_000_000
BUDGET_US = 50.0
OBSERVATION = {
    "joint_position": ArraySpec((7,), low=-2.8, high=2.8),
    "tcp_pose": ArraySpec((7,)),
    "wrench": ArraySpec((6,)),
}
TOOL = {
    "step": {"each": [0.045], "linear": 0.06, "angular": 0.3},
    "velocity": {"linear": 0.5, "angular": 3.0},
    "acceleration": {"linear": 8.0, "angular": 50.0},
    "workspace": {"low": [0.2, -0.3, 0.0], "high": [0.7, 0.3, 0.6]},
}
JOINTS = {
    "step": {"each": [0.25]},
    "velocity": {"each": [2.0]},
    "acceleration": {"each": [30.0]},
    "joint_limits": {"margin": 0.05},
}


def robots() -> dict[str, tuple[RobotSpec, dict[str, Any]]]:
    """A tool action, a joint action of seven joints, and both at once as the groups of two arms;
    each with all limits that it may have."""
    delta = ArraySpec(
        (7,), low=(-0.05,) * 3 + (-0.2,) * 3 + (0.0,), high=(0.05,) * 3 + (0.2,) * 3 + (1.0,)
    )
    target = ArraySpec((8,), low=(-2.8,) * 7 + (0.0,), high=(2.8,) * 7 + (1.0,))
    kinds = ((ActionKind.EE_DELTA, delta, TOOL), (ActionKind.JOINT_POSITION, target, JOINTS))
    found: dict[str, tuple[RobotSpec, dict[str, Any]]] = {
        kind.value: (RobotSpec("arm", OBSERVATION, action, kind, 0.1), config)
        for kind, action, config in kinds
    }
    found["two groups"] = two_groups(delta, target)
    return found


def two_groups(left: ArraySpec, right: ArraySpec) -> tuple[RobotSpec, dict[str, Any]]:
    """An arm whose tool is moved beside an arm whose joints are."""
    both = ArraySpec(
        (15,),
        low=(*left.low_array.tolist(), *right.low_array.tolist()),
        high=(*left.high_array.tolist(), *right.high_array.tolist()),
    )
    observation = {
        f"{side}.{name}": spec for side in ("left", "right") for name, spec in OBSERVATION.items()
    }
    groups = (
        ActionGroup("left", ActionKind.EE_DELTA, 7),
        ActionGroup("right", ActionKind.JOINT_POSITION, 8),
    )
    spec = RobotSpec("arms", observation, both, ActionKind.MIXED, 0.1, action_groups=groups)
    return spec, {"groups": {"left": TOOL, "right": JOINTS}}


def measure(name: str, spec: RobotSpec, config: dict[str, Any], share: float, count: int) -> None:
    gate = SafetyGate(from_mapping(SafetyConfig, config), spec)
    reading = {
        "joint_position": np.zeros(7, np.float32),
        "tcp_pose": np.array([0.45, 0, 0.3, 0, 0, 0, 1], np.float32),
        "wrench": np.zeros(6, np.float32),
    }
    if spec.action_groups:
        reading = {f"{g.name}.{k}": v for g in spec.action_groups for k, v in reading.items()}
    rng = np.random.default_rng(0)
    actions = [
        (spec.action.sample(rng) * np.float32(share)).astype(np.float32) for _ in range(count)
    ]
    low, high = np.array(spec.action.low_array), np.array(spec.action.high_array)
    gate_ns, clip_ns = np.zeros(count), np.zeros(count)
    for i, action in enumerate(actions):
        gate.observe(reading)
        gate_ns[i] = timed(lambda: gate.judge(action, i * PERIOD_NS))  # noqa: B023
        clip_ns[i] = timed(lambda: np.clip(action, low, high))  # noqa: B023
    report(name, gate, gate_ns, clip_ns)


def timed(call: Any) -> int:
    start_ns = time.perf_counter_ns()
    call()
    return time.perf_counter_ns() - start_ns


def report(name: str, gate: SafetyGate, gate_ns: Array, clip_ns: Array) -> None:
    gate_us, clip_us = (
        np.percentile(gate_ns, [50, 99]) / 1e3,
        np.percentile(clip_ns, [50, 99]) / 1e3,
    )
    changed = gate.counters.limited / max(gate.counters.limited + gate.counters.passed, 1)
    verdict = "ok" if gate_us[0] <= BUDGET_US else "TOO SLOW"
    print(
        f"| {name:24} | {changed:7.0%} | {gate_us[0]:8.1f} | {gate_us[1]:8.1f} | {clip_us[0]:8.1f} "
        f"| {gate_us[0] / clip_us[0]:5.1f} | {verdict} |"
    )


def main() -> None:
    parser = Parser(description=__doc__)
    parser.add_argument("--commands", type=int, default=20_000)
    count = parser.parse_args().commands
    print(f"{count} commands each; budget {BUDGET_US:g} us a command (median)")
    print("| commands                 | changed | gate p50 | gate p99 | clip p50 | ratio |")
    print("|---|---|---|---|---|---|")
    for name, (spec, config) in robots().items():
        measure(f"{name}, passing", spec, config, 0.01, count)
        measure(f"{name}, limited", spec, config, 1.0, count)


if __name__ == "__main__":
    main()
