"""A part of ``recipes.py``: plans of a slow policy that go on from the plan before, with guidance of several weights.

python benchmarks/recipes.py --only guided --processes 12 --seconds 500 --out late.jsonl
"""

from __future__ import annotations

from typing import Any

import numpy as np

Job = dict[str, Any]

#: Steps of 0.1 s from asking to taking over, and weights of guidance.
DELAYS, WEIGHTS = (0, 1, 3, 6), (0.5, 1.0, 2.0, 5.0)


def guided(job: Job, scale: float) -> Job:
    """One cloned flow, carried out in all ways; one that was trained to go on where the job has ``prefix_rows``."""
    from recipes import cloned, demonstrated, evaluated, policy_of, robot

    found: Job = {}
    with robot(job) as hal:
        policy = policy_of(job, hal.spec)
        cloned(job, hal.spec, demonstrated(job, hal), int(job["updates"] * scale), policy)
        ways = [("trained for it", "real_time", policy)]
        if not job.get("params"):
            ways = [("`sequential`", "sequential", policy), ("`ensemble`", "ensemble", policy)]
            for weight in WEIGHTS:
                told = policy_of({**job, "params": {"guidance": weight}}, hal.spec)
                told.load(policy.arrays())
                ways.append((f"`guidance: {weight:g}`", "real_time", told))
        for delay in DELAYS:
            for name, execution, acting in ways:
                found[f"{name}_{delay}"] = evaluated(
                    hal, acting, max(2, int(40 * scale)), replan_every=max(4, delay),
                    chunks={"execution": execution, "delay_steps": delay},
                )  # fmt: skip
    return found


def jobs(seeds: list[int]) -> list[Job]:
    """Two tasks; networks that know nothing of given rows, and such that were trained for them."""
    return [
        {
            "kind": "guided", "task": task, "policy": "flow", "demonstrations": 200, "seed": seed,
            "updates": 6000, "rows": 16, **({"params": {"prefix_rows": prefix}} if prefix else {}),
        }
        for seed in seeds
        for task in ("pick_place", "peg_insertion")
        for prefix in (0, 6)
    ]  # fmt: skip


def table(lines: list[Job]) -> str:
    """Markdown: success and jerk by task, way and delay; means over seeds."""
    found: dict[tuple[str, str], dict[int, list[Job]]] = {}
    for line in lines:
        if line["job"]["kind"] == "guided":
            for name, result in line["result"].items():
                how, _, delay = name.rpartition("_")
                found.setdefault((line["job"]["task"], how), {}).setdefault(int(delay), []).append(
                    result
                )
    if not found:
        return ""
    heads = " | ".join(f"delay {delay}" for delay in DELAYS)
    text = ["", f"| task | going on by | seeds | {heads} |", "|---|---|---|" + "---|" * len(DELAYS)]
    for (task, how), by_delay in sorted(found.items()):
        cells = []
        for delay in DELAYS:
            results = by_delay.get(delay, [])
            wins, jerk = ([r[key] for r in results] for key in ("success", "jerk"))
            cells.append(f"{100 * np.mean(wins):.0f} %, {np.mean(jerk):.2f}" if wins else "")
        text.append(f"| `{task}` | {how} | {len(by_delay[0])} | {' | '.join(cells)} |")
    return "\n".join(text)
