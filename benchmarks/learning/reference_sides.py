"""The sides that ``benchmarks/learning/references.py`` sets beside each other; each makes one curve.

``synchronous`` is ours in one process: robot behind its gate, episode loop, replay store on disk,
sampler, algorithm, training loop. ``system`` is ours as ``user up`` runs it. ``sb3`` and
``tianshou`` are Stable-Baselines3 and Tianshou, optional packages. Whoever learns, the settings of
:class:`Job` are the same, and an evaluation is the same deterministic episodes.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import yaml

from user_core.config import load_yaml
from user_testing.experiments import CONFIGS, EVALUATION_SEED, evaluate

Report = Callable[[int, float], None]
"""Takes steps and the mean return of an evaluation."""


@dataclass(frozen=True)
class Job:
    """One curve.

    Attributes:
        env: A Gymnasium environment.
        algorithm: One of :data:`FILES`.
        side: Who learns.
        seed: Of first weights, exploration, draws and starts.
        steps: Environment steps; one update is made per step.
        every: Steps between two evaluations.
        episodes: Episodes of an evaluation.
        device: torch device that learns.
        batch, learning_rate, gamma, target_rate, hidden, starts: Settings of all sides; ``starts``
            is the number of random steps before the first update.
        changes: Settings of our algorithm file, ``a.b=value``; for trials of ours.
    """

    env: str
    algorithm: str
    side: str
    seed: int
    steps: int
    every: int
    episodes: int = 10
    device: str = "cpu"
    batch: int = 256
    learning_rate: float = 3e-4
    gamma: float = 0.99
    target_rate: float = 0.005
    hidden: tuple[int, ...] = (256, 256)
    starts: int = 1000
    changes: tuple[str, ...] = field(default=())

    @property
    def settling(self) -> int:
        """Updates within which the entropy that discrete SAC aims at falls: a third of all."""
        return self.steps // 3

    def entropy_share(self, updates: int) -> float:
        """The share after this many updates."""
        first, last = ENTROPY_SHARES
        return first + (last - first) * min(1.0, updates / self.settling)


#: Entropy that discrete SAC aims at, of the largest there is: at the start, and from
#: :attr:`Job.settling` updates on.
ENTROPY_SHARES = (0.5, 0.1)
#: The shipped file of each algorithm, and what it needs to have the settings of a job.
FILES: dict[str, tuple[str, dict[str, Any]]] = {
    "sac": ("sac.yaml", {}),
    "rlpd": ("rlpd.yaml", {"algorithm.params.critic_updates": 1}),
    "discrete_sac": (
        "sac_choices.yaml",
        {
            "algorithm.params.choice_entropy": ENTROPY_SHARES[0],
            "algorithm.params.choice_entropy_end": ENTROPY_SHARES[1],
            "sampler.n_step": 1,  # as the reference
        },
    ),
}
_CHUNK_STEPS = 10


def run(job: Job, report: Report) -> None:
    """Learn, and report evaluations."""
    SIDES[job.side](job, report)


def plain_evaluation(job: Job, act: Callable[[np.ndarray], Any]) -> float:
    """Mean return of the episodes that ours is judged on, without any of our code."""
    import gymnasium

    returns = []
    with closing(gymnasium.make(job.env)) as env:
        for start in range(EVALUATION_SEED, EVALUATION_SEED + job.episodes):
            observation, _ = env.reset(seed=start)
            total, over = 0.0, False
            while not over:
                observation, reward, terminated, truncated, _ = env.step(act(observation))
                total, over = total + float(reward), terminated or truncated
            returns.append(total)
    return float(np.mean(returns))


# --------------------------------------------------------------------------------------------------
# Ours
# --------------------------------------------------------------------------------------------------


def algorithm_file(job: Job) -> dict[str, Any]:
    """The shipped algorithm file with the settings of a job."""
    name, own = FILES[job.algorithm]
    data = load_yaml(CONFIGS / name)
    settings = {
        "algorithm.params.actor_learning_rate": job.learning_rate,
        "algorithm.params.critic_learning_rate": job.learning_rate,
        "algorithm.params.temperature_learning_rate": job.learning_rate,
        "algorithm.params.target_rate": job.target_rate,
        "algorithm.params.critic_hidden": list(job.hidden),
        "algorithm.params.device": job.device,
        "algorithm.params.seed": job.seed,
        "policy.params.hidden": list(job.hidden),
        "policy.params.seed": job.seed,
        "sampler.gamma": job.gamma,
        "sampler.seed": job.seed,
        "training.batch_size": job.batch,
        "training.threads": 1,
        "training.utd.target": 1.0,
        "training.utd.learning_starts": job.starts,
        **own,
    }
    if job.algorithm == "discrete_sac":
        settings["algorithm.params.choice_entropy_updates"] = job.settling
    settings |= {k: yaml.safe_load(v) for k, v in (c.split("=", 1) for c in job.changes)}
    for key, value in settings.items():
        *above, last = key.split(".")
        place = data
        for part in above:
            place = place.setdefault(part, {})
        place[last] = value
    return data


class StoreSink:
    """An EpisodeSink that puts steps into a replay store, chunk by chunk, and then lets learn."""

    def __init__(self, writer: Any, schema: Any, on_chunk: Callable[[], None]) -> None:
        from user_actor.outbox.chunks import ChunkBuilder

        self._writer, self._schema, self._on_chunk = writer, schema, on_chunk
        self._builder = ChunkBuilder(_CHUNK_STEPS, float("inf"), time.monotonic)
        self._episodes = self._chunks = self.total_steps = 0

    def begin_episode(self, source: Any) -> Any:
        from user_actor.outbox.chunks import EpisodeProgress
        from user_core.types import EpisodeKey

        key = EpisodeKey("references", 1, self._episodes)
        self._episodes += 1
        self._builder.begin(EpisodeProgress(key, source))
        return key

    def append(self, row: Any) -> None:
        from user_core.types import Step

        self.total_steps += isinstance(row, Step)
        self._keep(self._builder.append(row))

    def end_episode(self, result: Any) -> None:
        self._keep(self._builder.end(result))

    def why_paused(self) -> Any:
        from user_core.reasons import NO_REASON

        return NO_REASON

    def _keep(self, chunks: list[Any]) -> None:
        from user_actor.outbox.chunks import number_chunk
        from user_core.types import ChunkId

        for chunk in chunks:
            self._chunks += 1
            identity = ChunkId("references", 1, self._chunks)
            answer = self._writer.append(
                number_chunk(chunk, identity, self._schema, "robot", "references")
            )
            if answer.ack.refused:
                raise RuntimeError(answer.ack.error)
            self._writer.commit()
            self._on_chunk()


def synchronous(job: Job, report: Report) -> None:
    """Our parts in one process: ten steps, ten updates, and so on."""
    from user_actor.loop import ActorLoopConfig, EpisodeLoop, FixedPolicy
    from user_actor.loop.config import ExplorationConfig
    from user_core import plugins
    from user_core.config import from_mapping
    from user_core.fakes import PolicyMailbox
    from user_core.types import TrajectorySchema
    from user_hal.local import LocalHal
    from user_learner.learner import LearnerConfig, open_learner
    from user_learner.replay import StoreConfig, StoreWriter
    from user_learner.training.loop import GO, configure_torch

    robots = [LocalHal(plugins.build("robots", "gymnasium", {"env_id": job.env})) for _ in range(2)]
    robot, judge = robots
    reward = plugins.build("rewards", "task")
    with tempfile.TemporaryDirectory() as name, robot, judge:
        data, folder = algorithm_file(job), Path(name)
        data |= {"directory": str(folder / "learner"), "store": str(folder / "replay")}
        data["tensorboard"] = False
        data["sampler"] |= {"refresh_period_s": 0, "prefetch": 0}
        data["training"] |= {"publish_period_s": 1e9, "checkpoint_period_s": 1e9}
        data["training"]["utd"]["ahead_steps"] = 0
        config = from_mapping(LearnerConfig, data)
        configure_torch(config.training.threads)

        def make_policy() -> Any:
            return config.policy.build("policies", robot.spec, path="policy")

        acting, judged = make_policy(), make_policy()
        schema = TrajectorySchema.of(robot.spec)
        writer = StoreWriter(folder / "replay", schema, StoreConfig(durability="kernel"))
        with writer, open_learner(config, robot.spec, PolicyMailbox()) as training:

            def learn() -> None:
                training.source.refresh()  # type: ignore[attr-defined]
                updates = 0
                while training.step() == GO:
                    updates += 1
                if updates:
                    acting.load(training.algorithm.policy_arrays())

            seen = 0

            def on_step(observation: Any) -> None:
                nonlocal seen
                seen += 1
                if seen % job.every == 0:
                    judged.load(training.algorithm.policy_arrays())
                    report(seen, evaluate(judge, judged, job.episodes, reward)["return"])
                if seen >= job.steps:
                    actor.stop()

            exploration = ExplorationConfig(
                random_steps=job.starts, before_first_version="initial", seed=job.seed
            )
            actor = EpisodeLoop(
                robot, FixedPolicy(acting), reward, StoreSink(writer, schema, learn),
                ActorLoopConfig(period_s=0.0, exploration=exploration), on_step=on_step,
            )  # fmt: skip
            start = 100_000_000 * (job.seed + 1)
            while seen < job.steps:
                start += 1
                actor.run(seed=start)
            training.abandon()


def system(job: Job, report: Report) -> None:
    """``user up gymnasium``: robot, actor, store and learner as processes."""
    from learning_through_system import through_system

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file = folder / "job.yaml"
        file.write_text(yaml.safe_dump(algorithm_file(job)))
        arguments = SimpleNamespace(
            env=job.env, steps=job.steps, every=job.every, episodes=job.episodes,
            algorithm=str(file),
        )  # fmt: skip
        for line in through_system(arguments, job.seed, folder):
            report(line["steps"], line["return"])


# --------------------------------------------------------------------------------------------------
# Stable-Baselines3
# --------------------------------------------------------------------------------------------------


def sb3(job: Job, report: Report) -> None:
    """SAC of Stable-Baselines3."""
    import torch
    from stable_baselines3 import SAC
    from stable_baselines3.common.callbacks import BaseCallback

    torch.set_num_threads(1)

    class Judge(BaseCallback):
        def _on_step(self) -> bool:
            if self.num_timesteps % job.every == 0:
                report(
                    self.num_timesteps,
                    plain_evaluation(job, lambda o: self.model.predict(o, deterministic=True)[0]),
                )
            return True

    model = SAC(
        "MlpPolicy", job.env, seed=job.seed, device=job.device, batch_size=job.batch,
        learning_rate=job.learning_rate, gamma=job.gamma, tau=job.target_rate,
        learning_starts=job.starts, train_freq=1, gradient_steps=1,
        policy_kwargs={"net_arch": list(job.hidden)}, buffer_size=job.steps + 1,
    )  # fmt: skip
    model.learn(job.steps, callback=Judge(), log_interval=None)


# --------------------------------------------------------------------------------------------------
# Tianshou
# --------------------------------------------------------------------------------------------------


def tianshou(job: Job, report: Report) -> None:
    """REDQ with layer normalisation beside RLPD, which is that and demonstrations; discrete SAC."""
    import gymnasium
    import torch
    from tianshou.data import Batch, ReplayBuffer
    from tianshou.utils.torch_utils import policy_within_training_step

    torch.set_num_threads(1)
    torch.manual_seed(job.seed)
    np.random.seed(job.seed)
    env = gymnasium.make(job.env)
    env.action_space.seed(job.seed)
    algorithm = {"rlpd": _redq, "discrete_sac": _discrete_sac}[job.algorithm](job, env)
    algorithm.to(job.device)
    policy, buffer = algorithm.policy, ReplayBuffer(job.steps)

    def act(observation: np.ndarray, training: bool) -> Any:
        with torch.no_grad(), policy_within_training_step(policy, training):
            return policy(Batch(obs=observation[None], info=Batch())).act[0].cpu().numpy()

    def judged(observation: np.ndarray) -> Any:
        return policy.map_action(act(observation, False))

    observation, _ = env.reset(seed=job.seed)
    for step in range(1, job.steps + 1):
        if step <= job.starts:
            action = policy.map_action_inverse(env.action_space.sample())
        else:
            action = act(observation, True)
        following, reward, terminated, truncated, _ = env.step(policy.map_action(action))
        buffer.add(
            Batch(
                obs=observation, act=action, rew=float(reward), terminated=terminated,
                truncated=truncated, obs_next=following, info={},
            )
        )  # fmt: skip
        observation = env.reset()[0] if terminated or truncated else following
        if step > job.starts:
            if job.algorithm == "discrete_sac":  # as ours; Tianshou itself keeps it
                share = job.entropy_share(step - job.starts)
                algorithm.alpha._target_entropy = share * float(np.log(env.action_space.n))
            with policy_within_training_step(policy):
                algorithm.update(buffer, job.batch)
        if step % job.every == 0:
            report(step, plain_evaluation(job, judged))


def _redq(job: Job, env: Any) -> Any:
    from tianshou.algorithm.modelfree.redq import REDQ, REDQPolicy
    from tianshou.algorithm.modelfree.sac import AutoAlpha
    from tianshou.algorithm.optim import AdamOptimizerFactory
    from tianshou.utils.net.common import EnsembleLinear, Net
    from tianshou.utils.net.continuous import ContinuousActorProbabilistic, ContinuousCritic
    from torch import nn

    adam = AdamOptimizerFactory(lr=job.learning_rate)
    shape, size = env.observation_space.shape, env.action_space.shape
    actor = ContinuousActorProbabilistic(
        preprocess_net=Net(state_shape=shape, hidden_sizes=job.hidden), action_shape=size,
        unbounded=True, conditioned_sigma=True,
    )  # fmt: skip
    linear = partial(EnsembleLinear, 10)
    features = Net(
        state_shape=shape, action_shape=size, hidden_sizes=job.hidden, concat=True,
        linear_layer=linear, norm_layer=nn.LayerNorm,
    )  # fmt: skip
    return REDQ(
        policy=REDQPolicy(actor=actor, action_space=env.action_space), policy_optim=adam,
        critic=ContinuousCritic(preprocess_net=features, linear_layer=linear, flatten_input=False),
        critic_optim=adam, ensemble_size=10, subset_size=2, tau=job.target_rate, gamma=job.gamma,
        actor_delay=1, alpha=AutoAlpha(-0.5 * float(np.prod(size)), 0.0, adam),
    )  # fmt: skip


def _discrete_sac(job: Job, env: Any) -> Any:
    from tianshou.algorithm.modelfree.discrete_sac import DiscreteSAC, DiscreteSACPolicy
    from tianshou.algorithm.modelfree.sac import AutoAlpha
    from tianshou.algorithm.optim import AdamOptimizerFactory
    from tianshou.utils.net.common import Net
    from tianshou.utils.net.discrete import DiscreteActor, DiscreteCritic

    adam = AdamOptimizerFactory(lr=job.learning_rate)
    shape, choices = env.observation_space.shape, int(env.action_space.n)

    def features() -> Any:
        return Net(state_shape=shape, hidden_sizes=job.hidden)

    actor = DiscreteActor(preprocess_net=features(), action_shape=choices, softmax_output=False)
    critics = [DiscreteCritic(preprocess_net=features(), last_size=choices) for _ in range(2)]
    return DiscreteSAC(
        policy=DiscreteSACPolicy(actor=actor, action_space=env.action_space), policy_optim=adam,
        critic=critics[0], critic_optim=adam, critic2=critics[1], critic2_optim=adam,
        tau=job.target_rate, gamma=job.gamma,
        alpha=AutoAlpha(ENTROPY_SHARES[0] * float(np.log(choices)), 0.0, adam),
    )  # fmt: skip


SIDES: dict[str, Callable[[Job, Report], None]] = {
    "synchronous": synchronous,
    "system": system,
    "sb3": sb3,
    "tianshou": tianshou,
}
#: The package that a side needs, beside ours.
PACKAGES = {"sb3": "stable_baselines3", "tianshou": "tianshou"}


def sides_of(algorithm: str) -> Iterator[str]:
    """The sides that have an algorithm, ours first."""
    yield from ("synchronous", "system")
    yield "sb3" if algorithm == "sac" else "tianshou"
