"""What weights were made for: policy, configuration and spec; one hash of it, and how two of them differ."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from user_core.config import Config, from_mapping, identity
from user_core.plugins import load
from user_core.specs import RobotSpec, digest

#: Neither the driver nor the way in which time passes changes what the numbers mean. Which
#: elements are grippers is for people's devices, and weights of before know nothing of it.
_NOT_IN_HASH = ("robot", "lockstep", "task_reward", "grippers")

#: Differences that are told, and characters of a value.
_TOLD, _SHORT = 5, 80


def policy_config_hash(name: str, config: Config | Mapping[str, Any], spec: RobotSpec) -> str:
    """SHA-256 of a policy's plugin name, configuration and specs, as :func:`policy_made_for` has them.

    Weights fit an actor when this is equal on both sides. ``seed`` does not count: robots that
    share a policy should explore differently. Nor does the robot's name, nor what the configuration's class
    lists in ``NOT_IN_HASH``: where a file lies, for instance, that is named by its content besides; nor a late
    setting at its default.

    Args and errors: as there.
    """
    return digest(policy_made_for(name, config, spec))


def policy_made_for(
    name: str, config: Config | Mapping[str, Any], spec: RobotSpec
) -> dict[str, Any]:
    """What weights of a policy are made for, as plain data: ``policy``, ``config`` and ``spec``.

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
    return {"policy": name, "config": settings, "spec": specs}


def differences_in_words(
    theirs: Mapping[str, Any], mine: Mapping[str, Any]
) -> tuple[list[str], list[str], bool]:
    """How two of :func:`policy_made_for` differ: what the others have, what is here, a text for each difference, and
    whether only the robots' specs differ. Of two plugins the names say it: their configurations are not compared."""
    if theirs.get("policy") != mine["policy"]:
        return [f"policy {theirs.get('policy')}"], [f"policy {mine['policy']}"], False
    ours, others = _leaves(mine), _leaves(theirs)
    wrong = [n for n in dict.fromkeys([*ours, *others]) if ours.get(n) != others.get(n)]
    of_policy = [name for name in wrong if not name.startswith("spec.")]

    def told(leaves: Mapping[str, str], beside: Mapping[str, str]) -> list[str]:
        some = (of_policy or wrong)[:_TOLD]
        more = [f"and {len(wrong) - len(some)} more"] * (len(wrong) > len(some))
        texts = ((name, _shown(leaves.get(name, "none"), beside.get(name, ""))) for name in some)
        return [f"{_readable(name)} {text}" for name, text in texts] + more

    return told(others, ours), told(ours, others), not of_policy


def _leaves(data: Any, path: str = "") -> dict[str, str]:
    """Values by their path, as texts."""
    if isinstance(data, Mapping) and data:
        return {
            k: v
            for key in data
            for k, v in _leaves(data[key], f"{path}.{key}" if path else str(key)).items()
        }
    return {path: str(data)}


def _shown(text: str, beside: str) -> str:
    """A text, or of a long one the part where it begins to differ from another."""
    pairs = enumerate(zip(text, beside, strict=False))
    differs = next((at for at, (one, other) in pairs if one != other), len(beside))
    start = max(0, min(differs - _SHORT // 2, len(text) - _SHORT))
    end = start + _SHORT
    return "..." * (start > 0) + text[start:end] + "..." * (end < len(text))


def _readable(path: str) -> str:
    """A path as a person knows it: parameters of the policy by their names."""
    for above, said in (("config.", ""), ("spec.", "of the robot ")):
        if path.startswith(above):
            return said + path.removeprefix(above)
    return path


def _config_of(name: str) -> type[Config]:
    config: type[Config] = load("policies", name).Config
    return config
