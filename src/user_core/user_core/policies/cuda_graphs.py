"""Recording what is launched on a GPU as CUDA graphs: one, or one behind the other. Imports torch.

A graph is launched at once, and reads and writes the memory that it was recorded with. Who uses one
copies what is new to where the recorded one reads it, see :func:`tensors_of`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

#: Begins to record a graph; gives it, and what ends that.
Begin: TypeAlias = "Callable[[], tuple[Any, Callable[[], object]]]"

#: What a large GPU does in a second, to tell how long an operation takes: in half precision, in float32, and bytes
#: that are read and written; and what each operation takes besides, seconds.
_HALF_FLOPS, _FULL_FLOPS, _BYTES, _LAUNCH_S = 5e14, 4e13, 3e12, 2e-6


_READ_BACK = torch.ops.aten._local_scalar_dense.default


def begins(generator: torch.Generator | None = None, pool: Any = None) -> Begin:
    """Begins graphs that share their memory: they are replayed in the order in which they were recorded, or what one
    has left there is not needed any more when another is replayed.

    Args:
        generator: Where noise comes from, besides the device's own.
        pool: The memory, of :func:`torch.cuda.graph_pool_handle`; None: one of their own.
    """
    shared = torch.cuda.graph_pool_handle() if pool is None else pool

    def begin() -> tuple[Any, Callable[[], object]]:
        graph = torch.cuda.CUDAGraph()
        if generator is not None:
            graph.register_generator_state(generator)
        # Other threads go on: they answer, or prepare batches in page-locked memory.
        graph.capture_begin(pool=shared, capture_error_mode="thread_local")
        return graph, lambda: _end(graph, shared, generator)

    return begin


def _end(graph: Any, pool: Any, generator: torch.Generator | None) -> None:
    """End a graph. Where what was launched has spoilt it, torch leaves generators and memory as if it were still being
    recorded, and whatever draws noise would fail from then on: an empty graph puts them right."""
    try:
        graph.capture_end()
    except RuntimeError:
        with suppress(RuntimeError, AttributeError):
            torch._C._cuda_endAllocateToPool(torch.cuda.current_device(), pool)
        empty = torch.cuda.CUDAGraph()
        if generator is not None:
            empty.register_generator_state(generator)
        with suppress(RuntimeError):
            empty.capture_begin(capture_error_mode="thread_local")
            empty.capture_end()
        raise


class Recorder:
    """Records what is launched as one graph behind the other.

    Args:
        begin: See :func:`begins`.
        limit_s: A graph ends when so much of the GPU's time is in it, about; None: there is one.
        notes_on: A kind of device; numbers that are read back from there meanwhile are for notes that nobody looks at, and
            nan. Empty: none are.

    Attributes:
        graphs: Those that have ended, in order.
    """

    def __init__(self, begin: Begin, limit_s: float | None = None, notes_on: str = "") -> None:
        self._notes_on = notes_on
        self._begin, self._limit_s, self._spent_s = begin, limit_s, 0.0
        self.graphs: list[Any] = []
        self._graph: Any = None
        self._end: Callable[[], object] = lambda: None

    @contextmanager
    def recording(self) -> Iterator[None]:
        """What is launched in the block is recorded. The way back is in the calling thread: only that one may end what
        it has begun."""
        plain = self._limit_s is None and not self._notes_on
        mode = nullcontext() if plain else _Operations(self._after, self._notes_on)
        with warnings.catch_warnings(), torch.autograd.set_multithreading_enabled(False):
            warnings.filterwarnings("ignore", message=".*CUDA Graph is empty.*")
            self._graph, self._end = self._begin()
            try:
                with mode:
                    yield
            except BaseException:
                with suppress(RuntimeError):  # it tells of the same
                    self._end()
                raise
            self._end()
            self.graphs.append(self._graph)

    def _after(self, seconds: float) -> None:
        """An operation was launched that takes the GPU about so long."""
        self._spent_s += seconds
        if self._limit_s is None or self._spent_s < self._limit_s:
            return
        self._end()
        self.graphs.append(self._graph)
        self._graph, self._end = self._begin()
        self._spent_s = 0.0


class _Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Tells of each operation how long it takes a GPU, about."""

    def __init__(self, tell: Callable[[float], None], notes_on: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._tell, self._notes_on = tell, notes_on

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if (
            func is _READ_BACK
            and args[0].device.type == self._notes_on
            and args[0].is_floating_point()
        ):
            return float("nan")
        made = func(*args, **(kwargs or {}))
        self._tell(seconds_of(func, args, kwargs or {}, made))
        return made


def seconds_of(func: Any, args: Any, kwargs: Mapping[str, Any], made: Any) -> float:
    """How long an operation takes a large GPU: as its memory allows, or its arithmetic, whichever is longer."""
    if getattr(func, "is_view", False):
        return 0.0
    from torch.utils.flop_counter import flop_registry

    tensors = [t for t in tree_leaves((args, kwargs, made)) if isinstance(t, Tensor)]
    tensors = list({id(t): t for t in tensors}.values())
    if not tensors:
        return 0.0
    moved = sum(t.numel() * t.element_size() for t in tensors)
    count, operations = flop_registry.get(func.overloadpacket), 0.0
    if count is not None:
        with suppress(Exception):  # of a form that torch cannot count
            operations = float(count(*args, **kwargs, out_val=made))
    rate = _HALF_FLOPS if tensors[0].element_size() <= 2 else _FULL_FLOPS
    return max(moved / _BYTES, operations / rate) + _LAUNCH_S


def tensors_of(given: Any) -> Iterator[Tensor]:
    """The tensors of what is made of dataclasses, mappings and sequences, always in the same order."""
    return (leaf for leaf in _leaves(given) if isinstance(leaf, Tensor))


def form_of(given: Any) -> tuple[Any, ...]:
    """What is the same wherever a recorded graph fits: shapes, types and places of tensors, and everything else."""
    return tuple(
        (tuple(leaf.shape), leaf.dtype, leaf.device) if isinstance(leaf, Tensor) else leaf
        for leaf in _leaves(given)
    )


def mapped(given: Any, what: Callable[[Tensor], Tensor]) -> Any:
    """The same, of which each tensor became another."""
    if isinstance(given, Tensor):
        return what(given)
    if is_dataclass(given) and not isinstance(given, type):
        items = {item.name: mapped(getattr(given, item.name), what) for item in fields(given)}
        return replace(given, **items)
    if isinstance(given, Mapping):
        return {name: mapped(one, what) for name, one in given.items()}
    if isinstance(given, tuple):
        return tuple(mapped(one, what) for one in given)
    if isinstance(given, Sequence) and not isinstance(given, str):
        return [mapped(one, what) for one in given]
    return given


def _leaves(given: Any) -> Iterator[Any]:
    if is_dataclass(given) and not isinstance(given, type):
        for item in fields(given):
            yield from _leaves(getattr(given, item.name))
    elif isinstance(given, Mapping):
        for name, one in given.items():
            yield name
            yield from _leaves(one)
    elif isinstance(given, Sequence) and not isinstance(given, str):
        for one in given:
            yield from _leaves(one)
    else:
        yield given
