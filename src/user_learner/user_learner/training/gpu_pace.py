"""Training that leaves the GPU to an answer for a robot, between two pieces of its work.

See :mod:`user_core.runtime.gpu_turns` for who has the turn. What was launched runs to its end; so
training keeps few pieces ahead of the GPU, each well under a millisecond, and launches none while
an answer is due.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import torch
from torch import nn

from user_core.runtime.gpu_turns import GpuTurns, turns_on

#: Pieces that may be launched while another runs: with none, the GPU would wait for the processor.
_AHEAD = 1
#: From which share of the parameters of a block on a part of it is a piece of its own.
_HALF = 0.4


class GpuPace:
    """Called between two pieces of training; returns when the next may be launched.

    Args:
        turns: Whose turn it is.
        ahead: Pieces that may be on their way to the GPU beside the one that runs; None: it does not matter
            (on a CPU).

    Attributes:
        waited_s: How long others had the turn, seconds in all.
    """

    def __init__(self, turns: GpuTurns, ahead: int | None = _AHEAD) -> None:
        self._turns, self._depth = turns, ahead
        self._ahead: deque[torch.cuda.Event] = deque()
        self.waited_s = 0.0

    @classmethod
    def on(cls, device: object) -> GpuPace | None:
        """For training on this device; None where that is no GPU."""
        turns = turns_on(device)
        return None if turns is None else cls(turns)

    def __call__(self, *_: Any) -> None:
        """A place between two pieces."""
        if self._depth is not None:
            event = torch.cuda.Event()
            event.record()
            self._ahead.append(event)
            if len(self._ahead) > self._depth:
                self._ahead.popleft().synchronize()
        self.waited_s += self._turns.wait()

    def between_blocks_of(self, network: nn.Module) -> int:
        """Make places between the blocks of a network, forward and backward: before each block that a ``ModuleList``
        or ``Sequential`` of it holds, and before the largest part of that, which some networks call by itself.
        Returns how many."""
        places: dict[int, nn.Module] = {}
        for module in network.modules():
            if isinstance(module, nn.ModuleList | nn.Sequential) and len(module) > 1:
                for block in module:
                    if _size(block):
                        places |= {id(place): place for place in (block, _largest_part(block))}
        for place in places.values():
            place.register_forward_pre_hook(lambda *_: self())
            place.register_forward_hook(self._on_the_way_back)
        return len(places)

    def _on_the_way_back(self, module: nn.Module, given: Any, output: Any) -> None:
        """A place before the gradient of this output is followed. Not by a backward hook of the module, which
        networks that change outputs in place do not bear."""
        outputs = output if isinstance(output, tuple | list) else (output,)
        tensor = next((one for one in outputs if isinstance(one, torch.Tensor)), None)
        if tensor is not None and tensor.requires_grad:
            tensor.register_hook(self._place)

    def _place(self, gradient: torch.Tensor) -> None:
        self()


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _largest_part(block: nn.Module) -> nn.Module:
    """The half of a block, such as its feed-forward network; the block itself where it has no such part."""
    parts = [part for part in block.children() if _size(part)]
    largest = max(parts, key=_size, default=block)
    return largest if len(parts) > 1 and _size(largest) >= _HALF * _size(block) else block
