"""Learning curves in one process: an algorithm file of config/algorithms against a robot.

Synchronous by default: one environment step, then as many updates as the ratio allows, so that
curves do not depend on the machine. With ``--real-time`` the robot keeps its control period and
the training loop runs beside it in a thread, as in the running system. Prints one JSON line per
evaluation (episodes are deterministic and apart from training), and writes them to ``--out``.

    python benchmarks/learning_curves.py sac_small.yaml --robot gymnasium \\
        --param env_id=Pendulum-v1 --steps 10000
    python benchmarks/learning_curves.py rlpd_cpu.yaml --robot mujoco --param task=peg_insertion \\
        --demonstrations 20 --steps 2500 --seed 1
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from user_learner.training.together import GO

from user_core import plugins
from user_core.config import Config, from_mapping, load_yaml, setting
from user_core.errors import StoreError
from user_core.fakes import PolicyMailbox
from user_core.interfaces import Policy, Reward, Robot
from user_core.plugins import PluginChoice
from user_core.rewards import TaskReward
from user_core.specs import Array, Arrays, RobotSpec
from user_core.types import Batch, EpisodeSource
from user_learner.sampling.config import SamplerConfig
from user_learner.training import TrainingLoop
from user_learner.training.config import TrainingConfig
from user_learner.training.loop import configure_torch

CONFIGS = Path(__file__).parents[1] / "src/user_bringup/config/algorithms"
_EVALUATION_SEED = 1_000_000


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
        self.drawable = np.zeros(rows, np.int64)
        self.rows = self.steps = 0

    def observe(self, observation: Arrays, *, last: bool) -> None:
        """Put the next observation into a row; completes the step before."""
        for name, array in observation.items():
            self.observation[name][self.rows] = array
        self.last[self.rows] = last
        if self.rows and not self.last[self.rows - 1]:
            self.drawable[self.steps] = self.rows - 1
            self.steps += 1
        self.rows += 1

    def act(self, action: Array, reward: float, terminated: bool) -> None:
        """Say what was done at the last observation, and what it brought."""
        row = self.rows - 1
        self.action[row], self.reward[row], self.terminated[row] = action, reward, terminated

    def draw(self, rng: np.random.Generator, size: int, n_step: int, gamma: float) -> list[Any]:
        """Observations, actions, n-step rewards, discounts and next observations."""
        start = self.drawable[rng.integers(0, self.steps, size)]
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
        return [pair[0], self.action[start], reward, discount, pair[1]]


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
            (stratum.share, ring)
            for stratum in self._config.strata
            for source, ring in self._rings.items()
            if source in stratum.sources and ring.steps
        ]
        if not filled:
            raise StoreError("sample", got="no steps yet")
        whole, left, parts = sum(share for share, _ in filled), batch_size, []
        for i, (share, ring) in enumerate(filled):
            size = left if i == len(filled) - 1 else round(batch_size * share / whole)
            parts.append(ring.draw(self._rng, size, self._config.n_step, self._config.gamma))
            left -= size
        return Batch(*(_join(column) for column in zip(*parts, strict=True)))


def _join(parts: Sequence[Any]) -> Any:
    if isinstance(parts[0], dict):
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return np.concatenate(parts)


def episode(
    robot: Robot, act: Any, seed: int | None, ring: Ring | None = None, reward: Reward | None = None
) -> Iterator[tuple[float, bool, bool]]:
    """Act until the episode ends; yields (return so far, ended, success) after every step."""
    observation, total = robot.reset(seed=seed), 0.0
    reward = reward or TaskReward(Config())
    if ring is not None:
        ring.observe(observation.arrays, last=False)
    while True:
        before = observation.arrays
        executed = robot.command(act(before))
        observation = robot.read()
        verdict = reward(before, executed, observation.arrays, observation.task)
        task = observation.task
        ended = verdict.terminated or task.truncated or task.terminated
        total += verdict.reward
        if ring is not None:
            ring.act(executed, verdict.reward, verdict.terminated)
            ring.observe(observation.arrays, last=ended)
        yield total, ended, bool(verdict.success)
        if ended:
            return


def evaluate(
    robot: Robot, policy: Policy, episodes: int, reward: Reward | None = None
) -> dict[str, float]:
    """Deterministic episodes from starts of their own."""
    returns, successes, lengths = [], 0, 0
    for number in range(episodes):

        def act(arrays: Arrays) -> Array:
            return policy.act(arrays, deterministic=True)[0]

        start = _EVALUATION_SEED + number
        for total, ended, success in episode(robot, act, start, reward=reward):
            lengths += 1
            if ended:
                returns.append(total)
                successes += success
    return {
        "return": round(float(np.mean(returns)), 2),
        "successes": successes,
        "length": round(lengths / episodes, 1),
    }


def demonstrate(
    robot: Robot, count: int, noise: float, seed: int, rows: int, reward: Reward
) -> Ring:
    """Successful episodes of the scripted expert."""
    from user_hal.sim.experts import ScriptedExpert

    expert = ScriptedExpert(robot.spec, noise=noise, seed=seed)
    kept, number = Ring(robot.spec, rows), 0
    while count:
        trial = Ring(robot.spec, 1000)
        expert.reset()
        start = 10_000 * (seed + 1) + number
        *_, (_, _, success) = episode(robot, expert.act, start, trial, reward)
        number += 1
        if success:
            count -= 1
            for row in range(trial.rows):
                observation = {name: array[row] for name, array in trial.observation.items()}
                kept.observe(observation, last=bool(trial.last[row]))
                if not trial.last[row]:
                    kept.act(trial.action[row], trial.reward[row], trial.terminated[row])
    return kept


class Experiment:
    """A robot that collects, a loop that learns, and another robot for evaluations."""

    def __init__(
        self, arguments: argparse.Namespace, config: AlgorithmFile, directory: Path
    ) -> None:
        self.arguments, self.config = arguments, config
        self.robot, self.judge = make_robot(arguments), make_robot(arguments)
        spec, self.reward = self.robot.spec, make_reward(arguments)
        self.actor: Policy = config.policy.build("policies", spec, path="policy")
        policy: Policy = config.policy.build("policies", spec, path="policy")
        self.algorithm = config.algorithm.build("algorithms", spec, policy, path="algorithm")
        rows = 2 * arguments.steps + 10_000
        self.ring = Ring(self.robot.spec, rows)
        rings = {EpisodeSource.ONLINE: self.ring}
        if arguments.demonstrations:
            rings[EpisodeSource.DEMONSTRATION] = demonstrate(
                self.robot, arguments.demonstrations, arguments.noise, arguments.seed, rows,
                self.reward,
            )  # fmt: skip
            print(f"# {rings[EpisodeSource.DEMONSTRATION].steps} steps demonstrated", flush=True)
        self.mailbox = PolicyMailbox()
        self.loop = TrainingLoop(
            config.training,
            self.algorithm,
            Mixture(rings, config.sampler),
            self.mailbox,
            environment_steps=lambda: self.ring.steps,
            directory=directory,
            identity={},
        )
        self.rng = np.random.default_rng(arguments.seed)
        self.finished: list[tuple[float, bool]] = []
        self.evaluating_s = 0.0

    def collect(self) -> Iterator[int]:
        """Endless episodes; yields the number of steps after each."""
        random_steps = self.config.training.utd.learning_starts

        def act(arrays: Arrays) -> Array:
            if self.ring.steps < random_steps:
                return self.robot.spec.action.sample(self.rng)
            return self.actor.act(arrays)[0]

        seed = 100_000_000 * (self.arguments.seed + 1)
        while True:
            seed += 1
            for total, ended, success in episode(self.robot, act, seed, self.ring, self.reward):
                if ended:
                    self.finished.append((total, success))
                yield self.ring.steps

    def synchronous(self) -> Iterator[int]:
        """Step, learn, step; the actor always has the newest weights."""
        configure_torch(self.config.training.threads)
        for steps in self.collect():
            learned = False
            while self.loop.step() == GO:
                learned = True
            if learned:
                self.actor.load(self.algorithm.policy_arrays())
            yield steps

    def real_time(self) -> Iterator[int]:
        """Step at the control period; learn in a thread beside it."""
        thread = threading.Thread(target=self.loop.run, name="training")
        thread.start()
        version, due_s = 0, time.monotonic()
        try:
            for steps in self.collect():
                if newest := self.mailbox.newest(after=version):
                    self.actor.load(newest.arrays)
                    version = newest.number
                due_s += self.robot.spec.period_s / self.arguments.speed
                time.sleep(max(0.0, due_s - time.monotonic()))
                yield steps
        finally:
            self.loop.stop()
            thread.join()

    def report(self, steps: int, start_s: float) -> dict[str, Any]:
        """Evaluate, and say how it goes."""
        recent, progress = self.finished[-20:], self.loop.progress()
        learning_s = time.monotonic() - start_s - self.evaluating_s
        result = evaluate(self.judge, self.actor, self.arguments.episodes, self.reward)
        self.evaluating_s = time.monotonic() - start_s - learning_s
        line = {
            "seed": self.arguments.seed,
            "steps": steps,
            "updates": progress.update,
            **result,
            "training_return": round(float(np.mean([r for r, _ in recent])), 2) if recent else None,
            "training_success": round(float(np.mean([s for _, s in recent])), 2)
            if recent
            else None,
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
        arguments, lines, start_s = self.arguments, [], time.monotonic()
        for steps in self.real_time() if arguments.real_time else self.synchronous():
            if steps and steps % arguments.every == 0:
                lines.append(self.report(steps, start_s))
            if steps >= arguments.steps:
                break
        return lines


def make_robot(arguments: argparse.Namespace) -> Robot:
    robot: Robot = plugins.build("robots", arguments.robot, _values(arguments.param))
    robot.connect()
    return robot


def make_reward(arguments: argparse.Namespace) -> Reward:
    reward: Reward = plugins.build("rewards", arguments.reward, _values(arguments.reward_param))
    return reward


def _values(words: Sequence[str]) -> dict[str, Any]:
    return {key: yaml.safe_load(value) for key, value in (word.split("=", 1) for word in words)}


def read_config(arguments: argparse.Namespace) -> AlgorithmFile:
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", help="file, or name of one in config/algorithms")
    parser.add_argument("--robot", default="gymnasium", help="robot plugin")
    parser.add_argument("--param", nargs="*", default=[], help="its parameters, key=value")
    parser.add_argument("--reward", default="task", help="reward plugin")
    parser.add_argument("--reward-param", nargs="*", default=[], help="its parameters, key=value")
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
    arguments = parser.parse_args()
    config = read_config(arguments)
    with tempfile.TemporaryDirectory() as directory:
        Experiment(arguments, config, Path(directory)).run()


if __name__ == "__main__":
    main()
