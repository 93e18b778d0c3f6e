"""A small correction on top of a frozen policy.

Ankile et al., "From Imitation to Refinement: Residual RL for Precise Assembly", 2024, and "Residual Off-Policy RL
for Finetuning Behavior Cloning Policies", 2025: the network sees what the robot shows and what the base would do,
and moves that by a share of the range at most. So exploration stays near what already works, and only the small
network is trained, published and fetched; the base lies on each host as a file.

What is chosen (a gripper that opens or closes) cannot be moved by a share. There the correction is one of logits:
the base's choice has a lead, which the network learns to confirm or to overturn; critics give a value for each choice,
as the grasp critic of HIL-SERL does (Luo et al. 2024).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from user_core.config import setting
from user_core.errors import SpecError
from user_core.policies.improving.base import (
    BASE_ACTION,
    FrozenBase,
    OnBaseConfig,
    OnBasePolicy,
)
from user_core.specs import Array, Arrays, ArraySpec, RobotSpec

if TYPE_CHECKING:  # imported when it is asked for, with torch
    from user_core.policies.improving.residual_network import ResidualNetwork


class ResidualConfig(OnBaseConfig):
    """The base, the network of the correction, and its size."""

    scale: float = setting(
        0.2, doc="Largest correction of each element, as a share of half its range.", gt=0, le=2
    )
    kept_choices: float = setting(
        0.9,
        doc="Probability with which what the base chooses is kept before anything is learned.",
        gt=0,
        lt=1,
        late=True,
    )


class ResidualPolicy(OnBasePolicy):
    """What the base does, plus ``scale`` times a tanh-Gaussian correction, cut at the bounds.

    Its arrays are those of the correction: a tanh-Gaussian policy that sees ``base_action`` too.

    Args:
        config: Parameters.
        spec: The robot's; elements of its actions may be choices.
    """

    Config = ResidualConfig

    def __init__(self, config: ResidualConfig, spec: RobotSpec) -> None:
        base, self._share = FrozenBase(config, spec), np.float32(config.scale)
        if BASE_ACTION in spec.observation:
            raise SpecError(
                f"observations of {spec.robot!r}", got=BASE_ACTION,
                expected="another name: what the base would do is called so",
            )  # fmt: skip
        if config.observations:
            config = config.replace(observations=(*config.observations, BASE_ACTION))
        super().__init__(base, config, with_base_action(spec))
        self._leads = leads_of(self.layout.scale.counts, config.kept_choices)

    def network(self) -> ResidualNetwork:
        from user_core.policies.improving.residual_network import ResidualNetwork

        return ResidualNetwork(
            self.layout, self.arrays(), self.base, float(self._share), self._leads
        )

    def act(self, observation: Arrays, *, deterministic: bool = False) -> Array:
        """One action, (1, A): the base's with a sample of the correction, or with its squashed mean."""
        action, scale = self.base.action(observation), self.layout.scale
        head = self._forward({**observation, BASE_ACTION: action})
        unit, moving = scale.unit(action), scale.continuous
        if not scale.counts:
            moved = self._share * np.tanh(self._raw(head, deterministic))
            return scale.to_robot(np.clip(unit + moved, -1, 1))[None]
        head, start = head.copy(), 2 * len(moving)
        for element, count, lead in zip(scale.categorical, scale.counts, self._leads, strict=True):
            head[start + min(max(round(float(unit[element])), 0), count - 1)] += lead
            start += count
        found = self._chosen(head, deterministic)
        found[moving] = np.clip(unit[moving] + self._share * found[moving], -1, 1)
        return scale.to_robot(found)[None]


def leads_of(counts: Sequence[int], kept: float) -> tuple[float, ...]:
    """What is added to the logit of the base's choice, of each categorical element: with all others equal it then has
    the probability ``kept``."""
    return tuple(math.log(kept * max(n - 1, 1) / (1 - kept)) for n in counts)


def with_base_action(spec: RobotSpec) -> RobotSpec:
    """The robot, as if it showed what the base would do."""
    action = spec.action
    shown = ArraySpec(action.shape, action.dtype, action.low, action.high)
    return replace(spec, observation={**spec.observation, BASE_ACTION: shown})
