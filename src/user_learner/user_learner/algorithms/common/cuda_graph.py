"""An update as one CUDA graph, or as several short ones.

The kernels of small networks take a GPU less time than a processor takes to launch them. A graph
is launched at once: the update runs a few times as it is written, is then recorded, and from then
on only its inputs are copied to where the recorded one reads them.

Training that gives way to inference is launched in pieces (:mod:`user_learner.training.gpu_pace`).
The processor launches half a layer more slowly than the GPU computes it; so an update is recorded as
many graphs, each of which takes the GPU a fraction of a millisecond, with a place between any two.
Where they end is no matter of how the network is written: it may be behind any operation, on the way
forward, on the way back, and within the step of the optimiser.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor

from user_core.errors import in_words
from user_core.policies.cuda_graphs import (
    Recorder,
    begins,
    form_of,
    mapped,
    rehearsed,
    tensors_of,
)
from user_learner.algorithms.common.distributed import together

#: Calls before it is recorded: libraries choose their kernels, memory is there.
_WARM = 5
#: Shapes that batches may have one after the other, before nothing is recorded any more.
_SHAPES = 4
#: How long a piece is to take the GPU, seconds. With one that waits behind one that runs, both end within
#: the millisecond by which a turn is taken before a request.
PIECE_S = 4e-4
#: Pieces that take this much longer than they are to are recorded again, as more; and updates before that is looked at.
_TOO_LONG, _LOOK_AFTER = 1.6, 8
_log = logging.getLogger(__name__)

Metrics = Mapping[str, Tensor]


class Places(Protocol):
    """What is called between two pieces, see :class:`user_learner.training.gpu_pace.GpuPace`."""

    def __call__(self) -> None:
        """Return when the next piece may be launched."""

    def measured_s(self) -> float:
        """How long the longest pieces took lately, except for a few, seconds; 0: not known."""

    def measure_anew(self) -> None:
        """Pieces are others from now on."""


class GraphedUpdate:
    """Calls a function of a batch; on a GPU it replays what it did, once it has seen it a few times.

    The function must do the same for every batch of the same shapes, and change tensors in place only. It
    must not look at values of tensors. Where it cannot be recorded it is called as it is, and a
    warning says why.

    Args:
        update: What is done; gives metrics. Its argument is made of tensors, dataclasses, mappings and sequences;
            whatever else is in it stays the same.
        generator: Where its noise comes from.
        enabled: Whether to record at all; on a CPU, or in several processes, it is not done either.
        around: What each replay is made in, for noise that does not come from the generator.
        notes_on: A kind of device; what it reads back from there is for notes that nobody looks at.

    Attributes:
        enabled: Whether it records.
        between: Called between two pieces; None: an update is one piece.
        why_not: Why nothing is recorded; empty while that is not known.
        bytes: Memory of the GPU that the graphs hold.
    """

    def __init__(
        self,
        update: Callable[[Any], Metrics],
        generator: torch.Generator,
        enabled: bool = True,
        around: Callable[[], AbstractContextManager[Any]] = nullcontext,
        notes_on: str = "",
    ) -> None:
        self._notes_on = notes_on
        self._update, self._generator, self._around = update, generator, around
        self.enabled = enabled and generator.device.type == "cuda"
        self.between: Places | None = None
        self.why_not, self.bytes = "", 0
        self._graphs: list[Any] = []
        self._form: tuple[Any, ...] = ()
        self._inputs: list[Tensor] = []
        self._constants: list[Tensor] = []
        self._metrics: Metrics = {}
        self._calls = self._changes = self._replays = 0
        self._slower = 1.0

    @property
    def replays(self) -> bool:
        """Whether the next call of the same shapes replays graphs."""
        return bool(self._graphs)

    @property
    def pieces(self) -> int:
        """How many graphs an update is; 0: none was recorded."""
        return len(self._graphs)

    def forget(self) -> None:
        """What the graphs read or write has become other memory: it is recorded anew."""
        self._graphs, self._calls, self._inputs, self._metrics = [], 0, [], {}

    def leave(self, why: str) -> None:
        """Record nothing from now on, and say why."""
        self.forget()
        self.enabled, self.why_not = False, why
        _log.warning("updates are not replayed as CUDA graphs, but launched one by one: %s", why)

    def __call__(self, given: Any) -> Metrics:
        """Metrics; of replayed graphs they stay until the next call only."""
        if not self.enabled or together():
            return self._update(given)
        form = form_of(given)
        if form != self._form:
            self._changes += bool(self._form)
            self.forget()
            self._form = form
            if self._changes >= _SHAPES:
                self.leave("batches have other shapes again and again")
                return self._update(given)
        if not self._graphs:
            self._calls += 1
            if self._calls == _WARM:
                with rehearsed(self._generator.device.type) as self._constants:
                    return self._update(given)
            if self._calls <= _WARM or not self._record(given):
                return self._update(given)
        for there, new in zip(self._inputs, tensors_of(given), strict=True):
            there.copy_(new, non_blocking=True)
        with self._around():
            for graph in self._graphs:
                if self.between is not None:
                    self.between()
                graph.replay()
        metrics = self._metrics  # also where it is recorded anew next time
        if self._notes_on and not self._replays and not _are_finite(metrics):
            # It skips itself, and so would all that follow.
            self.leave(
                "an update that is replayed gives numbers that are not finite: it reads back what it needs"
            )
        self._look_at_pieces()
        return metrics

    def _look_at_pieces(self) -> None:
        """Record anew, once, where this GPU takes longer for pieces than was thought."""
        self._replays += 1
        if self.between is None or self._replays != _LOOK_AFTER or self._slower != 1.0:
            return
        longest_s = self.between.measured_s()
        if longest_s > _TOO_LONG * PIECE_S:
            self._slower = longest_s / PIECE_S
            self.forget()
            self._calls = _WARM

    def _record(self, given: Any) -> bool:
        kept = mapped(given, torch.Tensor.clone)
        state = self._generator.get_state()
        stream, now = torch.cuda.Stream(), torch.cuda.current_stream()
        limit_s = None if self.between is None else PIECE_S / self._slower
        recorder = Recorder(begins(self._generator), limit_s, self._notes_on, self._constants)
        torch.cuda.synchronize()
        gc.collect()  # what an update has left alive may be of another stream
        torch.cuda.empty_cache()
        before = torch.cuda.memory_reserved()
        try:
            stream.wait_stream(now)
            with torch.cuda.stream(stream), recorder.recording():
                self._metrics = dict(self._update(kept))
        except (RuntimeError, AttributeError, TypeError) as error:
            del recorder
            torch.cuda.synchronize()
            self._generator.set_state(state)
            self.leave(_why_not(error))
            return False
        now.wait_stream(stream)
        self._inputs, self._graphs = list(tensors_of(kept)), recorder.graphs
        self._replays, self.bytes = 0, max(0, torch.cuda.memory_reserved() - before)
        if self.between is not None:
            self.between.measure_anew()
        _log.info(
            "updates are replayed as %d CUDA graph(s), which hold %.2f GB", len(self._graphs), self.bytes * 1e-9
        )  # fmt: skip
        return True


def _are_finite(metrics: Metrics) -> bool:
    return all(bool(torch.isfinite(value).all()) for value in metrics.values())


def _why_not(error: Exception) -> str:
    said = in_words(error).splitlines()[0][:300]
    if "captur" in said.lower():
        said += " (an update looks at values of tensors, or copies from ordinary memory, while it computes)"
    return said


def hooked_modules(network: torch.nn.Module) -> list[str]:
    """Names of modules whose hooks look at what goes through them."""
    kinds = (
        "_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks",
    )  # fmt: skip
    return [
        name or type(module).__name__
        for name, module in network.named_modules()
        if any(getattr(module, kind, None) for kind in kinds)
    ]
