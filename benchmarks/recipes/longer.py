"""Cloning for longer: how a chunk policy does after more and more updates, with and without what keeps it good.

    python benchmarks/recipes/recipes.py --only longer --seeds 0 --out longer.jsonl

Part of ``recipes.py``, which runs the jobs.
"""

from __future__ import annotations

import numpy as np

from tasks import Job, Windows, demonstrated, evaluated, lost, policy_of, robot, trainer

UPDATES = (2000, 6000, 12_000)
#: Settings of ``bc`` by what the table calls them.
WAYS: dict[str, Job] = {
    "defaults": {},
    "neither": {"weight_decay": 0.0, "average": 0.0},
    "average only": {"weight_decay": 0.0},
    "decay only": {"average": 0.0},
    "a third of the decay": {"weight_decay": 0.3},
    "a tenth of the decay": {"weight_decay": 0.1},
}
_OF_ALL = ("defaults", "neither", "a tenth of the decay")


def jobs(seeds: list[int]) -> list[Job]:
    """The flow in all ways, others in two."""
    return [
        {
            "kind": "longer", "task": "pick_place", "policy": policy, "demonstrations": 50, "seed": seed,
            "updates": UPDATES[-1], "way": way, "rows": 8,
        }
        for seed in seeds
        for policy in ("flow", "diffusion", "act")
        for way in WAYS
        if policy == "flow" or (way in _OF_ALL and policy == "diffusion") or way in _OF_ALL[:2]
    ]  # fmt: skip


def longer(job: Job, scale: float) -> Job:
    """One training, judged at several of its updates: by its success, and by its loss about demonstrations of
    others."""

    with robot(job) as hal:
        ring, policy = demonstrated(job, hal), policy_of(job, hal.spec)
        others = demonstrated({**job, "demonstrations": 10, "seed": job["seed"] + 100}, hal)
        algorithm = trainer(job, hal.spec, policy, **WAYS[job["way"]])
        windows, found = Windows(ring, job["rows"], job["seed"]), Job()
        for update in range(1, int(job["updates"] * scale) + 1):
            algorithm.update(windows.sample(256))
            if update in [int(count * scale) for count in UPDATES]:
                policy.load(algorithm.policy_arrays())
                result = evaluated(hal, policy, max(2, int(40 * scale)), replan_every=4)
                with algorithm.averaged():
                    own, other = (
                        lost(algorithm, hal.spec, Windows(one, job["rows"], 0))
                        for one in (ring, others)
                    )
                found[str(update)] = {**result, "loss": own, "loss_others": other}
        return found


def table(lines: list[Job]) -> str:
    """Markdown: means over seeds."""
    chosen = [line for line in lines if line["job"]["kind"] == "longer"]
    if not chosen:
        return ""
    text = [
        "",
        "| policy | seeds | |" + "".join(f" {count:,} |" for count in UPDATES),
        "|---" * (3 + len(UPDATES)) + "|",
    ]
    for policy in ("flow", "diffusion", "act"):
        for way in WAYS:
            results = [
                line["result"]
                for line in chosen
                if (line["job"]["policy"], line["job"]["way"]) == (policy, way)
            ]
            if results:
                cells = []
                for points in zip(*(r.values() for r in results), strict=True):
                    success, other = (
                        float(np.mean([p[name] for p in points]))
                        for name in ("success", "loss_others")
                    )
                    cells.append(f" {100 * success:.0f} % ({other:.2f}) |")
                text.append(f"| `{policy}` | {len(results)} | {way} |{''.join(cells)}")
    return "\n".join(text)
