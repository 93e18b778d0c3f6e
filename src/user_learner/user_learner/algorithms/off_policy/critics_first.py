"""RLPD of a policy that can do something already: its critics learn alone at first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from user_core.config import setting
from user_core.types import Batch
from user_learner.algorithms.common.batches import Minibatch
from user_learner.algorithms.off_policy.rlpd import RLPD, RLPDConfig


class CriticsFirstConfig(RLPDConfig):
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


class CriticsFirst(RLPD):
    """RLPD whose actor, while the critics learn :attr:`alone`, learns only what it has beside them."""

    Config: ClassVar[type[CriticsFirstConfig]] = CriticsFirstConfig
    config: CriticsFirstConfig

    @property
    def alone(self) -> bool:
        """Whether the actor does not follow the critics yet."""
        return self._updates <= self.config.critic_only_updates

    def update(self, batch: Batch) -> Mapping[str, float]:
        if self.alone and self._updates + self.updates_per_call > self.config.critic_only_updates:
            self._graphed.forget()  # what was recorded has no such update of the actor
        return super().update(batch)

    def _update_actor(
        self, features: Tensor, minibatch: Minibatch, temperature: Tensor
    ) -> dict[str, Tensor]:
        if not self.alone:
            return super()._update_actor(features, minibatch, temperature)
        loss, metrics = self._more_of_actor(features, minibatch)
        if loss is not None:
            self._step_actor(loss)
        none = temperature.new_zeros(())
        return {"actor_loss": none, "entropy": none, "temperature": temperature[0], **metrics}
