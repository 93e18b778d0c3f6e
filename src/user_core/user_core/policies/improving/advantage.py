"""Policies that were told how good what they learned from was, and are now asked for what was good.

Physical Intelligence, "pi*0.6: a VLA That Learns From Experience", 2025 (RECAP): a policy sees, beside the observation,
whether the action in the data had an advantage; asked for one that has it does better than those it learned from. Its
algorithm is ``advantage_conditioned``.

``advantage`` makes such a policy of any other: of one that reads an instruction by words that are added to it, as
there; of all others by one number more that they see. ``advantage_flow`` is a flow that can be asked to go away from
what is usual besides (classifier-free guidance, Ho and Salimans 2022).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from user_core.config import Config, from_mapping, identity, setting
from user_core.errors import SpecError
from user_core.interfaces import FrozenFeatures, Policy, Query
from user_core.plugins import PluginChoice, load
from user_core.policies.generative.config import GenerativeConfig
from user_core.policies.generative.mlp import PerceptronLayout
from user_core.policies.generative.objectives import Guided, Model
from user_core.policies.generative.policy import PlainFlowPolicy
from user_core.policies.language.config import TOLD, with_advantage_in_words
from user_core.specs import Array, Arrays, ArraySpec, RobotSpec
from user_core.types import Task

if TYPE_CHECKING:  # imported when it is asked for, with torch
    from torch import Tensor

    from user_core.policies.improving.advantage_network import AdvantageNetwork, ToldNetwork


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
        return PerceptronLayout(
            plain.state + 1, plain.rows, plain.size, plain.told, plain.hidden, apart=plain.apart
        )

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


def _counted(choice: PluginChoice) -> dict[str, Any]:
    """A policy as it counts in what weights were made for."""
    settings = identity(from_mapping(load("policies", choice.plugin).Config, choice.params))
    return {"plugin": choice.plugin, "params": {k: v for k, v in settings.items() if k != "seed"}}


class AdvantageConfig(Config):
    """Which policy."""

    policy: PluginChoice = setting(
        PluginChoice(plugin="diffusion"),
        doc="The policy that is told how good an action is, with its own parameters.",
        counts_as=_counted,
    )


class AdvantagePolicy(Policy):
    """Any policy, asked for what was good.

    A policy that reads is given "Advantage: positive" behind its instruction. Any other sees the observation
    ``advantage`` beside those of the robot: 1 while it acts; in what it learns from 1 for good, -1 for what was not, 0
    where nothing is said.

    Args:
        config: Which one.
        spec: The robot's.

    Raises:
        SpecError: The robot shows something that is called ``advantage``, or what the policy itself raises.
    """

    Config = AdvantageConfig

    def __init__(self, config: AdvantageConfig, spec: RobotSpec) -> None:
        if TOLD in spec.observation:
            raise SpecError(
                f"observations of {spec.robot!r}", got=TOLD,
                expected="another name: how good an action is, is called so",
            )  # fmt: skip
        choice, where = config.policy, "policy.params.policy"
        may_read = hasattr(load("policies", choice.plugin), "reads")
        made: Any = choice.build("policies", spec, path=where) if may_read else None
        self._in_words = bool(made is not None and made.reads)
        if not self._in_words:
            choice = choice.replace(params=_with_told(choice.params))
            made = choice.build("policies", _told_spec(spec), path=where)
        self.config, self.spec, self.policy = config, spec, made
        self.answers_by = made
        self.observation_history, self.tasks = made.observation_history, made.tasks
        if hasattr(made, "continue_plan"):
            self.continue_plan = self._continue_plan

    @classmethod
    def history_of(cls, config: AdvantageConfig, spec: RobotSpec) -> int:
        """That of the policy."""
        kind = load("policies", config.policy.plugin)
        settings = from_mapping(kind.Config, config.policy.params, "policy.params.policy.params")
        return int(kind.history_of(settings, spec))

    @property
    def rows(self) -> int:
        """Actions that are planned at once, T."""
        return int(getattr(self.policy, "rows", 1))

    @property
    def kept_from_actors(self) -> str:
        return str(self.policy.kept_from_actors)

    @property
    def acts_without_torch(self) -> bool:
        return bool(self.policy.acts_without_torch)

    def acting_calls(self) -> list[tuple[Any, str]]:
        return list(self.policy.acting_calls())

    def graphed_calls(self) -> list[tuple[Any, str]]:
        return list(self.policy.graphed_calls())

    def reset(self, task: Task) -> None:
        self.policy.reset(self._asked(task))

    def act(self, observation: Arrays, *, deterministic: bool = False) -> Array:
        """What it does where it is asked for the good, (T, A)."""
        made: Array = self.policy.act(self._told(observation), deterministic=deterministic)
        return made

    def act_batch(self, queries: Sequence[Query]) -> list[Array]:
        """Chunks for several robots, see :class:`~user_core.interfaces.BatchingPolicy`, where the policy is one."""
        asked = [
            replace(one, observation=self._told(one.observation), task=self._asked(one.task))
            for one in queries
        ]
        together: list[Array] = self.policy.act_batch(asked)
        return together

    def _continue_plan(
        self, observation: Arrays, plan: Array, frozen: int, *, deterministic: bool = False
    ) -> Array:
        """See :class:`~user_core.interfaces.ContinuingPolicy`."""
        asked, how = self._told(observation), {"deterministic": deterministic}
        made: Array = self.policy.continue_plan(asked, plan, frozen, **how)
        return made

    def arrays(self) -> dict[str, Array]:
        arrays: dict[str, Array] = self.policy.arrays()
        return arrays

    def load(self, arrays: Arrays) -> None:
        self.policy.load(arrays)

    def in_place(self) -> AbstractContextManager[dict[str, Tensor]] | None:
        place: AbstractContextManager[dict[str, Tensor]] | None = self.policy.in_place()
        return place

    def image_features(self) -> Mapping[str, FrozenFeatures]:
        features: Mapping[str, FrozenFeatures] = self.policy.image_features()
        return features

    def network(self) -> ToldNetwork:
        """A :class:`~user_core.policies.improving.advantage_network.ConditionedNetwork`."""
        from user_core.policies.improving.advantage_network import ToldNetwork

        network = self.policy.network()
        return ToldNetwork(network, self.spec, self.observation_history, self._in_words)

    def _asked(self, task: Task) -> Task:
        if not self._in_words:
            return task
        return replace(task, instruction=with_advantage_in_words(self.policy.words(task), 1.0))

    def _told(self, observation: Arrays) -> Arrays:
        if self._in_words:
            return observation
        lead = (self.observation_history,) if self.observation_history > 1 else ()
        return {**observation, TOLD: np.ones((*lead, 1), np.float32)}


def _told_spec(spec: RobotSpec) -> RobotSpec:
    """The robot, as if it showed how good what is done is."""
    told = ArraySpec((1,), low=-1.0, high=1.0)
    return replace(spec, observation={**spec.observation, TOLD: told})


def _with_told(params: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters of a policy that, where they say what it looks at, name that, too."""
    chosen = params.get("observations")
    return {**params, "observations": [*chosen, TOLD]} if chosen else dict(params)
