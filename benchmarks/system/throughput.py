"""The whole system around an environment that costs nothing: steps and updates a second, processor time.

Pendulum through ``user up gymnasium``, uncoupled: the actor acts as fast as it can, the learner
trains as fast as it can, 256x256 networks, one torch thread. What is lost between the processes
shows here. With ``--before`` another checkout, built, runs at the same time, so that what else the
machine does slows both alike; each then has half of it.

    git worktree add /tmp/before b8547ce && make -C /tmp/before setup
    tools/run python benchmarks/system/throughput.py --before /tmp/before
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path
from threading import Barrier

import numpy as np
import yaml

from peer_lerobot import ENVIRONMENT
from user_core.command_line import Parser
from user_testing.systems import started, take_sigterm_as_ctrl_c, words_of_run

PROCESSES = ("hal", "actor", "replay", "learner", "lifecycle_manager")
ARGUMENTS = (
    "env:=peer_environment:PeerPendulum-v0", "algorithm:=sac", "random_steps:=100",
    "evaluate_every:=0",
)  # fmt: skip
UNCOUPLED = (
    "actor.loop.max_backlog_steps:=0", "learner.training.utd.target:=null",
    "learner.training.utd.learning_starts:=100", "learner.training.publish_period_s:=4.0",
)  # fmt: skip
#: What our environment says of the workspace that it belongs to; another one says it anew.
_OURS = (
    "AMENT",
    "CMAKE_PREFIX",
    "COLCON",
    "PYTHONPATH",
    "LD_LIBRARY",
    "VIRTUAL",
    "FASTDDS",
    "ROS_",
)
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Turn:
    """What was seen in one turn.

    Attributes:
        steps_s: Environment steps a second.
        updates_s: Gradient updates a second.
        between_p50_ms: Median time between two steps, milliseconds.
        between_p99_ms: Its 99th percentile.
        robot_side_ms: Processor time of hal, actor and replay per step, milliseconds.
        all_ms: Processor time of all processes but the learner per step, milliseconds.
        actor_switches: Times per step that a thread of the actor gave its processor up.
    """

    steps_s: float
    updates_s: float
    between_p50_ms: float
    between_p99_ms: float
    robot_side_ms: float
    all_ms: float
    actor_switches: float


def deployment_of(checkout: Path, folder: Path) -> list[str]:
    """The deployment and its arguments; an edited copy where none can be set by their path."""
    file = checkout / "src/user_bringup/config/deployments/gymnasium.yaml"
    data = yaml.safe_load(file.read_text())
    if isinstance(data["processes"], dict):
        return ["gymnasium", *ARGUMENTS, *UNCOUPLED]
    for process in data["processes"]:
        parameters = process.get("parameters", {})
        if process["name"] == "actor":
            parameters["loop"]["max_backlog_steps"] = 0
        if process["name"] == "learner":
            training = parameters.setdefault("training", {})
            training |= {"utd": {"target": None, "learning_starts": 100}, "publish_period_s": 4.0}
    (folder / "deployments").mkdir()
    (folder / "algorithms").symlink_to(file.parents[1] / "algorithms")
    copy = folder / "deployments/uncoupled.yaml"
    copy.write_text(yaml.safe_dump(data, sort_keys=False))
    return [str(copy), *ARGUMENTS]


@contextlib.contextmanager
def system(checkout: Path, folder: Path, number: int) -> Iterator[subprocess.Popen[bytes]]:
    """All processes of a checkout, ended with the block."""
    (folder / "peer_environment.py").write_text(ENVIRONMENT)
    environment = {k: v for k, v in os.environ.items() if not k.startswith(_OURS)}
    environment |= {
        "PEER_LOG": str(folder), "OMP_NUM_THREADS": "1",
        "ROS_DOMAIN_ID": str(10 + (os.getpid() + number) % 90),
    }  # fmt: skip
    endpoint = f"policy_endpoint:=tcp/127.0.0.1:{17000 + (os.getpid() + number) % 900}"
    words = words_of_run(*deployment_of(checkout, folder), endpoint, runs="runs")
    command = f"export PYTHONPATH={folder}:$PYTHONPATH; exec {' '.join(words)}"
    with (folder / "log").open("wb") as log:
        with started(
            [str(checkout / "tools/run"), "bash", "-c", command], cwd=folder, env=environment,
            stdout=log, stderr=log, stdin=subprocess.DEVNULL, patience_s=40.0,
        ) as child:  # fmt: skip
            yield child


def step_times(folder: Path) -> np.ndarray:
    """When the environment was stepped, monotonic seconds."""
    file = folder / "steps"
    if not file.exists():
        return np.empty(0)
    rows = np.memmap(file, np.float64, "r")
    return np.array(rows[1 : int(rows[0]) + 1])


def processes_of(folder: Path) -> dict[str, list[int]]:
    """The processes of a system by what they are: those that know its folder."""
    found: dict[str, list[int]] = {}
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            pid = int(entry.name)
            if str(folder).encode() not in (entry / "environ").read_bytes():
                continue
            words = (entry / "cmdline").read_bytes().decode(errors="replace").replace("\0", " ")
            name = next((p for p in PROCESSES if f"{p}_node" in words or f"nodes.{p}" in words), "")
            found.setdefault(name or "other", []).append(pid)
    return found


def spent_s(pids: list[int]) -> float:
    """Processor time of some processes so far, seconds."""
    total = 0.0
    for pid in pids:
        with contextlib.suppress(OSError):
            columns = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += (int(columns[11]) + int(columns[12])) * _TICK_S
    return total


def switches(pids: list[int]) -> int:
    """How often threads of some processes gave their processor up by themselves."""
    total = 0
    for pid in pids:
        for file in Path(f"/proc/{pid}/task").glob("*/status"):
            with contextlib.suppress(OSError):
                lines = file.read_text().splitlines()
                total += int(next(x for x in lines if x.startswith("voluntary")).split()[1])
    return total


def updates_s(folder: Path, seconds: float) -> float:
    """Updates a second over the last seconds, from the run's history."""
    lines = (folder / "runs/r/history.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines if '"state"' in line]
    points = [(row["t"], row["update"]) for row in rows if row.get("update")]
    points = [point for point in points if point[0] > points[-1][0] - seconds]
    if len(points) < 2:
        return 0.0
    return (points[-1][1] - points[0][1]) / (points[-1][0] - points[0][0])


def turn(checkout: Path, number: int, seconds: float, together: Barrier) -> Turn:
    """Run a checkout, and measure once its learner trains, and those of the others do."""
    with tempfile.TemporaryDirectory(prefix="throughput_") as name:
        folder = Path(name)
        with system(checkout, folder, number) as child:
            deadline_s = time.monotonic() + 240
            history = folder / "runs/r/history.jsonl"
            while not (history.exists() and updates_s(folder, 10.0)):
                if child.poll() is not None or time.monotonic() > deadline_s:
                    raise RuntimeError((folder / "log").read_text(errors="replace")[-3000:])
                time.sleep(0.5)
            together.wait(240)
            pids = processes_of(folder)
            begin, begin_s = len(step_times(folder)), time.monotonic()
            before = {key: spent_s(value) for key, value in pids.items()}
            switched = switches(pids.get("actor", []))
            time.sleep(seconds)
            times = step_times(folder)[begin:]
            elapsed_s = time.monotonic() - begin_s
            spent = {key: spent_s(value) - before[key] for key, value in pids.items()}
            switched = switches(pids.get("actor", [])) - switched
            learned = updates_s(folder, seconds)
    steps, between_ms = len(times), np.diff(times) * 1e3
    robot_side = sum(spent.get(key, 0.0) for key in ("hal", "actor", "replay"))
    return Turn(
        steps / elapsed_s, learned, float(np.median(between_ms)),
        float(np.quantile(between_ms, 0.99)), robot_side / steps * 1e3,
        (sum(spent.values()) - spent.get("learner", 0.0)) / steps * 1e3, switched / steps,
    )  # fmt: skip


def main() -> None:
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--before", type=Path, help="another checkout, built, to compare with")
    parser.add_argument("--seconds", type=float, default=20.0, help="length of a turn")
    parser.add_argument("--turns", type=int, default=3, help="turns")
    arguments = parser.parse_args()
    take_sigterm_as_ctrl_c()
    checkouts = {"now": Path(__file__).resolve().parents[2]}
    if arguments.before:
        checkouts["before"] = arguments.before.resolve()
    turns: dict[str, list[Turn]] = {name: [] for name in checkouts}
    for number in range(arguments.turns):
        together = Barrier(len(checkouts))
        with ThreadPoolExecutor(len(checkouts)) as pool:
            seen = {
                name: pool.submit(turn, path, 2 * number + place, arguments.seconds, together)
                for place, (name, path) in enumerate(checkouts.items())
            }
        for name, result in seen.items():
            turns[name].append(result.result())
            print(f"{name}: {turns[name][-1]}, load {os.getloadavg()[0]:.1f}", flush=True)
    print("\n| median of the turns |", " | ".join(checkouts), "|")
    print("|---|" + "---|" * len(checkouts))
    for field in fields(Turn):
        values = [statistics.median(getattr(t, field.name) for t in turns[n]) for n in checkouts]
        print(f"| {field.name} |", " | ".join(f"{value:.2f}" for value in values), "|")


if __name__ == "__main__":
    sys.exit(main())
