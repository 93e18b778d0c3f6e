"""A network whose parameters, gradients and moments of Adam are spread over all processes (FSDP2).

Each process keeps its part of every parameter; what a block or layer needs is gathered when its turn
comes and let go again (Zhao et al. 2023, "PyTorch FSDP"; ``torch.distributed.fsdp.fully_shard``). What
is computed is what one process with the whole batch computes, to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from user_core.errors import ConfigError
from user_core.specs import Array
from user_learner.algorithms.common.activation_checkpointing import blocks_of
from user_learner.algorithms.common.averaging import AVERAGE
from user_learner.algorithms.common.distributed import (
    agreed,
    average_,
    rank,
    share_,
    together,
    world,
)
from user_learner.algorithms.common.flat_parameters import adam_
from user_learner.algorithms.common.shardable import require_no_scale

#: A layer with this many parameters, or this large a share of all, is gathered by itself.
_LAYER_SIZE, _LAYER_SHARE = 1 << 20, 0.01
_MOMENTS = ("exp_avg", "exp_avg_sq")
#: What was gathered on the way forward is kept for the way back where all of it takes at most this share of a GPU's
#: memory: gathering it again costs half of the exchange once more, and the processor time of launching it.
_KEPT_SHARE = 0.1
#: How many blocks, or layers, are gathered ahead of the one that is computed.
_AHEAD = 2


class ShardedParameters:
    """The trained parameters of a network, sharded, and Adam over them.

    All methods are called by all processes at the same time, except for :meth:`zero_grad` and
    :meth:`state`.

    Args:
        network: On the CPU, with first values; moved to the device piece by piece. What takes no
            gradient is sharded too, and neither kept nor sent.
        whole: Another copy of it, on the CPU, that puts together what is published; the first process needs
            it, the others give None.
        compute: What is called with gradients; it may call any method of the network.
        device: Where to train.
        by: ``blocks``: what a member of a ``ModuleList`` has is gathered together; ``layers``: each large layer
            by itself.
        bfloat16: Whether parameters travel and are computed with in bfloat16; gradients are summed in
            float32, and what is kept is float32.
        learning_rate, max_grad_norm, decay: As :class:`~user_learner.algorithms.common.flat_parameters.FlatAdam`.

    Attributes:
        named: The trained parameters: this process's parts of them.

    Raises:
        ConfigError: There is no process group, or the network cannot be sharded.
    """

    def __init__(
        self, network: Any, whole: Any, compute: Callable[..., Any], device: torch.device, *,
        by: str, bfloat16: bool, learning_rate: float, max_grad_norm: float, decay: Mapping[str, float],
    ) -> None:  # fmt: skip
        if not together():
            raise ConfigError(
                "shard", got="a training without a process group",
                expected="learner_node, `user train` or torchrun, which make one",
            )  # fmt: skip
        require_no_scale(network)
        self._network, self._whole = network, whole
        self._learning_rate, self._max_grad_norm = learning_rate, max_grad_norm
        self._decay, self._by = dict(decay), by
        for _, parameter in network.named_parameters():
            share_(parameter.data)
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
        self._compute = _Computed(network, compute)
        self._shard(by, bfloat16, device)
        network.to(device)
        self.named: dict[str, nn.Parameter] = {
            name: p for name, p in network.named_parameters() if p.requires_grad
        }
        self._moments = {
            name: {m: torch.zeros_like(part_of(p)) for m in _MOMENTS}
            for name, p in self.named.items()
        }
        self._steps = [torch.zeros((), device=device) for _ in self.named]

    def _shard(self, by: str, bfloat16: bool, device: torch.device) -> None:
        half = torch.bfloat16 if bfloat16 else None
        common: dict[str, Any] = {
            "mesh": init_device_mesh(device.type, (world(),)),
            "mp_policy": MixedPrecisionPolicy(
                param_dtype=half, reduce_dtype=torch.float32, cast_forward_inputs=False
            ),
            # A number alone cannot be cut: each process has it, and averages its gradient.
            "ignored_params": {p for p in self._compute.parameters() if not p.dim()},
        }
        groups = blocks_of(self._network) if by == "blocks" else _large_layers(self._network)
        numbers = sum(p.numel() for p in self._compute.parameters())
        fits = numbers * (2 if bfloat16 else 4) <= _KEPT_SHARE * _memory_of(device)
        keep = self._keeps = bool(agreed(int(fits)))  # all exchange the same
        for module in groups:
            module.forward = _without_views(module.forward)
            fully_shard(module, reshard_after_forward=not keep, **common)
        fully_shard(self._compute, **common)
        # In the order of the network. Where it computes in another one, what is gathered waits.
        ahead: list[Any] = list(groups)
        for number, module in enumerate(ahead):
            module.set_modules_to_forward_prefetch(ahead[number + 1 : number + 1 + _AHEAD])

    def __call__(self, *arguments: Any) -> Any:
        """``compute`` of these, with whole parameters.

        Raises ConfigError where a network does not call its blocks, but layers within them, or takes their weights.
        """
        try:
            return self._compute(*arguments)
        except RuntimeError as error:
            if "mixed torch.Tensor and DTensor" in str(error):
                expected = {
                    "blocks": "shard: layers, which gathers each layer when it is called",
                    "layers": "shard: blocks, which gathers all that is no block's at once",
                }[self._by]
                raise ConfigError(
                    f"shard: {self._by}", expected=expected,
                    got="a network that takes the weights of its layers by itself",
                ) from error  # fmt: skip
            raise

    def part_of_batch(self, last: bool) -> None:
        """Before each of the parts in which a batch is computed. Where what was gathered is kept, their gradients are
        added up whole, and exchanged with the last part."""
        if self._keeps:
            module: Any = self._compute
            module.set_requires_gradient_sync(last)
            module.set_reshard_after_backward(last)
            module.set_is_last_backward(last)

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for parameter in self.named.values():
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Step along gradients, which are means over all processes; where they are not finite, nothing changes."""
        parts, cut, alike = self.parts(), list[Tensor](), list[Tensor]()
        grads = []
        for parameter, part in zip(self.named.values(), parts, strict=True):
            grad = parameter.grad
            mine = torch.zeros_like(part) if grad is None else part_of(grad)
            if isinstance(parameter, DTensor):
                cut.append(mine)
            else:
                average_(mine)
                alike.append(mine)
            grads.append(mine)
        norm = self._norm(cut, alike)
        if self._max_grad_norm > 0:
            factor = (self._max_grad_norm / (norm + 1e-6)).clamp(max=1.0)
            torch._foreach_mul_(grads, factor)  # by a few launches, however many there are
        spoilt = (~norm.isfinite()).float()
        for name, part in zip(self.named, parts, strict=True):
            if name in self._decay:
                part.mul_(1 - self._decay[name] * (1 - spoilt))
        moments = list(self._moments.values())
        adam_(
            parts, grads, [m["exp_avg"] for m in moments], [m["exp_avg_sq"] for m in moments],
            self._steps, self._learning_rate, spoilt,
        )  # fmt: skip

    def _norm(self, cut: list[Tensor], alike: list[Tensor]) -> Tensor:
        """Norm of the whole gradient, of parts that this process has and of what all have; the same in all
        processes."""
        zero = self._steps[0].new_zeros(())
        mine, same = (_squares(some, zero) for some in (cut, alike))
        average_(mine)
        return (mine * world() + same).sqrt()

    def arrays(self) -> dict[str, Array]:
        """What actors take, gathered one parameter after the other; empty in all but the first process."""
        targets = {} if self._whole is None else dict(self._whole.named_parameters())
        with torch.no_grad():
            for name, parameter in self.named.items():
                value = parameter.full_tensor() if isinstance(parameter, DTensor) else parameter
                if self._whole is not None:
                    targets[name].copy_(value)
            if self._whole is None:
                return {}
            for (_, one), (_, other) in zip(
                self._whole.named_buffers(), self._network.named_buffers(), strict=True
            ):
                one.copy_(other)
        arrays: dict[str, Array] = self._whole.arrays()
        return arrays

    def parts(self) -> list[Tensor]:
        """This process's parts of the trained parameters; their own memory."""
        return [part_of(parameter) for parameter in self.named.values()]

    def shards(self, averages: Sequence[Tensor] = ()) -> dict[str, Tensor]:
        """This process's parts of parameters and moments, by names, and averages of :meth:`parts`; not copies."""
        found: dict[str, Tensor] = {
            f"{AVERAGE}{name}": with_part(parameter, average)
            for (name, parameter), average in zip(self.named.items(), averages, strict=False)
        }
        for name, parameter in self.named.items():
            found[f"policy/{name}"] = parameter.detach()
            for moment, value in self._moments[name].items():
                found[f"{moment}/{name}"] = with_part(parameter, value)
        return found

    def state(self) -> dict[str, Any]:
        """What all processes have alike: the count of steps."""
        return {"steps": float(self._steps[0])}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state` gave; parts are loaded in place."""
        for step in self._steps:
            step.fill_(float(state["steps"]))


class _Computed(nn.Module):
    """A function of a network as a module, so that the network is whole while it is called."""

    def __init__(self, network: nn.Module, compute: Callable[..., Any]) -> None:
        super().__init__()
        self.network, self._function = network, compute

    def forward(self, *arguments: Any) -> Any:
        """The function's result."""
        return self._function(*arguments)


def _without_views(forward: Callable[..., Any]) -> Callable[..., Any]:
    """A forward pass whose output is no view: one that is, and that a network then changes in place, would lose the
    hook that gathers the weights again on the way back, without a word."""

    def call(*arguments: Any, **keywords: Any) -> Any:
        output = forward(*arguments, **keywords)
        is_view = isinstance(output, Tensor) and output._is_view()
        return output.clone() if is_view else output

    return call


def _squares(some: list[Tensor], zero: Tensor) -> Tensor:
    """Sum of the squares of all numbers; a few launches, however many tensors there are."""
    there = [tensor for tensor in some if tensor.numel()]
    return torch.stack(torch._foreach_norm(there)).square().sum() if there else zero.clone()


def _memory_of(device: torch.device) -> float:
    """Bytes of a GPU; of the host nothing, for it is shared by all processes."""
    if device.type != "cuda":
        return 0.0
    return float(torch.cuda.get_device_properties(device).total_memory)


def part_of(tensor: Tensor) -> Tensor:
    """The part that this process has; the memory of the tensor itself."""
    if not isinstance(tensor, DTensor):
        return tensor.detach()
    part: Tensor = tensor.to_local().detach()  # type: ignore[no-untyped-call]
    return part


def with_part(like: Tensor, part: Tensor, mesh: DeviceMesh | None = None) -> Tensor:
    """A part as one of a tensor that is cut as another is; on the same mesh of processes where none is given."""
    if not isinstance(like, DTensor):
        return part
    return DTensor.from_local(
        part, like.device_mesh if mesh is None else mesh, like.placements, run_check=False,
        shape=like.shape, stride=like.stride(),
    )  # fmt: skip


def _large_layers(network: nn.Module) -> list[nn.Module]:
    sizes = {
        module: sum(p.numel() for p in module.parameters())
        for module in network.modules()
        if not any(True for _ in module.children())
    }
    least = min(_LAYER_SIZE, _LAYER_SHARE * sum(sizes.values()))
    return [module for module, size in sizes.items() if size and size >= least]


def whole_copy(make: Callable[[], Any]) -> Any:
    """A network for :class:`ShardedParameters` to publish from, in the process that does; None in others."""
    return make() if rank() == 0 else None
