"""From a configuration and a robot's spec to everything that is trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from user_core import plugins
from user_core.config import Config, from_mapping, setting
from user_core.interfaces import Algorithm, Policy
from user_core.policies import policy_config_hash
from user_core.specs import RobotSpec
from user_learner.replay.sampling import SamplerConfig
from user_learner.training.config import TrainingConfig
from user_learner.training.identity import identity_of


@dataclass(frozen=True)
class PluginChoice(Config):
    """A plugin and its parameters."""

    plugin: str = setting(doc="Name it is registered by, or package.module:Class.", min_length=1)
    params: dict[str, Any] = setting(factory=dict, doc="Its parameters.")


@dataclass(frozen=True)
class LearnerConfig(Config):
    """What is learned, from what, and how fast: a file in ``config/algorithms``."""

    algorithm: PluginChoice = setting(doc="Algorithm plugin.")
    policy: PluginChoice = setting(doc="Policy plugin; the actor's must be the same.")
    sampler: SamplerConfig = setting(factory=SamplerConfig, doc="How batches are drawn.")
    training: TrainingConfig = setting(factory=TrainingConfig, doc="The training loop.")


@dataclass(frozen=True)
class Assembly:
    """What was built.

    Attributes:
        config: From this.
        policy: The policy that the algorithm started from.
        algorithm: The algorithm.
        identity: What checkpoints belong to.
        config_hash: What the weights are made for.
    """

    config: LearnerConfig
    policy: Policy
    algorithm: Algorithm
    identity: Mapping[str, Any]
    config_hash: str


def assemble(config: LearnerConfig, spec: RobotSpec) -> Assembly:
    """Build policy and algorithm.

    Raises:
        ConfigError: Parameters that a plugin does not have or take.
        PluginError: A plugin that is not there, or does not go with the other.
        SpecError: The robot has no such observations, or actions that the policy cannot make.
    """
    choices = {"policies": config.policy, "algorithms": config.algorithm}
    classes = {kind: plugins.load(kind, choice.plugin) for kind, choice in choices.items()}
    policy_config = from_mapping(classes["policies"].Config, config.policy.params, "policy.params")
    algorithm_config = from_mapping(
        classes["algorithms"].Config, config.algorithm.params, "algorithm.params"
    )
    policy: Policy = classes["policies"](policy_config, spec)
    algorithm: Algorithm = classes["algorithms"](algorithm_config, spec, policy)
    return Assembly(
        config,
        policy,
        algorithm,
        identity_of(
            config.algorithm.plugin, algorithm_config, config.policy.plugin, policy_config, spec
        ),
        policy_config_hash(config.policy.plugin, policy_config, spec),
    )
