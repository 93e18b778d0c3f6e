"""Q-chunking (Li, Zhou and Levine 2025): critics of whole chunks choose among what a flow policy proposes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from user_core.config import setting
from user_core.interfaces import Policy
from user_core.policies.improving.best_of_network import CandidateNetwork
from user_core.specs import RobotSpec
from user_core.types import Batch
from user_learner.algorithms.common.batches import Minibatch
from user_learner.algorithms.common.distributed import share_
from user_learner.algorithms.common.flat_parameters import FlatAdam, FlatParameters
from user_learner.algorithms.common.torch_tools import evaluate
from user_learner.algorithms.imitation.bc import BC, BCConfig

if TYPE_CHECKING:
    from torch.nn import Parameter


_CRITICS = "critics."


class QChunkingConfig(BCConfig):
    """Cloning of all that was done, and critics of chunks. The policy's parameters say what critics it has."""

    average: float = setting(
        0.0,
        doc="Decay of a moving average of the flow's weights, which is published; 0: the newest weights, whose chunks "
        "critics are asked for.",
        ge=0,
        lt=1,
        read_only=False,
        late=True,
    )
    weight_decay: float = setting(
        0.0,
        doc="Decay of the flow's weights at each update, as a share of the learning rate (AdamW).",
        ge=0,
        le=100,
        read_only=False,
        late=True,
    )
    critic_learning_rate: float = setting(
        3e-4, doc="Learning rate of Adam for the critics.", gt=0, read_only=False
    )
    target_rate: float = setting(
        0.005, doc="Share by which target critics approach the critics at each update.", gt=0, le=1,
        read_only=False,
    )  # fmt: skip
    target_candidates: int = setting(
        8,
        doc="Chunks to choose from for the value of the next observation. The actor's own number costs "
        "time in each update.",
        ge=1,
        le=256,
        read_only=False,
    )
    value_min: float | None = setting(
        None, doc="Smallest return that is possible; targets are cut there.", read_only=False
    )
    value_max: float | None = setting(
        None, doc="Largest return that is possible; targets are cut there.", read_only=False
    )


class QChunking(BC):
    """Reinforcement learning with action chunking, by the best of several chunks (QC).

    Li, Zhou and Levine, "Reinforcement Learning with Action Chunking", 2025. Of chunks a of T actions, critics
    learn (equation 5)

        Q(s, a) = sum_{j<T} gamma^j r_j + gamma^T Q'(s_T, a*),   a* = argmax over a_1..a_N of Q(s_T, a_i)

    where a_1..a_N are what the flow policy proposes at the observation behind the chunk. The backup is unbiased over T
    steps, since the chunk is all of what was done. The flow clones everything in the batch; so the choice among its
    proposals keeps to what data do.

    What the end of an episode cuts off is any action for the critics, where the task ended (with ``after_end``, what the
    flow learns to do then); chunks that a time limit cut short teach the flow alone.

    Args:
        config: Parameters.
        spec: The robot's; elements of its actions may be choices.
        policy: One whose network is a
            :class:`~user_core.policies.improving.best_of_network.CandidateNetwork`, as that of ``best_of`` is. Batches
            are windows of T steps (``sampler.window``).
    """

    Config: ClassVar[type[QChunkingConfig]] = QChunkingConfig
    config: QChunkingConfig
    needs = CandidateNetwork
    looks_ahead = True
    why_not_sharded = "its critics judge what the policy's network proposes, outside its loss"

    def __init__(self, config: QChunkingConfig, spec: RobotSpec, policy: Policy) -> None:
        super().__init__(config, spec, policy)
        judges = self._parameters(critics=True)
        self.critics = FlatParameters(judges, self.device)
        copies = {name: parameter.detach() for name, parameter in judges.items()}
        self.target = FlatParameters(copies, self.device)
        for parameters in (self.critics, self.target):
            share_(parameters.flat)
        self._critic_optimizer = FlatAdam(
            self.critics, config.critic_learning_rate, config.max_grad_norm
        )

    def _cloned(self) -> dict[str, Parameter]:
        return self._parameters(critics=False)

    def _parameters(self, critics: bool) -> dict[str, Parameter]:
        return {
            name.removeprefix(_CRITICS): parameter
            for name, parameter in self.network.named_parameters()
            if name.startswith(_CRITICS) is critics
        }

    def _learn(self, minibatch: Minibatch, batch: Batch) -> dict[str, Tensor]:
        return self._update_critics(minibatch) | self._clone(minibatch, minibatch.inputs)

    def _update_critics(self, minibatch: Minibatch) -> dict[str, Tensor]:
        network, target = self.network, self._target(minibatch)
        action = network.codes(minibatch.over_the_end(self.generator))
        values = self._values(self.critics.named, network.encode(minibatch.inputs), action)
        loss = minibatch.critic_loss(values, target)
        self.critics.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self._critic_optimizer.step()
        self.target.approach(self.critics, self.config.target_rate)
        return {
            "critic_loss": loss.detach() / len(values),
            "value": values.detach().mean(),
            "target": target.mean(),
        }

    @torch.no_grad()
    def _target(self, minibatch: Minibatch) -> Tensor:
        """Rewards of the chunk + discount x value of the best chunk behind it, (B,)."""
        network, config, count = self.network, self.config, self.config.target_candidates
        ahead = network.encode(minibatch.next_inputs)
        proposed = network.propose(minibatch.next_inputs, count, self.generator)
        codes = network.codes(proposed.flatten(0, 1))
        values = self._values(self.critics.frozen, ahead.repeat_interleave(count, 0), codes)
        best = values.mean(0).unflatten(0, (-1, count)).argmax(1)
        chosen = codes.unflatten(0, (-1, count))[torch.arange(len(best), device=self.device), best]
        value = self._values(self.target.frozen, ahead, chosen).mean(0)
        target = torch.addcmul(minibatch.reward, minibatch.discount, value)
        if config.value_min is not None or config.value_max is not None:
            target = target.clamp(config.value_min, config.value_max)
        return target

    def _values(self, critics: Mapping[str, Tensor], features: Tensor, codes: Tensor) -> Tensor:
        """Of all critics, (E, B)."""
        return evaluate(critics, torch.cat([features, codes], 1), self.network.layer_norm)

    def state(self) -> dict[str, Any]:
        return {
            **super().state(),
            "critics": self.critics.arrays(),
            "target": self.target.arrays(),
            "critic_optimizer": self._critic_optimizer.state(),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        super().load_state(state)
        self.critics.load(state["critics"], "critics")
        self.target.load(state["target"], "target")
        self._critic_optimizer.load_state(state["critic_optimizer"], "critics")
