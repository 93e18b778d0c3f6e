"""Shifts of images, ensembles of layers, generators of random numbers, flat parameters and their Adam."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim.adam import adam

from user_core.errors import StoreError
from user_core.policies.critics import EPSILON
from user_core.policies.critics import ensemble_arrays as ensemble_arrays
from user_core.policies.torch_policy import require_device
from user_core.specs import Array
from user_learner.algorithms.common.distributed import average_, rank, together

#: So many numbers of a large network are stepped at once: Adam moves 28 bytes for each.
_PIECE = 1 << 25
#: Gradients of so many numbers on a GPU are taken as autograd made them.
_LOOSE = 1 << 24


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
    """The torch device that an algorithm is told to train on. Raises ConfigError where this machine does not have it."""
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


# --------------------------------------------------------------------------------------------------
# The parameters of a network in one flat tensor
# --------------------------------------------------------------------------------------------------


def in_pieces(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Views of tensors of equal shape, piece by piece: what a GPU does with one takes a fraction of a millisecond."""
    if tensors[0].numel() <= _PIECE:
        yield tensors
        return
    yield from zip(*(tensor.view(-1).split(_PIECE) for tensor in tensors), strict=True)


def _go_on() -> None:
    """Nothing happens between two pieces of work."""


@dataclass
class _Part:
    """Numbers ``first`` to ``last`` of a parameter, which begin in the flat tensor at ``at``."""

    name: str
    first: int
    last: int
    at: int


@dataclass
class _Piece:
    """Some numbers of a flat tensor, and whose they are."""

    of: slice
    parts: list[_Part]


class FlatParameters:
    """Named parameters that lie in one tensor, and their gradients in another.

    On a CPU, small networks spend much of an update in the overhead of one small operation per
    parameter. Lying in one tensor, all of them are stepped, averaged over processes, copied
    and moved towards (:meth:`approach`) by one operation each. A parameter of a module stays
    one, and its module goes on working: only its memory moves into the tensor.

    Those of a large network on a GPU have their gradients as autograd made them, and no other tensor for these: that would
    be as much memory as the weights take, and two passes over it.

    Args:
        values: First values, or parameters of modules on ``device``, by name.
        device: Where they live.
        keep_half: Parameters in bfloat16 stay so, and are rounded from the tensor, which is float32, after each step
            (:meth:`show`): a network computes with what it was made for, and small steps are not lost.

    Attributes:
        flat: All values, (N,).
        named: Leaves that require a gradient, views of ``flat`` where they are not kept in bfloat16.
        frozen: Views of ``flat``, of which no gradient is asked.
        between: Called between two pieces of work, here and in :class:`FlatAdam`.
    """

    def __init__(
        self, values: Mapping[str, Array | Tensor], device: torch.device, keep_half: bool = False
    ) -> None:
        parts = [
            v.detach() if isinstance(v, Tensor) else torch.from_numpy(np.asarray(v, np.float32))
            for v in values.values()
        ]
        self.flat = torch.empty(sum(part.numel() for part in parts), device=device)
        start = 0
        for part in parts:  # where they shall be: 3 G parameters on their way over the host would take half a minute
            self.flat[start : start + part.numel()].copy_(part.reshape(-1))
            start += part.numel()
        self.between: Callable[[], object] = _go_on
        self.shapes = {name: tuple(part.shape) for name, part in zip(values, parts, strict=True)}
        self.frozen = self.split(self.flat)
        self.named = self.split(self.flat)
        self._half: set[str] = set()
        for name, place in self.named.items():
            if isinstance(parameter := values[name], torch.nn.Parameter):
                if keep_half and parameter.dtype == torch.bfloat16:
                    self._half.add(name)
                else:
                    parameter.data = place
                self.named[name] = parameter
            self.named[name].requires_grad_()
        self._grad: Tensor | None = None
        self._loose = self._lets_go()
        if not self._loose:
            self._place(self.grad)

    @property
    def grad(self) -> Tensor:
        """All gradients, (N,), once :meth:`collect` was called; ``backward`` accumulates into it, but for large networks on a
        GPU and for what is kept in bfloat16."""
        if self._grad is None:
            self._grad = torch.zeros_like(self.flat)
        return self._grad

    def _place(self, grad: Tensor) -> None:
        for name, gradient in self.split(grad).items():
            self.named[name].grad = None if name in self._half else gradient

    @torch.no_grad()
    def show(self) -> None:
        """Round what is kept in bfloat16 from :attr:`flat`."""
        if self._half:
            for piece in self._pieces():
                self.between()
                self._show(piece)

    def _show(self, piece: _Piece) -> None:
        half = [one for one in piece.parts if one.name in self._half]
        if half:
            torch._foreach_copy_(
                [self.named[one.name].detach().view(-1)[one.first : one.last] for one in half],
                [self.flat[one.at : one.at + one.last - one.first] for one in half],
            )

    def zero_grad(self) -> None:
        """Set all gradients to zero; those of a large network on a GPU are let go instead."""
        if self._lets_go():
            self.let_go()
            return
        self.collect()
        for (grad,) in in_pieces(self.grad):
            self.between()
            grad.zero_()

    def let_go(self) -> None:
        """Have no gradients, and no memory for any."""
        self._loose = True
        for parameter in self.named.values():
            parameter.grad = None

    def _lets_go(self) -> bool:
        """Whether gradients stay as autograd made them."""
        return bool(self._half) or (self.flat.is_cuda and self.flat.numel() >= _LOOSE)

    @property
    def loose(self) -> bool:
        """Whether gradients are as autograd made them now: :meth:`pieces` gives them, and :meth:`collect` puts them together."""
        return self._loose

    @torch.no_grad()
    def collect(self) -> None:
        """Bring the gradients into :attr:`grad`, if they are not there."""
        if not self._loose:
            return
        places, came = [], []
        for name, place in self.split(self.grad).items():
            gradient = self.named[name].grad
            if gradient is None:
                place.zero_()
            else:
                places.append(place)
                came.append(gradient)
        if came:
            torch._foreach_copy_(places, came)
        self._place(self.grad)
        self._loose = False

    def pieces(self) -> Iterator[tuple[slice, list[Tensor]]]:
        """Loose gradients piece by piece: which of :attr:`flat` they are of, and what there is of them, (n,) each."""
        for piece in self._pieces():
            yield piece.of, [grad for _, grad in self._there(piece)]

    def _there(self, piece: _Piece) -> list[tuple[_Part, Tensor]]:
        found = ((one, self.named[one.name].grad) for one in piece.parts)
        return [
            (one, grad.reshape(-1)[one.first : one.last]) for one, grad in found if grad is not None
        ]

    def gathered(self) -> Iterator[tuple[slice, Tensor]]:
        """The same, of each piece in one float32 tensor, (n,). When the next is asked for, what is kept in bfloat16 is rounded
        from what :attr:`flat` then has in this one."""
        for piece in self._pieces():
            self.between()
            there = self._there(piece)
            grad = self.flat.new_empty(piece.of.stop - piece.of.start)
            if len(there) < len(piece.parts):
                grad.zero_()
            places = [one.at - piece.of.start for one, _ in there]
            if there:
                torch._foreach_copy_(
                    [grad[p : p + len(g)] for p, (_, g) in zip(places, there, strict=True)],
                    [g for _, g in there],
                )
            yield piece.of, grad
            self._show(piece)

    def _pieces(self) -> list[_Piece]:
        """Where :attr:`flat` is cut into pieces, and which parts of which parameters these are."""
        found, at = [_Piece(slice(0, 0), [])], 0
        for name, shape in self.shapes.items():
            first, size = 0, int(np.prod(shape))
            while first < size:
                if at - found[-1].of.start >= _PIECE:
                    found.append(_Piece(slice(at, at), []))
                count = min(size - first, found[-1].of.start + _PIECE - at)
                found[-1].parts.append(_Part(name, first, first + count, at))
                first, at = first + count, at + count
                found[-1].of = slice(found[-1].of.start, at)
        return found

    def approach(self, other: FlatParameters, share: float) -> None:
        """Move by ``share`` of the way towards parameters of the same names (Polyak averaging);
        ``other`` may have more after these."""
        self.flat.lerp_(other.flat[: self.flat.numel()], share)
        self.show()

    def parts(self) -> list[Tensor]:
        """What there is to be averaged over time: all in one."""
        return [self.flat]

    def arrays(self, flat: Tensor | None = None) -> dict[str, Array]:
        """A copy of all values, by name; of a tensor that is laid out as :attr:`flat` where one is given."""
        copy = (self.flat if flat is None else flat).to("cpu", copy=True)
        return {name: part.numpy() for name, part in self.split(copy).items()}

    def load(self, arrays: Mapping[str, Array], where: str) -> None:
        """Take over values; raises StoreError, and changes nothing, unless all fit."""
        came = {name: tuple(np.shape(array)) for name, array in arrays.items()}
        if came != self.shapes:
            raise StoreError(f"parameters of {where}", got=came, expected=self.shapes)
        values = [np.asarray(arrays[name], np.float32).ravel() for name in self.shapes]
        self.flat.copy_(torch.from_numpy(np.concatenate(values)))
        self.show()

    def split(self, flat: Tensor) -> dict[str, Tensor]:
        """Views of a tensor that is laid out as :attr:`flat`, by name."""
        parts, start = {}, 0
        for name, shape in self.shapes.items():
            size = int(np.prod(shape))
            parts[name] = flat[start : start + size].view(shape)
            start += size
        return parts


# --------------------------------------------------------------------------------------------------
# Adam over flat parameters
# --------------------------------------------------------------------------------------------------


def adam_(
    values: list[Tensor], gradients: list[Tensor], first: list[Tensor], second: list[Tensor],
    steps: list[Tensor], learning_rate: float, spoilt: Tensor,
) -> None:  # fmt: skip
    """One fused Adam step (Kingma and Ba 2014) of some tensors, with their moments and counts, in place; nothing
    where ``spoilt`` is 1.

    It calls torch's function and not its class: the first object of the class imports
    ``torch._dynamo`` and 800 modules more, which takes four seconds of a processor.
    """
    adam(
        values, gradients, first, second, [], steps, foreach=False, fused=True, lr=learning_rate,
        beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0, amsgrad=False, maximize=False,
        found_inf=spoilt,
    )  # fmt: skip


def cut_(gradients: Iterable[Tensor], norm: Tensor, max_norm: float) -> None:
    """Cut gradients, whose norm together is ``norm``, to a norm of ``max_norm``."""
    factor = (max_norm / (norm + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        gradient.mul_(factor)


class FlatAdam:
    """One fused Adam step for a whole network.

    Args:
        parameters: What is optimised.
        learning_rate: Step size.
        max_grad_norm: The gradient's norm is cut to this; 0: never.
        decay: By which share parameters are made smaller before each step (AdamW, Loshchilov and Hutter 2019), by
            name; others are not.
    """

    def __init__(
        self,
        parameters: FlatParameters,
        learning_rate: float,
        max_grad_norm: float = 0.0,
        decay: Mapping[str, float] | None = None,
    ) -> None:
        self._parameters, self._max_grad_norm = parameters, max_grad_norm
        self._learning_rate = learning_rate
        flat = parameters.flat
        self._decay: Tensor | None = None
        if decay:
            self._decay = torch.zeros_like(flat)
            for name, part in parameters.split(self._decay).items():
                part.fill_(decay.get(name, 0.0))
        self._moments: dict[str, Tensor] = {
            "step": torch.zeros((), device=flat.device),  # the fused function wants it there
            "exp_avg": torch.zeros_like(flat),
            "exp_avg_sq": torch.zeros_like(flat),
        }
        self._stepped = False

    @torch.no_grad()
    def step(self) -> None:
        """Step along the gradients, averaged over all processes that train together.

        Where they are not finite, nothing changes: neither parameters nor moments nor the count.
        """
        parameters, moments, between = self._parameters, self._moments, self._parameters.between
        if parameters.loose and not together():
            self._step_loose()
            return
        parameters.collect()
        average_(parameters.grad)
        sums, norms = [], []
        for (grad,) in in_pieces(parameters.grad):
            between()
            sums.append(grad.sum())
            norms.append(grad.norm() if self._max_grad_norm > 0 else sums[-1])
        alone = len(sums) == 1
        spoilt = (~(sums[0] if alone else torch.stack(sums).sum()).isfinite()).float()
        norm = norms[0] if alone else torch.stack(norms).norm()
        decay = () if self._decay is None else (self._decay,)
        before = moments["step"] if alone else moments["step"].clone()
        for flat, grad, first, second, *share in in_pieces(
            parameters.flat, parameters.grad, moments["exp_avg"], moments["exp_avg_sq"], *decay
        ):
            between()
            if self._max_grad_norm > 0:
                cut_([grad], norm, self._max_grad_norm)
            if share:
                flat.mul_(1 - share[0] * (1 - spoilt))
            # Each piece counts its own step, from the same one on.
            step = before if alone else moments["step"].copy_(before)
            adam_([flat], [grad], [first], [second], [step], self._learning_rate, spoilt)
        parameters.show()
        self._stepped = True

    def _step_loose(self) -> None:
        """The same from gradients as autograd made them, piece by piece; then they are let go."""
        parameters, moments = self._parameters, self._moments
        norms: list[Tensor] = []
        for _, grads in parameters.pieces():
            parameters.between()
            if grads:
                half = any(grad.dtype != torch.float32 for grad in grads)
                norms += torch._foreach_norm(grads, 2, dtype=torch.float32 if half else None)
        norm = torch.stack(norms).norm() if norms else parameters.flat.new_zeros(())
        spoilt = (~norm.isfinite()).float()
        before = moments["step"].clone()
        for of, grad in parameters.gathered():
            flat = parameters.flat[of]
            if self._max_grad_norm > 0:
                cut_([grad], norm, self._max_grad_norm)
            if self._decay is not None:
                flat.mul_(1 - self._decay[of] * (1 - spoilt))
            step = moments["step"].copy_(before)
            first, second = moments["exp_avg"][of], moments["exp_avg_sq"][of]
            adam_([flat], [grad], [first], [second], [step], self._learning_rate, spoilt)
        parameters.let_go()
        self._stepped = True

    def rescale(self, name: str, factors: Tensor) -> None:
        """Rows of a weight were multiplied, and their gradients are that much smaller from now on.

        Args:
            name: Of the weight, (..., rows, units).
            factors: Of its first rows.
        """
        for moment, power in (("exp_avg", 1), ("exp_avg_sq", 2)):
            part = self._parameters.split(self._moments[moment])[name]
            part[..., : len(factors), :] /= factors[:, None] ** power

    def state(self) -> dict[str, Array]:
        """Step count and both moments; a copy. Empty before the first step."""
        if not self._stepped:
            return {}
        return {name: value.to("cpu", copy=True).numpy() for name, value in self._moments.items()}

    def load_state(self, state: Mapping[str, Any], where: str) -> None:
        """Take over what :meth:`state` gave; the learning rate stays as configured."""
        flat, moments = self._parameters.flat, self._moments
        self._stepped = bool(state)
        if not state:
            for value in moments.values():
                value.zero_()
            return
        if set(state) != set(moments) or any(
            state[name].shape != flat.shape for name in ("exp_avg", "exp_avg_sq")
        ):
            raise StoreError(
                f"optimiser state of {where}",
                got={name: getattr(value, "shape", None) for name, value in state.items()},
                expected=f"step, exp_avg and exp_avg_sq of shape {tuple(flat.shape)}",
            )
        for name, value in moments.items():
            value.copy_(torch.as_tensor(np.array(state[name])))
