"""Learning in one process, without ROS: what benchmarks share with each other.

An :class:`Experiment` is a robot that collects, a training loop, and another robot for evaluations. Synchronous by
default: one environment step, then as many updates as the ratio allows, so that curves do not depend on the machine;
or in real time, the training loop beside it in a thread, as in the running system.
"""

from __future__ import annotations

import argparse
import json
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from user_actor.loop import ActorLoopConfig, EpisodeLoop, FixedPolicy, PolicyHolder
from user_actor.loop.config import ExplorationConfig
from user_actor.loop.ports import LocalTeleop, MemorySink
from user_core import plugins
from user_core.command_line import Parser
from user_core.config import Config, from_mapping, load_yaml, setting
from user_core.errors import StoreError, SuiteError
from user_core.fakes import PolicyMailbox
from user_core.interfaces import Policy, Reward, Teleop
from user_core.plugins import PluginChoice
from user_core.specs import RobotSpec
from user_core.types import (
    ActedBy,
    Batch,
    EpisodeResult,
    EpisodeSource,
    FinalObservation,
    Observation,
    Outcome,
    Step,
)
from user_hal.local import LocalHal
from user_hal.robots.gripper_choices import RobotWithGripperChoices
from user_learner.sampling.config import SamplerConfig
from user_learner.training import TrainingLoop
from user_learner.training.config import TrainingConfig
from user_learner.training.loop import GO, configure_torch

CONFIGS = Path(__file__).parents[2] / "src/user_bringup/config/algorithms"
EVALUATION_SEED = 1_000_000


class AlgorithmFile(Config):
    """A file of config/algorithms."""

    algorithm: PluginChoice = setting(doc="The algorithm.")
    policy: PluginChoice = setting(doc="The policy.")
    sampler: SamplerConfig = setting(factory=SamplerConfig, doc="How batches are drawn.")
    training: TrainingConfig = setting(factory=TrainingConfig, doc="The training loop.")


class Ring:
    """Steps of one source in RAM: each observation once, the next one is the next row."""

    def __init__(self, spec: RobotSpec, rows: int) -> None:
        self.observation = {
            name: np.zeros((rows, *item.shape), item.dtype)
            for name, item in spec.observation.items()
        }
        self.action = np.zeros((rows, spec.action.size), spec.action.dtype)
        self.reward = np.zeros(rows, np.float32)
        self.terminated = np.zeros(rows, bool)
        self.last = np.zeros(rows, bool)  # final observations: nothing was done there
        self.version = np.zeros(rows, np.int64)  # of the policy
        self.drawable = np.zeros(rows, np.int64)
        self.rows = self.steps = 0

    def append(self, step: Step | FinalObservation) -> None:
        """Take the next observation, and what was done there; it completes the step before."""
        row, self.rows = self.rows, self.rows + 1
        for name, array in step.observation.items():
            self.observation[name][row] = array
        if row and not self.last[row - 1]:
            self.drawable[self.steps] = row - 1
            self.steps += 1
        self.last[row] = isinstance(step, FinalObservation)
        if isinstance(step, Step):
            self.action[row], self.reward[row] = step.action, step.reward
            self.terminated[row], self.version[row] = step.terminated, step.policy_version

    def end_episode(self, result: EpisodeResult) -> None:
        """The episode is complete."""

    def draw(
        self, rng: np.random.Generator, size: int, n_step: int, gamma: float, newest: int = 0
    ) -> list[Any]:
        """Observations, actions, n-step rewards, discounts and next observations; of the newest steps, or
        of all."""
        first = max(0, self.steps - newest) if newest else 0
        start = self.drawable[rng.integers(first, self.steps, size)]
        end = int(self.drawable[self.steps - 1]) + 1
        reward, discount = np.zeros(size, np.float32), np.ones(size, np.float32)
        row, going = start.copy(), np.ones(size, bool)
        for _ in range(n_step):
            reward += np.where(going, discount * self.reward[row], 0)
            left = np.where(self.terminated[row], 0, discount * np.float32(gamma))
            discount = np.where(going, left, discount)
            row += going
            going &= (discount > 0) & ~self.last[row] & (row < end)
        pair = [{k: v[at] for k, v in self.observation.items()} for at in (start, row)]
        extras = {"policy_version": self.version[start]}
        return [pair[0], self.action[start], reward, discount, pair[1], extras]

    def windows(self, rng: np.random.Generator, size: int, rows: int, gamma: float) -> list[Any]:
        """The same for windows of T steps, as a sampler with pad_windows gives them, and where they begin."""
        start = self.drawable[rng.integers(0, self.steps, size)]
        end = int(self.drawable[self.steps - 1]) + 1
        last = np.append(np.flatnonzero(self.last[: self.rows]), end)
        stop = np.minimum(last[np.searchsorted(last, start)], end)  # the final observation
        at = start[:, None] + np.arange(rows)
        mask = at < stop[:, None]
        at = np.minimum(at, stop[:, None] - 1)
        reward = np.where(mask, self.reward[at], 0).astype(np.float32)
        left = np.where(self.terminated[at], 0, gamma)
        discount = np.where(mask, left, 1).astype(np.float32)
        behind = np.minimum(start + rows, stop)
        pair = [{k: v[row] for k, v in self.observation.items()} for row in (start, behind)]
        return [pair[0], self.action[at], reward, discount, pair[1], {"mask": mask, "row": start}]


class Mixture:
    """A TransitionSource over rings, in the shares of a sampler configuration."""

    def __init__(self, rings: dict[EpisodeSource, Ring], config: SamplerConfig) -> None:
        self._rings, self._config = rings, config
        self._rng = np.random.default_rng(config.seed)
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return sum(ring.steps for ring in self._rings.values())

    def sample(self, batch_size: int) -> Batch:
        """Draw transitions, the strata one behind the other."""
        filled = [
            (stratum.share, ring, source is EpisodeSource.DEMONSTRATION, stratum.newest_steps)
            for stratum in self._config.strata
            for source, ring in self._rings.items()
            if source in stratum.sources
            and ring.steps
            and (
                not stratum.acted_by or ActedBy.POLICY in stratum.acted_by
            )  # nobody takes over here
        ]
        if not filled:
            raise StoreError("sample", got="no steps yet")
        config = self._config
        whole, left, parts = sum(share for share, *_ in filled), batch_size, []
        for i, (share, ring, shown, newest) in enumerate(filled):
            size = left if i == len(filled) - 1 else round(batch_size * share / whole)
            if config.window:
                part = ring.windows(self._rng, size, config.window, config.gamma)
            else:
                part = ring.draw(self._rng, size, config.n_step, config.gamma, newest)
            part[-1]["demonstration"] = np.full(size, shown)
            parts.append(part)
            left -= size
        return Batch(*(_join(column) for column in zip(*parts, strict=True)))


def _join(parts: Sequence[Any]) -> Any:
    if isinstance(parts[0], dict):
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return np.concatenate(parts)


def evaluate(robot: LocalHal, policy: Policy, episodes: int, reward: Reward) -> dict[str, float]:
    """Deterministic episodes from starts of their own."""
    loop = EpisodeLoop(robot, policy, reward, MemorySink("evaluation"))
    results = []
    for start in range(EVALUATION_SEED, EVALUATION_SEED + episodes):
        result = loop.run(EpisodeSource.EVALUATION, start)
        if result is None:
            raise SuiteError("evaluation", got=f"an episode without a step: {loop.stats.reason}")
        results.append(result)
    return {
        "return": round(float(np.mean([result.episode_return for result in results])), 2),
        "successes": sum(result.outcome is Outcome.SUCCESS for result in results),
        "length": round(float(np.mean([result.length for result in results])), 1),
    }


def demonstrate(
    robot: LocalHal, count: int, noise: float, seed: int, rows: int, reward: Reward,
    teleop: Teleop | None = None,
) -> Ring:  # fmt: skip
    """Successful episodes of the scripted expert, or of whoever drives."""
    teleop = teleop or plugins.build("teleops", "expert", {"noise": noise, "seed": seed})
    teleop.connect(robot.spec)
    trials, kept, start = MemorySink("expert"), Ring(robot.spec, rows), 10_000 * (seed + 1)
    config = ActorLoopConfig(mode="demonstration")
    loop = EpisodeLoop(robot, None, reward, trials, config, teleop=LocalTeleop(teleop))
    while count:
        result = loop.run(seed=start)
        start += 1
        if result is not None and result.outcome is Outcome.SUCCESS:
            count -= 1
            for row in trials.rows[result.key]:
                kept.append(row)
    return kept


class Experiment:
    """A robot that collects, a loop that learns, and another robot for evaluations.

    Args:
        arguments: Of the command line.
        config: Algorithm, policy, sampler and training.
        directory: For what the training loop keeps.
        on_step: Called after each step, before the next.
    """

    def __init__(
        self,
        arguments: argparse.Namespace,
        config: AlgorithmFile,
        directory: Path,
        on_step: Callable[[], None] = lambda: None,
    ) -> None:
        self.arguments, self.config, self.on_step = arguments, config, on_step
        self.robot, self.judge = make_robot(arguments), make_robot(arguments)
        spec, self.reward = self.robot.spec, make_reward(arguments)
        # what a policy is judged by; another than what it learned from where that was learned itself
        self.judgement: Reward = (
            plugins.build("rewards", arguments.judge) if arguments.judge else self.reward
        )
        self.judged = self.make_policy()
        self.algorithm = config.algorithm.build(
            "algorithms", spec, self.make_policy(), path="algorithm"
        )
        self.ring = Ring(spec, self.rows)
        self.rings = {EpisodeSource.ONLINE: self.ring}
        self.mailbox = PolicyMailbox()
        self.policies: FixedPolicy | PolicyHolder = FixedPolicy(self.judged)
        self.loop = TrainingLoop(
            config.training,
            self.algorithm,
            Mixture(self.rings, config.sampler),
            self.mailbox,
            environment_steps=lambda: self.ring.steps,
            directory=directory,
            identity={},
        )
        self.finished: list[EpisodeResult] = []
        self.lines: list[dict[str, Any]] = []
        self.evaluating_s = 0.0

    @property
    def random_steps(self) -> int:
        """Steps at the beginning that are made at random."""
        return self.config.training.utd.learning_starts

    @property
    def rows(self) -> int:
        """Rows that a ring can need."""
        return 2 * self.arguments.steps + 10_000

    def make_policy(self) -> Policy:
        policy: Policy = self.config.policy.build("policies", self.robot.spec, path="policy")
        return policy

    def demonstrate(self) -> None:
        """Let the scripted expert show how it is done, if that was asked for."""
        arguments = self.arguments
        if arguments.demonstrations:
            ring = self.rings[EpisodeSource.DEMONSTRATION] = demonstrate(
                self.robot, arguments.demonstrations, arguments.noise, arguments.seed, self.rows,
                self.reward,
            )  # fmt: skip
            print(f"# {ring.steps} steps demonstrated", flush=True)

    def collect(self, before_step: Callable[[int], None], period_s: float = 0.0) -> None:
        """Episodes, until all steps are made; reports now and then."""
        arguments, begin_s = self.arguments, time.monotonic()
        config = ActorLoopConfig(
            period_s=period_s,
            exploration=ExplorationConfig(
                random_steps=self.random_steps,
                before_first_version="initial",
                seed=arguments.seed,
            ),
        )
        sink = MemorySink("actor", to=self.ring)
        seen = 0

        def on_step(observation: Observation) -> None:
            nonlocal seen
            seen += 1
            before_step(seen)
            self.on_step()
            if seen % arguments.every == 0:
                self.lines.append(self.report(seen, begin_s))
            if seen >= arguments.steps:
                loop.stop()

        loop = EpisodeLoop(
            self.robot, self.policies, self.reward, sink, config,
            on_step=on_step, on_result=self.finished.append,
        )  # fmt: skip
        seed = 100_000_000 * (arguments.seed + 1)
        while seen < arguments.steps:
            seed += 1
            loop.run(seed=seed)

    def synchronous(self) -> None:
        """Step, learn, step; the actor always has the newest weights."""
        configure_torch(self.config.training.threads)

        def learn(steps: int) -> None:
            learned = False
            while self.loop.step() == GO:
                learned = True
            if learned:
                actor.load(self.algorithm.policy_arrays())

        actor = self.make_policy()
        self.policies = FixedPolicy(actor)
        self.collect(learn)

    def real_time(self) -> None:
        """Step at the control period; learn in a thread beside it."""
        thread = threading.Thread(target=self.loop.run, name="training")
        thread.start()
        holder = PolicyHolder(self.make_policy, self.robot.spec, self.mailbox)
        self.policies = holder
        period_s = self.robot.spec.period_s / self.arguments.speed
        try:
            self.collect(lambda steps: holder.load_newest() and None, period_s)
        finally:
            self.loop.stop()
            thread.join()

    def report(self, steps: int, start_s: float) -> dict[str, Any]:
        """Evaluate, and say how it goes."""
        recent, progress = self.finished[-20:], self.loop.progress()
        learning_s = time.monotonic() - start_s - self.evaluating_s
        self.judged.load(self.policies.current().policy.arrays())
        result = evaluate(self.judge, self.judged, self.arguments.episodes, self.judgement)
        self.evaluating_s = time.monotonic() - start_s - learning_s
        line = {
            "seed": self.arguments.seed,
            "steps": steps,
            "updates": progress.update,
            **result,
            "training_return": mean([result.episode_return for result in recent]),
            "training_success": mean([result.outcome is Outcome.SUCCESS for result in recent]),
            "learning_s": round(learning_s, 1),
            "wall_s": round(time.monotonic() - start_s, 1),
            "cpu_s": round(time.process_time(), 1),
            "policy_version": progress.policy_version,
        }
        print(json.dumps(line), flush=True)
        if self.arguments.out:
            with self.arguments.out.open("a") as file:
                file.write(json.dumps(line) + "\n")
        return line

    def run(self) -> list[dict[str, Any]]:
        """All of it; the lines that were printed."""
        with self.robot, self.judge:
            self.demonstrate()
            if self.arguments.real_time:
                self.real_time()
            else:
                self.synchronous()
        return self.lines


def mean(values: Sequence[float]) -> float | None:
    """Their mean, or None where there are none."""
    return round(float(np.mean(values)), 2) if values else None


def make_robot(arguments: argparse.Namespace) -> LocalHal:
    """The robot of a command line, behind the safety gate."""
    made = plugins.build("robots", arguments.robot, _values(arguments.param))
    return LocalHal(RobotWithGripperChoices(made) if arguments.gripper_choices else made)


def make_reward(arguments: argparse.Namespace) -> Reward:
    """Its reward."""
    reward: Reward = plugins.build("rewards", arguments.reward, _values(arguments.reward_param))
    return reward


def _values(words: Sequence[str]) -> dict[str, Any]:
    return {key: yaml.safe_load(value) for key, value in (word.split("=", 1) for word in words)}


def read_config(arguments: argparse.Namespace) -> AlgorithmFile:
    """Its algorithm file, with what ``--set`` and ``--seed`` change of it."""
    path = Path(arguments.config)
    data = load_yaml(path if path.exists() else CONFIGS / path)
    for assignment in arguments.set:
        key, value = assignment.split("=", 1)
        *above, last = key.split(".")
        place = data
        for name in above:
            place = place.setdefault(name, {})
        place[last] = yaml.safe_load(value)
    for section in ("algorithm", "policy"):
        data[section].setdefault("params", {})["seed"] = arguments.seed
    data.setdefault("sampler", {})["seed"] = arguments.seed
    return from_mapping(AlgorithmFile, data)


def make_parser(description: str = "") -> Parser:
    """The words of a command line that choose an experiment."""
    parser = Parser(description=description)
    parser.add_argument("config", help="file, or name of one in config/algorithms")
    parser.add_argument("--robot", default="gymnasium", help="robot plugin")
    parser.add_argument("--param", nargs="*", default=[], help="its parameters, key=value")
    parser.add_argument(
        "--gripper-choices", action="store_true", help="its gripper is closed, held or opened"
    )
    parser.add_argument("--reward", default="task", help="reward plugin")
    parser.add_argument("--reward-param", nargs="*", default=[], help="its parameters, key=value")
    parser.add_argument(
        "--judge", default="", help="reward plugin of evaluations; that of learning by default"
    )
    parser.add_argument("--set", nargs="*", default=[], help="settings of the file, a.b=value")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--every", type=int, default=500, help="steps between two evaluations")
    parser.add_argument("--episodes", type=int, default=20, help="of one evaluation")
    parser.add_argument("--demonstrations", type=int, default=0, help="of the scripted expert")
    parser.add_argument("--noise", type=float, default=0.3, help="of the expert's actions")
    parser.add_argument("--real-time", action="store_true")
    parser.add_argument("--speed", type=float, default=1.0, help="with --real-time")
    parser.add_argument("--out", type=Path, help="file to append the lines to")
    return parser
