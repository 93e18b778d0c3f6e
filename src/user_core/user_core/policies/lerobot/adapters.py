"""Small trained matrices beside the frozen weights of a large policy (Hu et al., "LoRA", 2021), by peft.

What is trained, kept in checkpoints and sent to robots are these matrices, and parts that are named to be trained
as a whole; robots have the base, which its hash names. Imports torch.
"""

from __future__ import annotations

import copy
import importlib
from typing import Any

import torch
from torch import nn

from user_core.errors import ConfigError, PluginError
from user_core.policies.lerobot.config import AdapterConfig


def adapt(policy: nn.Module, config: AdapterConfig, base_hash: str, seed: int) -> list[str]:
    """Freeze a policy, and give it adapters, in place; they change nothing as long as they are untrained.

    Args:
        policy: With the weights of its base.
        config: Which adapters.
        base_hash: Of the base; empty where it has none.
        seed: Of the first values.

    Returns:
        Names of the layers that have one.

    Raises:
        ConfigError: The policy has no base, or no layer or part of the names that are given.
        PluginError: peft is not installed.
    """
    if not base_hash:
        raise ConfigError(
            "policy.params.adapter", got="a policy that begins at random",
            expected="checkpoint: the base that learner and robots have",
        )  # fmt: skip
    linear = _linear_layers(policy)
    chosen = [n for n in linear if _is_one_of(n, config.targets) and not begins(n, config.whole)]
    _require(config.targets, [_ends(t, linear) for t in config.targets], "targets", linear)
    parts = [name for name, _ in policy.named_modules() if name]
    _require(config.whole, [t in parts for t in config.whole], "whole", parts)
    if not chosen and not config.whole:
        raise ConfigError(
            "policy.params.adapter",
            got="a policy without linear layers",
            expected="whole: its parts",
        )
    for parameter in policy.parameters():
        parameter.requires_grad_(False)
    if chosen:
        peft = _peft()
        given = peft.LoraConfig(
            r=config.rank,
            lora_alpha=config.alpha,
            lora_dropout=config.dropout,
            target_modules=chosen,
        )
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            peft.inject_adapter_in_model(given, policy)
    for name, parameter in policy.named_parameters():
        parameter.requires_grad_(".lora_" in name or begins(name, config.whole))
    return chosen


def merged(policy: nn.Module) -> nn.Module:
    """The policy with its adapters added to the weights that they stand beside: a copy, or the policy itself where it
    has none."""
    adapted = [name for name, module in policy.named_modules() if _is_adapter(module)]
    if not adapted:
        return policy
    whole = copy.deepcopy(policy)
    for name in adapted:
        parent, _, child = name.rpartition(".")
        layer: Any = whole.get_submodule(name)
        layer.merge()
        setattr(whole.get_submodule(parent), child, layer.get_base_layer())
    return whole


def _is_adapter(module: nn.Module) -> bool:
    return hasattr(module, "merge") and hasattr(module, "get_base_layer")


def _linear_layers(policy: nn.Module) -> list[str]:
    """Names of linear layers that are called as modules: attention of torch reads the weights of its own."""
    hidden = {
        f"{name}.{child}"
        for name, module in policy.named_modules()
        if isinstance(module, nn.MultiheadAttention)
        for child, _ in module.named_modules()
    }
    return [
        name
        for name, module in policy.named_modules()
        if isinstance(module, nn.Linear) and name not in hidden
    ]


def _is_one_of(name: str, targets: tuple[str, ...]) -> bool:
    return not targets or any(name == t or name.endswith(f".{t}") for t in targets)


def _ends(target: str, names: list[str]) -> bool:
    return any(_is_one_of(name, (target,)) for name in names)


def begins(name: str, parts: tuple[str, ...]) -> bool:
    """Whether a name is that of one of these parts, or of something in it."""
    return any(name == part or name.startswith(f"{part}.") for part in parts)


def _require(wanted: tuple[str, ...], found: list[bool], key: str, names: list[str]) -> None:
    lacking = [name for name, there in zip(wanted, found, strict=True) if not there]
    if lacking:
        shown = ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
        raise ConfigError(f"policy.params.adapter.{key}", got=", ".join(lacking), expected=shown)


def _peft() -> Any:
    try:
        return importlib.import_module("peft")
    except ImportError as error:
        raise PluginError(
            "adapters of policy lerobot", got=f"peft cannot be imported: {error}", expected="peft",
            hint="pip install -r requirements/extra_lerobot.txt",
        ) from error  # fmt: skip
