"""Training that leaves the GPU to an answer for a robot, between two pieces of its work.

See :mod:`user_core.runtime.gpu_turns` for who has the turn. What was launched runs to its end; so
training keeps few pieces ahead of the GPU, each well under a millisecond, and launches none while
an answer is due, unless one always is (:class:`~user_core.runtime.gpu_turns.FairWait`). How long the pieces really
take is measured, and said beside the turn, so that inference takes it early enough.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import torch
from torch import nn

from user_core.runtime.gpu_turns import FairWait, GpuTurns, turns_on

#: Pieces that may be launched while another runs: with none, the GPU would wait for the processor.
_AHEAD = 1
#: From which share of the parameters of a block on a part of it is a piece of its own.
_HALF = 0.4
#: Pieces that are looked at to say how long they take, and which share of them may take longer.
_LOOKED_AT, _LONGER = 400, 0.02


class PieceTimes:
    """How long pieces of training take: the longest, except for a few."""

    def __init__(self) -> None:
        self._seconds: deque[float] = deque(maxlen=_LOOKED_AT)
        self._new, self._look = 0, _LOOKED_AT // 8

    def add(self, seconds: float) -> bool:
        """Note how long one took; return whether it is time to look again."""
        self._seconds.append(seconds)
        self._new += 1
        if self._new < self._look:
            return False
        self._new, self._look = 0, _LOOKED_AT
        return True

    @property
    def longest_s(self) -> float:
        """Seconds; 0 before one was seen."""
        found = sorted(self._seconds)
        return found[max(0, len(found) - 1 - int(_LONGER * len(found)))] if found else 0.0


class GpuPace:
    """Called between two pieces of training; returns when the next may be launched.

    Args:
        turns: Whose turn it is.
        ahead: Pieces that may be on their way to the GPU beside the one that runs; None: it does not matter
            (on a CPU).

    Attributes:
        waited_s: How long others had the turn, seconds in all.
        pieces: How long pieces take.
    """

    def __init__(self, turns: GpuTurns, ahead: int | None = _AHEAD) -> None:
        self._turns, self._depth = turns, ahead
        #: What was recorded behind each, and whether it tells how long the piece before it took.
        self._ahead: deque[tuple[torch.cuda.Event, bool]] = deque()
        self._last: torch.cuda.Event | None = None
        self._waited = True
        self._wait = FairWait(turns)
        self.waited_s, self.pieces = 0.0, PieceTimes()

    @classmethod
    def on(cls, device: object) -> GpuPace | None:
        """For training on this device; None where that is no GPU."""
        turns = turns_on(device)
        return None if turns is None else cls(turns)

    def begin(self) -> None:
        """A place before an update. What lies around it is no piece: waiting for data, and bringing it to the GPU, in
        which the GPU mostly waits for the processor."""
        self._waited = True
        self()
        self._waited = True

    def __call__(self, *_: Any) -> None:
        """A place between two pieces."""
        if self._depth is not None:
            if torch.cuda.is_current_stream_capturing():
                return  # nothing runs now; what is recorded has places of its own
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._ahead.append((event, not self._waited))
            if len(self._ahead) > self._depth:
                self._done(*self._ahead.popleft())
        waited_s = self._wait()
        self._waited = waited_s > 0  # the next piece did not begin when the last one ended
        self.waited_s += waited_s

    def measured_s(self) -> float:
        """How long the longest pieces took lately, except for a few, seconds; 0: not known."""
        return self.pieces.longest_s

    def measure_anew(self) -> None:
        """Pieces are others from now on."""
        self.pieces = PieceTimes()

    def _done(self, event: torch.cuda.Event, whole: bool) -> None:
        event.synchronize()
        before, self._last = self._last, event
        if before is not None and whole and self.pieces.add(before.elapsed_time(event) * 1e-3):
            self._turns.leaves((1 + (self._depth or 0)) * self.pieces.longest_s)

    def close(self) -> None:
        """Training is over: nothing goes on when a turn is taken."""
        self._turns.leaves(0.0)

    def give_way(self, algorithm: Any) -> None:
        """Let an algorithm make its updates in pieces, in its own way and between the blocks of its network."""
        if hasattr(algorithm, "give_way"):
            algorithm.give_way(self)
        if (network := getattr(algorithm, "network", None)) is not None:
            self.between_blocks_of(
                network
            )  # last: these places are no hooks that a graph would miss

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
