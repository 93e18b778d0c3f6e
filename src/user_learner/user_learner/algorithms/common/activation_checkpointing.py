"""Blocks of a large network, and activation checkpointing of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from user_core.errors import ConfigError


def blocks_of(network: nn.Module) -> list[nn.Module]:
    """The blocks of a large network: what its outermost ``ModuleList``s hold, and what has parameters of it."""

    def outermost(module: nn.Module) -> Iterator[nn.Module]:
        for child in module.children():
            if isinstance(child, nn.ModuleList):
                yield from child
            else:
                yield from outermost(child)

    found = [block for block in outermost(network) if any(True for _ in block.parameters())]
    return list(dict.fromkeys(found))


class RecomputedBlocks:
    """Activation checkpointing: what happens within a block is not kept for the way back, but computed again.

    Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost". Costs a third of the time of an update, and saves
    most of the memory for activations.

    Args:
        network: Its blocks are those of :func:`blocks_of`.

    Raises:
        ConfigError: It has none.
    """

    def __init__(self, network: nn.Module) -> None:
        self._called = False
        blocks = blocks_of(network)
        if not blocks:
            raise self._useless(network)
        for block in blocks:
            block.forward = self._recomputing(block.forward)  # type: ignore[method-assign]
        self._network = network

    def require_called(self) -> None:
        """Raise ConfigError where an update has not called a block: the network calls layers within them."""
        if not self._called:
            raise self._useless(self._network)

    def _recomputing(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **keywords: Any) -> Any:
            self._called = True
            if not torch.is_grad_enabled():
                return forward(*arguments, **keywords)
            return checkpoint(forward, *arguments, use_reentrant=False, **keywords)

        return call

    @staticmethod
    def _useless(network: nn.Module) -> ConfigError:
        return ConfigError(
            "activation_checkpointing", got=f"{type(network).__name__}, which has no blocks that it calls",
            expected="a network of several blocks", hint="A policy of LeRobot may have gradient_checkpointing "
            "in its own settings",
        )  # fmt: skip
