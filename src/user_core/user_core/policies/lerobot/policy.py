"""Any policy of LeRobot as one of ours.

LeRobot's own class decides and has its own loss; its own processors bring observations into its form, and its actions
back. What is ours is what lies around it: which of the robot's observations are its inputs
(:mod:`user_core.policies.lerobot.inputs`), actions within the bounds of the robot, chunks that the actor carries out as
it does any other's, and versions that hold what is trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from user_core.errors import PolicyError
from user_core.interfaces import Policy, Query
from user_core.policies.features import ActionScale, together
from user_core.policies.lerobot.config import STILL, LeRobotConfig
from user_core.policies.lerobot.history import history_of
from user_core.policies.loading import check_fits
from user_core.specs import Array, Arrays, RobotSpec
from user_core.types import Task

if TYPE_CHECKING:  # imported with torch and LeRobot, when it is made
    from torch import Tensor

    from user_core.policies.lerobot.network import GoesOn, LeRobotNetwork


class LeRobotPolicy(Policy):
    """Acts as a policy of LeRobot does, a chunk at a time.

    Args:
        config: Which one.
        spec: The robot's; its actions have finite bounds, or are choices. LeRobot's policy has a number for each that
            can be chosen, and the largest is what is done.

    Raises:
        PluginError: LeRobot is not installed, or does not have this policy.
        ConfigError: A setting that LeRobot does not have.
        PolicyError: The checkpoint is not there, is of another architecture, or lacks statistics.
        SpecError: The robot lacks a camera or numbers that the policy wants to see, or takes other actions.
    """

    Config = LeRobotConfig

    def __init__(self, config: LeRobotConfig, spec: RobotSpec) -> None:
        scale = ActionScale(spec, choices=True)  # before LeRobot is imported, which takes seconds
        from user_core.policies.lerobot.network import LeRobotNetwork
        from user_core.policies.lerobot.opening import open_policy

        self.config, self.spec, self._scale = config, spec, scale
        opened = open_policy(config, spec)
        self._network = LeRobotNetwork(opened, scale, config.instruction, config.instructions)
        self._network.to(config.device)
        self._network.share_base()
        self.tasks = tuple(config.instructions)
        self.observation_history = self._network.history
        self._rng = np.random.default_rng(config.seed)
        if self._goes_on():
            self.continue_plan = self._continue_plan

    @classmethod
    def history_of(cls, config: LeRobotConfig, spec: RobotSpec) -> int:
        """As LeRobot's configuration says; where LeRobot or the checkpoint is not on this host, ``n_obs_steps`` of the
        parameters. LeRobot is imported by another process, if it has not been by this."""
        return history_of(config, spec)

    @property
    def rows(self) -> int:
        """Actions of a chunk that it learns, T; when it acts some policies give fewer."""
        return self._network.rows

    def reset(self, task: Task) -> None:
        """An episode begins. Raises PolicyError where the policy reads, and there is nothing to read."""
        self._network.instruction = self.words(task)

    @property
    def reads(self) -> bool:
        """Whether it wants an instruction."""
        return self._network.reads

    def words(self, task: Task) -> str:
        """What it is told of a task. Raises PolicyError where it reads, and there is nothing to read."""
        config = self.config
        words = task.instruction or config.instructions.get(task.name, "") or config.instruction
        if self._network.reads and not words:
            raise PolicyError(
                f"task {task.name!r} for a policy that reads", got="no instruction", expected="the task in words",
                hint='Say actor.instruction:="put the cube into the bowl", or instruction or instructions in the '
                "parameters of the policy",
            )  # fmt: skip
        return words

    def act(self, observation: Arrays, *, deterministic: bool = False) -> Array:
        """The next actions, (T, A)."""
        return self._chunks(together([observation]), [deterministic])[0]

    def act_batch(self, queries: Sequence[Query]) -> list[Array]:
        """Chunks for several robots, see :class:`~user_core.interfaces.BatchingPolicy`: one pass for all that begin and
        one for all whose plans go on, where LeRobot's policy can be given its noise. Of others one for those whose
        plans go on alike; and those that do not explore are answered one by one: their noise is always the same, and
        not that of a place in the batch."""
        made: list[Array] = [np.zeros(0)] * len(queries)
        alike: dict[tuple[int, int, int], list[int]] = {}
        noisy, apart = self._network.draws_noise is not False, self._network.takes_noise
        for i, one in enumerate(queries):
            left = 0 if one.plan is None else min(len(one.plan), self.rows)
            alone = i + 1 if one.deterministic and noisy else 0
            kind = (0, min(left, 1), 0) if apart else (alone, left, min(one.frozen, left))
            alike.setdefault(kind, []).append(i)
        for (_, goes_on, _), rows in alike.items():
            some = [queries[i] for i in rows]
            chunks = self._chunks(
                together([one.observation for one in some]),
                [one.deterministic for one in some],
                [np.asarray(one.plan) for one in some] if goes_on else None,
                [one.frozen for one in some],
                [self.words(one.task) for one in some],
            )
            for i, chunk in zip(rows, chunks, strict=True):
                made[i] = chunk
        return made

    def acting_calls(self) -> list[tuple[Any, str]]:
        """Of ACT its model, of diffusion and the multi-task DiT the network that takes noise away. Others have a way of
        their own (``config: {compile_model: true}``) or none."""
        policy = self._network.policy
        kind = policy.config.type
        if kind == "act":
            return [(policy.model, "forward")]
        if kind == "multi_task_dit":
            return [(policy.noise_predictor, "forward")]
        return [(policy.diffusion.unet, "forward")] if kind == "diffusion" else []

    def graphed_calls(self) -> list[tuple[Any, str]]:
        """All that is done on the GPU for a chunk, with every step that takes noise away, and for one that goes on from
        another. Of diffusion and the multi-task DiT the network only: their steps are counted on the host. What goes on
        is launched where LeRobot's policy cannot be given its noise."""
        network = self._network
        if network.policy.config.type in ("diffusion", "multi_task_dit"):
            return self.acting_calls()
        own = [(network, "chunk")]
        return [*own, (network, "continue_chunk")] if network.takes_noise else own

    def arrays(self) -> dict[str, Array]:
        return self._network.arrays()

    def load(self, arrays: Arrays) -> None:
        check_fits(arrays, self._network.shapes(), type(self).__name__)
        self._network.take(arrays)

    def in_place(self) -> AbstractContextManager[dict[str, Tensor]]:
        return self._network.in_place()

    def network(self) -> LeRobotNetwork:
        """A :class:`~user_core.interfaces.LossNetwork`; a copy, except for what is frozen of a base. Raises PolicyError
        where our batches cannot be what it learns from."""
        network = self._network
        if network.first_row:
            raise PolicyError(
                f"training of LeRobot's {network.policy.config.type}",
                got=f"chunks that begin {-network.first_row} steps before now",
                expected="chunks that begin now",
                hint="Say config: {n_obs_steps: 1}; or train it with lerobot-train on what `user data export` writes",
            )  # fmt: skip
        if network.policy.config.type == "vqbet":
            raise PolicyError(
                "training of LeRobot's vqbet", got="a loss that changes what it measures: at first it learns codes",
                expected="the same loss from the first update to the last, of several processes and after a restart",
                hint="Train it with lerobot-train on what `user data export` writes; its checkpoint acts here",
            )  # fmt: skip
        if (ahead := network.sees_ahead) > 0:
            raise PolicyError(
                f"training of LeRobot's {network.policy.config.type}",
                got=f"a loss that also wants what is seen up to {ahead} steps after now",
                expected="one of what is seen now",
                hint="Say config: {enable_world_model: false} where it is vla_jepa; or train it with lerobot-train on what "
                "`user data export` writes",
            )  # fmt: skip
        if network.reads and not network.instruction and not network.sentences:
            raise PolicyError(
                f"training of LeRobot's {network.policy.config.type}, which reads", got="no instruction",
                expected="the task in words",
                hint="Say instruction in the parameters of the policy, or instructions for several tasks",
            )  # fmt: skip
        return network.copied()

    def save(self, folder: str | Path) -> None:
        """Write it as a checkpoint that LeRobot opens."""
        self._network.save(Path(folder))

    def _goes_on(self) -> bool:
        policy = self._network.policy
        return bool(getattr(policy, "supports_rtc", bool)()) and hasattr(
            policy, "init_rtc_processor"
        )

    def _continue_plan(
        self, observation: Arrays, plan: Array, frozen: int, *, deterministic: bool = False
    ) -> Array:
        """Actions that go on from a plan, by LeRobot's own real-time chunking; see
        :class:`~user_core.interfaces.ContinuingPolicy`."""
        if not len(plan):
            return self.act(observation, deterministic=deterministic)
        return self._chunks(together([observation]), [deterministic], [plan], [frozen])[0]

    def _chunks(
        self, observation: Arrays, still: Sequence[bool], plans: Sequence[Array] | None = None,
        frozen: Sequence[int] = (), words: Sequence[str] | None = None,
    ) -> list[Array]:  # fmt: skip
        """Chunks (T, A) for observations, each array (B, ...), that go on from ``plans``, (P, A) each, if any."""
        network = self._network
        inputs = network.inputs(observation)
        goes_on = None
        if plans is not None:
            plans = [plan[: self.rows] for plan in plans]
            frozen = [min(some, len(plan)) for some, plan in zip(frozen, plans, strict=True)]
            goes_on = self._goes_on_from(plans, frozen)
        seed = STILL if all(still) else int(self._rng.integers(2**31))
        unit = network.generate(inputs, seed, words, still=still, goes_on=goes_on)
        made = list(self._scale.to_robot(unit.float().cpu().numpy()))
        for chunk, plan, some in zip(made, plans or (), frozen, strict=False):
            chunk[:some] = plan[:some]  # they are carried out, whatever was generated
        return made

    def _goes_on_from(self, plans: Sequence[Array], frozen: Sequence[int]) -> GoesOn:
        import torch

        from user_core.policies.lerobot.network import GoesOn

        self._let_go_on()
        left = [len(plan) for plan in plans]
        # Filled up to the same length with what does not count.
        most = self.rows if self._network.takes_noise else max(left)
        even = [np.concatenate([p, np.repeat(p[-1:], most - len(p), axis=0)]) for p in plans]
        unit = torch.from_numpy(self._scale.unit(np.stack(even))).flatten(1)
        return GoesOn(unit, frozen, left)

    def _let_go_on(self) -> None:
        """Switch LeRobot's real-time chunking on."""
        from user_core.runtime.lerobot import lerobot

        policy = self._network.policy
        if policy.config.rtc_config is None:
            policy.config.rtc_config = lerobot("policies.rtc.configuration_rtc").RTCConfig()
        policy.config.rtc_config.enabled = True
        if policy.rtc_processor is None:
            policy.init_rtc_processor()
