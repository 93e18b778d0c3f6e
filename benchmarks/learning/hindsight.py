"""Hindsight relabelling on goal environments: success over steps, with and without it.

Synchronous, in one process: an environment step, then as many updates as the algorithm file asks for,
with the store, the sampler and the algorithm of a running system. An episode comes to the store
when it is complete, as ``outbox.chunk_s`` would bring it. Success is that of the last step
of an evaluation episode (20 deterministic ones, starts of their own).

    python benchmarks/learning/hindsight.py --environment gymnasium_robotics:FetchReach-v4 --steps 20000
    python benchmarks/learning/hindsight.py --environment gymnasium_robotics:FetchPush-v4 --steps 100000 \\
        --seeds 0 1 2 --without --out push.jsonl
    python benchmarks/learning/hindsight.py --sampling
    python benchmarks/learning/hindsight.py --plot push.jsonl --png docs/pictures/hindsight.png

The environments are those of ``pip install gymnasium-robotics`` (it needs mujoco < 3.9).
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import multiprocessing
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from user_actor.loop import ActorLoopConfig, EpisodeLoop, FixedPolicy
from user_actor.loop.config import ExplorationConfig
from user_actor.loop.ports import MemorySink
from user_core import plugins
from user_core.command_line import Parser
from user_core.config import from_mapping, load_yaml
from user_core.specs import ArraySpec, RobotSpec
from user_core.types import (
    ChunkId,
    EpisodeKey,
    EpisodeResult,
    EpisodeSource,
    FinalObservation,
    Observation,
    Step,
    TrajectoryChunk,
    TrajectorySchema,
)
from user_hal.local import LocalHal
from user_learner.replay import StoreConfig, StoreWriter
from user_learner.sampling import HindsightConfig, ReplaySource, SamplerConfig
from user_learner.training.loop import configure_torch
from user_testing import systems
from user_testing.experiments import CONFIGS, AlgorithmFile

_EVALUATION_SEED = 1_000_000


class StoreSink:
    """Puts whole episodes into a replay store."""

    def __init__(self, writer: StoreWriter, schema: TrajectorySchema) -> None:
        self._writer, self._schema, self._count = writer, schema, 0
        self._rows: list[Step | FinalObservation] = []

    def append(self, step: Step | FinalObservation) -> None:
        """Take one row."""
        self._rows.append(step)

    def end_episode(self, result: EpisodeResult) -> None:
        """Commit the episode."""
        self._count += 1
        identity = ChunkId(result.key.producer, 1, self._count)
        rows, self._rows = self._schema.rows(self._rows), []
        chunk = TrajectoryChunk(
            identity, result.key, result.source, 0, rows, self._schema.hash, result, "robot", "task"
        )
        self._writer.append(chunk)
        self._writer.commit()


def config_of(arguments: argparse.Namespace, seed: int, hindsight: bool) -> AlgorithmFile:
    """The algorithm file, with its seed, and hindsight or none."""
    path = Path(arguments.algorithm)
    data = load_yaml(path if path.exists() else CONFIGS / path)
    for section in ("algorithm", "policy"):
        data[section].setdefault("params", {})["seed"] = seed
    sampler = data.setdefault("sampler", {})
    sampler |= {"seed": seed, "refresh_period_s": 0, "prefetch": 0}
    if not hindsight:
        sampler["hindsight"] = {"strategy": "none"}
    elif arguments.environment_reward:
        params = {"env_id": arguments.environment}
        sampler["hindsight"]["goal_reward"] = {"plugin": "gymnasium", "params": params}
    config: AlgorithmFile = from_mapping(AlgorithmFile, data)
    return config


def one_run(arguments: argparse.Namespace, seed: int, hindsight: bool) -> list[dict[str, Any]]:
    """Learn once; the lines of all evaluations."""
    configure_torch(1)
    config = config_of(arguments, seed, hindsight)

    robot_of, judge_of = (
        plugins.build("robots", "gymnasium", {"env_id": arguments.environment}) for _ in range(2)
    )
    lines: list[dict[str, Any]] = []
    begin_s = time.monotonic()
    with (
        tempfile.TemporaryDirectory() as folder,
        LocalHal(robot_of) as robot,
        LocalHal(judge_of) as judge,
    ):
        spec = robot.spec
        make_policy = lambda: config.policy.build("policies", spec)  # noqa: E731
        actor, judged, learned = make_policy(), make_policy(), make_policy()
        algorithm = config.algorithm.build("algorithms", spec, learned)
        reward, schema = plugins.build("rewards", "task"), TrajectorySchema.of(spec)
        per_call, training = algorithm.updates_per_call, config.training
        starts = training.utd.learning_starts
        store = Path(folder) / "store"
        with (
            StoreWriter(
                store, schema, StoreConfig(durability="kernel", min_free_bytes=0)
            ) as writer,
            ReplaySource(store, config.sampler) as source,
        ):
            seen, updates = 0, 0

            def evaluate() -> None:
                judged.load(algorithm.policy_arrays())
                successes, returns = [], []
                loop = EpisodeLoop(
                    judge,
                    FixedPolicy(judged),
                    reward,
                    MemorySink("evaluation"),
                )
                for start in range(_EVALUATION_SEED, _EVALUATION_SEED + arguments.episodes):
                    result = loop.run(EpisodeSource.EVALUATION, start)
                    successes.append(bool(judge_of.read().task.success))
                    returns.append(result.episode_return)
                line = {
                    "environment": arguments.environment, "hindsight": hindsight, "seed": seed,
                    "steps": seen, "updates": updates, "success": float(np.mean(successes)),
                    "return": round(float(np.mean(returns)), 2),
                    "wall_s": round(time.monotonic() - begin_s, 1),
                }  # fmt: skip
                lines.append(line)
                print(json.dumps(line), flush=True)
                if arguments.out:
                    with arguments.out.open("a") as file:
                        file.write(json.dumps(line) + "\n")

            def on_step(observation: Observation) -> None:
                nonlocal seen, updates
                seen += 1
                late = time.monotonic() - begin_s > arguments.seconds
                if seen > starts and len(source):
                    due = training.utd.target * (seen - starts)
                    while updates + per_call <= due:
                        algorithm.update(source.sample(training.batch_size * per_call))
                        updates += per_call
                    actor.load(algorithm.policy_arrays())
                if seen % arguments.every == 0 or late:
                    evaluate()
                if seen >= arguments.steps or late:
                    loop.stop()

            loop = EpisodeLoop(
                robot, FixedPolicy(actor), reward, MemorySink("actor", to=StoreSink(writer, schema)),
                ActorLoopConfig(
                    exploration=ExplorationConfig(
                        random_steps=starts, before_first_version="initial", seed=seed
                    )
                ),
                on_step=on_step,
            )  # fmt: skip
            start = 100_000_000 * (seed + 1)
            while seen < arguments.steps and time.monotonic() - begin_s <= arguments.seconds:
                start += 1
                loop.run(seed=start)
                source.refresh()
            for reason in source.reasons():
                print(f"# {reason.code}: {reason}", flush=True)
    return lines


def sampling(batch_size: int = 256, rows: int = 20_000, episode: int = 50) -> None:
    """What hindsight costs per batch: processor time with and without it, in turns."""
    names = {"observation": 25, "achieved_goal": 3, "desired_goal": 3}
    spec = RobotSpec(
        "bench", {name: ArraySpec((size,)) for name, size in names.items()}, ArraySpec((4,))
    )
    schema, rng = TrajectorySchema.of(spec), np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        with StoreWriter(
            folder, schema, StoreConfig(durability="kernel", min_free_bytes=0)
        ) as writer:
            for number in range(rows // episode):
                columns = {
                    name: np.zeros((episode + 1, *column.shape), column.dtype)
                    for name, column in schema.columns.items()
                }
                for name in names:
                    array = columns[f"observation.{name}"]
                    array[:] = rng.standard_normal(array.shape)
                columns["final"][-1] = columns["truncated"][-2] = True
                key = EpisodeKey("bench", 1, number)
                chunk = TrajectoryChunk(
                    ChunkId("bench", 1, number + 1),
                    key,
                    EpisodeSource.ONLINE,
                    0,
                    columns,
                    schema.hash,
                )
                writer.append(chunk)
        plain = SamplerConfig(prefetch=0, refresh_period_s=0)
        hindsight = plain.replace(hindsight=HindsightConfig(strategy="future"))
        times: dict[bool, list[float]] = {True: [], False: []}
        with ReplaySource(folder, plain) as without, ReplaySource(folder, hindsight) as with_it:
            for _ in range(200):
                for which, source in ((False, without), (True, with_it)):
                    begin_s = time.process_time()
                    for _ in range(10):
                        source.sample(batch_size)
                    times[which].append((time.process_time() - begin_s) / 10)
    medians = {which: 1e3 * float(np.median(values)) for which, values in times.items()}
    print(
        f"a batch of {batch_size}: {medians[False]:.3f} ms without, {medians[True]:.3f} ms with hindsight, "
        f"{medians[True] / medians[False]:.2f} times"
    )


def plot(file: Path, png: Path) -> None:
    """Success over steps: mean over seeds, and each seed."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    lines = [json.loads(text) for text in file.read_text().splitlines()]
    environments = sorted({line["environment"] for line in lines})
    figure, axes = pyplot.subplots(
        1, len(environments), figsize=(4.2 * len(environments), 3), squeeze=False
    )
    for axis, environment in zip(axes[0], environments, strict=True):
        for hindsight, colour in ((True, "C0"), (False, "C3")):
            by_step, by_seed = defaultdict(list), defaultdict(list)
            for line in lines:
                if line["environment"] == environment and line["hindsight"] is hindsight:
                    by_step[line["steps"]].append(line["success"])
                    by_seed[line["seed"]].append((line["steps"], line["success"]))
            for points in by_seed.values():
                axis.plot(*zip(*points, strict=True), color=colour, alpha=0.3, linewidth=0.8)
            most = max(map(len, by_step.values()), default=0)
            steps = [step for step, values in sorted(by_step.items()) if len(values) == most]
            if steps:
                label = "hindsight" if hindsight else "without"
                axis.plot(steps, [np.mean(by_step[s]) for s in steps], color=colour, label=label)
        axis.set(title=environment.rpartition(":")[2], xlabel="steps", ylim=(-0.03, 1.03))
        axis.set_ylabel("success of 20")
        axis.legend()
    figure.tight_layout()
    figure.savefig(png, dpi=80)


def main() -> None:
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--environment", default="gymnasium_robotics:FetchReach-v4")
    parser.add_argument("--algorithm", default="sac_goals.yaml", help="file of config/algorithms")
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="at most so long a run")
    parser.add_argument("--every", type=int, default=1000, help="steps between two evaluations")
    parser.add_argument("--episodes", type=int, default=20, help="of one evaluation")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--without", action="store_true", help="also without hindsight")
    parser.add_argument("--only-without", action="store_true", help="without hindsight alone")
    parser.add_argument(
        "--environment-reward", action="store_true", help="compute_reward instead of a distance"
    )
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--out", type=Path, help="file to append the lines to")
    parser.add_argument(
        "--sampling", action="store_true", help="show what a batch costs, nothing else"
    )
    parser.add_argument("--plot", type=Path, help="draw such a file, and do nothing else")
    parser.add_argument("--png", type=Path, default=Path("hindsight.png"))
    arguments = parser.parse_args()
    if arguments.sampling:
        sampling()
        return
    if arguments.plot:
        plot(arguments.plot, arguments.png)
        return
    ways = [False] if arguments.only_without else [True, False] if arguments.without else [True]
    jobs = [(seed, hindsight) for hindsight in ways for seed in arguments.seeds]
    if arguments.processes == 1:
        for seed, hindsight in jobs:
            one_run(arguments, seed, hindsight)
        return
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(
        arguments.processes, context, systems.end_with_pool
    ) as pool:
        for job in [pool.submit(one_run, arguments, *job) for job in jobs]:
            job.result()


if __name__ == "__main__":
    main()
