"""SAC, RLPD and discrete SAC beside reference implementations from PyPI, in one run.

Ours in one process and through the whole system; Stable-Baselines3 (SAC) and Tianshou (REDQ with
layer normalisation, which is what RLPD is without demonstrations; discrete SAC) beside it. All
sides have the same settings and are judged on the same deterministic episodes
(``benchmarks/learning/reference_sides.py``). Packages that are missing are named, and their sides left out.

    pip install stable-baselines3 tianshou      # into an environment of your own
    python benchmarks/learning/references.py --env HalfCheetah-v5 Hopper-v5 Walker2d-v5 --algorithm sac \\
        --steps 30000 --every 3000 --parallel 16 --out runs/references.jsonl
    python benchmarks/learning/references.py --env LunarLander-v3 CartPole-v1 --algorithm discrete_sac \\
        --batch 128 --hidden 128 128 --parallel 16 --out runs/references.jsonl
    python benchmarks/learning/references.py --table --out runs/references.jsonl --plot references.png

A run that was broken off, also by ``--minutes``, is taken up again: curves that are complete in
``--out`` are not made again. Ratios are of means over the seeds, with their standard error.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from reference_sides import FILES, PACKAGES, Job, run, sides_of
from user_core.command_line import Parser
from user_testing import systems

OURS = ("system", "synchronous")
_TARGET = 0.95
#: Share of the evaluations, the last ones, whose mean is the final return.
_FINAL = 0.2

#: Time within which a whole system ends.
_END_S = 90

Line = dict[str, Any]


# --------------------------------------------------------------------------------------------------
# Running: a process for each curve
# --------------------------------------------------------------------------------------------------


def jobs_of(arguments: argparse.Namespace) -> list[Job]:
    """All curves, a seed after the other, so that what is there early is complete over sides."""
    found = []
    for seed, env, algorithm in itertools.product(
        arguments.seeds, arguments.env, arguments.algorithm
    ):
        for side in sides_of(algorithm):
            if arguments.sides and side not in arguments.sides:
                continue
            found.append(
                Job(
                    env, algorithm, side, seed, arguments.steps, arguments.every,
                    arguments.episodes, arguments.device, batch=arguments.batch,
                    hidden=tuple(arguments.hidden), starts=arguments.starts,
                    changes=tuple(arguments.set),
                )
            )  # fmt: skip
    return found


def available(jobs: Sequence[Job]) -> list[Job]:
    """Those whose packages are there; says which are not."""
    missing = {
        side: package
        for side, package in PACKAGES.items()
        if any(job.side == side for job in jobs) and importlib.util.find_spec(package) is None
    }
    for side, package in missing.items():
        print(f"# {side} is left out: the package {package} is not installed", flush=True)
    return [job for job in jobs if job.side not in missing]


def run_all(arguments: argparse.Namespace, jobs: Sequence[Job]) -> None:
    """Keep this many processes busy until all is done, or time is up."""
    deadline_s = time.monotonic() + 60 * arguments.minutes
    done = {key(line) for line in read(arguments.out) if line["steps"] == line["of"]}
    waiting = [
        job for job in jobs if (job.env, job.algorithm, named(arguments, job), job.seed) not in done
    ]
    running: dict[subprocess.Popen[bytes], tuple[Job, int]] = {}
    free = list(range(arguments.parallel))
    try:
        while (waiting or running) and time.monotonic() < deadline_s:
            while waiting and free:
                job, slot = waiting.pop(0), free.pop(0)
                running[start(arguments, job, slot)] = (job, slot)
            time.sleep(0.2)
            for process in [process for process in running if process.poll() is not None]:
                job, slot = running.pop(process)
                free.append(slot)
                if process.returncode:
                    print(f"# {job} ended with status {process.returncode}", flush=True)
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait(_END_S)


def named(arguments: argparse.Namespace, job: Job) -> str:
    """Name of a side in the results; a trial of ours has one of its own."""
    return arguments.name if arguments.name and job.side in OURS else job.side


def start(arguments: argparse.Namespace, job: Job, slot: int) -> subprocess.Popen[bytes]:
    """A process for one curve: one thread, and on a machine of several GPUs one of them."""
    environment = dict(os.environ) | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    if arguments.gpus:
        environment["CUDA_VISIBLE_DEVICES"] = str(slot % arguments.gpus)
    words = [sys.executable, __file__, "--job", json.dumps(asdict(job)), "--out", arguments.out]
    return systems.start(
        [*map(str, words), "--name", arguments.name], env=environment, stdin=subprocess.DEVNULL
    )


def run_one(arguments: argparse.Namespace) -> None:
    """The work of such a process."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what it has started ends with it
    data = json.loads(arguments.job)
    job = Job(**{**data, "hidden": tuple(data["hidden"]), "changes": tuple(data["changes"])})
    begin_s = time.monotonic()

    def report(steps: int, mean_return: float) -> None:
        line = {
            "env": job.env, "algorithm": job.algorithm, "side": named(arguments, job),
            "seed": job.seed, "steps": steps, "of": job.steps, "return": round(mean_return, 2),
            "wall_s": round(time.monotonic() - begin_s, 1),
        }  # fmt: skip
        with arguments.out.open("a") as file:  # one short write: lines of processes do not mix
            file.write(json.dumps(line) + "\n")

    run(job, report)


# --------------------------------------------------------------------------------------------------
# What came of it
# --------------------------------------------------------------------------------------------------


def key(line: Line) -> tuple[str, str, str, int]:
    return line["env"], line["algorithm"], line["side"], line["seed"]


def read(file: Path) -> list[Line]:
    """Lines of a file of results; empty without it."""
    if not file.exists():
        return []
    return [json.loads(line) for line in file.read_text().splitlines()]


def curves(
    lines: Iterable[Line], env: str, algorithm: str, until: int
) -> dict[str, dict[int, list[Line]]]:
    """The curves that are complete, or reach ``until``, by side and seed, on the steps at which all
    of them were judged."""
    found: dict[tuple[str, int], dict[int, Line]] = {}
    for line in lines:
        if (line["env"], line["algorithm"]) == (env, algorithm):
            found.setdefault((line["side"], line["seed"]), {})[line["steps"]] = line
    whole = {
        which: {steps: line for steps, line in curve.items() if not until or steps <= until}
        for which, curve in found.items()
        if max(curve) >= (until or curve[max(curve)]["of"])
    }
    common = set.intersection(*map(set, whole.values())) if whole else set()
    sides: dict[str, dict[int, list[Line]]] = {}
    for (side, seed), curve in sorted(whole.items()):
        sides.setdefault(side, {})[seed] = [curve[steps] for steps in sorted(common)]
    return sides


def figures(curve: Sequence[Line]) -> tuple[float, float]:
    """Mean return over the curve (its area by its length), and final return."""
    returns = [line["return"] for line in curve]
    last = max(1, round(_FINAL * len(returns)))
    return float(np.mean(returns)), float(np.mean(returns[-last:]))


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Mean and its standard error over the seeds."""
    error = np.std(values, ddof=1) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return float(np.mean(values)), float(error)


def ratio(ours: tuple[float, float], theirs: tuple[float, float]) -> tuple[float, float] | None:
    """Ratio of two means with its standard error (to first order); None unless both are positive."""
    if ours[0] <= 0 or theirs[0] <= 0:
        return None
    value = ours[0] / theirs[0]
    return value, value * math.hypot(ours[1] / ours[0], theirs[1] / theirs[0])


def numbers_of(sides: dict[str, dict[int, list[Line]]]) -> dict[str, list[tuple[float, float]]]:
    """Mean return and final return of each side, with their standard errors."""
    return {
        side: [mean_and_error([figures(curve)[i] for curve in seeds.values()]) for i in range(2)]
        for side, seeds in sides.items()
    }


def summary(lines: Sequence[Line], until: int = 0) -> list[dict[str, Any]]:
    """A row for each environment, algorithm and side.

    Where an algorithm has no reference of its own, that of SAC is beside it.
    """
    rows = []
    for env, algorithm in dict.fromkeys((line["env"], line["algorithm"]) for line in lines):
        sides = curves(lines, env, algorithm, until)
        numbers = numbers_of(sides)
        references = [side for side in sides if side in PACKAGES]
        beside: list[tuple[float, float]] = []
        if references:
            beside = numbers[references[0]]
        elif others := {s: c for s, c in curves(lines, env, "sac", until).items() if s in PACKAGES}:
            references, beside = list(others), next(iter(numbers_of(others).values()))
        for side, (area, final) in numbers.items():
            row: dict[str, Any] = {
                "env": env, "algorithm": algorithm, "side": side, "seeds": len(sides[side]),
                "steps": max(line["steps"] for line in next(iter(sides[side].values()))),
                "mean_return": area, "final_return": final,
            }  # fmt: skip
            if side not in PACKAGES and references:
                row |= {
                    "beside": references[0],
                    "mean_ratio": ratio(area, beside[0]), "final_ratio": ratio(final, beside[1]),
                }  # fmt: skip
            rows.append(row)
    return rows


def table(rows: Sequence[dict[str, Any]]) -> None:
    """Print as Markdown."""
    print("| environment | algorithm | side | seeds | steps | mean return | final return "
          "| beside | ratio of means | ratio at the end |\n" + "|---" * 10 + "|")  # fmt: skip
    for row in rows:
        shown = [
            "" if (found := row.get(name)) is None else f"{found[0]:.2f} ± {found[1]:.2f}"
            for name in ("mean_ratio", "final_ratio")
        ]
        if row.get("final_ratio") and row["final_ratio"][0] >= _TARGET:
            shown[1] = f"**{shown[1]}**"
        numbers = [
            f"{row[name][0]:.0f} ± {row[name][1]:.0f}" for name in ("mean_return", "final_return")
        ]
        words = [
            row["env"], row["algorithm"], row["side"], row["seeds"], row["steps"], *numbers,
            row.get("beside", ""), *shown,
        ]  # fmt: skip
        print("| " + " | ".join(map(str, words)) + " |")


_COLOURS = {"system": "#d62728", "synchronous": "#1f77b4", "sb3": "#555555", "tianshou": "#555555"}
_TRIAL = "#2ca02c"


def plot(lines: Sequence[Line], file: Path, until: int = 0) -> None:
    """Return over steps: mean over the seeds, and its standard error as a band."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    algorithms = list(dict.fromkeys(line["algorithm"] for line in lines))
    places = {
        algorithm: list(
            dict.fromkeys(line["env"] for line in lines if line["algorithm"] == algorithm)
        )
        for algorithm in algorithms
    }
    width = max(map(len, places.values()))
    figure, axes = plt.subplots(
        len(algorithms), width, figsize=(3.6 * width, 2.7 * len(algorithms)),
        layout="constrained", squeeze=False,
    )  # fmt: skip
    for row, algorithm in zip(axes, algorithms, strict=True):
        for axis in row[len(places[algorithm]) :]:
            axis.set_visible(False)
        for axis, env in zip(row, places[algorithm], strict=False):
            sides = curves(lines, env, algorithm, until)
            if not any(side in PACKAGES for side in sides):
                of_sac = curves(lines, env, "sac", until)
                sides |= {side: seeds for side, seeds in of_sac.items() if side in PACKAGES}
            for side, seeds in sides.items():
                steps = [line["steps"] for line in next(iter(seeds.values()))]
                returns = np.array([[line["return"] for line in c] for c in seeds.values()])
                mean = returns.mean(0)
                error = returns.std(0, ddof=1) / len(returns) ** 0.5 if len(returns) > 1 else 0
                colour = _COLOURS.get(side, _TRIAL)
                axis.plot(steps, mean, color=colour, label=f"{side} ({len(seeds)})")
                axis.fill_between(steps, mean - error, mean + error, alpha=0.2, color=colour)
            axis.set_title(f"{env}, {algorithm}", fontsize=9)
            axis.tick_params(labelsize=7)
            axis.legend(fontsize=6)
    figure.supxlabel("environment steps", fontsize=9)
    figure.supylabel("mean return of an evaluation", fontsize=9)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=80)


def main() -> None:
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--env", nargs="*", default=[], help="environments; empty: run nothing")
    parser.add_argument("--algorithm", nargs="*", default=["sac"], choices=list(FILES))
    parser.add_argument("--sides", nargs="*", default=[], help="by default all of an algorithm")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2, 3, 4])
    parser.add_argument("--steps", type=int, default=30_000)
    parser.add_argument("--every", type=int, default=3000, help="steps between two evaluations")
    parser.add_argument("--episodes", type=int, default=10, help="of one evaluation")
    parser.add_argument("--starts", type=int, default=1000, help="random steps at the start")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--hidden", type=int, nargs="*", default=[256, 256])
    parser.add_argument("--device", default="cpu", help="torch device that learns")
    parser.add_argument("--gpus", type=int, default=0, help="GPUs to spread processes over")
    parser.add_argument("--parallel", type=int, default=1, help="processes side by side")
    parser.add_argument("--minutes", type=float, default=math.inf, help="end then")
    parser.add_argument("--set", nargs="*", default=[], help="settings of ours, a.b=value: a trial")
    parser.add_argument("--name", default="", help="of a trial, in place of the side's name")
    parser.add_argument("--out", type=Path, default=Path("runs/references.jsonl"))
    parser.add_argument("--table", action="store_true", help="only show what is in --out")
    parser.add_argument("--until", type=int, default=0, help="compare up to this many steps only")
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--json", type=Path, help="file for the table's numbers")
    parser.add_argument("--job", default="", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    if arguments.job:
        run_one(arguments)
        return
    if not arguments.table:
        run_all(arguments, available(jobs_of(arguments)))
    lines = read(arguments.out)
    rows = summary(lines, arguments.until)
    table(rows)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))
    if arguments.plot:
        plot(lines, arguments.plot, arguments.until)


if __name__ == "__main__":
    main()
