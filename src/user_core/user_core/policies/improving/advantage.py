"""A flow policy that was told how good what it learned from was, and is now asked for what was good.

Physical Intelligence, "pi*0.6: a VLA That Learns From Experience", 2025 (RECAP): a policy sees, beside the observation, whether the
action in the data had an advantage; asked for one that has, and away from what is usual (classifier-free guidance, Ho
and Salimans 2022), it does better than those it learned from. Its algorithm is ``advantage_conditioned``.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import numpy as np

from user_core.config import setting
from user_core.policies.generative.config import GenerativeConfig
from user_core.policies.generative.mlp import PerceptronLayout
from user_core.policies.generative.objectives import Guided, Model
from user_core.policies.generative.policy import PlainFlowPolicy
from user_core.specs import Array

if TYPE_CHECKING:  # imported when it is asked for, with torch
    from user_core.policies.improving.advantage_network import AdvantageNetwork


class AdvantageFlowConfig(GenerativeConfig):
    """A flow, and how decidedly it does what was good."""

    advantage_weight: float = setting(
        1.5,
        doc="0: as the data; 1: as what was good in them; more: further away from what is usual.",
        ge=0,
        le=10,
        read_only=False,
    )


class AdvantageFlowPolicy(PlainFlowPolicy):
    """A flow with one more input: 1 for actions with an advantage, -1 for those without, 0 for any."""

    Config = AdvantageFlowConfig
    generation: AdvantageFlowConfig

    @property
    def _layout(self) -> PerceptronLayout | None:
        plain = super()._layout
        if plain is None:
            return None
        return PerceptronLayout(plain.state + 1, plain.rows, plain.size, plain.told, plain.hidden)

    def _fresh(self) -> AdvantageNetwork:
        from user_core.policies.improving.advantage_network import AdvantageNetwork

        return AdvantageNetwork(
            self.generation, self.features, self.code, self.objective, self._layout
        )

    def _model(self, state: Array) -> Model:
        good, usual = self._perceptron, copy.copy(self._perceptron)
        good.see(_with_advantage(state, 1))
        usual.see(_with_advantage(state, 0))
        return Guided(good, usual, self.generation.advantage_weight)


def _with_advantage(state: Array, good: int) -> Array:
    """The numbers of an observation, or of several, and whether the action is a good one."""
    return np.append(state, np.full((*state.shape[:-1], 1), good, np.float32), axis=-1)
