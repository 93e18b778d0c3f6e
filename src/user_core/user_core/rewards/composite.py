"""Several rewards as one: their sum or product, the first that can tell, or one with a veto."""

from __future__ import annotations

from typing import Literal

from user_core.config import Config, setting
from user_core.errors import ConfigError
from user_core.interfaces import Reward, RewardOutcome
from user_core.plugins import PluginChoice
from user_core.specs import Array, Arrays
from user_core.types import RewardSource, TaskFeedback


class CompositeConfig(Config):
    """Parameters of :class:`CompositeReward`."""

    rule: Literal["sum", "product", "first", "veto"] = setting(
        "sum",
        doc="sum and product of the rewards, with weights; first: the verdict of the first that can "
        "tell whether the task is solved; veto: that of the first, and a success only where all "
        "others say so too.",
    )
    rewards: tuple[PluginChoice, ...] = setting(
        doc="The rewards, {plugin, params} each.", min_length=1
    )
    weights: tuple[float, ...] = setting(
        (), doc="Factors of a sum, exponents of a product; empty: 1 each."
    )
    veto_reward: float = setting(0.0, doc="Reward of a step whose success was vetoed.")

    def validate(self) -> None:
        if self.weights and len(self.weights) != len(self.rewards):
            raise ConfigError(
                "weights", got=f"{len(self.weights)}", expected=f"{len(self.rewards)}, one a reward"
            )
        if self.weights and self.rule not in ("sum", "product"):
            raise ConfigError("weights", got=f"with rule {self.rule}", expected="sum or product")


class CompositeReward(Reward):
    """Judges by several rewards.

    ``sum`` and ``product``: the task ended when any says so; it is solved when all that can tell say
    so, and not when any says not. ``first``: all of the verdict of the first that can tell whether the
    task is solved, else of the last. ``veto``: all of the first's verdict; but where it says success
    and another says that the task is not solved, it is none: the reward is ``veto_reward`` and the
    episode goes on. One that cannot tell vetoes nothing.
    """

    Config = CompositeConfig

    def __init__(self, config: CompositeConfig) -> None:
        self.config = config
        self._parts: list[Reward] = [
            choice.build("rewards", path=f"rewards.{n}") for n, choice in enumerate(config.rewards)
        ]
        self._weights = config.weights or (1.0,) * len(self._parts)

    def reset(self) -> None:
        for part in self._parts:
            part.reset()

    def __call__(
        self, observation: Arrays, action: Array, next_observation: Arrays, task: TaskFeedback
    ) -> RewardOutcome:
        # all are asked, also where one suffices: some remember what they saw
        found = [part(observation, action, next_observation, task) for part in self._parts]
        rule = self.config.rule
        if rule == "first":
            return next((one for one in found if one.success is not None), found[-1])
        if rule == "veto":
            first = found[0]
            if first.success and any(other.success is False for other in found[1:]):
                return RewardOutcome(self.config.veto_reward, False, False, first.source)
            return first
        total = 0.0 if rule == "sum" else 1.0
        for one, weight in zip(found, self._weights, strict=True):
            if rule == "sum":
                total += weight * one.reward
            else:
                total *= one.reward if weight == 1.0 else _power(one.reward, weight)
        told = [one.success for one in found if one.success is not None]
        sources = {one.source for one in found}
        return RewardOutcome(
            total,
            terminated=any(one.terminated for one in found),
            success=all(told) if told else None,
            source=sources.pop() if len(sources) == 1 else RewardSource.FUNCTION,
        )


def _power(base: float, exponent: float) -> float:
    """A signed power: rewards may be negative, and exponents no whole numbers."""
    size: float = abs(base) ** exponent if base else 0.0
    return size if base >= 0 else -size
