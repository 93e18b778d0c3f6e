"""What actor and learner cost each other, beside the synchronous loop; all in one run.

A simulated arm in real time at 20 actions a second, every part a process as in production, the
learner without a limit on its ratio. In turns: robot, actor and store alone; the same with the
learner; the learner alone on the same store. Episodes have a fixed length, so that a better
policy does not change how often the robot is reset. Then the synchronous loop in one process:
the same robot and algorithm, which makes after every step as many updates as the asynchronous
system made per step.

    tools/run python benchmarks/learning/asynchrony.py
    tools/run python benchmarks/learning/asynchrony.py --deployment sim_images
"""

from __future__ import annotations

import argparse
import socket
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from user_actor.loop import ActorLoopConfig, EpisodeLoop
from user_actor.loop.ports import MemorySink
from user_bringup.nodes.monitor import Monitor
from user_bringup.running import find_deployment
from user_core import plugins
from user_core.command_line import Parser
from user_core.config import from_mapping, to_mapping
from user_core.types import EpisodeSource, Observation
from user_fleet.deployment import Deployment, load_deployment
from user_hal.local import LocalHal
from user_hal.robot_file import RobotFile
from user_learner.training.loop import configure_torch
from user_testing.experiments import AlgorithmFile, Mixture, Ring
from user_testing.systems import started, words_of_run

EPISODE_STEPS = 50
SPEED = 2.0  # the arms are commanded at 10 Hz of simulated time
WARM_UP_S = 4.0


class Bench:
    """One run folder, of which some processes are started at a time."""

    def __init__(self, arguments: argparse.Namespace, folder: Path) -> None:
        self.arguments, self.folder = arguments, folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            endpoint = f"tcp/127.0.0.1:{probe.getsockname()[1]}"
        overrides = {"speed": SPEED, "evaluate_every": 0, "policy_endpoint": endpoint}
        if arguments.deployment == "sim_single":
            overrides["task"] = "reach"
        overrides["algorithm"] = arguments.algorithm or (
            "rlpd_images" if arguments.deployment == "sim_images" else "rlpd_cpu"
        )
        run = folder / "r"
        deployment = load_deployment(
            find_deployment(arguments.deployment), overrides, {"run_dir": str(run)}
        )
        self.deployment = deployment.replace(
            processes=tuple(map(_for_the_bench, deployment.processes)), arguments={}
        )

    @contextmanager
    def running(self, *names: str) -> Iterator[Callable[[float], dict[str, float]]]:
        """Run some processes; gives a function that measures rates for this many seconds."""
        chosen = tuple(
            process.replace(depends_on=())
            for process in self.deployment.processes
            if process.name in (*names, "lifecycle_manager")
        )
        file = self.folder / "bench.yaml"
        data = to_mapping(self.deployment.replace(processes=chosen))
        file.write_text(yaml.safe_dump(data, sort_keys=False))
        command = words_of_run(file, runs=self.folder)
        with (self.folder / "output.log").open("ab") as log, Monitor() as monitor:
            with started(command, stdout=log, stderr=log):
                yield lambda seconds: _rates(monitor, names, seconds)


def _for_the_bench(process: Any) -> Any:
    parameters = dict(process.parameters)
    if process.name == "learner":
        training = dict(parameters["training"])
        training["utd"] = {"target": None, "learning_starts": 100}
        parameters["training"] = training
    if process.name == "actor":
        loop = dict(parameters["loop"])
        loop["exploration"] = {"before_first_version": "initial"}
        loop["max_episode_steps"] = EPISODE_STEPS
        goal = {"goal_observation": "goal_position", "terminates": False, "distance_weight": 1.0}
        parameters |= {"loop": loop, "reward": {"plugin": "pose_threshold", "params": goal}}
    return process.replace(parameters=parameters)


def _rates(monitor: Monitor, names: tuple[str, ...], seconds: float) -> dict[str, float]:
    """Steps and updates a second, from the counts and stamps of the status messages."""

    def counts() -> dict[str, tuple[float, int]]:
        found = {}
        with monitor.lock:
            for name, group, field in (
                ("actor", monitor.state.actors, "steps"),
                ("learner", monitor.state.learners, "update"),
            ):
                if name in names and group:
                    message = next(iter(group.values())).message
                    stamp = message.header.stamp
                    found[name] = (stamp.sec + stamp.nanosec * 1e-9, getattr(message, field))
        return found

    wanted = {"actor", "learner"} & set(names)
    first, deadline_s = counts(), time.monotonic() + 120
    moving: set[str] = set()
    while moving != wanted:
        if time.monotonic() > deadline_s:
            raise RuntimeError(f"only {moving or 'nothing'} of {wanted} got going")
        time.sleep(0.2)
        now = counts()
        moving |= {name for name in now if name in first and now[name][1] > first[name][1]}
        first = {**now, **{name: first[name] for name in first}}
    time.sleep(WARM_UP_S)
    begin = counts()
    time.sleep(seconds)
    end = counts()
    return {n: (end[n][1] - begin[n][1]) / (end[n][0] - begin[n][0]) for n in wanted}


def synchronous(
    deployment: Deployment, updates_per_step: float, seconds: float
) -> dict[str, float]:
    """Step, learn, step: the robot waits while it is learned, the learner while it moves."""
    hal = deployment.process("hal").parameters
    learner, actor = deployment.process("learner").parameters, deployment.process("actor")
    sections = ("algorithm", "policy", "sampler", "training")
    config = from_mapping(AlgorithmFile, {name: learner[name] for name in sections})
    robot = from_mapping(RobotFile, {"robot": hal["robot"], "safety": hal.get("safety", {})})
    choice = actor.parameters["reward"]
    reward = plugins.build("rewards", choice["plugin"], choice["params"])
    # the robot stands still while it is learned, and that is no fault
    patient = robot.replace(safety=robot.safety.replace(watchdog_s=60.0))
    with LocalHal.of(patient) as port:
        policy = config.policy.build("policies", port.spec, path="policy")
        learned = config.policy.build("policies", port.spec, path="policy")
        algorithm = config.algorithm.build("algorithms", port.spec, learned, path="algorithm")
        ring = Ring(port.spec, int(100 * seconds) + 10_000)
        source = Mixture({EpisodeSource.ONLINE: ring}, config.sampler)
        rows = config.training.batch_size * algorithm.updates_per_call
        calls = max(1, round(updates_per_step / algorithm.updates_per_call))
        configure_torch(config.training.threads)
        steps = updates = 0

        def learn(observation: Observation) -> None:
            nonlocal steps, updates
            steps += 1
            for _ in range(calls if ring.steps >= 100 else 0):
                algorithm.update(source.sample(rows))
                updates += algorithm.updates_per_call
            policy.load(algorithm.policy_arrays())
            loop.timing.pacer.start(loop.clock.monotonic_ns())  # a whole period follows

        limits = ActorLoopConfig(max_episode_steps=EPISODE_STEPS)
        sink = MemorySink("synchronous", to=ring)
        loop = EpisodeLoop(port, policy, reward, sink, limits, on_step=learn)
        while ring.steps < 100:
            loop.run()
        steps, updates, begin_s = 0, 0, time.monotonic()
        while time.monotonic() < begin_s + seconds:
            loop.run()
        elapsed_s = time.monotonic() - begin_s
    return {"actor": steps / elapsed_s, "learner": updates / elapsed_s}


def main() -> None:
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--deployment", default="sim_single", choices=["sim_single", "sim_images"],
        help="numbers, or images",
    )  # fmt: skip
    parser.add_argument("--algorithm", default="", help="a file of config/algorithms")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    alone, together, apart = [], [], []
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(arguments, Path(name))
        for round_ in range(arguments.rounds):
            robot = ("hal", "replay", "actor")
            with bench.running(*robot) as rates:
                alone.append(rates(arguments.seconds)["actor"])
            with bench.running(*robot, "learner") as rates:
                together.append(rates(arguments.seconds))
            with bench.running("learner") as rates:
                apart.append(rates(arguments.seconds)["learner"])
            print(
                f"round {round_ + 1}: actor {alone[-1]:.2f} steps/s alone, "
                f"{together[-1]['actor']:.2f} with the learner; learner {apart[-1]:.1f} updates/s "
                f"alone, {together[-1]['learner']:.1f} with the actor",
                flush=True,
            )
        acting = statistics.mean(line["actor"] for line in together)
        learning = statistics.mean(line["learner"] for line in together)
        sync = synchronous(bench.deployment, learning / acting, arguments.seconds)
    print("\n|  | alone | together | ratio | synchronous | together / synchronous |")
    print("|---|---|---|---|---|---|")
    for what, single, both, key in (
        ("actor, steps/s", statistics.mean(alone), acting, "actor"),
        ("learner, updates/s", statistics.mean(apart), learning, "learner"),
    ):
        print(
            f"| {what} | {single:.2f} | {both:.2f} | **{both / single:.3f}** | {sync[key]:.2f} "
            f"| {both / sync[key]:.2f} |"
        )
    print(f"\nUpdates per step: {learning / acting:.2f} and {sync['learner'] / sync['actor']:.2f}.")


if __name__ == "__main__":
    main()
