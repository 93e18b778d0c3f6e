"""One policy from several robots: how much sooner it is learned, and what different arms have of each other.

``fleet``: N simulated arms in real time, each a process with driver, safety gate, lease and the actor's loop; a learner
in another process, with replay store, sampler and training loop. They are those of a running system; between the
processes are pipes instead of DDS, outbox and Zenoh. Learning ends once 18 of the last 20 training evaluations of all
robots succeed, as in ``user demo``; then 20 other episodes are evaluated in lockstep.

``arms``: a Panda-like and a UR5e-like arm, together and each alone, in lockstep in one process: an episode of one, an
episode of the other, and as many updates as the algorithm file asks for. Counts the steps until 18 of 20
evaluation episodes succeed on each arm, and stay there at the next evaluation.

    python benchmarks/learning/robots.py fleet --robots 1 2 4 8 --seeds 0 1 2 --at-once 12 --out fleet.jsonl
    python benchmarks/learning/robots.py arms --seeds 0 1 2 --at-once 3 --out arms.jsonl
    python benchmarks/learning/robots.py plot --out fleet.jsonl arms.jsonl --png docs/pictures/robots.png
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import queue
import signal
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from user_actor.loop import ActorLoop, ActorLoopConfig, EpisodeLoop, FixedPolicy, PolicyHolder
from user_actor.loop.config import EvaluationConfig, ExplorationConfig
from user_actor.loop.ports import LocalTeleop, MemorySink
from user_core import plugins
from user_core.codecs.weights import encode_version, read_version
from user_core.command_line import Parser
from user_core.config import from_mapping, load_yaml
from user_core.interfaces import Policy
from user_core.runtime.files import write_atomically
from user_core.specs import RobotSpec
from user_core.types import (
    ChunkId,
    EpisodeKey,
    EpisodeResult,
    EpisodeSource,
    FinalObservation,
    Outcome,
    PolicyVersion,
    Step,
    TrajectoryChunk,
    TrajectorySchema,
)
from user_hal.local import LocalHal
from user_hal.robot_file import RobotFile
from user_learner.replay import ChunkStatus, StoreConfig, StoreWriter
from user_learner.sampling import History, ReplaySource
from user_learner.training import TrainingLoop
from user_learner.training.loop import configure_torch
from user_testing import systems
from user_testing.experiments import CONFIGS, AlgorithmFile, evaluate

_CHUNK_ROWS = 5
_DEMONSTRATIONS, _NOISE = 20, 0.3  # as `user demo` records them
_EVALUATE_EVERY, _JUDGED, _SUCCESSES = 3, 20, 18  # as `user demo` runs
_QUICK = StoreConfig(durability="kernel", min_free_bytes=0)
_ARMS = ("panda", "ur5e")


@dataclass(frozen=True)
class Arm:
    """One simulated arm.

    Attributes:
        name: Of the robot.
        kind: ``panda`` or ``ur5e``.
        common: Whether it is shown and driven in the space that both kinds share.
    """

    name: str
    kind: str = "panda"
    common: bool = False

    def file(self, task: str, seed: int, speed: float = 0.0) -> RobotFile:
        """Its robot file; ``speed`` 0: in lockstep."""
        params: dict[str, Any] = {"robot": self.kind, "task": task, "seed": seed}
        if speed:
            params |= {"real_time": True, "speed": speed}
        space = {"space": "tool_delta", "id": _ARMS.index(self.kind)} if self.common else {}
        data = {"robot": {"plugin": "mujoco", "params": params}, "embodiment": space}
        file: RobotFile = from_mapping(RobotFile, data)
        return file


class ChunkSink:
    """Cuts episodes into chunks, as an outbox does, and hands them on."""

    def __init__(
        self, schema: TrajectorySchema, robot: str, send: Callable[[TrajectoryChunk], None]
    ) -> None:
        self._schema, self._robot, self._send = schema, robot, send
        self._rows: list[Step | FinalObservation] = []
        self._sequence = self._first = self._episode = 0
        self._source = EpisodeSource.ONLINE

    def begin(self, source: EpisodeSource) -> None:
        """Of which source the rows are that come now."""
        self._source = source

    def append(self, step: Step | FinalObservation) -> None:
        """Take one row."""
        self._rows.append(step)
        if len(self._rows) == _CHUNK_ROWS:
            self._cut(None)

    def end_episode(self, result: EpisodeResult) -> None:
        """Hand on the last chunk."""
        self._cut(result)
        self._episode, self._first = self._episode + 1, 0

    def _cut(self, result: EpisodeResult | None) -> None:
        self._sequence += 1
        key = EpisodeKey(self._robot, 1, self._episode)
        rows, self._rows = self._schema.rows(self._rows), []
        count = len(rows["reward"])
        if result is not None:
            result = replace(result, key=key)
        self._send(
            TrajectoryChunk(
                ChunkId(self._robot, 1, self._sequence), key, self._source, self._first, rows,
                self._schema.hash, result, self._robot, "task",
            )
        )  # fmt: skip
        self._first += count


def keep(writer: StoreWriter, chunk: TrajectoryChunk) -> None:
    """Put a chunk into a store, which must take it."""
    if (answer := writer.append(chunk)).status is not ChunkStatus.STAGED:
        raise SystemExit(f"chunk {chunk.id}: {answer.status}, {answer.ack.error}")


class SourceSink(MemorySink):
    """Tells a chunk sink of which source an episode is."""

    def __init__(self, name: str, chunks: ChunkSink) -> None:
        super().__init__(name, to=chunks)
        self._chunks = chunks

    def begin_episode(self, source: EpisodeSource) -> EpisodeKey:
        """An episode begins."""
        self._chunks.begin(source)
        return super().begin_episode(source)


class PolicyFolder:
    """Policy versions as a file: written by a learner, read by robots in other processes."""

    def __init__(self, path: Path) -> None:
        self.path, self._stamp = path, 0

    def publish(self, version: PolicyVersion) -> None:
        """Put a version there."""
        write_atomically(self.path, encode_version(version))

    def newest(self, after: int) -> PolicyVersion | None:
        """The version that is there, if its number is above ``after``."""
        try:
            stamp = self.path.stat().st_mtime_ns
        except FileNotFoundError:
            return None
        if stamp == self._stamp:
            return None
        version = read_version(self.path)
        self._stamp = stamp
        return version if version.number > after else None


def config_of(name: str, seed: int) -> AlgorithmFile:
    """The algorithm file, with its seed."""
    path = Path(name)
    data = load_yaml(path if path.exists() else CONFIGS / path)
    for section in ("algorithm", "policy"):
        data[section].setdefault("params", {})["seed"] = seed
    data.setdefault("sampler", {}).update(seed=seed, refresh_period_s=0.2, prefetch=0)
    config: AlgorithmFile = from_mapping(AlgorithmFile, data)
    return config


def demonstrate(arms: Sequence[Arm], task: str, seed: int, store: Path, count: int) -> RobotSpec:
    """Successes of the scripted expert, of each kind of arm, into a store; returns the spec."""
    for number, arm in enumerate(arms):
        with LocalHal.of(arm.file(task, seed)) as hal:
            spec = hal.spec
            schema = TrajectorySchema.of(spec)
            teleop = plugins.build("teleops", "expert", {"noise": _NOISE, "seed": seed})
            teleop.connect(spec)
            trials, start = MemorySink(arm.name), 10_000 * (seed + 1) + 1000 * number
            loop = EpisodeLoop(
                hal, None, plugins.build("rewards", "task"), trials,
                ActorLoopConfig(mode="demonstration"), teleop=LocalTeleop(teleop),
            )  # fmt: skip
            with StoreWriter(store, schema, _QUICK) as writer:
                sink = ChunkSink(schema, arm.name, partial(keep, writer))
                left = count
                while left:
                    result = loop.run(seed=start)
                    start += 1
                    if result is not None and result.outcome is Outcome.SUCCESS:
                        left -= 1
                        sink.begin(EpisodeSource.DEMONSTRATION)
                        for row in trials.rows[result.key]:
                            sink.append(row)
                        sink.end_episode(result)
                writer.commit()
    return spec


# --- a fleet in real time -----------------------------------------------------------------------


def drive(
    arm: Arm,
    number: int,
    arguments: argparse.Namespace,
    seed: int,
    folder: Path,
    out: Any,
    ready: Any,
    stop: Any,
) -> None:
    """One robot and its actor, in a process of its own."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    config = config_of(arguments.algorithm, seed)
    with LocalHal.of(arm.file(arguments.task, seed * 100 + number, arguments.speed)) as hal:
        chunks = ChunkSink(TrajectorySchema.of(hal.spec), arm.name, out.put)
        parameters = {**config.policy.params, "seed": seed * 100 + number}
        choice = config.policy.replace(params=parameters)
        holder = PolicyHolder(
            lambda: choice.build("policies", hal.spec), hal.spec, PolicyFolder(folder / "policy")
        )
        loop = ActorLoop(
            EpisodeLoop(
                hal, holder, plugins.build("rewards", "task"), SourceSink(arm.name, chunks),
                ActorLoopConfig(
                    evaluation=EvaluationConfig(every=_EVALUATE_EVERY),
                    exploration=ExplorationConfig(seed=seed * 100 + number),
                    retry_s=0.1,
                ),
            )
        )  # fmt: skip

        def follow() -> None:
            while not stop.wait(0.05):
                holder.load_newest()
            loop.stop()

        threading.Thread(target=follow, daemon=True).start()
        ready.wait()
        loop.run()
        status = loop.status()
        out.put({"robot": arm.name, "late_p99_ms": status.lateness_p99_ms, "skipped": status.skipped,
                 "cpu_s": time.process_time()})  # fmt: skip


@dataclass
class Tally:
    """What came of the episodes of all robots."""

    steps: dict[str, int] = field(default_factory=dict)
    judged: deque[bool] = field(default_factory=lambda: deque(maxlen=_JUDGED))
    evaluations: int = 0

    def add(self, chunk: TrajectoryChunk) -> None:
        """One more chunk."""
        if (result := chunk.result) is None:
            return
        if chunk.source is EpisodeSource.EVALUATION and result.outcome is not Outcome.ABORTED:
            self.judged.append(result.outcome is Outcome.SUCCESS)
            self.evaluations += 1
        self.steps[chunk.robot] = self.steps.get(chunk.robot, 0) + result.length

    @property
    def reached(self) -> bool:
        """Whether it is as good as the demo's."""
        return len(self.judged) == _JUDGED and sum(self.judged) >= _SUCCESSES


def fleet(arguments: argparse.Namespace, count: int, seed: int) -> dict[str, Any]:
    """This many equal arms learn together; the line that says how long it took."""
    configure_torch(1)
    arms = [Arm(f"robot{i}") for i in range(count)]
    context = multiprocessing.get_context("spawn")
    out, ready, stop = context.Queue(), context.Barrier(count + 1), context.Event()
    line: dict[str, Any] = {"what": "fleet", "robots": count, "seed": seed, "reached": False}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        spec = demonstrate(
            [Arm("demos")], arguments.task, seed, folder / "demos", arguments.demonstrations
        )
        config = config_of(arguments.algorithm, seed)
        algorithm = config.algorithm.build(
            "algorithms", spec, config.policy.build("policies", spec)
        )
        processes = [
            context.Process(
                target=systems.call_until_parent_ends,
                daemon=True,
                args=(drive, arm, i, arguments, seed, folder, out, ready, stop),
            )
            for i, arm in enumerate(arms)
        ]
        for process in processes:
            process.start()
        history = [History(path=str(folder / "demos"), source=EpisodeSource.DEMONSTRATION)]
        schema = TrajectorySchema.of(spec)
        tally, robots = Tally(), list[dict[str, Any]]()
        with (
            StoreWriter(folder / "store", schema, _QUICK) as writer,
            ReplaySource(folder / "store", config.sampler, history) as source,
        ):
            loop = TrainingLoop(
                config.training, algorithm, source, PolicyFolder(folder / "policy"),
                environment_steps=lambda: source.collected(EpisodeSource.ONLINE),
                directory=folder / "learner", identity={},
            )  # fmt: skip
            training = threading.Thread(target=loop.run)
            training.start()
            ready.wait(120)
            begin_s = time.monotonic()
            due_s, passed_s, next_s = begin_s, 0.0, arguments.every
            while not tally.reached and passed_s < arguments.seconds:
                passed_s = time.monotonic() - begin_s
                try:
                    chunk = out.get(timeout=0.05)
                except queue.Empty:
                    chunk = None
                if isinstance(chunk, TrajectoryChunk):
                    keep(writer, chunk)
                    tally.add(chunk)
                if time.monotonic() > due_s:
                    writer.commit()
                    due_s = time.monotonic() + 0.2
                if passed_s > next_s or tally.reached:
                    next_s += arguments.every
                    curve = {
                        "what": "curve", "robots": count, "seed": seed, "s": round(passed_s, 1),
                        "share": round(float(np.mean(tally.judged)), 3) if tally.judged else None,
                        "judged": len(tally.judged), "steps": sum(tally.steps.values()),
                        "updates": loop.progress().update,
                    }  # fmt: skip
                    tell(arguments, curve)
            progress = loop.progress()
            line |= {
                "reached": tally.reached, "s": round(passed_s, 1), "updates": progress.update,
                "steps": sum(tally.steps.values()), "online": source.collected(EpisodeSource.ONLINE),
                "evaluations": tally.evaluations, "learner_cpu_s": round(time.process_time(), 1),
            }  # fmt: skip
            stop.set()
            loop.stop()
            training.join()
        end_s = time.monotonic() + 15
        while len(robots) < count and time.monotonic() < end_s:
            try:
                said = out.get(timeout=0.5)
            except queue.Empty:
                continue
            if isinstance(said, dict):
                robots.append(said)
        for process in processes:
            process.join(2)
            if process.is_alive():
                process.kill()
        if robots:
            line["late_p99_ms"] = round(max(r["late_p99_ms"] for r in robots), 1)
            line["skipped"] = sum(r["skipped"] for r in robots)
            line["robot_cpu_share"] = round(
                float(np.mean([r["cpu_s"] for r in robots])) / max(passed_s, 1), 3
            )
        judged = config.policy.build("policies", spec)
        judged.load(algorithm.policy_arrays())
        with LocalHal.of(arms[0].file(arguments.task, seed)) as judge:
            line |= evaluate(judge, judged, _JUDGED, plugins.build("rewards", "task"))
    tell(arguments, line)
    return line


# --- two kinds of arms, in lockstep ---------------------------------------------------------------


def arms_run(arguments: argparse.Namespace, kinds: tuple[str, ...], seed: int) -> dict[str, Any]:
    """One policy for these kinds of arms; the line that says how many steps it took."""
    configure_torch(1)
    together = len(kinds) > 1
    arms = [Arm(f"{kind}0", kind, together or arguments.common) for kind in kinds]
    config = config_of(arguments.arms_algorithm, seed)
    label = "together" if together else f"{kinds[0]} alone"
    line: dict[str, Any] = {"what": "arms", "which": label, "seed": seed, "reached": False}
    begin_s = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        spec = demonstrate(arms, arguments.task, seed, folder / "demos", arguments.demonstrations)
        schema = TrajectorySchema.of(spec)
        config = config.model_copy(update={"sampler": config.sampler.replace(refresh_period_s=0.0)})
        make: Callable[[], Policy] = lambda: config.policy.build("policies", spec)  # noqa: E731
        actor, judged = make(), make()
        algorithm = config.algorithm.build("algorithms", spec, make())
        history = [History(path=str(folder / "demos"), source=EpisodeSource.DEMONSTRATION)]
        reward, per_call = plugins.build("rewards", "task"), algorithm.updates_per_call
        training, starts = config.training, config.training.utd.learning_starts
        steps, updates, best_since = 0, 0, 0
        next_look = arguments.look
        with (
            StoreWriter(folder / "store", schema, _QUICK) as writer,
            ReplaySource(folder / "store", config.sampler, history) as source,
        ):

            def learn(_: Any) -> None:
                nonlocal steps, updates
                steps += 1
                due = training.utd.target * (steps - starts)
                while updates + per_call <= due and len(source):
                    algorithm.update(source.sample(training.batch_size * per_call))
                    updates += per_call
                if updates:
                    actor.load(algorithm.policy_arrays())

            hals = [LocalHal.of(arm.file(arguments.task, seed)) for arm in arms]
            judges = [LocalHal.of(arm.file(arguments.task, seed)) for arm in arms]
            for hal in (*hals, *judges):
                hal.open()
            loops = [
                EpisodeLoop(
                    hal, FixedPolicy(actor), reward,
                    SourceSink(arm.name, ChunkSink(schema, arm.name, partial(keep, writer))),
                    ActorLoopConfig(
                        exploration=ExplorationConfig(
                            random_steps=starts // len(arms), before_first_version="initial",
                            seed=seed * 100 + i,
                        )
                    ),
                    on_step=learn,
                )
                for i, (arm, hal) in enumerate(zip(arms, hals, strict=True))
            ]  # fmt: skip
            turn, start = 0, 100_000_000 * (seed + 1)
            while steps < arguments.steps * len(arms) and not line["reached"]:
                loops[turn % len(arms)].run(seed=start + turn)
                turn += 1
                writer.commit()
                source.refresh()
                if steps < next_look:
                    continue
                next_look = steps + arguments.look
                judged.load(algorithm.policy_arrays())
                results = [evaluate(judge, judged, _JUDGED, reward) for judge in judges]
                good = all(result["successes"] >= _SUCCESSES for result in results)
                if good and best_since:
                    line |= {"reached": True, "steps": best_since}
                best_since = (best_since or steps) if good else 0
                tell(arguments, {
                    "what": "arms curve", "which": label, "seed": seed, "steps": steps, "updates": updates,
                    **{kind: result["successes"] for kind, result in zip(kinds, results, strict=True)},
                })  # fmt: skip
                if time.monotonic() - begin_s > arguments.seconds:
                    break
            for hal in (*hals, *judges):
                hal.close()
        line.setdefault("steps", steps)
        line |= {"updates": updates, "wall_s": round(time.monotonic() - begin_s, 1)}
    tell(arguments, line)
    return line


# --- all of it --------------------------------------------------------------------------------------


def tell(arguments: argparse.Namespace, line: dict[str, Any]) -> None:
    """Print a line and append it to the file."""
    text = json.dumps(line)
    print(text, flush=True)
    if arguments.out:
        with open(arguments.out[0], "a", encoding="utf-8") as file:
            file.write(text + "\n")


def in_turn(jobs: list[tuple[Callable[..., Any], tuple[Any, ...]]], at_once: int) -> None:
    """Run jobs, each in a process of its own, this many at a time; as some end others begin."""
    context = multiprocessing.get_context("spawn")
    waiting, running = list(jobs), list[Any]()
    while waiting or running:
        while waiting and len(running) < at_once:
            function, values = waiting.pop(0)
            process = context.Process(
                target=systems.call_until_parent_ends, args=(function, *values)
            )
            process.start()
            running.append(process)
        running = [process for process in running if process.is_alive()]
        time.sleep(0.2)


def summary(files: Sequence[str]) -> None:
    """Medians, and their ratios to one robot's, and to the separate runs'."""
    lines = [json.loads(text) for file in files for text in Path(file).read_text().splitlines()]
    ends = [line for line in lines if line["what"] == "fleet"]
    one = None
    for count in sorted({line["robots"] for line in ends}):
        mine = sorted((e for e in ends if e["robots"] == count), key=lambda e: e["seed"])
        times = [e["s"] if e["reached"] else float("inf") for e in mine]
        median = float(np.median(times))
        one = median if count == 1 else one
        print(
            f"{count} robots: {times} s, median {median:.0f} s"
            + (f", {median / one:.2f} of one robot's" if one else "")
            + f"; steps {[e['steps'] for e in mine]}, updates {[e['updates'] for e in mine]}"
            + f"; then {[e['successes'] for e in mine]} of 20"
        )
    alone: dict[int, list[int]] = {}
    for line in lines:
        if line["what"] == "arms":
            print(f"seed {line['seed']}, {line['which']}: {line['steps']} steps, {line['reached']}")
            if line["which"] != "together":
                alone.setdefault(line["seed"], []).append(line["steps"])
    for line in lines:
        if line["what"] == "arms" and line["which"] == "together" and line["seed"] in alone:
            total = sum(alone[line["seed"]])
            print(
                f"seed {line['seed']}: {line['steps']} together, {total} apart, {line['steps'] / total:.2f}"
            )


def plot(files: Sequence[str], png: Path) -> None:
    """Success over time by the number of robots, and times."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    lines = [json.loads(text) for file in files for text in Path(file).read_text().splitlines()]
    curves = [x for x in lines if x["what"] == "curve" and x["share"] is not None]
    counts = sorted({x["robots"] for x in curves})
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.2))
    for colour, count in enumerate(counts):
        seeds = sorted({x["seed"] for x in curves if x["robots"] == count})
        for seed in seeds:
            mine = [x for x in curves if (x["robots"], x["seed"]) == (count, seed)]
            left.plot(
                [x["s"] for x in mine], [x["share"] * min(1, x["judged"] / _JUDGED) for x in mine],
                color=f"C{colour}", alpha=0.8, linewidth=1.2,
                label=f"{count} robot{'s' * (count > 1)}" if seed == seeds[0] else None,
            )  # fmt: skip
    left.axhline(_SUCCESSES / _JUDGED, color="grey", linewidth=0.8, linestyle=":")
    left.set(xlabel="seconds", ylabel="successes of the last 20 evaluations", ylim=(-0.02, 1.02))
    left.legend(loc="lower right")
    ends = [x for x in lines if x["what"] == "fleet" and x["reached"]]
    medians = [np.median([x["s"] for x in ends if x["robots"] == n]) for n in counts]
    for x in ends:
        right.plot(x["robots"], x["s"], "o", color="C7", markersize=4)
    right.plot(counts, medians, "-", color="C0", label="median")
    right.plot(counts, [medians[0] / n for n in counts], ":", color="grey", label="one robot's / N")
    right.set(
        xlabel="robots", ylabel="seconds to 18 of 20", xscale="log", yscale="log", xticks=counts
    )
    right.set_xticklabels([str(n) for n in counts])
    right.minorticks_off()
    ticks = [25, 50, 100, 200]
    right.set_yticks(ticks)
    right.set_yticklabels([str(t) for t in ticks])
    right.legend()
    for axis in (left, right):
        axis.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(png, dpi=90)


def main() -> None:
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["fleet", "arms", "both", "summary", "plot"])
    parser.add_argument("--robots", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--task", default="peg_insertion")
    parser.add_argument("--algorithm", default="rlpd_cpu.yaml", help="of fleet")
    parser.add_argument("--arms-algorithm", default="rlpd_arms.yaml", help="of arms")
    parser.add_argument("--common", action="store_true", help="arms alone in the common space, too")
    parser.add_argument(
        "--demonstrations", type=int, default=_DEMONSTRATIONS, help="of each kind of arm"
    )
    parser.add_argument(
        "--speed", type=float, default=1.0, help="simulated seconds in a second, in fleet"
    )
    parser.add_argument("--seconds", type=float, default=480, help="longest time to learn")
    parser.add_argument("--steps", type=int, default=4000, help="most steps of each arm, in arms")
    parser.add_argument(
        "--look", type=int, default=200, help="steps between two evaluations, in arms"
    )
    parser.add_argument(
        "--every", type=float, default=5.0, help="seconds between two points, in fleet"
    )
    parser.add_argument("--at-once", type=int, default=1, help="runs of fleet at a time")
    parser.add_argument("--arms-at-once", type=int, default=1, help="runs of arms at a time")
    parser.add_argument("--out", nargs="+", default=[], help="file to append lines to, or to read")
    parser.add_argument("--png", type=Path, default=Path("robots.png"))
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if arguments.what in ("summary", "plot"):
        summary(arguments.out)
        if arguments.what == "plot":
            plot(arguments.out, arguments.png)
        return
    fleets = [(fleet, (arguments, n, s)) for n in sorted(arguments.robots) for s in arguments.seeds]
    ways: list[tuple[str, ...]] = [_ARMS, *((kind,) for kind in _ARMS)]
    arms = [(arms_run, (arguments, kinds, s)) for s in arguments.seeds for kinds in ways]
    threads = []
    if arguments.what in ("fleet", "both"):
        threads.append(threading.Thread(target=in_turn, args=(fleets, arguments.at_once)))
    if arguments.what in ("arms", "both"):
        threads.append(threading.Thread(target=in_turn, args=(arms, arguments.arms_at_once)))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()
