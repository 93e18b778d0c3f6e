"""Policies that act by CUDA graphs: what they do for most of their time is launched at once. Imports torch late.

One graph for each size of batch and form of arguments, for each of the two policies that take turns
(:class:`user_actor.loop.acting.policy.PolicyHolder`). A graph reads weights where they are; so a version is loaded into
the same tensors, and what was recorded with the version before acts with the new one. Where a tensor has moved the
graphs of that policy are recorded anew, before it is offered.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from user_actor.inference.compiling import PreparedCalls, addresses_of
from user_core.interfaces import Policy

_log = logging.getLogger(__name__)
#: Calls before one is recorded: libraries choose their kernels.
_WARM = 2


@dataclass
class _Graph:
    """A recorded call: where it reads its arguments and what the host gave, and leaves what it makes."""

    graph: Any
    arguments: list[Any]
    constants: list[Any]
    made: Any


class _OfOwner:
    """The graphs of one object, which share their memory."""

    def __init__(self, addresses: tuple[int, ...], pool: Any) -> None:
        self.addresses, self.pool = addresses, pool
        self.graphs: dict[Any, _Graph] = {}


class CallGraphs(PreparedCalls):
    """Lets policies on a GPU act by CUDA graphs, of what they name as
    :meth:`~user_core.interfaces.Policy.graphed_calls`. With bfloat16, layers also keep their weights in it, where
    versions are loaded from arrays: what autocast would make of them at each answer is made once for each version.

    Attributes:
        count: Graphs that there are.
    """

    _not_done, _named = "no CUDA graphs", "to record"

    def __init__(self, *args: Any, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        self._of: WeakKeyDictionary[Any, _OfOwner] = WeakKeyDictionary()
        self._streams = threading.local()
        self._recording = (
            threading.Lock()
        )  # of several learners, each has a thread that loads its versions

    @property
    def count(self) -> int:
        """Graphs that there are."""
        return sum(len(one.graphs) for one in list(self._of.values()))

    def _calls(self, policy: Policy) -> list[tuple[Any, str]]:
        return policy.graphed_calls()

    def _is_warm(self) -> bool:
        return self.count > 0

    def _prepared(self) -> str:
        return f"{self.count} CUDA graphs"

    @contextmanager
    def pass_in(self, policy: Policy) -> Iterator[None]:
        """A pass of a policy is made in this: on a stream of its thread, which of the thread that answers comes before
        others in this process."""
        device = _device_of(policy)
        if device is None:
            with super().pass_in(policy):
                yield
            return
        import torch

        kind = "warms" if self.warming else "answers"
        stream = getattr(self._streams, kind, None)
        if stream is None:
            stream = torch.cuda.Stream(device, priority=0 if self.warming else -1)
            setattr(self._streams, kind, stream)
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream), super().pass_in(policy):
            yield

    def warm(self, policy: Policy) -> None:
        if self.why_not:
            return
        device = _device_of(policy)
        if device is None:
            self.why_not = f"{self._not_done}: {type(policy).__name__} does not act on a GPU"
            _log.info("%s", self.why_not)
            return
        import torch

        self._keep_coarsely(policy)
        for owner, _ in self._calls(policy):
            kept = self._of.get(owner)
            if kept is not None and kept.addresses != addresses_of(owner):
                del self._of[owner]
        with self._recording:
            super().warm(policy)
        torch.cuda.synchronize(device)  # what is offered is there

    def _keep_coarsely(self, policy: Policy) -> None:
        """Of policies whose weights may be rounded; what others have has the types of the version's."""
        import torch

        if not policy.may_be_rounded and policy.in_place() is not None:
            return

        with self._pass_in(policy):
            if (
                torch.is_autocast_enabled("cuda")
                and torch.get_autocast_dtype("cuda") == torch.bfloat16
            ):
                for owner, _ in self._calls(policy):
                    _keep_weights_in(torch.bfloat16, owner)

    def _call(
        self, owner: Any, name: str, own: Callable[..., Any], *arguments: Any, **keywords: Any
    ) -> Any:
        import torch

        from user_core.policies.cuda_graphs import form_of, mapped, tensors_of

        given = [list(arguments), keywords]
        if torch.is_grad_enabled():  # steered by gradients: that is left as it is
            return own(*arguments, **keywords)
        form = (
            name, form_of(given), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cuda"),
        )  # fmt: skip
        kept = self._of.get(owner)
        found = None if kept is None else kept.graphs.get(form)
        if found is None:
            if not self.warming:
                self._launched(name)
                return own(*arguments, **keywords)
            if kept is None:
                kept = _OfOwner(addresses_of(owner), torch.cuda.graph_pool_handle())
                self._of[owner] = kept
            found = kept.graphs[form] = _recorded(own, given, kept.pool)
        for there, new in zip(tensors_of(found.arguments), tensors_of(given), strict=True):
            there.copy_(new, non_blocking=True)
        found.graph.replay()
        self._warming.used = True
        return mapped(found.made, torch.Tensor.clone)  # the next call writes over it


def _recorded(own: Callable[..., Any], given: list[Any], pool: Any) -> _Graph:
    import torch

    from user_core.policies.cuda_graphs import Recorder, begins, mapped, rehearsed

    arguments, keywords = kept = mapped(given, torch.Tensor.clone)
    noise = torch.cuda.get_rng_state()
    for _ in range(_WARM - 1):
        own(*arguments, **keywords)
    with rehearsed() as constants:
        own(*arguments, **keywords)
    torch.cuda.current_stream().synchronize()
    recorder = Recorder(begins(pool=pool), constants=constants)
    # What autocast has made of weights lies in memory that is given back when the pass ends.
    torch.clear_autocast_cache()
    try:
        with recorder.recording():
            made = own(*arguments, **keywords)
    finally:
        torch.clear_autocast_cache()
        torch.cuda.set_rng_state(noise)  # the first answer has the noise that it would have had
    return _Graph(recorder.graphs[0], kept, constants, made)


def _keep_weights_in(dtype: Any, network: Any) -> None:
    """Keep weights of layers in the type in which autocast multiplies them: the same numbers, half the memory."""
    import torch

    layers = (torch.nn.Linear, torch.nn.modules.conv._ConvNd)
    for module in network.modules() if isinstance(network, torch.nn.Module) else ():
        if isinstance(module, layers):
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.to(dtype)


def _device_of(policy: Policy) -> Any:
    """The GPU that a policy acts on; None: on none."""
    import torch

    for owner, _ in policy.graphed_calls():
        if isinstance(owner, torch.nn.Module):
            tensor = next(iter(owner.parameters()), None)
            if tensor is not None and tensor.is_cuda:
                return tensor.device
    return None
