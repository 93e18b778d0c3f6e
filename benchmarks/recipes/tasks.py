"""What all recipes share: simulated tasks, policies, cloning, evaluations; processes and lines of a table."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from user_actor.loop import ActorLoopConfig, EpisodeLoop
from user_actor.loop.ports import MemorySink
from user_core import plugins
from user_core.config import from_mapping
from user_core.interfaces import Policy
from user_core.specs import RobotSpec
from user_core.types import Batch, EpisodeSource, Outcome, Step
from user_hal.local import LocalHal
from user_hal.robots.gripper_choices import RobotWithGripperChoices
from user_learner.algorithms.common.batches import Minibatcher
from user_testing import systems
from user_testing.experiments import EVALUATION_SEED, Ring, demonstrate

Job = dict[str, Any]

#: What the task's own arrays say more directly.
IGNORED = {
    "peg_insertion": ["joint_position", "joint_velocity", "tcp_pose", "goal_position"],
    "pick_place": ["joint_position", "joint_velocity", "goal_position"],
}
POLICIES: dict[str, Job] = {
    "action_chunks": {"hidden": [256, 256, 256], "normalization": "data"},
    "flow": {"hidden": [256, 256, 256]},
    "diffusion": {"hidden": [256, 256, 256], "steps": 10},
    "act": {"embedding": 64, "layers": 2},
}


class Windows:
    """Windows of T steps of whole episodes, those that an end cuts short too."""

    def __init__(self, ring: Ring, rows: int, seed: int) -> None:
        self._ring, self._rows = ring, rows
        self._rng = np.random.default_rng(seed)

    def sample(self, size: int) -> Batch:
        """A batch as a sampler with pad_windows gives it."""
        return Batch(*self._ring.windows(self._rng, size, self._rows, 0.97))


def policy_of(job: Job, spec: RobotSpec, plugin: str = "") -> Policy:
    """The policy of a job, or another that takes the same parameters."""
    params = POLICIES[job["policy"]] | {
        "rows": job.get("rows", 8), "seed": job["seed"],
        "ignored_observations": IGNORED.get(job.get("task", ""), []), **job.get("params", {}),
    }  # fmt: skip
    made: Policy = plugins.build("policies", plugin or job["policy"], params, spec)
    return made


def trainer(job: Job, spec: RobotSpec, policy: Policy, **settings: Any) -> Any:
    """The algorithm ``bc`` of a job."""
    rate = {"act": 1e-4}.get(job["policy"], 1e-3)
    params = {"learning_rate": rate, **settings}
    return plugins.build("algorithms", "bc", params, spec, policy)


def lost(algorithm: Any, spec: RobotSpec, windows: Windows) -> float:
    """The loss of a policy's network about windows of 8 batches, without learning from them."""
    import torch

    generator, found = torch.Generator().manual_seed(0), []
    with torch.no_grad():
        for _ in range(8):
            (some,) = Minibatcher(
                algorithm.network, spec, algorithm.device, next_observations=False
            ).cut(windows.sample(256), 1)
            found.append(algorithm.network.loss(some.inputs, some.action, some.weight, generator))
    return round(float(torch.stack(found).mean()), 4)


def cloned(job: Job, spec: RobotSpec, ring: Ring, updates: int, policy: Policy) -> Any:
    """A policy that was cloned from a ring, and its algorithm."""
    algorithm = trainer(job, spec, policy, **job.get("cloning", {}))
    windows = Windows(ring, job.get("rows", 8), job["seed"])
    for _ in range(updates):
        algorithm.update(windows.sample(256))
    policy.load(algorithm.policy_arrays())
    return algorithm


def robot(job: Job) -> LocalHal:
    """The simulated task of a job."""
    made = plugins.build("robots", "mujoco", {"task": job["task"]})
    return LocalHal(RobotWithGripperChoices(made) if job.get("name") == "choices" else made)


def evaluated(hal: LocalHal, policy: Policy, episodes: int, each: bool = False, **loop: Any) -> Job:
    """Deterministic episodes from starts of their own: how many succeed, how long and how smooth they are.

    ``jerk`` is the mean size of second differences of the executed actions (of velocities that is), in half ranges.
    With ``each`` there is ``episodes``, for each start whether it succeeded and the :func:`jerks` of its parts.
    """
    sink = MemorySink("evaluation")
    reward = plugins.build("rewards", "task")
    runner = EpisodeLoop(hal, policy, reward, sink, from_mapping(ActorLoopConfig, loop))
    wins, lengths, parts = [], [], []
    for start in range(EVALUATION_SEED, EVALUATION_SEED + episodes):
        result = runner.run(EpisodeSource.EVALUATION, start)
        if result is None:
            raise RuntimeError(f"no episode: {runner.stats.reason}")
        wins.append(result.outcome is Outcome.SUCCESS)
        lengths.append(result.length)
        parts.append(
            jerks([row for row in sink.rows[result.key] if isinstance(row, Step)], hal.spec)
        )
    found = {
        "success": round(sum(wins) / episodes, 3), "length": round(float(np.mean(lengths)), 1),
        "jerk": round(float(np.mean([part["jerk"] for part in parts if part])), 4),
    }  # fmt: skip
    if each:
        found["episodes"] = [{"won": won, **part} for won, part in zip(wins, parts, strict=True)]
    return found


def jerks(steps: list[Step], spec: RobotSpec) -> Job:
    """Mean sizes of second differences of the actions of an episode, in half ranges; nothing of fewer than three steps.

    ``jerk`` is of all elements, ``arm`` of those that are no gripper's, and ``joins`` of these where one plan followed
    on another.
    """
    if len(steps) < 3:
        return {}
    half = (spec.action.high_array - spec.action.low_array) / 2
    size = np.abs(np.diff(np.stack([step.action for step in steps]) / half, 2, axis=0))
    arm = np.delete(size, list(spec.grippers), 1).mean(1)
    plans = np.array([step.plan for step in steps])
    joined = plans[2:] != plans[:-2]
    found = {"jerk": float(size.mean()), "arm": float(arm.mean())}
    if joined.any():
        found["joins"] = float(arm[joined].mean())
    return {name: round(value, 4) for name, value in found.items()}


# --------------------------------------------------------------------------------------------------
# Jobs: each gives what its line says besides the job itself
# --------------------------------------------------------------------------------------------------


def demonstrated(job: Job, hal: LocalHal) -> Ring:
    """The demonstrations of a job."""
    reward = plugins.build("rewards", "task")
    return demonstrate(hal, job["demonstrations"], 0.3, job["seed"], 60_000, reward)


def in_processes(run: Callable[[Any], None], work: list[Any], count: int) -> None:
    """Do all of it, each in a process of its own with one thread, this many at once."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with multiprocessing.get_context("spawn").Pool(
        count, systems.end_with_pool, maxtasksperchild=1
    ) as pool:
        for _ in pool.imap_unordered(run, work):
            pass


def read(out: Path) -> list[Job]:
    """Lines that are there, of jobs that did not fail."""
    if not out.exists():
        return []
    lines = [json.loads(line) for line in out.read_text().splitlines() if line.strip()]
    return [line for line in lines if "error" not in line["result"]]
