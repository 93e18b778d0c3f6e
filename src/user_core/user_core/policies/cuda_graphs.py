"""Recording what is launched on a GPU as CUDA graphs: one, or one behind the other. Imports torch.

A graph is launched at once, and reads and writes the memory that it was recorded with. Who uses one
copies what is new to where the recorded one reads it, see :func:`tensors_of`.

What a host gives a GPU on the way, such as a mask made of a list, cannot be recorded. It is the same each time, as the
graph is; so it is noted once while everything is launched (:func:`rehearsed`), and taken from there by what is
recorded.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

#: Begins to record a graph; gives it, and what ends that.
Begin: TypeAlias = "Callable[[], tuple[Any, Callable[[], object]]]"

#: What a large GPU does in a second, to tell how long an operation takes: in half precision, in float32, and bytes
#: that are read and written; and what each operation takes besides, seconds.
_HALF_FLOPS, _FULL_FLOPS, _BYTES, _LAUNCH_S = 5e14, 4e13, 3e12, 2e-6

_READ_BACK = torch.ops.aten._local_scalar_dense.default
#: What may bring numbers from one device to another, and what makes tensors of numbers in lists.
_BRINGS, _BRINGS_INTO = torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default
_OF_LISTS = (torch.tensor, torch.as_tensor)


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
        limit_s: A graph ends when this much of the GPU's time is in it, about; None: there is one.
        notes_on: A kind of device; numbers that are read back from there meanwhile are for notes that nobody looks at,
            and nan. Empty: none are.
        constants: What the host gave when the same was launched, see :func:`rehearsed`.

    Attributes:
        graphs: Those that have ended, in order. They read ``constants``, which must stay.
    """

    def __init__(
        self, begin: Begin, limit_s: float | None = None, notes_on: str = "", constants: Sequence[Tensor] = (),
    ) -> None:  # fmt: skip
        self._notes_on, self._constants = notes_on, constants
        self._begin, self._limit_s, self._spent_s = begin, limit_s, 0.0
        self.graphs: list[Any] = []
        self._graph: Any = None
        self._end: Callable[[], object] = lambda: None

    @contextmanager
    def recording(self) -> Iterator[None]:
        """What is launched in the block is recorded. The way back is in the calling thread: only that one may end what
        it has begun. Raises RuntimeError where the host draws noise, which would be the same in each replay."""
        plain = self._limit_s is None and not self._notes_on and not self._constants
        mode = nullcontext() if plain else _Operations(self._after, self._notes_on)
        given = _Given(self._constants) if self._constants else nullcontext()
        with warnings.catch_warnings(), torch.autograd.set_multithreading_enabled(False):
            warnings.filterwarnings("ignore", message=".*CUDA Graph is empty.*")
            self._graph, self._end = self._begin()
            try:
                with mode, given:
                    yield
            except BaseException:
                with suppress(RuntimeError):  # it tells of the same
                    self._end()
                raise
            self._end()
            self.graphs.append(self._graph)

    def _after(self, seconds: float) -> None:
        """An operation was launched that takes the GPU about this long."""
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
        if self._notes_on and func in (_READ_BACK, _BRINGS):
            source, to = args[0], (kwargs or {}).get("device")
            if source.device.type == self._notes_on and source.is_floating_point():
                if func is _READ_BACK:
                    return float("nan")
                if self._notes_on != "cpu" and to is not None and torch.device(to).type == "cpu":
                    return torch.full(source.shape, float("nan"))
        made = func(*args, **(kwargs or {}))
        self._tell(seconds_of(func, args, kwargs or {}, made))
        return made


# --------------------------------------------------------------------------------------------------
# What a host gives meanwhile
# --------------------------------------------------------------------------------------------------


@contextmanager
def rehearsed(device: str = "cuda") -> Iterator[list[Tensor]]:
    """Launch in the block what is to be recorded next; gives what the host brings to this kind of device meanwhile, in
    order, each a copy there. The way back is in the calling thread, as in :meth:`Recorder.recording`."""
    found = _Given(None, device)
    with torch.autograd.set_multithreading_enabled(False), found:
        yield found.noted


class _Given:
    """Notes what the host gives to a kind of device; or gives what was noted instead, in the same order."""

    def __init__(self, constants: Sequence[Tensor] | None, device: str = "") -> None:
        self.noted: list[Tensor] = []
        self.device = device or (constants[0].device.type if constants else "cuda")
        self._constants = None if constants is None else iter(constants)
        self._modes: list[Any] = []
        self._within = False

    def __enter__(self) -> _Given:
        self._modes = [_OfLists(self), _Brought(self)]
        for mode in self._modes:
            mode.__enter__()
        return self

    def __exit__(self, *reason: Any) -> None:
        for mode in reversed(self._modes):
            mode.__exit__(*reason)

    @property
    def notes(self) -> bool:
        """Whether it notes, and does not give."""
        return self._constants is None

    def brings(self, target: Any) -> bool:
        """Whether numbers of the host that go there are looked at."""
        return not self._within and target is not None and torch.device(target).type == self.device

    def instead(self, make: Callable[[], Tensor]) -> Tensor:
        """What the host gives: as it makes it, or as was noted."""
        self._within = True  # what it consists of is no other
        try:
            if self._constants is None:
                made = make()
                self.noted.append(made.detach().clone())
                return made
            constant = next(self._constants, None)
            if constant is None:
                raise RuntimeError("the host gives more than when the same was rehearsed")
            return constant.clone()  # it may be written to
        finally:
            self._within = False


class _OfLists(TorchFunctionMode):
    def __init__(self, given: _Given) -> None:
        super().__init__()
        self._given = given

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        named = kwargs or {}
        of_numbers = func in _OF_LISTS and not isinstance(
            args[0] if args else named.get("data"), Tensor
        )
        if of_numbers and self._given.brings(named.get("device")):
            return self._given.instead(lambda: func(*args, **named))
        return func(*args, **named)


class _Brought(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, given: _Given) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._given = given

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        named, given = kwargs or {}, self._given
        if torch.Tag.nondeterministic_seeded in func.tags and not given.notes:
            made = func(*args, **named)
            if isinstance(made, Tensor) and made.device.type == "cpu":
                raise RuntimeError(
                    "noise is drawn on the host, which would be the same in each replay"
                )
            return made
        if func is _BRINGS and args[0].device.type == "cpu" and given.brings(named.get("device")):
            return given.instead(lambda: func(*args, **named))
        if func is _BRINGS_INTO and args[1].device.type == "cpu" and given.brings(args[0].device):
            target = args[0].device
            came = given.instead(lambda: args[1].to(target))
            return func(args[0], came, *args[2:], **named)
        return func(*args, **named)


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
