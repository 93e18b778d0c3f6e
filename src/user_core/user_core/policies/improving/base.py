"""A policy that was learned before, and is not learned any further: the base of others.

It is a file, ``policy.safetensors``, that a learner keeps beside its checkpoints. Its content is named by a
hash, which is part of the configuration of what is built on it: an actor and a learner that have different bases
refuse each other's versions. Where the file lies is not, for that may differ from host to host.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from user_core.codecs.weights import content_hash, read_version
from user_core.config import setting
from user_core.errors import ConfigError, PolicyError
from user_core.interfaces import FrozenFeatures, Policy
from user_core.plugins import PluginChoice
from user_core.policies.features import ActionScale
from user_core.policies.fingerprint import policy_config_hash
from user_core.policies.tanh_gaussian import TanhGaussianPolicy
from user_core.policies.tanh_gaussian_layout import TanhGaussianConfig
from user_core.specs import Array, Arrays, RobotSpec
from user_core.types import Task

#: What the base would do, as the network sees it beside the robot's observations.
BASE_ACTION = "base_action"


class OnBaseConfig(TanhGaussianConfig):
    """A network, and the frozen policy that it builds on."""

    NOT_IN_HASH: ClassVar[tuple[str, ...]] = ("base_file",)

    base: PluginChoice = setting(
        PluginChoice(plugin="flow"),
        doc="The frozen policy, with the parameters that it was trained with.",
    )
    base_file: str = setting(
        "", doc="Its weights: a learner's policy.safetensors, on every host that acts or learns."
    )
    base_hash: str = setting(
        "", doc="Content hash of that file; a file with another one is refused."
    )


class FrozenBase:
    """The first action that a frozen policy plans, without noise: a function of what is seen alone.

    It is asked in every step, and only the first row of what it plans counts, so that a learner finds for any
    stored step what it would have done there.

    Args:
        config: Which policy.
        spec: The robot's; elements of its actions may be choices, where the base knows them.

    Raises:
        ConfigError: No file or hash is given, or the file cannot be read.
        PolicyError: It is not the one that was named, or was trained with other parameters or for another robot.
        SpecError: The robot's actions have no finite bounds, or choices that the base does not know.
    """

    def __init__(self, config: OnBaseConfig, spec: RobotSpec) -> None:
        self._scale, self._size = ActionScale(spec, choices=True), spec.action.size
        self.policy: Policy = config.base.build("policies", spec, path="policy.params.base")
        if max(self.policy.observation_history, config.observation_history) > 1:
            raise ConfigError(
                "observation_history of a policy on a frozen base, or of the base", got="more than 1",
                expected="1: both see the present observation",
            )  # fmt: skip
        if not config.base_file:
            raise ConfigError(
                "base_file", got="nothing", expected="the weights of the frozen policy",
                hint="A learner keeps them as policy.safetensors in its directory",
            )  # fmt: skip
        path = Path(config.base_file).expanduser()
        try:
            version = read_version(path)
        except OSError as error:
            raise ConfigError(
                f"base_file {config.base_file}", got=error.strerror or str(error),
                expected="weights that a learner has kept (policy.safetensors)",
                hint="Copy it to every host that acts or learns",
            ) from error  # fmt: skip
        found = content_hash(version)
        if not config.base_hash:
            raise ConfigError(
                "base_hash", got="nothing", expected=f"the content hash of the base, {found}",
                hint=f"Look whether this is the one you mean, and say base_hash: {found}",
            )  # fmt: skip
        if found != config.base_hash:
            raise PolicyError(
                f"base policy {path.name}", got=f"content hash {found}",
                expected=config.base_hash, hint="It is another file, or another version of it",
            )  # fmt: skip
        made_for = policy_config_hash(config.base.plugin, config.base.params, spec)
        if version.config_hash != made_for:
            raise PolicyError(
                f"base policy {path.name}",
                got=f"weights for configuration {version.config_hash[:16]}",
                expected=f"for {config.base.plugin} with these parameters on {spec.robot!r}, "
                f"configuration {made_for[:16]}",
                hint="Give base.params as they were in its training, and a robot with the same observations "
                "and actions",
            )  # fmt: skip
        self.policy.load(version.arrays)
        self._network: Any = None

    def reset(self, task: Task) -> None:
        """An episode begins."""
        self.policy.reset(task)

    def action(self, observation: Arrays) -> Array:
        """What it does, (A,), in the robot's units."""
        first: Array = self.policy.act(observation, deterministic=True)[0]
        return first

    def actions(self, observation: Arrays) -> Array:
        """What it does for observations (B, ...), in the robot's units: (B, A)."""
        unit = self._units(observation)
        if unit is not None:
            return self._scale.to_robot(unit[:, : self._size])
        rows = len(next(iter(observation.values())))
        return np.stack(
            [
                self.action({n: np.asarray(a[i]) for n, a in observation.items()})
                for i in range(rows)
            ]
        )

    def _units(self, observation: Arrays) -> Array | None:
        """Of all rows at once, by its network, in network units; None where that has no way to act."""
        import torch

        if self._network is None:
            try:
                self._network = self.policy.network()
            except PolicyError:  # it only acts
                self._network = False
        network, policy = self._network, self.policy
        with torch.inference_mode():
            if hasattr(network, "with_advantage"):
                return None  # what it does when it is asked for the good, its policy knows
            if hasattr(network, "distribution"):
                unit = network.distribution(network.encode(network.inputs(observation))).mode
            elif hasattr(network, "generate") and hasattr(policy, "noise"):
                inputs = network.inputs(observation)
                noise = torch.from_numpy(policy.noise(True))
                rows = len(next(iter(inputs.values())))
                unit = network.generate(inputs, noise.expand(rows, *noise.shape))
            else:
                return None
            found: Array = unit.numpy()
            return found


class OnBasePolicy(TanhGaussianPolicy):
    """A tanh-Gaussian policy on top of a frozen one; what it makes of that, a subclass says.

    Args:
        base: The frozen policy.
        config: Parameters of the network on top.
        spec: What that network sees and decides.
    """

    def __init__(self, base: FrozenBase, config: OnBaseConfig, spec: RobotSpec) -> None:
        self.base = base
        super().__init__(config, spec)

    @property
    def acts_without_torch(self) -> bool:
        """Where neither it nor its base looks at images."""
        return super().acts_without_torch and self.base.policy.acts_without_torch

    def image_features(self) -> Mapping[str, FrozenFeatures]:
        """None: its base sees the same images, perhaps with another encoder."""
        return {}

    def reset(self, task: Task) -> None:
        self.base.reset(task)
