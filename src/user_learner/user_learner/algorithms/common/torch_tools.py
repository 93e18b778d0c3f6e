"""What algorithms need of torch: shifts of images, ensembles of layers, devices, generators of random numbers,
metrics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from user_core.errors import StoreError
from user_core.policies.critics import EPSILON
from user_core.policies.critics import ensemble_arrays as ensemble_arrays
from user_core.policies.torch_policy import require_device
from user_core.specs import Array
from user_learner.algorithms.common.distributed import rank

# Where other people's algorithms import them from (docs/how_to/add_an_algorithm.md).
from user_learner.algorithms.common.flat_parameters import FlatAdam as FlatAdam
from user_learner.algorithms.common.flat_parameters import FlatParameters as FlatParameters


def random_shift(image_bhwc: Tensor, pad: int, generator: torch.Generator) -> Tensor:
    """Shift each image by up to ``pad`` pixels in both directions; edges are repeated.

    One gather of the bytes, (B, h, w, c) to the same; the image is not converted first.
    """
    if pad == 0:
        return image_bhwc
    rows, height, width = image_bhwc.shape[:3]
    device = image_bhwc.device
    shift = torch.randint(-pad, pad + 1, (2, rows, 1), generator=generator, device=device)
    y = (torch.arange(height, device=device) + shift[0]).clamp_(0, height - 1)  # (B, h)
    x = (torch.arange(width, device=device) + shift[1]).clamp_(0, width - 1)  # (B, w)
    row = torch.arange(rows, device=device)[:, None, None]
    return image_bhwc[row, y[:, :, None], x[:, None, :]]


# --------------------------------------------------------------------------------------------------
# An ensemble of multi-layer perceptrons, evaluated and differentiated all at once
#
# The weights of all members lie in one tensor a layer, so that a layer of ten critics is one
# batched matrix product. The backward pass is written by hand: it saves the passes over memory
# that autograd makes for biases and broadcasts, and skips whatever gradient nobody asked for
# (the actor's update needs that of the input only). ``benchmarks/learning/algorithms.py`` shows what
# this gains over a loop of modules and over autograd.
# --------------------------------------------------------------------------------------------------


def evaluate(
    parameters: Mapping[str, Tensor],
    input_bi: Tensor,
    layer_norm: bool,
    members: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Outputs of the members, (E, B), for an input that all share, (B, I); (E, B, N) where each
    has N > 1 outputs.

    A hidden layer is linear, then with ``layer_norm`` normalised, plus bias, ReLU. The gain
    that layer normalisation usually has is left out: the weights of the next layer can be it,
    since ReLU commutes with positive factors.

    Args:
        parameters: As :func:`ensemble_arrays` names them.
        input_bi: The input.
        layer_norm: Whether hidden layers are normalised (Ba et al. 2016).
        members: Indices of those to evaluate, (M,); None for all.
        dtype: Type to compute in; the result is float32.
    """
    layers = []
    i = 0
    while (weight := parameters.get(f"layer{i}.weight")) is not None:
        pair = (weight, parameters[f"layer{i}.bias"])
        layers += [p if members is None else p.index_select(0, members) for p in pair]
        i += 1
    if dtype != torch.float32:
        input_bi, layers = input_bi.to(dtype), [layer.to(dtype) for layer in layers]
    output: Tensor = _Ensemble.apply(layer_norm, input_bi, *layers)  # type: ignore[no-untyped-call]
    return output.float()


class _Ensemble(torch.autograd.Function):
    """Forward and backward pass; ``layers`` alternates weights and biases."""

    @staticmethod
    def forward(ctx: Any, layer_norm: bool, input_bi: Tensor, *layers: Tensor) -> Tensor:
        members = layers[0].shape[0]
        x = input_bi.expand(members, *input_bi.shape)
        saved = [x]
        for weight, bias in zip(layers[:-2:2], layers[1:-2:2], strict=True):
            if layer_norm:
                linear = torch.bmm(x, weight)
                x, mean, rstd = torch.native_layer_norm(
                    linear, linear.shape[-1:], None, None, EPSILON
                )
                x = x.add_(bias).relu_()
                saved += [linear, mean, rstd, x]
            else:
                x = torch.baddbmm(bias, x, weight).relu_()
                saved.append(x)
        ctx.layer_norm = layer_norm
        ctx.save_for_backward(*layers, *saved)
        return torch.baddbmm(layers[-1], x, layers[-2]).squeeze(-1)  # of one output only

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        count = len(ctx.needs_input_grad) - 2
        layers, saved = ctx.saved_tensors[:count], list(ctx.saved_tensors[count:])
        wanted, step = ctx.needs_input_grad[2:], 4 if ctx.layer_norm else 1
        grad = gradients[0]  # (E, B, N), of the output of layer i
        if grad.dim() == 2:
            grad = grad.unsqueeze(-1)
        result: list[Tensor | None] = [None] * count
        for i in range(count - 2, -1, -2):
            before = saved[step * (i // 2)]  # input of this layer
            if wanted[i]:
                result[i] = torch.bmm(before.transpose(1, 2), grad)
            if wanted[i + 1] and (i == count - 2 or not ctx.layer_norm):
                result[i + 1] = grad.sum(1, keepdim=True)
            if i == 0:
                break
            weight = layers[i].transpose(1, 2)
            grad = grad * weight if weight.shape[1] == 1 else torch.bmm(grad, weight)
            grad = torch.ops.aten.threshold_backward(grad, before, 0)  # of ReLU
            if ctx.layer_norm:
                linear, mean, rstd = saved[step * (i // 2) - 3 : step * (i // 2)]
                if wanted[i - 1]:
                    result[i - 1] = grad.sum(1, keepdim=True)
                grad = torch.ops.aten.native_layer_norm_backward(
                    grad, linear, linear.shape[-1:], mean, rstd, None, None, [True, False, False]
                )[0]
        grad_input = None
        if ctx.needs_input_grad[1]:
            grad_input = torch.bmm(grad, layers[0].transpose(1, 2)).sum(0)
        return None, grad_input, *result


# --------------------------------------------------------------------------------------------------
# What a GPU multiplies with
# --------------------------------------------------------------------------------------------------


def training_device(name: str) -> torch.device:
    """The torch device that an algorithm is told to train on. Raises ConfigError where this machine does not have
    it."""
    require_device(name, "algorithm")
    return torch.device(name)  # without its number: of several processes each has set its own


def use_tensor_cores(device: torch.device | str) -> None:
    """Let a GPU multiply float32 on its tensor cores in this process (TF32: the range of float32, ten bits of mantissa;
    sums are float32); torch does so in convolutions by itself. Elsewhere nothing changes.

    cuDNN does not look for the fastest convolution (``torch.backends.cudnn.benchmark``): with that, updates with
    images could not be recorded as CUDA graphs on an H200 with torch 2.11.
    """
    if torch.device(device).type == "cuda":
        torch.set_float32_matmul_precision("high")


# --------------------------------------------------------------------------------------------------
# Random generators, one per process that trains
# --------------------------------------------------------------------------------------------------


def make_generator(seed: int, device: torch.device) -> torch.Generator:
    """A generator for this process: those that train together draw different noise."""
    return torch.Generator(device).manual_seed(seed + rank())


def generator_state(generator: torch.Generator) -> Array:
    """For a checkpoint; a copy."""
    state: Array = generator.get_state().numpy().copy()
    return state


def restore_generator(
    generator: torch.Generator, state: Any, fresh_seed: int, own: bool = False
) -> None:
    """Take over a state; start anew from ``fresh_seed`` where there is none for this process.

    Most checkpoints hold the state of the first process only (``own`` says that it is this
    process's), and a generator of another device has another kind of state.
    """
    mine = generator.get_state()
    if (own or rank() == 0) and np.shape(state) == tuple(mine.shape):
        generator.set_state(torch.from_numpy(np.array(state)))
    else:
        generator.manual_seed(fresh_seed + rank())


# --------------------------------------------------------------------------------------------------
# What an algorithm tells, and what it is given back
# --------------------------------------------------------------------------------------------------


def numbers_of(metrics: Mapping[str, Tensor]) -> dict[str, float]:
    """Metrics as numbers, by one copy from the device."""
    values = torch.stack([value.detach() for value in metrics.values()]).tolist()
    return dict(zip(metrics, values, strict=True))


class LaterNumbers(Mapping[str, float]):
    """Metrics on their way from a device: who looks at them waits until they are computed, and nobody else does.

    Args:
        metrics: By name, one number each.
    """

    def __init__(self, metrics: Mapping[str, Tensor]) -> None:
        self._names, self._read = tuple(metrics), dict[str, float]()
        self._values = torch.stack([value.detach() for value in metrics.values()])
        self._there: Any = None
        if self._values.is_cuda:
            host = torch.empty(self._values.shape, dtype=self._values.dtype, pin_memory=True)
            host.copy_(self._values, non_blocking=True)
            cuda: Any = torch.cuda  # which has types in some versions only
            self._values, self._there = host, cuda.Event()
            self._there.record()

    def __getitem__(self, name: str) -> float:
        if not self._read:
            if self._there is not None:
                self._there.synchronize()
            self._read = dict(zip(self._names, self._values.tolist(), strict=True))
        return self._read[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def require_parts(state: Mapping[str, Any], own: Mapping[str, Any], algorithm: str) -> None:
    """Raise StoreError unless a checkpoint has the parts that the algorithm's own state has."""
    if set(state) != set(own):
        raise StoreError(f"state of {algorithm}", got=sorted(state), expected=sorted(own))
