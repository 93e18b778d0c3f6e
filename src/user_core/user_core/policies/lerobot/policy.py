"""Any policy of LeRobot as one of ours.

LeRobot's own class decides and has its own loss; its own processors bring observations into its form, and its actions
back. What is ours is what lies around it: which of the robot's observations are its inputs
(:mod:`user_core.policies.lerobot.inputs`), actions within the bounds of the robot, chunks that the actor carries out as
it does any other's, and versions that hold what is trained.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from user_core.errors import PolicyError
from user_core.interfaces import Policy
from user_core.policies.features import ActionScale
from user_core.policies.lerobot.config import LeRobotConfig
from user_core.policies.loading import check_fits
from user_core.specs import Array, Arrays, RobotSpec
from user_core.types import Task

if TYPE_CHECKING:  # imported with torch and LeRobot, when it is made
    from user_core.policies.lerobot.network import LeRobotNetwork

#: Seed of the noise of deterministic actions.
_STILL = 0


class LeRobotPolicy(Policy):
    """Acts as a policy of LeRobot does, a chunk at a time.

    Args:
        config: Which one.
        spec: The robot's; its actions are continuous and have finite bounds.

    Raises:
        PluginError: LeRobot is not installed, or does not have this policy.
        ConfigError: A setting that LeRobot does not have.
        PolicyError: The checkpoint is not there, is of another architecture, or lacks statistics.
        SpecError: The robot lacks a camera or numbers that the policy wants to see, or takes other actions.
    """

    Config = LeRobotConfig

    def __init__(self, config: LeRobotConfig, spec: RobotSpec) -> None:
        scale = ActionScale(spec)  # before LeRobot is imported, which takes seconds
        from user_core.policies.lerobot.network import LeRobotNetwork
        from user_core.policies.lerobot.opening import open_policy

        self.config, self.spec, self._scale = config, spec, scale
        self._network = LeRobotNetwork(open_policy(config, spec), scale, config.instruction)
        self._network.to(config.device)
        self.observation_history = self._network.history
        self._rng = np.random.default_rng(config.seed)
        if self._goes_on():
            self.continue_plan = self._continue_plan

    @property
    def rows(self) -> int:
        """Actions of a chunk that it learns, T; when it acts some policies give fewer."""
        return self._network.rows

    def reset(self, task: Task) -> None:
        """An episode begins. Raises PolicyError where the policy reads, and there is nothing to read."""
        words = task.instruction or self.config.instruction
        if self._network.reads and not words:
            raise PolicyError(
                f"task {task.name!r} for a policy that reads", got="no instruction", expected="the task in words",
                hint='Say actor.instruction:="put the cube into the bowl", or instruction in the parameters of the '
                "policy",
            )  # fmt: skip
        self._network.instruction = words

    def act(self, observation: Arrays, *, deterministic: bool = False) -> Array:
        """The next actions, (T, A)."""
        return self._acted(observation, deterministic)

    def arrays(self) -> dict[str, Array]:
        return self._network.arrays()

    def load(self, arrays: Arrays) -> None:
        check_fits(arrays, self.arrays(), type(self).__name__)
        self._network.take(arrays)

    def network(self) -> LeRobotNetwork:
        """A :class:`~user_core.interfaces.LossNetwork`; a copy. Raises PolicyError where our batches cannot be what it
        learns from."""
        network = self._network
        if network.first_row:
            raise PolicyError(
                f"training of LeRobot's {network.policy.config.type}",
                got=f"chunks that begin {-network.first_row} steps before now",
                expected="chunks that begin now",
                hint="Say config: {n_obs_steps: 1}; or train it with lerobot-train on what `user data export` writes",
            )  # fmt: skip
        if network.reads and not network.instruction:
            raise PolicyError(
                f"training of LeRobot's {network.policy.config.type}, which reads", got="no instruction",
                expected="the task in words", hint="Say instruction in the parameters of the policy",
            )  # fmt: skip
        return copy.deepcopy(network)

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
        import torch

        from user_core.runtime.lerobot import lerobot

        network = self._network
        theirs = network.policy.config
        if theirs.rtc_config is None:
            theirs.rtc_config = lerobot("policies.rtc.configuration_rtc").RTCConfig()
        theirs.rtc_config.enabled = True
        if network.policy.rtc_processor is None:
            network.policy.init_rtc_processor()
        plan, frozen = plan[: network.rows], min(frozen, len(plan), network.rows)
        if not len(plan):
            return self.act(observation, deterministic=deterministic)
        unit = torch.from_numpy(self._scale.unit(plan)).reshape(1, -1).to(network.device)
        batch = {**network.batch(self._inputs(observation)), "action": network.theirs(unit)}
        left = network.prepared(batch)["action"]
        made = self._acted(
            observation, deterministic,
            prev_chunk_left_over=left, inference_delay=frozen, execution_horizon=len(plan),
        )  # fmt: skip
        made[:frozen] = plan[:frozen]  # they are carried out, whatever was generated
        return made

    def _acted(self, observation: Arrays, deterministic: bool, **keywords: Any) -> Array:
        seed = _STILL if deterministic else int(self._rng.integers(2**31))
        unit = self._network.generate(self._inputs(observation), seed, **keywords)
        return self._scale.to_robot(unit[0].cpu().numpy())

    def _inputs(self, observation: Arrays) -> Any:
        return self._network.inputs({name: np.array(a)[None] for name, a in observation.items()})
