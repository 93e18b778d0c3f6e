"""What a checkpoint belongs to."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from user_core.config import Config, setting_of, to_mapping
from user_core.specs import RobotSpec


def identity_of(
    algorithm: str, algorithm_config: Config, policy: str, policy_config: Config, spec: RobotSpec
) -> dict[str, Any]:
    """Names, configurations and specs that a checkpoint must share with the run that uses it.

    Settings that may change in a running training (``read_only=False``: learning rates, the
    device) do not count, nor do seeds and the robot's name.
    """
    specs = {
        k: v for k, v in spec.to_dict().items() if k not in ("robot", "lockstep", "task_reward")
    }
    return {
        "algorithm": algorithm,
        "algorithm_config": _fixed(algorithm_config),
        "policy": policy,
        "policy_config": _fixed(policy_config),
        "spec": specs,
    }


def _fixed(config: Config) -> dict[str, Any]:
    fixed = {item.name for item in fields(config) if setting_of(item).read_only}
    return {k: v for k, v in to_mapping(config).items() if k in fixed and k != "seed"}
