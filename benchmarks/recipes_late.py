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


#: Delay, and steps between two plans that are asked for: as a policy of that time allows.
PAIRS = ((0, 4), (3, 3), (3, 4), (6, 6), (9, 9))
_FORMS, _DECAYS, _NOISES = ((16, 6), (20, 9)), (0.0, 0.1, 0.3, 1.0), (0.0, 0.2)


def delays(job: Job, scale: float) -> Job:
    """One flow that was trained to go on from the plan before, with several delays, and with noise of two sizes."""
    from recipes import cloned, demonstrated, evaluated, policy_of, robot

    found: Job = {}
    with robot(job) as hal:
        policy = policy_of(job, hal.spec)
        cloned(job, hal.spec, demonstrated(job, hal), int(job["updates"] * scale), policy)
        for noise in _NOISES:
            params = {**job["params"], "deterministic_noise": noise}
            acting = policy_of({**job, "params": params}, hal.spec)
            acting.load(policy.arrays())
            for delay, every in PAIRS:
                found[f"{noise:g}_{delay}_{every}"] = evaluated(
                    hal, acting, max(2, int(40 * scale)), replan_every=every,
                    chunks={"execution": "real_time", "delay_steps": delay},
                )  # fmt: skip
    return found


def delay_jobs(seeds: list[int]) -> list[Job]:
    """Chunks of two lengths, by how much weights decay while they are learned."""
    return [
        {
            "kind": "delays", "task": "pick_place", "policy": "flow", "demonstrations": 200, "seed": seed, "updates": 6000,
            "rows": rows, "params": {"prefix_rows": prefix}, "cloning": {"weight_decay": decay},
        }
        for seed in seeds for decay in _DECAYS for rows, prefix in _FORMS
    ]  # fmt: skip


def delays_table(lines: list[Job]) -> str:
    """Markdown: success and jerk, means over seeds (least to most)."""
    chosen = [line for line in lines if line["job"]["kind"] == "delays"]
    if not chosen:
        return ""
    heads = " | ".join(f"delay {delay}, asked every {every}" for delay, every in PAIRS)
    text = ["", f"| rows, `prefix_rows` | `weight_decay` | noise | seeds | {heads} |"]
    text.append("|---" * (4 + len(PAIRS)) + "|")
    for rows, prefix in _FORMS:
        for decay in _DECAYS:
            of = [
                line["result"] for line in chosen
                if (line["job"]["rows"], line["job"]["cloning"]["weight_decay"]) == (rows, decay)
            ]  # fmt: skip
            for noise in _NOISES if of else ():
                cells = []
                for delay, every in PAIRS:
                    points = [found[f"{noise:g}_{delay}_{every}"] for found in of]
                    wins = [100 * point["success"] for point in points]
                    jerk = np.mean([point["jerk"] for point in points])
                    cells.append(
                        f"{np.mean(wins):.0f} % ({min(wins):.0f} to {max(wins):.0f}), {jerk:.2f}"
                    )
                text.append(
                    f"| {rows}, {prefix} | {decay:g} | {noise:g} | {len(of)} | {' | '.join(cells)} |"
                )
    return "\n".join(text)


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
