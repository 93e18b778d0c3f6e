"""What learner processes in one ``torch.distributed`` process group do together.

Gradients are averaged, first values are those of the first process, decisions are taken by the
most hesitant. A program that makes the process group can train so; ``learner_node`` does not
make one, so it always trains alone.
"""

from __future__ import annotations

import torch
import torch.distributed
from torch import Tensor


def rank() -> int:
    """Number of this process among those that train together; 0 when alone."""
    return torch.distributed.get_rank() if together() else 0


def average_(tensor: Tensor) -> None:
    """Replace by the mean over all processes; nothing when alone."""
    if together():
        torch.distributed.all_reduce(tensor)
        tensor.div_(torch.distributed.get_world_size())


def share_(tensor: Tensor) -> None:
    """Replace by the values of the first process; nothing when alone."""
    if together():
        torch.distributed.broadcast(tensor, src=0)


def agreed(decision: int) -> int:
    """The smallest decision of all processes, so that all do the same; one's own when alone."""
    if not together():
        return decision
    device = "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"
    tensor = torch.tensor([decision], device=device)
    torch.distributed.all_reduce(tensor, torch.distributed.ReduceOp.MIN)
    return int(tensor.item())


def together() -> bool:
    """Whether several processes train together."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()
