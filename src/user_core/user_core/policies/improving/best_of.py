"""A flow policy that draws several chunks and carries out the one that critics think most of.

Li, Zhou and Levine, "Reinforcement Learning with Action Chunking", 2025 (Q-chunking): what the flow has learned
from data keeps the policy to what the data do, and among that the critics choose. Nothing is
differentiated through the flow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from user_core.config import setting
from user_core.policies.critics import ensemble_arrays, values_of
from user_core.policies.generative.config import GenerativeConfig
from user_core.policies.generative.policy import PlainFlowPolicy
from user_core.specs import Array, Arrays

if TYPE_CHECKING:  # imported when it is asked for, with torch
    from user_core.policies.improving.best_of_network import BestOfNetwork

#: What the names of the critics' arrays begin with.
CRITICS = "critics."


class BestOfConfig(GenerativeConfig):
    """A flow, the critics that choose among its chunks, and among how many."""

    candidates: int = setting(32, doc="Chunks to choose from.", ge=1, le=1024, read_only=False)
    critics: int = setting(
        2, doc="Members of the ensemble of critics; their mean chooses.", ge=1, le=100
    )
    critic_hidden: tuple[int, ...] = setting(
        (256, 256), doc="Units of the critics' hidden layers.", ge=1, le=8192, min_length=1
    )
    layer_norm: bool = setting(True, doc="Normalise the critics' hidden layers.")


class BestOfPolicy(PlainFlowPolicy):
    """The best of several chunks, as its critics see it.

    Deterministic, it chooses among those of always the same noise. A plan that goes on
    (:meth:`continue_plan`) is not chosen but made, as that of a flow. Its algorithm is ``q_chunking``.

    Args:
        config: Parameters.
        spec: The robot's; elements of its actions may be choices.
    """

    Config = BestOfConfig
    generation: BestOfConfig

    @property
    def seen_size(self) -> int:
        """Numbers that critics see of an observation, F: with images also what the flow makes of these."""
        if self._layout is not None:
            return self._layout.state
        return self.features.conditioning_size + self.config.embedding

    def first_critics(self) -> dict[str, Array]:
        """First values of the critics."""
        config = self.generation
        inputs = self.seen_size + self.rows * self.code.size
        rng = np.random.default_rng([config.seed, 1])
        return ensemble_arrays(config.critics, inputs, config.critic_hidden, rng)

    def _first(self) -> dict[str, Array]:
        first = super()._first()
        return first | {CRITICS + name: array for name, array in self.first_critics().items()}

    def _fresh(self) -> BestOfNetwork:
        from user_core.policies.improving.best_of_network import BestOfNetwork

        return BestOfNetwork(
            self.generation, self.features, self.code, self.objective, self._layout,
            critics=self.first_critics(),
        )  # fmt: skip

    def _take(self, arrays: dict[str, Array]) -> None:
        super()._take(arrays)
        start = len(CRITICS)
        self._critics = {n[start:]: a for n, a in arrays.items() if n.startswith(CRITICS)}

    def act(self, observation: Arrays, *, deterministic: bool = False) -> Array:
        """The best T actions of those that it draws, (T, A)."""
        shape = (self.generation.candidates, self.rows, self.code.size)
        rng = np.random.default_rng(0) if deterministic else self._rng
        noise = rng.standard_normal(shape, dtype=np.float32)
        if self._layout is None:
            network: Any = self._network
            seen, made = network.candidates(self._inputs(observation), noise)
        else:
            seen, made = self._candidates(observation, noise)
        units = self.code.decode(
            made / self._arrays["action_scale"] + self._arrays["action_offset"]
        )
        codes = self.code.encode(units).reshape(len(units), -1)
        inputs = np.concatenate([np.broadcast_to(seen, (len(codes), len(seen))), codes], 1)
        values = values_of(self._critics, inputs, self.generation.layer_norm).mean(0)
        best: Array = self.code.scale.to_robot(units[int(values.argmax())])
        return best

    def graphed_calls(self) -> list[tuple[Any, str]]:
        return self.acting_calls()

    def _candidates(self, observation: Arrays, noise: Array) -> tuple[Array, Array]:
        """What critics see of an observation, (F,), and chunks from noise, (N, T, D); without torch."""
        seen = self._state(observation)
        return seen, self._sample(self._model(seen), noise)
