"""What algorithms share that improve a frozen policy: RLPD, with critics that learn alone at first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from user_core.config import setting
from user_core.errors import PluginError
from user_core.interfaces import Policy
from user_core.specs import RobotSpec
from user_core.types import Batch
from user_learner.algorithms.off_policy.rlpd import RLPD, RLPDConfig


class OnBaseConfig(RLPDConfig):
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
        doc="Critic updates before the actor learns: critics that know nothing yet would lead it "
        "away from the base.",
        ge=0,
        read_only=False,
    )


class OnBase(RLPD):
    """RLPD of a policy on a frozen base.

    Args:
        config: Parameters.
        spec: The robot's.
        policy: One of its :attr:`takes`.

    Raises:
        PluginError: It is another one.
    """

    Config: ClassVar[type[OnBaseConfig]] = OnBaseConfig
    config: OnBaseConfig
    #: Class of the policies that it trains, and the name of the plugin.
    takes: ClassVar[tuple[type[Policy], str]]

    def __init__(self, config: OnBaseConfig, spec: RobotSpec, policy: Policy) -> None:
        wanted, name = self.takes
        if not isinstance(policy, wanted):
            raise PluginError(
                f"policy of {type(self).__name__}", got=type(policy).__name__,
                expected=f"the policy {name}, on a frozen base",
                hint="See docs/how_to/improve_a_policy.md; a policy without a base learns by rlpd",
            )  # fmt: skip
        super().__init__(config, spec, policy)

    def update(self, batch: Batch) -> Mapping[str, float]:
        alone = self.config.critic_only_updates
        if self._updates <= alone < self._updates + self.updates_per_call:
            self._graphed.forget()  # what was recorded has no update of the actor
        return super().update(batch)

    def _update_actor(self, features: Tensor, temperature: Tensor) -> dict[str, Tensor]:
        if self._updates > self.config.critic_only_updates:
            return super()._update_actor(features, temperature)
        none = temperature.new_zeros(())
        return {"actor_loss": none, "entropy": none, "temperature": temperature[0]}
