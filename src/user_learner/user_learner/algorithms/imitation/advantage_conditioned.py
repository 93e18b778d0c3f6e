"""Advantage-conditioned learning (RECAP of pi*0.6, 2025): told how good each action was, then asked for the good."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from user_core.config import setting
from user_core.interfaces import Policy
from user_core.policies.improving.advantage_network import ConditionedNetwork
from user_core.policies.language.config import TASK
from user_core.specs import RobotSpec
from user_core.types import Batch
from user_learner.algorithms.common.batches import Minibatch
from user_learner.algorithms.common.state_values import StateValues, StateValuesConfig
from user_learner.algorithms.imitation.bc import BC, BCConfig
from user_learner.sampling.source import STORE_SHIFT

#: How fast the threshold follows the batches.
_THRESHOLD_RATE = 0.01
#: Rows of a store that are kept from the same critic: some episodes.
_BLOCK_ROWS = 256


class AdvantageConditionedConfig(BCConfig):
    """Cloning with a word on how good it was, and the critics that say so."""

    values: StateValuesConfig = setting(
        factory=StateValuesConfig, doc="Critics of states, from which advantages come."
    )
    good_share: float = setting(
        0.3,
        doc="Share of what robots did by themselves that counts as good: the part with the largest advantage.",
        gt=0,
        lt=1,
        read_only=False,
    )
    demonstrations_are_good: bool = setting(
        True,
        doc="Whether all that people did counts as good: demonstrations, and what strata of human and script alone draw.",
        read_only=False,
    )
    untold_share: float = setting(
        0.3,
        doc="Share of actions of which nothing is said, so that what is usual is learned, too.",
        ge=0,
        lt=1,
        read_only=False,
    )


class AdvantageConditioned(BC):
    """Cloning of everything, conditioned on whether it was better than usual.

    Physical Intelligence, "pi*0.6: a VLA That Learns From Experience", 2025 (RECAP), section IV. Critics of states
    learn V from all data; a chunk a at s, which brought rewards r and led to s', has the advantage

        A = sum_{j<T} gamma^j r_j + gamma^T V(s') - V(s)

    and is good where that is above a threshold, which follows the batches so that ``good_share`` of them are. The
    policy clones a given s and that one bit. Nothing is differentiated through the policy and no action is asked of the
    critics that was not done, so bad critics cost little; it improves by what luck and people bring into the data. The
    paper's V is a distribution over returns of whole episodes; this one learns by temporal differences.

    Each critic is kept from a part of the data, blocks of rows of the store, and says what the advantages of these are:
    critics that learned from an episode know by heart how it ended, so that nothing in it seems better or worse than
    expected.

    Args:
        config: Parameters.
        spec: The robot's; elements of its actions may be choices.
        policy: One whose network is a
            :class:`~user_core.policies.improving.advantage_network.ConditionedNetwork`, as those of ``advantage`` (any
            policy, told so) and of ``advantage_flow`` are.
            For T actions at once batches are windows of T steps (``sampler.window``).
    """

    Config: ClassVar[type[AdvantageConditionedConfig]] = AdvantageConditionedConfig
    config: AdvantageConditionedConfig
    needs = ConditionedNetwork
    looks_ahead = True
    why_not_sharded = (
        "its critics look at what the policy's network makes of observations, outside its loss"
    )

    def __init__(self, config: AdvantageConditionedConfig, spec: RobotSpec, policy: Policy) -> None:
        super().__init__(config, spec, policy)
        self.values = StateValues(
            config.values, self._seen_size(spec, policy), config.seed, self.device
        )
        self._threshold = torch.zeros((), device=self.device)

    def _seen_size(self, spec: RobotSpec, policy: Policy) -> int:
        """What critics see of an observation, found by trying one."""
        count = policy.observation_history
        lead = (1, count) if count > 1 else (1,)
        seen = {n: np.zeros((*lead, *a.shape), a.dtype) for n, a in spec.observation.items()}
        inputs = self.network.inputs({**seen, TASK: np.zeros(1, np.int64)})
        size: int = self.network.seen({n: t.to(self.device) for n, t in inputs.items()}).shape[1]
        return size

    def _learn(self, minibatch: Minibatch, batch: Batch) -> dict[str, Tensor]:
        if self._minibatcher.factors is not None:  # what critics see begins with what was scaled
            self.values.rescale(self._minibatcher.factors)
        features = self.network.seen(minibatch.inputs)
        ahead = self.network.seen(minibatch.next_inputs)
        reward, discount = minibatch.reward, minibatch.discount
        kept_out = self._kept_out(batch)
        loss = self.values.learn(features, reward, discount, ahead, kept_out=kept_out)
        here = self.values(features, kept_out)
        advantage = torch.addcmul(reward, discount, self.values(ahead, kept_out)) - here
        shown = torch.zeros_like(advantage, dtype=torch.bool)
        if self.config.demonstrations_are_good and "demonstration" in batch.extras:
            shown = torch.as_tensor(batch.extras["demonstration"], device=self.device)
        good = self._is_good(advantage, shown)
        said = torch.where(good, 1.0, -1.0)
        draw = torch.rand(said.shape, generator=self.generator, device=self.device)
        said = torch.where(draw < self.config.untold_share, 0.0, said)
        return {
            **self._clone(minibatch, self.network.with_advantage(minibatch.inputs, said)),
            "value_loss": loss, "value": here.mean(), "good": good.float().mean(),
        }  # fmt: skip

    def _kept_out(self, batch: Batch) -> Tensor | None:
        """The critic that is kept from each row, and judges it, (B,); -1: none is, since all rows of a batch so small a
        store would be kept from the same one, which would learn nothing. None where it is not known where rows lie.
        """
        members, row = self.config.values.members, batch.extras.get("row")
        if row is None or members < 2:
            return None
        place = torch.as_tensor(row, device=self.device)
        # Stores do not all begin with the same critic.
        member = (place // _BLOCK_ROWS + (place >> STORE_SHIFT)) % members
        return torch.where((member != member[0]).any(), member, -1)

    def _is_good(self, advantage: Tensor, shown: Tensor) -> Tensor:
        """Which of them are, (B,) bool; those that are shown in any case."""
        own = advantage[~shown]
        if len(own):
            wanted = torch.quantile(own, 1 - self.config.good_share)
            first = self._updates == 0
            moved = wanted if first else self._threshold.lerp(wanted, _THRESHOLD_RATE)
            self._threshold = torch.where(moved.isfinite(), moved, self._threshold)
        return (advantage > self._threshold) | shown

    def state(self) -> dict[str, Any]:
        return {
            **super().state(), "values": self.values.state(), "threshold": float(self._threshold),
        }  # fmt: skip

    def load_state(self, state: Mapping[str, Any]) -> None:
        super().load_state(state)
        self.values.load_state(state["values"], "values")
        self._threshold = torch.tensor(float(state["threshold"]), device=self.device)
