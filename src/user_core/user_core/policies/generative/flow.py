"""The policy ``flow``: chunks by flow matching, and what else can be asked of the network that makes them.

A gated velocity and paths with noise are for learning from rewards (:mod:`user_core.policies.generative.velocity`; the
algorithm ``sac_flow``). Distilled, a second network learns where the steps of the first lead, and makes a chunk at
once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from user_core.interfaces import Query
from user_core.policies.generative.config import FlowConfig
from user_core.policies.generative.objectives import Flow
from user_core.policies.generative.policy import PlainFlowPolicy
from user_core.policies.generative.velocity import Velocity
from user_core.specs import Array, Arrays, RobotSpec

if TYPE_CHECKING:  # imported when it is asked for, with torch
    from user_core.policies.generative.flow_network import FlowNetwork

__all__ = ["FlowConfig", "FlowPolicy"]


class FlowPolicy(PlainFlowPolicy):
    """Conditional flow matching over chunks.

    Args:
        config: Parameters.
        spec: The robot's; elements of its actions may be choices.
    """

    Config = FlowConfig
    generation: FlowConfig

    def __init__(self, config: FlowConfig, spec: RobotSpec) -> None:
        self._of_steps = Velocity(config.velocity == "gated", config.path_noise)
        if config.distill:
            self._acting = "student."
        else:
            self._velocity = self._of_steps
        super().__init__(config, spec)

    @property
    def _steps(self) -> int:
        return 1 if self.generation.distill else self.generation.steps

    @property
    def kept_from_actors(self) -> str:
        """The network that a student learns from."""
        return "the teacher of a distilled flow" if self.generation.distill else ""

    def _fresh(self) -> FlowNetwork:
        from user_core.policies.generative.flow_network import FlowNetwork

        return FlowNetwork(self.generation, self.features, self.code, self._layout, self._of_steps)

    def act(self, observation: Arrays, *, deterministic: bool = False) -> Array:
        """The next T actions, (T, A); a sample has the noise of its path."""
        if deterministic or not self.generation.path_noise:
            return super().act(observation, deterministic=deterministic)
        shape = (self._steps, self.rows, self.code.size)
        noise, noises = self.noise(), self._rng.standard_normal(shape, dtype=np.float32)
        if self._layout is not None:
            made, _ = Flow().wander(self._model(self._state(observation)), noise, noises)  # type: ignore[arg-type]
            return self._to_robot(made)
        import torch

        with torch.no_grad():
            model: Any = self._torch_model(self._network, self._inputs(observation))
            begin, on_the_way = (
                torch.from_numpy(a).to(self._device) for a in (noise[None], noises[:, None])
            )
            made, _ = Flow().wander(model, begin, on_the_way)
        return self._to_robot(made[0].cpu().numpy())

    def act_batch(self, queries: Sequence[Query]) -> list[Array]:
        """Chunks for several robots, see :class:`~user_core.interfaces.BatchingPolicy`; samples with noise on their way
        one after the other."""
        if not self.generation.path_noise:
            return super().act_batch(queries)
        alone = [one.plan is None and not one.deterministic for one in queries]
        rest = iter(super().act_batch([q for q, a in zip(queries, alone, strict=True) if not a]))
        made, task = [], self._task
        for one, by_itself in zip(queries, alone, strict=True):
            self._task = one.task
            made.append(self.act(one.observation) if by_itself else next(rest))
        self._task = task
        return made
