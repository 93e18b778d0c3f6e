"""The parameters of a network in one flat tensor, and Adam over them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim.adam import adam

from user_core.errors import StoreError
from user_core.specs import Array
from user_learner.algorithms.common.distributed import average_, together

#: This many numbers of a large network are stepped at once: Adam moves 28 bytes for each.
_PIECE = 1 << 25
#: Gradients of this many numbers on a GPU are taken as autograd made them.
_LOOSE = 1 << 24


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

    Those of a large network on a GPU have their gradients as autograd made them, and no other tensor for these: that
    would be as much memory as the weights take, and two passes over it.

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
        """All gradients, (N,), once :meth:`collect` was called; ``backward`` accumulates into it, except for large
        networks on a GPU and for what is kept in bfloat16."""
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
        """Whether gradients are as autograd made them now: :meth:`pieces` gives them, and :meth:`collect` puts them
        together."""
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
        """The same, of each piece in one float32 tensor, (n,). When the next is asked for, what is kept in bfloat16 is
        rounded from what :attr:`flat` then has in this one."""
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
