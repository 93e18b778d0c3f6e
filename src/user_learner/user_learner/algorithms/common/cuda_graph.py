"""An update of small networks as one CUDA graph.

The kernels of small networks take a GPU less time than a processor takes to launch them. A graph
is launched at once: the update runs a few times as it is written, is then recorded, and from then
on only its inputs are copied to where the recorded one reads them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace

import torch
from torch import Tensor

from user_learner.algorithms.common.batches import Minibatch
from user_learner.algorithms.common.distributed import together

#: Calls before it is recorded: libraries choose their kernels, memory is there.
_WARM = 5
_log = logging.getLogger(__name__)

Metrics = Mapping[str, Tensor]


class GraphedUpdate:
    """Calls a function of minibatches; on a GPU it replays what it did, once it has seen it a few times.

    The function must do the same for every batch of the same shapes, and change tensors in place only. It
    must not look at values of tensors. Where it cannot be recorded it is called as it is, and a
    warning says why.

    Args:
        update: What is done; gives metrics.
        generator: Where its noise comes from.
        enabled: Whether to record at all; on a CPU, or in several processes, it is not done either.
    """

    def __init__(
        self,
        update: Callable[[Sequence[Minibatch]], Metrics],
        generator: torch.Generator,
        enabled: bool = True,
    ) -> None:
        self._update, self._generator = update, generator
        self._enabled = enabled and generator.device.type == "cuda"
        self._graph: torch.cuda.CUDAGraph | None = None
        self._shapes: list[torch.Size] = []
        self._inputs: list[Tensor] = []
        self._metrics: Metrics = {}
        self._calls = 0

    @property
    def replays(self) -> bool:
        """Whether the next call of the same shapes replays a graph."""
        return self._graph is not None

    def forget(self) -> None:
        """What the graph reads or writes has become other memory: it is recorded anew."""
        self._graph, self._calls, self._inputs = None, 0, []

    def __call__(self, minibatches: Sequence[Minibatch]) -> Metrics:
        """Metrics; of a replayed graph they stay until the next call only."""
        if not self._enabled or together():
            return self._update(minibatches)
        given = [tensor for minibatch in minibatches for tensor in _tensors(minibatch)]
        shapes = [tensor.shape for tensor in given]
        if shapes != self._shapes:
            self.forget()
            self._shapes = shapes
        if self._graph is None:
            self._calls += 1
            if self._calls <= _WARM or not self._record(minibatches):
                return self._update(minibatches)
        for there, new in zip(self._inputs, given, strict=True):
            there.copy_(new, non_blocking=True)
        assert self._graph is not None
        self._graph.replay()
        return self._metrics

    def _record(self, minibatches: Sequence[Minibatch]) -> bool:
        kept = [_map(minibatch, lambda tensor: tensor.clone()) for minibatch in minibatches]
        graph = torch.cuda.CUDAGraph()
        state = self._generator.get_state()
        torch.cuda.synchronize()
        try:
            graph.register_generator_state(self._generator)
            # Other threads go on: they prepare batches in page-locked memory.
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                self._metrics = dict(self._update(kept))
        except (RuntimeError, AttributeError) as error:  # torch before 2.4 has no such generators
            _log.warning(
                "updates are not replayed as a CUDA graph, but launched one by one: %s", error
            )
            torch.cuda.synchronize()
            self._enabled = False
            self._generator.set_state(state)
            return False
        self._inputs = [tensor for minibatch in kept for tensor in _tensors(minibatch)]
        self._graph = graph
        return True


def _tensors(minibatch: Minibatch) -> list[Tensor]:
    found: list[Tensor] = []
    _map(minibatch, lambda tensor: found.append(tensor) or tensor)  # type: ignore[func-returns-value]
    return found


def _map(minibatch: Minibatch, what: Callable[[Tensor], Tensor]) -> Minibatch:
    """A minibatch of which each tensor became another."""
    changed: dict[str, object] = {}
    for item in fields(minibatch):
        value = getattr(minibatch, item.name)
        if isinstance(value, Tensor):
            changed[item.name] = what(value)
        elif isinstance(value, dict):
            changed[item.name] = {name: what(tensor) for name, tensor in value.items()}
    return replace(minibatch, **changed)  # type: ignore[arg-type]
