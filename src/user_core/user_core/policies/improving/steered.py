"""A frozen policy whose noise is chosen instead of drawn.

Wagenmaker et al., "Steering Your Diffusion Policy with Latent Space Reinforcement Learning", 2025: what a generating
policy makes is a function of what is seen and of the noise it begins with. A small network that chooses the noise
chooses among all that the base knows to do, and can do nothing else. That holds for choices, too (a gripper that opens
or closes): the base makes them from numbers of its noise like the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from user_core.config import setting
from user_core.errors import ConfigError, PolicyError
from user_core.interfaces import ActionDistribution, PolicyNetwork
from user_core.policies.improving.base import FrozenBase, OnBaseConfig, OnBasePolicy
from user_core.specs import ActionKind, Array, Arrays, ArraySpec, RobotSpec

if TYPE_CHECKING:  # imported when it is asked for, with torch
    from collections.abc import Mapping

    from torch import Tensor


class NoiseNetwork(PolicyNetwork, Protocol):
    """A network that chooses the noise of a frozen base, as the algorithm ``dsrl`` wants it.

    Attributes:
        noise_size: Numbers that it chooses, N.
        reach: What 1 of these means.
        code_numbers: Numbers that critics see of T actions, T x D.
    """

    noise_size: int
    reach: float
    code_numbers: int

    def encode(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """What actor and critics see, (B, F)."""

    def noise(self, features: Tensor) -> ActionDistribution:
        """Of the noise, (B, N) in -1 to 1."""

    def steered(self, features: Tensor, noise: Tensor) -> Tensor:
        """The actions that the base makes from noise (B, N), (B, T x A) in -1 to 1; without gradients."""

    def codes(self, action: Tensor) -> Tensor:
        """What critics see of actions (B, T x A): (B, T x D), a number for each choice."""


class SteeredConfig(OnBaseConfig):
    """The base, the network that chooses its noise, and how far that goes."""

    reach: float = setting(
        1.5,
        doc="Largest noise. Beyond 2 or 3 the base has hardly seen any in its training.",
        gt=0,
        le=5,
    )
    shared_noise: bool = setting(
        False, doc="The same noise for all rows of a chunk: fewer numbers to choose."
    )
    rows: int = setting(
        1,
        doc="Actions of the base's chunk that are carried out and judged as one decision, T. 1: the base is asked anew in "
        "every step. More: sampler.window is the same.",
        ge=1,
        late=True,
    )


class SteeredPolicy(OnBasePolicy):
    """The first ``rows`` actions that the base makes from noise that a tanh-Gaussian network chooses.

    Its arrays are those of a tanh-Gaussian policy whose actions are the noise.

    Args:
        config: Parameters.
        spec: The robot's; elements of its actions may be choices.

    Raises:
        PolicyError: The base does not make actions from noise, or is told its task.
        ConfigError: It does not plan this many rows.
    """

    Config = SteeredConfig

    def __init__(self, config: SteeredConfig, spec: RobotSpec) -> None:
        frozen, self._shared = FrozenBase(config, spec), config.shared_noise
        base: Any = frozen.policy
        if not hasattr(base, "act_from") or base.tasks:
            raise PolicyError(
                "base of steered", got=f"{config.base.plugin}, which "
                + ("takes several tasks" if base.tasks else "makes nothing from noise"),
                expected="flow or diffusion of one task",
                hint="The policy residual takes any base",
            )  # fmt: skip
        self._noise_shape: tuple[int, int] = base.noise().shape
        rows, size = self._noise_shape
        self._rows = config.rows
        if config.rows > rows:
            raise ConfigError(
                "rows of steered", got=config.rows, expected=f"at most {rows}, those that the base plans"
            )  # fmt: skip
        chosen = size if self._shared else rows * size
        noise = ArraySpec((chosen,), low=-config.reach, high=config.reach)
        super().__init__(
            frozen,
            config,
            replace(
                spec, action=noise, grippers=(), action_groups=(), hold_choices=(),
                action_kind=ActionKind.GENERIC,
            ),
        )  # fmt: skip

    def network(self) -> Any:
        """A :class:`NoiseNetwork`."""
        from user_core.policies.improving.steered_network import SteeredNetwork

        return SteeredNetwork(self.layout, self.arrays(), self.base, self._shared, self._rows)

    def act(self, observation: Arrays, *, deterministic: bool = False) -> Array:
        """The next T actions, (T, A): from sampled noise, or from its squashed mean."""
        base: Any = self.base.policy
        noise = super().act(observation, deterministic=deterministic)
        rows = np.broadcast_to(noise.reshape(-1, self._noise_shape[1]), self._noise_shape)
        made: Array = base.act_from(observation, np.array(rows, order="C"))
        return made[: self._rows]
