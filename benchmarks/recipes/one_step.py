"""A flow that takes ten steps to a chunk, beside its student that takes one: success, and the time of an act.

    python benchmarks/recipes/recipes.py --only one_step --processes 2 --out one_step.jsonl

Both are from the same training. Part of ``recipes.py``, which runs the jobs.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from tasks import Job, cloned, demonstrated, evaluated, policy_of, robot
from user_core.interfaces import Policy
from user_core.specs import Array

STEPS, ROWS = 10, 8


def jobs(seeds: list[int]) -> list[Job]:
    """From 50 demonstrations of each task."""
    return [
        {
            "kind": "one_step", "task": task, "policy": "flow", "demonstrations": 50, "seed": seed, "updates": 6000,
            "rows": ROWS, "params": {"distill": True, "steps": STEPS}, "cloning": {"weight_decay": 0.3},
        }
        for seed in seeds for task in ("pick_place", "peg_insertion")
    ]  # fmt: skip


def one_step(job: Job, scale: float) -> Job:
    """One training, and both of its networks."""

    with robot(job) as hal:
        student = policy_of(job, hal.spec)
        ring = demonstrated(job, hal)
        begin_s = time.monotonic()
        algorithm = cloned(job, hal.spec, ring, int(job["updates"] * scale), student)
        learning_s = round(time.monotonic() - begin_s)
        teacher = policy_of({**job, "params": {"steps": STEPS}}, hal.spec)
        with algorithm.averaged():
            teacher.load(_of_teacher(teacher, algorithm.network))
        found: Job = {"learning_s": learning_s}
        seen = [{n: a[row] for n, a in ring.observation.items()} for row in range(0, ring.rows, 3)]
        for name, policy in (("steps", teacher), ("one", student)):
            result = evaluated(hal, policy, max(2, int(50 * scale)), replan_every=4)
            found[name] = {**result, "act_ms": _time_ms(policy, seen)}
        apart = [
            np.abs(
                student.act(one, deterministic=True) - teacher.act(one, deterministic=True)
            ).mean()
            for one in seen[:100]
        ]
        found["apart"] = round(float(np.mean(apart)), 4)
        return found


def _of_teacher(teacher: Policy, network: Any) -> dict[str, Array]:
    state = {n: t.detach().cpu().numpy() for n, t in network.state_dict().items()}
    return {name: state[name] for name in teacher.arrays()}


def _time_ms(policy: Policy, seen: list[dict[str, Array]]) -> dict[str, float]:
    times = []
    for i in range(600):
        begin = time.perf_counter()
        policy.act(seen[i % len(seen)])
        times.append(1e3 * (time.perf_counter() - begin))
    middle, high = np.percentile(times, [50, 95])
    return {"median": round(float(middle), 3), "p95": round(float(high), 3)}


def table(lines: list[Job]) -> str:
    """Markdown."""
    text = ["", "| task | seeds | network | success | act, ms (median, 95 %) |", "|---" * 5 + "|"]
    for task in ("pick_place", "peg_insertion"):
        found = [
            line["result"]
            for line in lines
            if line["job"]["kind"] == "one_step" and line["job"]["task"] == task
        ]
        for name, label in (("steps", f"{STEPS} steps"), ("one", "student, one step")):
            if found:
                success = np.mean([r[name]["success"] for r in found])
                times = [np.mean([r[name]["act_ms"][q] for r in found]) for q in ("median", "p95")]
                text.append(
                    f"| `{task}` | {len(found)} | {label} | {100 * success:.0f} % | {times[0]:.2f}, {times[1]:.2f} |"
                )
    return "\n".join(text) if len(text) > 3 else ""
