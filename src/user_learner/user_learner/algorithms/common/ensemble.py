"""An ensemble of multi-layer perceptrons, evaluated and differentiated all at once.

The weights of all members lie in one tensor a layer, so that a layer of ten critics is one
batched matrix product. The backward pass is written by hand: it saves the passes over memory
that autograd makes for biases and broadcasts, and skips whatever gradient nobody asked for
(the actor's update needs that of the input only). ``benchmarks/algorithms.py`` shows what
this gains over a loop of modules and over autograd.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from user_core.specs import Array

_EPSILON = 1e-5


def ensemble_arrays(
    members: int, inputs: int, hidden: tuple[int, ...], rng: np.random.Generator
) -> dict[str, Array]:
    """First values: ``layer<i>.weight`` (E, in, out), ``layer<i>.bias`` (E, 1, out).

    Glorot-uniform weights, drawn for each member; the last layer has one output.
    """
    arrays: dict[str, Array] = {}
    sizes = (inputs, *hidden, 1)
    for i, (rows, columns) in enumerate(pairwise(sizes)):
        limit = np.sqrt(6 / (rows + columns))
        weight = rng.uniform(-limit, limit, (members, rows, columns))
        arrays[f"layer{i}.weight"] = weight.astype(np.float32)
        arrays[f"layer{i}.bias"] = np.zeros((members, 1, columns), np.float32)
    return arrays


def evaluate(
    parameters: Mapping[str, Tensor],
    input_bi: Tensor,
    layer_norm: bool,
    members: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Outputs of the members, (E, B), for an input that all share, (B, I).

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
                    linear, linear.shape[-1:], None, None, _EPSILON
                )
                x = x.add_(bias).relu_()
                saved += [linear, mean, rstd, x]
            else:
                x = torch.baddbmm(bias, x, weight).relu_()
                saved.append(x)
        ctx.layer_norm = layer_norm
        ctx.save_for_backward(*layers, *saved)
        return torch.baddbmm(layers[-1], x, layers[-2]).squeeze(-1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        count = len(ctx.needs_input_grad) - 2
        layers, saved = ctx.saved_tensors[:count], list(ctx.saved_tensors[count:])
        wanted, step = ctx.needs_input_grad[2:], 4 if ctx.layer_norm else 1
        grad = gradients[0].unsqueeze(-1)  # (E, B, 1), of the output of layer i
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
