"""Soft actor-critic of a flow policy: rewards teach the steps from noise to a chunk (Zhang et al. 2025)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from user_core.config import setting
from user_core.errors import PluginError
from user_core.interfaces import Policy
from user_core.policies.generative.flow_network import PathNetwork
from user_core.specs import RobotSpec
from user_learner.algorithms.common.batches import Minibatch, shifted
from user_learner.algorithms.common.distributed import gathered
from user_learner.algorithms.off_policy.critics_first import CriticsFirst, CriticsFirstConfig


class SACFlowConfig(CriticsFirstConfig):
    """RLPD's parameters, for which a sample is a path from noise to a chunk, and cloning beside it."""

    target_entropy_per_action: float = setting(
        -0.7,
        doc="Entropy aimed at, per number of noise on the way to a chunk: that of a Gaussian with the standard deviation "
        "that one step adds, in the scale of the data.",
        read_only=False,
    )
    cloning_weight: float = setting(
        1.0,
        doc="Weight of the loss of cloning, of what was done in the same minibatch, beside the values of critics: it keeps the "
        "flow near what is known. While critics learn alone it is all that the flow learns from. 0: none.",
        ge=0,
        read_only=False,
    )


class SACFlow(CriticsFirst):
    """SAC whose actor is a flow over chunks, trained through all of its steps.

    Zhang et al., "SAC Flow: Sample-Efficient Reinforcement Learning of Flow-Based Policies via Velocity-Reparameterized
    Sequential Modeling", 2025. The steps are a recurrent network, which gates keep trainable (the policy's ``velocity:
    gated``, their Flow-G) or a transformer that decodes each step (its ``backbone: transformer``, their Flow-T). Steps
    with noise of their own (``path_noise``) give a path a density, whose logarithm stands where that of an action
    stands in SAC. Critics judge whole chunks.

    What sees images is a part of the flow. It learns by cloning while critics learn alone, then stays: critics and flow
    take all of its tokens as given, so that what they learn goes on meaning what it did. Choices are the numbers that
    the flow makes them from (:mod:`user_core.policies.generative.coding`): critics see which one became of these, and
    gradients pass as if nothing had been chosen.

    Args:
        config: Parameters.
        spec: The robot's; elements of its actions may be choices.
        policy: ``flow`` with ``path_noise`` above 0; its weights are the first ones. Batches are windows of T steps
            (``sampler.window``).

    Raises:
        PluginError: It is another one.
    """

    Config: ClassVar[type[SACFlowConfig]] = SACFlowConfig
    config: SACFlowConfig
    needs = PathNetwork

    def __init__(self, config: SACFlowConfig, spec: RobotSpec, policy: Policy) -> None:
        super().__init__(config, spec, policy)
        self._network: Any = self.networks.policy

    def _require(self, network: Any, spec: RobotSpec) -> int:
        if network.no_paths:
            raise PluginError(
                "policy of SACFlow", got=f"flow: {network.no_paths}",
                expected="flow with path_noise above 0, not distilled",
                hint="Set path_noise: 0.5 and velocity: gated where its base is trained, too; see "
                "docs/how_to/improve_a_policy.md",
            )  # fmt: skip
        return int(network.code_numbers)

    def _observe(self, minibatches: Sequence[Minibatch]) -> None:
        """Settle the scale of actions from what was done."""
        action = torch.cat([one.action for one in minibatches])
        weights = [one.weight for one in minibatches if one.weight is not None]
        self._network.observe_actions(
            gathered(action), gathered(torch.cat(weights)) if weights else None
        )

    def _sample(self, features: Tensor) -> tuple[Tensor, Tensor]:
        drawn: tuple[Tensor, Tensor] = self._network.wander(features, self.generator)
        return drawn

    def _as_judged(self, action: Tensor) -> Tensor:
        codes: Tensor = self._network.codes(action)
        return codes

    def _more_of_actor(
        self, features: Tensor, minibatch: Minibatch
    ) -> tuple[Tensor | None, dict[str, Tensor]]:
        """Cloning."""
        if self.config.cloning_weight == 0:
            return None, {}
        what = minibatch.action, minibatch.weight, self.generator
        if self.alone:
            inputs = shifted(minibatch.inputs, self.config.image_shift, self.generator)
            loss = self._network.loss(inputs, *what)
        else:
            loss = self._network.loss_of(self._network.seen_in(features), *what)
        return self.config.cloning_weight * loss, {"cloning_loss": loss.detach()}

    def _target_entropies(self, like: Tensor) -> Tensor:
        return like.new_tensor([self.config.target_entropy_per_action * self._network.path_numbers])
