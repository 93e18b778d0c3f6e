"""USER beside LeRobot's HIL-SERL: steps and updates a second, on the same environment, in turns.

Both learn Pendulum from state with SAC, 256x256 networks, batches of 256 and one torch thread per
process, uncoupled: the actor acts as fast as it can, the learner trains as fast as it can. Every
``env.step`` of both is counted by the same wrapper, in a file. LeRobot needs Python 3.12 and an
environment of its own (6 GB):

    python3.12 -m venv ENV && ENV/bin/pip install 'lerobot[hilserl]==0.6.1' 'mujoco==3.8.1'
    tools/run python benchmarks/system/peer_lerobot.py --lerobot ENV/bin/python

LeRobot 0.6.1 refuses to start a learner without a dataset; the launcher below passes that check
over and changes nothing else.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from user_core.command_line import Parser
from user_testing import systems

ENVIRONMENT = '''
"""Pendulum for both systems, every step counted."""
import os, time
import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import register

ROWS = 2_000_000


class Times:
    """Times (CLOCK_MONOTONIC) in a file that survives a kill; row 0 holds their number."""

    def __init__(self, name):
        self.rows, self.count = None, 0
        if folder := os.environ.get("PEER_LOG"):
            self.rows = np.memmap(os.path.join(folder, name), np.float64, "w+", shape=(ROWS,))

    def add(self):
        if self.rows is not None and self.count + 1 < ROWS:
            self.count += 1
            self.rows[self.count] = time.monotonic()
            self.rows[0] = self.count


class Counted(gym.Wrapper):
    def __init__(self, env):
        super().__init__(env)
        self.times = Times("steps")

    def step(self, action):
        observation, reward, terminated, truncated, info = self.env.step(action)
        self.times.add()
        # A numpy scalar as reward ends LeRobot's learner (torch.load, weights_only).
        return observation, float(reward), bool(terminated), bool(truncated), info


class AsDict(gym.ObservationWrapper):
    def __init__(self, env):
        super().__init__(env)
        box = env.observation_space
        box = gym.spaces.Box(box.low, box.high, dtype=np.float32)
        self.observation_space = gym.spaces.Dict({"agent_pos": box})

    def observation(self, observation):
        return {"agent_pos": np.asarray(observation, np.float32)}


def pendulum(**_):
    env = gym.wrappers.RescaleAction(
        gym.make("Pendulum-v1").unwrapped, np.float32(-1), np.float32(1)
    )
    return Counted(AsDict(env))


for name in ("gym_hil/PeerPendulum-v0", "PeerPendulum-v0"):
    register(
        id=name, entry_point="peer_environment:pendulum", max_episode_steps=200,
        disable_env_checker=True, order_enforce=True,
    )
'''

LAUNCHER = '''
"""Starts LeRobot's actor or learner with the environment above."""
import importlib, sys, types
import torch

torch.set_num_threads(1)
import peer_environment
from lerobot.configs.train import TrainPipelineConfig

validate = TrainPipelineConfig.validate


def without_dataset(self):
    self.dataset = types.SimpleNamespace(repo_id="none", eval_split=0.0)
    validate(self)
    self.dataset = None


TrainPipelineConfig.validate = without_dataset
role = sys.argv.pop(1)
module = importlib.import_module(f"lerobot.rl.{role}")
if role == "learner":
    from lerobot.rl.algorithms.sac.sac_algorithm import SACAlgorithm

    times, update = peer_environment.Times("updates"), SACAlgorithm.update

    def counted(self, *args, **kwargs):
        result = update(self, *args, **kwargs)
        times.add()
        return result

    SACAlgorithm.update = counted
    module.train_cli()
else:
    module.actor_cli()
'''

STATE, ACTION = {"type": "STATE", "shape": [3]}, {"type": "ACTION", "shape": [1]}
LEROBOT = {
    "job_name": "peer", "seed": 1, "batch_size": 256, "steps": 10**9, "log_freq": 10**6,
    "save_checkpoint": False,
    "env": {
        "type": "gym_manipulator", "name": "gym_hil", "task": "PeerPendulum-v0", "fps": 10**6,
        "features": {"observation.state": STATE, "action": ACTION},
        "features_map": {"observation.state": "observation.state", "action": "action"},
        "processor": {"control_mode": "gamepad", "gripper": {"use_gripper": False}},
    },
    "policy": {
        "type": "gaussian_actor", "device": "cpu", "storage_device": "cpu", "push_to_hub": False,
        "online_steps": 10**9, "online_buffer_capacity": 200_000,
        "online_step_before_learning": 100,
        "input_features": {"observation.state": STATE}, "output_features": {"action": ACTION},
        "dataset_stats": {
            "observation.state": {"min": [-1, -1, -8], "max": [1, 1, 8]},
            "action": {"min": [-1], "max": [1]},
        },
        "actor_learner_config": {"learner_port": 50451},
        "concurrency": {"actor": "threads", "learner": "threads"},
    },
    "algorithm": {"type": "sac"},
}  # fmt: skip
OURS = (
    "gymnasium", "env:=peer_environment:PeerPendulum-v0", "algorithm:=sac", "random_steps:=100",
    "evaluate_every:=0", "policy_endpoint:=tcp/127.0.0.1:7661", "actor.loop.max_backlog_steps:=0",
    "learner.training.utd.target:=null", "learner.training.utd.learning_starts:=100",
    "learner.training.publish_period_s:=4.0",  # as often as LeRobot pushes its policy
)  # fmt: skip


@dataclass(frozen=True)
class Turn:
    """What one system did in one turn: rates over its last part, and time between steps."""

    steps_per_s: float
    updates_per_s: float
    between_p50_ms: float
    between_p99_ms: float
    first_step_s: float


@contextlib.contextmanager
def process(words: list[str], folder: Path, name: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process in a group of its own, with a log, ended with the block."""
    environment = {
        **os.environ, "PEER_LOG": str(folder), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]),
    }  # fmt: skip
    if name != "ours":  # LeRobot's Python is another one
        environment["PYTHONPATH"] = str(folder)
        for variable in ("LD_LIBRARY_PATH", "MUJOCO_GL"):  # ours; nothing is drawn there
            environment.pop(variable, None)
    with (folder / f"{name}.log").open("wb") as log:
        child = systems.start(
            words, cwd=folder, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        try:
            yield child
        finally:
            with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
                os.killpg(child.pid, signal.SIGINT)
                child.wait(30)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()


def times(file: Path) -> np.ndarray:
    """The times that ``peer_environment.Times`` wrote."""
    if not file.exists() or not file.stat().st_size:  # it is made, and then gets its size
        return np.empty(0)
    rows = np.memmap(file, np.float64, "r")
    return np.array(rows[1 : int(rows[0]) + 1])


def wait_for_steps(folder: Path, child: subprocess.Popen[bytes], name: str) -> None:
    """Until the first steps were made; raises RuntimeError with the end of the log."""
    deadline_s = time.monotonic() + 180
    while len(times(folder / "steps")) < 200:
        if child.poll() is not None or time.monotonic() > deadline_s:
            text = (folder / f"{name}.log").read_text(errors="replace")
            raise RuntimeError(f"{name} made no steps; the end of its log:\n{text[-3000:]}")
        time.sleep(0.5)


def steps_of(folder: Path, begin_s: float, seconds: float, updates_per_s: float) -> Turn:
    """The figures of a turn, over its last two thirds."""
    stamps = times(folder / "steps")
    last = stamps[stamps > stamps[-1] - seconds * 2 / 3]
    between = np.diff(last) * 1e3
    return Turn(
        (len(last) - 1) / (last[-1] - last[0]), updates_per_s,
        float(np.median(between)), float(np.quantile(between, 0.99)), stamps[0] - begin_s,
    )  # fmt: skip


def lerobot(python: str, folder: Path, seconds: float) -> Turn:
    """One turn of LeRobot: its learner, then its actor."""
    for role in ("learner", "actor"):
        config = {**LEROBOT, "output_dir": str(folder / f"out_{role}")}
        (folder / f"{role}.json").write_text(json.dumps(config))
    begin_s = time.monotonic()
    words = [python, "launch_lerobot.py"]
    with process([*words, "learner", "--config_path", "learner.json"], folder, "learner"):
        time.sleep(25)  # its actor gives up when it comes too early
        with process([*words, "actor", "--config_path", "actor.json"], folder, "actor") as actor:
            wait_for_steps(folder, actor, "actor")
            time.sleep(seconds)
        stamps = times(folder / "updates")
        last = stamps[stamps > stamps[-1] - seconds * 2 / 3] if len(stamps) else stamps
        rate = (len(last) - 1) / (last[-1] - last[0]) if len(last) > 1 else 0.0
    return steps_of(folder, begin_s, seconds, rate)


def ours(checkout: Path, folder: Path, seconds: float) -> Turn:
    """One turn of USER, all its processes."""
    begin_s = time.monotonic()
    words = [str(checkout / "tools" / "run"), "bash", "-c"]
    command = " ".join(["user", "up", *OURS, "--runs", "runs", "--run", "peer", "--no-table"])
    words.append(f"export PYTHONPATH={folder}:$PYTHONPATH; exec {command}")
    with process(words, folder, "ours") as child:
        wait_for_steps(folder, child, "ours")
        time.sleep(seconds)
    lines = (folder / "runs/peer/history.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines if '"state"' in line]
    points = [(row["t"], row["update"]) for row in rows if row.get("update")]
    points = [point for point in points if point[0] > points[-1][0] - seconds * 2 / 3]
    (t0, n0), (t1, n1) = points[0], points[-1]
    return steps_of(folder, begin_s, seconds, (n1 - n0) / max(t1 - t0, 1e-9))


def main() -> None:
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--lerobot", required=True, help="Python of an environment with LeRobot")
    parser.add_argument("--seconds", type=float, default=45.0, help="length of a turn")
    parser.add_argument("--turns", type=int, default=4, help="turns of each")
    arguments = parser.parse_args()
    checkout = Path(__file__).resolve().parents[2]
    systems = {
        "USER": lambda folder: ours(checkout, folder, arguments.seconds),
        "LeRobot": lambda folder: lerobot(arguments.lerobot, folder, arguments.seconds),
    }
    turns: dict[str, list[Turn]] = {name: [] for name in systems}
    console = Console()
    for number in range(arguments.turns):
        order = list(systems) if number % 2 == 0 else list(systems)[::-1]
        for name in order:
            with tempfile.TemporaryDirectory(prefix="peer_") as path:
                folder = Path(path)
                (folder / "peer_environment.py").write_text(ENVIRONMENT)
                (folder / "launch_lerobot.py").write_text(LAUNCHER)
                turn = systems[name](folder)
            turns[name].append(turn)
            console.print(
                f"turn {number + 1}, {name}: {turn.steps_per_s:.0f} steps/s, "
                f"{turn.updates_per_s:.1f} updates/s, load {os.getloadavg()[0]:.1f}"
            )
    table = Table("median of the turns", *systems, "USER / LeRobot")
    for field in Turn.__dataclass_fields__:
        mine, theirs = (np.median([getattr(t, field) for t in turns[name]]) for name in systems)
        table.add_row(field, f"{mine:.2f}", f"{theirs:.2f}", f"{mine / theirs:.2f}")
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
