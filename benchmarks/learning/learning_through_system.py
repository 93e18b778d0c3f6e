"""SAC through the whole system, beside the same algorithm code in a synchronous loop.

``user up gymnasium`` runs as a user runs it: robot, actor, store and learner, each a process. Its
policy versions are kept as they appear, and judged afterwards, on the same starts as those of the
synchronous loop (one step, one update, in one process; ``benchmarks/learning/learning_curves.py``). For
each number of steps the newest version that was made with no more steps than that is judged. Wall
time counts from the first policy version on, evaluations left out, on both sides.

    python benchmarks/learning/learning_through_system.py --env Pendulum-v1 --steps 10000
    python benchmarks/learning/learning_through_system.py --env HalfCheetah-v5 --steps 30000 --every 3000
    python benchmarks/learning/learning_through_system.py --plot docs/pictures/learning_through_system.png

Results go to ``--out``, one JSON line each; what is there already is not run again. Versions and
logs are kept beside it, so that a run that was broken off while it was judged is judged again.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from user_core import plugins
from user_core.codecs.weights import encode_version, read_version
from user_core.command_line import Parser
from user_core.config import load_yaml
from user_core.errors import SuiteError
from user_core.types import PolicyVersion
from user_hal.local import LocalHal
from user_learner.training.publishing import POLICY_FILE
from user_testing import systems
from user_testing.experiments import evaluate
from user_testing.ports import free_endpoint
from user_testing.systems import started, words_of_run

_HERE = Path(__file__).parent
_ALGORITHMS = _HERE.parents[1] / "src/user_bringup/config/algorithms"
_LOOK_S = 0.02
SYSTEM, SYNCHRONOUS = "whole system", "synchronous loop"


def versions_of(file: Path, process: subprocess.Popen[bytes]) -> Iterator[PolicyVersion]:
    """Policy versions as they appear in a file, while a process runs."""
    stamp = 0
    while process.poll() is None:
        time.sleep(_LOOK_S)
        try:
            now = file.stat().st_mtime_ns
            if now != stamp:
                version = read_version(file)
                stamp = now
                yield version
        except (FileNotFoundError, SuiteError):  # not there yet, or just being replaced
            continue
    raise RuntimeError(f"user up ended with exit code {process.returncode}")


def through_system(arguments: argparse.Namespace, seed: int, folder: Path) -> list[dict[str, Any]]:
    """Run the system; judge its versions afterwards."""
    command = words_of_run(
        "gymnasium", f"env:={arguments.env}", f"seed:={seed}", "evaluate_every:=0",
        f"algorithm:={arguments.algorithm}", f"policy_endpoint:={free_endpoint()}", runs=folder,
    )  # fmt: skip
    grid = list(range(arguments.every, arguments.steps + 1, arguments.every))
    start_ns, done = 0, folder / "start_ns"
    if done.exists():
        return judge(arguments, seed, folder, grid)
    shutil.rmtree(folder / "r", ignore_errors=True)
    with (folder / "output.log").open("wb") as log:
        with started(command, stdout=log, stderr=log) as process:
            for version in versions_of(folder / "r/learner" / POLICY_FILE, process):
                start_ns = start_ns or version.created_ns
                for steps in grid:
                    if version.environment_steps <= steps:
                        (folder / f"{steps}.safetensors").write_bytes(encode_version(version))
                if version.environment_steps >= arguments.steps:
                    break
    done.write_text(str(start_ns))
    return judge(arguments, seed, folder, grid)


def judge(
    arguments: argparse.Namespace, seed: int, folder: Path, grid: list[int]
) -> list[dict[str, Any]]:
    """Evaluate the versions that were kept."""
    start_ns = int((folder / "start_ns").read_text())
    robot = LocalHal(plugins.build("robots", "gymnasium", {"env_id": arguments.env}))
    robot.open()
    reward = plugins.build("rewards", "task")
    name = arguments.algorithm  # of a file of config/algorithms, or the path of one
    file = name if name.endswith(".yaml") else f"{name}.yaml"
    choice = load_yaml(_ALGORITHMS / file)["policy"]
    policy = plugins.build("policies", choice["plugin"], choice.get("params", {}), robot.spec)
    lines = []
    for steps in grid:
        version = read_version(folder / f"{steps}.safetensors")
        policy.load(version.arrays)
        lines.append(
            {
                "seed": seed,
                "steps": steps,
                "updates": version.update,
                **evaluate(robot, policy, arguments.episodes, reward),
                "learning_s": round((version.created_ns - start_ns) * 1e-9, 1),
                "version_steps": version.environment_steps,
            }
        )
    robot.close()
    return lines


def synchronous(arguments: argparse.Namespace, seed: int, folder: Path) -> list[dict[str, Any]]:
    """One step, one update, one step."""
    out = folder / "lines.jsonl"
    out.unlink(missing_ok=True)
    systems.run_to_end(
        [
            sys.executable, str(_HERE / "learning_curves.py"), f"{arguments.algorithm}.yaml",
            "--robot", "gymnasium", "--param", f"env_id={arguments.env}",
            "--steps", str(arguments.steps), "--every", str(arguments.every),
            "--episodes", str(arguments.episodes), "--seed", str(seed),
            "--set", "training.threads=1", "--out", str(out),
        ],
        check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    return read(out)


def read(file: Path) -> list[dict[str, Any]]:
    if not file.exists():
        return []
    return [json.loads(line) for line in file.read_text().splitlines()]


def table(lines: list[dict[str, Any]]) -> None:
    """Print return at equal steps, and wall time."""
    for env in dict.fromkeys(line["env"] for line in lines):
        print(
            f"\n{env}\n| steps | way | returns by seed | mean | learning time |\n|---|---|---|---|---|"
        )
        last = max(line["steps"] for line in lines if line["env"] == env)
        for steps in sorted({last // 3, 2 * last // 3, last}):
            for way in (SYSTEM, SYNCHRONOUS):
                found = [
                    line for line in lines
                    if (line["env"], line["way"], line["steps"]) == (env, way, steps)
                ]  # fmt: skip
                if found:
                    returns = [line["return"] for line in found]
                    wall_s = statistics.mean(line["learning_s"] for line in found)
                    print(
                        f"| {steps} | {way} | {', '.join(f'{r:.0f}' for r in returns)} "
                        f"| {statistics.mean(returns):.0f} | {wall_s:.0f} s |"
                    )


def plot(lines: list[dict[str, Any]], file: Path) -> None:
    """Return over steps and over wall time; thin lines are seeds, thick ones their means."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    envs = list(dict.fromkeys(line["env"] for line in lines))
    figure, axes = plt.subplots(
        len(envs), 2, figsize=(10, 3.4 * len(envs)), layout="constrained", squeeze=False
    )
    for row, env in zip(axes, envs, strict=True):
        for way, colour in ((SYSTEM, "#d62728"), (SYNCHRONOUS, "#1f77b4")):
            mine = [line for line in lines if (line["env"], line["way"]) == (env, way)]
            for axis, key in zip(row, ("steps", "learning_s"), strict=True):
                for seed in sorted({line["seed"] for line in mine}):
                    curve = [line for line in mine if line["seed"] == seed]
                    axis.plot(
                        [line[key] for line in curve], [line["return"] for line in curve],
                        color=colour, alpha=0.3, linewidth=1,
                    )  # fmt: skip
                at = [
                    [line for line in mine if line["steps"] == steps]
                    for steps in sorted({line["steps"] for line in mine})
                ]
                axis.plot(
                    [statistics.mean(line[key] for line in lines_) for lines_ in at],
                    [statistics.mean(line["return"] for line in lines_) for lines_ in at],
                    color=colour, linewidth=2, label=way,
                )  # fmt: skip
                axis.set_xlabel("environment steps" if key == "steps" else "seconds of learning")
                axis.set_ylabel(f"{env}\nmean return of an evaluation")
                axis.legend()
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110)


def main() -> None:
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--env", default="", help="a Gymnasium environment; empty: run nothing")
    parser.add_argument("--algorithm", default="sac_small", help="a file of config/algorithms")
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--every", type=int, default=1000, help="steps between two evaluations")
    parser.add_argument("--episodes", type=int, default=20, help="of one evaluation")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--ways", nargs="*", default=[SYSTEM, SYNCHRONOUS])
    parser.add_argument("--out", type=Path, default=Path("runs/learning_through_system.jsonl"))
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    for seed in arguments.seeds if arguments.env else ():
        for way in arguments.ways:
            done = {(line["env"], line["way"], line["seed"]) for line in read(arguments.out)}
            if (arguments.env, way, seed) in done:
                continue
            folder = arguments.out.with_suffix("") / f"{arguments.env}-{seed}"
            folder.mkdir(parents=True, exist_ok=True)
            run = through_system if way == SYSTEM else synchronous
            lines = run(arguments, seed, folder.resolve())
            with arguments.out.open("a") as file:
                for line in lines:
                    line = {"env": arguments.env, "way": way, **line}
                    file.write(json.dumps(line) + "\n")
                    print(json.dumps(line), flush=True)
    table(read(arguments.out))
    if arguments.plot:
        plot(read(arguments.out), arguments.plot)


if __name__ == "__main__":
    main()
