"""Which recipe is worth using when: tables from simulated tasks, without ROS, in many processes.

    python benchmarks/recipes/recipes.py --processes 16 --seconds 540 --out recipes.jsonl
    python benchmarks/recipes/recipes.py --only two_ways --out recipes.jsonl --picture docs/pictures/two_ways.png
    python benchmarks/recipes/recipes.py --table --out recipes.jsonl

Each job is one training with its evaluations, one thread, one JSON line. Jobs that have a line in ``--out`` already are
not made again, so the program may be killed at any time. ``--scale 0.1`` makes all of it shorter, to try it.
"""

from __future__ import annotations

import json
import time
import traceback
from pathlib import Path
from typing import Any

import numpy as np

import corrections
import late
import longer
import one_step
import online
import own_steps
from tasks import Job, cloned, demonstrated, evaluated, in_processes, policy_of, read, robot
from user_core.command_line import Parser
from user_core.specs import ArraySpec, RobotSpec
from user_core.types import FinalObservation, Step
from user_testing.experiments import Ring


def bc(job: Job, scale: float) -> Job:
    """Behaviour cloning from some demonstrations."""
    with robot(job) as hal:
        ring = demonstrated(job, hal)
        policy = policy_of(job, hal.spec)
        begin_s = time.monotonic()
        cloned(job, hal.spec, ring, int(job["updates"] * scale), policy)
        learning_s = time.monotonic() - begin_s
        result = evaluated(hal, policy, max(2, int(50 * scale)), replan_every=4)
        return {**result, "demonstrated": ring.steps, "learning_s": round(learning_s)}


def late_plans(job: Job, scale: float) -> Job:
    """One cloned flow, carried out in several ways with policies that are slow."""
    found: Job = {}
    with robot(job) as hal:
        policy = policy_of(job, hal.spec)
        cloned(job, hal.spec, demonstrated(job, hal), int(job["updates"] * scale), policy)
        for delay in (0, 3, 6, 9):
            ways = ["sequential", "ensemble", "real_time"]
            for execution in ways[2:] if job["params"] else ways:
                chunks = {"execution": execution, "delay_steps": delay}
                every = 4 if execution == "ensemble" else max(4, delay)
                found[f"{execution}_{delay}"] = evaluated(
                    hal, policy, max(2, int(40 * scale)), chunks=chunks, replan_every=every
                )
    return found


#: A point that goes from below to above a disc, left or right of it.
POINT = RobotSpec(
    "point", {"position": ArraySpec((2,), low=-2.0, high=2.0)},
    ArraySpec((2,), low=-1.0, high=1.0), period_s=0.1,
)  # fmt: skip
DISC = (0.0, 0.0, 0.35)


def demonstrated_way(rng: np.random.Generator, side: float) -> np.ndarray:
    """Positions from about (0, -1) to (0, 1), (33, 2), past the disc on one side."""
    t = np.linspace(0, 1, 33)
    width = side * rng.uniform(0.55, 0.7)
    x = width * np.sin(np.pi * t) ** 2 + rng.uniform(-0.05, 0.05)
    return np.stack([x, -1 + 2 * t], 1)


def two_ways(job: Job, scale: float) -> Job:
    """Demonstrations left and right of a disc, evenly: what is learned, from the middle."""
    rng = np.random.default_rng(job["seed"])
    ring, step = Ring(POINT, 60_000), 0.1
    for episode in range(60):
        way = demonstrated_way(rng, 1.0 if episode % 2 else -1.0).astype(np.float32)
        moves = (np.diff(way, axis=0) / step).astype(np.float32)
        for at, move in zip(way[:-1], moves, strict=True):
            ring.append(Step({"position": at}, move, move, 0.0))
        ring.append(FinalObservation({"position": way[-1]}))
    policy = policy_of(job, POINT)
    cloned(job, POINT, ring, int(job["updates"] * scale), policy)
    ways, hits, sides = [], 0, []
    for _ in range(40):
        at = np.array([rng.uniform(-0.05, 0.05), -1.0], np.float32)
        way = [at]
        while len(way) < 33:
            for action in policy.act(
                {"position": way[-1]}, deterministic=job["policy"] == "action_chunks"
            )[:8]:
                way.append((way[-1] + step * action).astype(np.float32))
        path = np.stack(way[:33])
        ways.append(np.round(path, 3).tolist())
        hits += bool((np.hypot(path[:, 0] - DISC[0], path[:, 1] - DISC[1]) < DISC[2]).any())
        sides.append(float(np.sign(path[16, 0])))
    return {"hits": hits / 40, "right": float(np.mean(np.array(sides) > 0)), "ways": ways}


KINDS = {
    "bc": bc, "noise": bc, "ends": bc, "late": late_plans, "hg_dagger": corrections.hg_dagger, "two_ways": two_ways,
    "online": online.online, "from_half": online.online, online.CHOICES: online.online, "guided": late.guided,
    "one_step": one_step.one_step, "longer": longer.longer, "delays": late.delays,
    "own_steps": own_steps.own_steps,
}  # fmt: skip


def jobs(seeds: list[int]) -> list[Job]:
    """All of them, the longest first."""
    found: list[Job] = []
    for seed in seeds[:2]:
        for prefix in (0, 10):
            found.append({
                "kind": "late", "task": "pick_place", "policy": "flow", "demonstrations": 200, "seed": seed,
                "updates": 8000, "rows": 24, "params": {"prefix_rows": prefix} if prefix else {},
            })  # fmt: skip
    for demonstrations in (200, 50, 20):
        for seed in seeds:
            for task in ("pick_place", "peg_insertion"):
                for policy in ("flow", "action_chunks", "diffusion"):
                    found.append({
                        "kind": "bc", "task": task, "policy": policy, "demonstrations": demonstrations,
                        "seed": seed, "updates": 6000,
                    })  # fmt: skip
    for demonstrations in (200, 50, 20):
        for seed in seeds:
            for noise in (0.0, 0.5, 1.0):
                found.append({
                    "kind": "noise", "task": "pick_place", "policy": "flow", "seed": seed, "updates": 6000,
                    "demonstrations": demonstrations, "params": {"deterministic_noise": noise},
                })  # fmt: skip
    for demonstrations in (200, 50, 20):
        for seed in seeds:
            for task in ("pick_place", "peg_insertion"):
                for policy in ("flow", "action_chunks"):
                    for after_end in ("nothing", "hold", "fade"):
                        found.append({
                            "kind": "ends", "task": task, "policy": policy, "demonstrations": demonstrations, "seed": seed,
                            "updates": 6000, "cloning": {"after_end": after_end},
                        })  # fmt: skip
    for demonstrations in (50, 200):
        for seed in seeds:
            for after_end in ("nothing", "hold", "fade"):
                found.append({
                    "kind": "ends", "name": "bc_flow", "task": "pick_place", "policy": "flow", "seed": seed, "updates": 6000,
                    "demonstrations": demonstrations, "cloning": {"weight_decay": 0.3, "after_end": after_end},
                })  # fmt: skip
    for policy in ("flow", "action_chunks", "diffusion"):
        found.append({"kind": "two_ways", "policy": policy, "seed": 0, "updates": 3000, "rows": 16})
    return (
        found
        + corrections.jobs(seeds)
        + online.jobs(seeds)
        + late.jobs(seeds)
        + late.delay_jobs(seeds)
        + one_step.jobs(seeds)
        + longer.jobs(seeds)
        + own_steps.jobs(seeds)
    )


def _run(work: tuple[Job, float, str, float]) -> None:
    job, scale, out, end_s = work
    if time.time() > end_s:
        return
    import torch

    torch.set_num_threads(1)
    begin_s = time.monotonic()
    try:
        result = KINDS[job["kind"]](job, scale)
    except Exception:  # one job does not end the others
        result = {"error": traceback.format_exc()[-1500:]}
    line = json.dumps(
        {"job": job, "scale": scale, "result": result, "s": round(time.monotonic() - begin_s)}
    )
    with Path(out).open("a") as file:
        file.write(line + "\n")
    print(line[:300], flush=True)


def tables(lines: list[Job]) -> str:
    """Markdown of what was measured: means over seeds, with the least and the most."""
    text = ["| task | demonstrations | policy | seeds | success |", "|---|---|---|---|---|"]
    groups: dict[tuple[Any, ...], list[float]] = {}
    for line in lines:
        job = line["job"]
        if job["kind"] in ("bc", "noise", "ends"):
            more = {**job.get("params", {}), **job.get("cloning", {})}
            name = ", ".join([job["policy"], *(f"{key} {more[key]}" for key in more)])
            key = (job["task"], job["demonstrations"], name)
            groups.setdefault(key, []).append(line["result"]["success"])
    for key, values in sorted(groups.items()):
        spread = (
            f"{100 * np.mean(values):.0f} % ({100 * min(values):.0f} to {100 * max(values):.0f})"
        )
        text.append(f"| {key[0]} | {key[1]} | `{key[2]}` | {len(values)} | {spread} |")
    text += [
        "",
        "| execution | delay, steps | success | jerk | steps of an episode |",
        "|---|---|---|---|---|",
    ]
    ways: dict[tuple[str, int], list[Job]] = {}
    for line in lines:
        if line["job"]["kind"] == "late":
            trained = " (trained for it)" if line["job"]["params"] else ""
            for name, result in line["result"].items():
                execution, _, delay = name.rpartition("_")
                ways.setdefault((execution + trained, int(delay)), []).append(result)
    for (execution, delay), results in sorted(ways.items()):
        means = [float(np.mean([r[n] for r in results])) for n in ("success", "jerk", "length")]
        text.append(
            f"| {execution} | {delay} | {100 * means[0]:.0f} % | {means[1]:.3f} | {means[2]:.0f} |"
        )
    text += ["", "| policy | through the disc | to the right |", "|---|---|---|"]
    for line in lines:
        if line["job"]["kind"] == "two_ways":
            r = line["result"]
            text.append(
                f"| `{line['job']['policy']}` | {100 * r['hits']:.0f} % | {100 * r['right']:.0f} % |"
            )
    return "\n".join(text)


def picture(lines: list[Job], path: Path) -> None:
    """Ways past the disc, one panel a policy."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    chosen = [line for line in lines if line["job"]["kind"] == "two_ways"]
    figure, panels = plt.subplots(
        1, len(chosen) + 1, figsize=(2.1 * (len(chosen) + 1), 3.0), sharey=True
    )
    rng = np.random.default_rng(0)
    shown = [demonstrated_way(rng, 1.0 if i % 2 else -1.0) for i in range(20)]
    for panel, (title, ways) in zip(
        panels,
        [("demonstrations", shown), *((line["job"]["policy"], line["result"]["ways"]) for line in chosen)],
        strict=True,
    ):  # fmt: skip
        panel.add_patch(plt.Circle(DISC[:2], DISC[2], color="0.75"))
        for way in ways:
            panel.plot(*np.array(way).T, lw=0.6, alpha=0.7, color="tab:blue")
        panel.set(title=title, xlim=(-1, 1), aspect="equal", xticks=[], yticks=[])
        panel.title.set_size(9)
    figure.tight_layout()
    figure.savefig(path, dpi=90)


def main() -> None:
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("recipes.jsonl"))
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=1e9, help="no job begins after this")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--only", nargs="*", default=list(KINDS), help="kinds of jobs")
    parser.add_argument("--names", nargs="*", help="recipes, of kinds whose jobs have names")
    parser.add_argument("--scale", type=float, default=1.0, help="of updates and evaluations")
    parser.add_argument(
        "--table", action="store_true", help="print what there is, and make nothing"
    )
    parser.add_argument("--picture", type=Path, help="draw the ways past the disc")
    parser.add_argument("--curves", type=Path, help="draw the curves of recipes with rewards")
    parser.add_argument("--corrections", type=Path, help="draw what corrections bring")
    arguments = parser.parse_args()
    if not arguments.table:
        done = [line["job"] for line in read(arguments.out) if line["scale"] == arguments.scale]
        end_s = time.time() + arguments.seconds
        work = [
            (job, arguments.scale, str(arguments.out), end_s)
            for job in jobs(arguments.seeds)
            if job["kind"] in arguments.only
            and job not in done
            and (arguments.names is None or job.get("name") in arguments.names)
        ]
        in_processes(_run, work, arguments.processes)
    lines = read(arguments.out)
    if any(line["job"]["kind"] not in online.KINDS for line in lines):
        print(tables(lines))
    print(online.table(lines))
    print(late.table(lines))
    print(late.delays_table(lines))
    print(one_step.table(lines))
    print(longer.table(lines))
    print(own_steps.table(lines))
    print(corrections.table(lines))
    if arguments.curves:
        online.draw(lines, arguments.curves)
    if arguments.corrections:
        corrections.draw(lines, arguments.corrections)
    if arguments.picture:
        picture(lines, arguments.picture)


if __name__ == "__main__":
    main()
