"""Cal-QL (Nakamoto et al. 2023): from old data to online learning; with WSRL's way of going on (Zhou et al. 2024)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from user_core.config import setting
from user_core.interfaces import Policy
from user_core.specs import RobotSpec
from user_learner.algorithms.common.batches import Minibatch
from user_learner.algorithms.common.state_values import StateValues, StateValuesConfig
from user_learner.algorithms.off_policy.rlpd import RLPD, RLPDConfig
from user_learner.algorithms.off_policy.sac import Ahead


class CalQLConfig(RLPDConfig):
    """RLPD's parameters, and how pessimistic its critics are of what the data do not show."""

    critic_updates: int = setting(
        1, doc="Critic updates per actor update; a call takes that many minibatches.", ge=1, le=100
    )
    conservative_weight: float = setting(
        5.0,
        doc="Weight of that pessimism; 0 for none, as where robots collect what it is about.",
        ge=0,
        read_only=False,
    )
    conservative_samples: int = setting(
        4,
        doc="Actions of each kind (any, the policy's here, and its next ones) that stand for all others.",
        ge=1,
        le=100,
        read_only=False,
    )
    reference: StateValuesConfig = setting(
        factory=StateValuesConfig,
        doc="Critics of states, which learn what the data's own behaviour brings.",
    )


class CalQL(RLPD):
    """RLPD, with critics that do not promise more than data show, and not less than those who made them got.

    Nakamoto et al., "Cal-QL: Calibrated Offline RL Pre-Training for Efficient Online Fine-Tuning", 2023, equation 5.1:
    each critic also minimises

        weight x ( log sum_a exp max(Q(s, a), V_mu(s)) - Q(s, a_data) )

    where only actions of the policy have the bound V_mu, the value of the behaviour in the data (without that bound it
    is CQL, Kumar et al. 2020). The paper takes V_mu from the returns of whole episodes; here it is learned from the
    same batches by temporal differences, so that batches stay transitions. Choices need no samples: the sum over
    actions has each of them, beside sampled continuous elements where there are any.

    With ``conservative_weight: 0`` it goes on from there as RLPD. WSRL (Zhou et al., "Efficient Online Reinforcement
    Learning Fine-Tuning Need Not Retain Offline Data", 2024) is that, without old data, after some steps in which the
    policy acts as it was (``learning_starts``): ``config/algorithms/wsrl.yaml``.

    Args:
        config: Parameters.
        spec: The robot's; elements of its actions may be choices.
        policy: As for SAC.

    Raises:
        PluginError: The policy is not one that SAC trains.
    """

    Config: ClassVar[type[CalQLConfig]] = CalQLConfig
    config: CalQLConfig

    def __init__(self, config: CalQLConfig, spec: RobotSpec, policy: Policy) -> None:
        super().__init__(config, spec, policy)
        seen = self.networks.critics.shapes["layer0.weight"][1] - len(self._continuous)
        self.reference = StateValues(config.reference, seen, config.seed, self.device)

    def _update_critics(
        self, features: Tensor, minibatch: Minibatch, target: Tensor, ahead: Ahead
    ) -> dict[str, Tensor]:
        metrics = {}
        if self.config.conservative_weight > 0:
            metrics["reference_loss"] = self.reference.learn(
                features, minibatch.reward, minibatch.discount, ahead.features
            )
        return super()._update_critics(features, minibatch, target, ahead) | metrics

    def _more_of_critics(
        self, features: Tensor, values: Tensor, ahead: Ahead
    ) -> tuple[Tensor | None, dict[str, Tensor]]:
        weight = self.config.conservative_weight
        if not weight:
            return None, {}
        gap = torch.logsumexp(self._elsewhere(features, ahead), -1) - values
        return weight * gap.mean(1).sum(), {"conservative_gap": gap.detach().mean()}

    def _elsewhere(self, features: Tensor, ahead: Ahead) -> Tensor:
        """Values of other actions, each less its log-density, (E, B, 3 N); with gradients. Of choices alone there is
        nothing to sample, and it is (E, B, 1)."""
        networks, choices = self.networks, self.networks.choices
        count = self.config.conservative_samples if self._continuous else 1
        many = features.repeat_interleave(count, 0)
        with torch.no_grad():
            here = self._act(many)
            least = self.reference(features.detach()).repeat_interleave(count, 0)
            tried = [(here.action, here.log_prob, True)]
            if self._continuous:
                later = self._act(ahead.features.repeat_interleave(count, 0))
                size = here.action.shape
                noise = torch.rand(size, generator=self.generator, device=self.device)
                evenly = torch.full_like(here.log_prob, -size[1] * math.log(2))
                tried = [
                    (2 * noise - 1, evenly, False), *tried, (later.action, later.log_prob, True),
                ]  # fmt: skip
        found = []
        for action, density, bounded in tried:
            values = networks.values(networks.critics.named, many, action)
            if bounded:
                values = torch.maximum(values, least if choices is None else least[:, None])
            if choices is not None:
                values = choices.log_sum_exp(values)
            found.append((values - density).unflatten(1, (-1, count)))
        return torch.cat(found, -1)

    @torch.no_grad()
    def _keep_values(self, factors: Tensor) -> None:
        super()._keep_values(factors)
        self.reference.rescale(factors)

    def state(self) -> dict[str, Any]:
        return {**super().state(), "reference": self.reference.state()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        super().load_state(state)
        self.reference.load_state(state["reference"], "reference")
