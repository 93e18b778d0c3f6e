"""What learner processes in one ``torch.distributed`` process group do together.

Gradients are averaged before each step of an optimiser, first values are those of the first
process, statistics of inputs are taken over the batches of all, decisions are those of the most
hesitant. So several processes, each with its part of a batch, train as one with the whole batch
does. :mod:`user_learner.ranks` makes the process group; alone, all of this does nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed
from torch import Tensor

from user_core.codecs.states import decode_state, encode_state


def rank() -> int:
    """Number of this process among those that train together; 0 when alone."""
    return torch.distributed.get_rank() if together() else 0


def world() -> int:
    """How many processes train together; 1 when alone."""
    return torch.distributed.get_world_size() if together() else 1


def average_(tensor: Tensor) -> None:
    """Replace by the mean over all processes; nothing when alone."""
    if together():
        torch.distributed.all_reduce(tensor)
        tensor.div_(torch.distributed.get_world_size())


def share_(tensor: Tensor) -> None:
    """Replace by the values of the first process; nothing when alone."""
    if together():
        torch.distributed.broadcast(tensor, src=0)


def share_all_(tensors: Iterable[Tensor]) -> None:
    """As :func:`share_`, by one exchange for all of one type."""
    if not together():
        return
    alike: dict[torch.dtype, list[Tensor]] = {}
    for tensor in tensors:
        alike.setdefault(tensor.dtype, []).append(tensor)
    for some in alike.values():
        flat = torch.cat([tensor.reshape(-1) for tensor in some])
        share_(flat)
        parts = flat.split([tensor.numel() for tensor in some])
        for tensor, part in zip(some, parts, strict=True):
            tensor.copy_(part.view(tensor.shape))


def gathered(tensor: Tensor, minibatches: int = 1) -> Tensor:
    """Rows (B, ...) of all processes, (W x B, ...), in the order in which one process would have them.

    Args:
        tensor: Rows of this process; equally many in all.
        minibatches: Into how many a batch is cut, see :class:`user_learner.sampling.share.Share`.
    """
    if not together():
        return tensor
    parts = [torch.empty_like(tensor) for _ in range(world())]
    torch.distributed.all_gather(parts, tensor.contiguous())
    whole = torch.stack([p.view(-1, minibatches, *tensor.shape[1:]) for p in parts], 1)
    return whole.flatten(0, 2)


def share_of(amount: Tensor) -> Tensor | float:
    """How much there is here, compared with the mean of all processes; 1 when alone. A mean over what
    counts, times this, averages over processes to the mean over what counts in all."""
    if not together():
        return 1.0
    mean = amount.detach().clone()
    average_(mean)
    return amount / mean.clamp_min(1e-12)


def averaged(metrics: Mapping[str, float]) -> dict[str, float]:
    """Means of numbers over all processes, so that all see the same; they have the same names."""
    if not together() or not metrics:
        return dict(metrics)
    tensor = torch.tensor(list(metrics.values()), dtype=torch.float64, device=_device())
    average_(tensor)
    return dict(zip(metrics, tensor.tolist(), strict=True))


def agreed(decision: int) -> int:
    """The smallest decision of all processes, so that all do the same; one's own when alone."""
    return agreed_each([decision])[0]


def agreed_each(decisions: Sequence[int]) -> list[int]:
    """The smallest of all processes in each place, by one exchange; one's own when alone."""
    if not together():
        return list(decisions)
    tensor = torch.tensor(decisions, dtype=torch.int64, device=_device())
    torch.distributed.all_reduce(tensor, torch.distributed.ReduceOp.MIN)
    return [int(decision) for decision in tensor.tolist()]


def exchanged(numbers: Sequence[float], group: Any = None) -> list[list[float]]:
    """The numbers of each process, in the order of processes, by one exchange; one's own when alone.

    Where there is a way between processors (gloo) no GPU takes part, so that nobody waits for what these compute.

    Args:
        numbers: Of this process; all have equally many. They go as float64: whole numbers up to 2^53 arrive exactly.
        group: A gloo group of all; None: the way that all have anyway.
    """
    if not together():
        return [list(numbers)]
    by_host = group is not None or "gloo" in torch.distributed.get_backend_config()
    device = torch.device("cpu") if by_host else _device()
    mine = torch.tensor(numbers, dtype=torch.float64, device=device)
    parts = [torch.empty_like(mine) for _ in range(world())]
    torch.distributed.all_gather(parts, mine, group=group)
    return [part.tolist() for part in parts]


def broadcast(message: Any) -> Any:
    """What the first process says, to all: plain values and arrays. One's own when alone.

    It goes as bytes (:mod:`user_core.codecs.states`), and nothing is unpickled: tuples become lists.
    """
    if not together():
        return message
    content = encode_state(message) if rank() == 0 else b""
    size = torch.tensor([len(content)], device=_device())
    torch.distributed.broadcast(size, src=0)
    buffer = _bytes_as_tensor(content, int(size)).to(_device())
    torch.distributed.broadcast(buffer, src=0)
    return message if rank() == 0 else decode_state(buffer.cpu().numpy().tobytes())


def said_by_all(message: Any, group: Any) -> list[Any]:
    """What each process says, by a gloo group of all, in their order: plain values and arrays, as :func:`broadcast`."""
    content = encode_state(message)
    sizes = [int(size) for [size] in exchanged([len(content)], group)]
    longest = max(sizes)
    parts = [torch.empty(longest, dtype=torch.uint8) for _ in sizes]
    torch.distributed.all_gather(parts, _bytes_as_tensor(content, longest), group=group)
    return [
        decode_state(part[:size].numpy().tobytes()) for part, size in zip(parts, sizes, strict=True)
    ]


def _bytes_as_tensor(content: bytes, size: int) -> Tensor:
    """Bytes, and zeros up to a size that all processes have."""
    padded = bytearray(size)
    padded[: len(content)] = content  # a checkpoint may be large: one copy, not two
    return torch.frombuffer(padded, dtype=torch.uint8)


def together() -> bool:
    """Whether several processes train together."""
    return not _alone and torch.distributed.is_available() and torch.distributed.is_initialized()


@contextmanager
def alone() -> Iterator[None]:
    """Do as if there were no other processes, which are to be left alone by what is tried meanwhile."""
    global _alone
    _alone = True
    try:
        yield
    finally:
        _alone = False


_alone = False


def _device() -> torch.device:
    """Where small tensors go by the group's way: its main backend is the last one it was made of."""
    if "nccl" in torch.distributed.get_backend_config():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")
