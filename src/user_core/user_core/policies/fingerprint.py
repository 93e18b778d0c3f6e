"""One hash of what weights were made for: policy, configuration and spec."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from user_core.config import Config, from_mapping, identity
from user_core.plugins import load
from user_core.specs import RobotSpec, digest

#: Neither the driver nor the way in which time passes changes what the numbers mean. Which
#: elements are grippers is for people's devices, and weights of before know nothing of it.
_NOT_IN_HASH = ("robot", "lockstep", "task_reward", "grippers")


def policy_config_hash(name: str, config: Config | Mapping[str, Any], spec: RobotSpec) -> str:
    """SHA-256 of a policy's plugin name, configuration and specs.

    Weights fit an actor when this is equal on both sides. ``seed`` does not count: robots that
    share a policy should explore differently. Nor does the robot's name, nor what the configuration's class
    lists in ``NOT_IN_HASH``: where a file lies, for instance, that is named by its content besides; nor a late
    setting at its default.

    Args:
        name: Name of the policy plugin.
        config: Its configuration, or plain data for it (then the plugin is imported, so that
            a default left out and one written down are the same).
        spec: What the policy was built for.

    Raises:
        ConfigError: Plain data that is no configuration of this plugin.
        PluginError: There is no such plugin.
    """
    typed = config if isinstance(config, Config) else from_mapping(_config_of(name), config)
    settings = {key: value for key, value in identity(typed).items() if key != "seed"}
    specs = {key: value for key, value in spec.to_dict().items() if key not in _NOT_IN_HASH}
    return digest({"policy": name, "config": settings, "spec": specs})


def _config_of(name: str) -> type[Config]:
    config: type[Config] = load("policies", name).Config
    return config
