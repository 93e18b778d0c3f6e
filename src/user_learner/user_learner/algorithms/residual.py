"""Off-policy learning of a correction on top of a frozen policy (Ankile et al. 2025)."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from user_core.config import setting
from user_core.errors import PluginError
from user_core.interfaces import Policy
from user_core.policies.improving.residual import ResidualPolicy
from user_core.specs import RobotSpec
from user_learner.algorithms.rlpd import RLPD, RLPDConfig


class ResidualConfig(RLPDConfig):
    """RLPD's parameters, and how long the critics learn alone."""

    critic_updates: int = setting(
        4, doc="Critic updates per actor update; a call takes that many minibatches.", ge=1, le=100
    )
    initial_temperature: float = setting(0.02, doc="Weight of the entropy at the start.", gt=0)
    entropy_in_target: bool = setting(
        False, doc="Whether the critics' targets count future entropy as reward.", read_only=False
    )
    critic_only_updates: int = setting(
        2000,
        doc="Critic updates before the correction learns: critics that know nothing yet would lead it "
        "away from the base.",
        ge=0,
        read_only=False,
    )


class Residual(RLPD):
    """RLPD of the policy ``residual``, with critics that learn alone at first.

    Ankile et al., "Residual Off-Policy RL for Finetuning Behavior Cloning Policies", 2025: critics judge the
    actions that were carried out, so that demonstrations and what the base did alone teach them, too.

    Args:
        config: Parameters.
        spec: The robot's.
        policy: A ``residual`` policy.

    Raises:
        PluginError: It is another one.
    """

    Config: ClassVar[type[ResidualConfig]] = ResidualConfig
    config: ResidualConfig

    def __init__(self, config: ResidualConfig, spec: RobotSpec, policy: Policy) -> None:
        if not isinstance(policy, ResidualPolicy):
            raise PluginError(
                "policy of Residual", got=type(policy).__name__,
                expected="the policy residual, on a frozen base",
                hint="See docs/how_to/improve_a_policy.md; a policy without a base learns by rlpd",
            )  # fmt: skip
        super().__init__(config, spec, policy)

    def _update_actor(self, features: Tensor, temperature: Tensor) -> dict[str, Tensor]:
        if self._updates > self.config.critic_only_updates:
            return super()._update_actor(features, temperature)
        none = temperature.new_zeros(())
        return {"actor_loss": none, "entropy": none, "temperature": temperature[0]}
