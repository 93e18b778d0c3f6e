"""What a policy does for most of its time, done more quickly, and never prepared while a robot waits.

Either compiled by torch (``torch.compile``, here), or recorded as CUDA graphs (:mod:`user_actor.inference.graphs`), or
both: what is recorded then is what was compiled. Such a call is made for one form of its arguments: shapes, types, what
is None. Each version of a policy is warmed before it is offered, in the forms that batches have
(:meth:`PreparedCalls.warm`); what comes in another form later is computed as it is written. Batches are filled up to a
size that is warm (:meth:`PreparedCalls.size`).
"""

from __future__ import annotations

import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import numpy as np

from user_actor.loop.acting.policy import planned, planned_together
from user_core.errors import in_words
from user_core.interfaces import Policy, Query, answers_in_batches
from user_core.specs import Array, RobotSpec
from user_core.types import Task

_log = logging.getLogger(__name__)
#: Forms of one call that are kept at most; torch's own limit is for programs whose forms never end.
_FORMS = 64
#: Prepared actions may be so far from the others, as a share of the largest, in float32 and in anything coarser.
_ROUNDING, _COARSE_ROUNDING = 1e-3, 0.05


class _NotPrepared(Exception):
    """A reason of ours why a policy acts as it is written."""


class PreparedCalls(ABC):
    """Lets policies act by calls that were prepared; where that fails they act as they are written, and :attr:`why_not`
    says why.

    Args:
        most: Observations in a batch, at most.
        spec: The robot's.
        task: What policies are warmed with.
        pass_in: What each pass is made in besides.
        coarse: Whether that is with less than float32.
        quiet: Whether a policy that cannot be prepared is as it should be, and nothing to warn of.

    Attributes:
        quiet: As given.
        why_not: Why nothing is prepared; empty while something is.
        unwarmed: Calls in forms that were not warm.
        passes_without: Answers that made no prepared call, as the policy does something else for them.
    """

    #: What was not done, for :attr:`why_not`, and what policies name.
    _not_done, _named = "not prepared", "to prepare"

    def __init__(
        self, most: int, spec: RobotSpec, task: Task,
        pass_in: Callable[[Policy], AbstractContextManager[Any]], coarse: bool = False, quiet: bool = False,
    ) -> None:  # fmt: skip
        self._spec, self._task, self._pass_in, self.quiet = spec, task, pass_in, quiet
        self._rounding = _COARSE_ROUNDING if coarse else _ROUNDING
        self._sizes = [1]
        while self._sizes[-1] < most:
            self._sizes.append(min(most, 2 * self._sizes[-1]))
        self._warming = threading.local()
        self.why_not = ""
        self.unwarmed = self.passes_without = 0
        self._said = ""
        self._given_up = False
        #: Policies that have answered in all sizes, and where their weights lay then.
        self._answered: dict[int, tuple[Policy, list[tuple[int, ...]]]] = {}

    @abstractmethod
    def _calls(self, policy: Policy) -> list[tuple[Any, str]]:
        """What is prepared, as objects and names of their methods."""

    @abstractmethod
    def _call(
        self, owner: Any, name: str, own: Callable[..., Any], *arguments: Any, **keywords: Any
    ) -> Any:
        """Instead of ``owner.name(...)``, which ``own`` does."""

    @abstractmethod
    def _is_warm(self) -> bool:
        """Whether anything was prepared."""

    @property
    def warming(self) -> bool:
        """Whether this thread prepares a policy."""
        return bool(getattr(self._warming, "on", False))

    def _launched(self, name: str) -> None:
        """A call was made in a form that was not warm: the first is told of."""
        self.unwarmed += 1
        self._warming.used = True
        if self.unwarmed == 1:
            _log.warning("%s for a call of %s in a form that was not warm", self._not_done, name)

    def _prepared(self) -> str:
        """What was prepared, in words."""
        return "calls were compiled"

    def size(self, count: int) -> int:
        """How many observations a batch of this many is filled up to."""
        return count if self.why_not else next(size for size in self._sizes if size >= count)

    @contextmanager
    def pass_in(self, policy: Policy) -> Iterator[None]:
        """A pass of a policy is made in this."""
        with self._pass_in(policy):
            # For the pass only: a policy that loads or copies its network must find it as it was made.
            calls = [] if self.why_not else list(self._calls(policy))
            before = [vars(owner).get(name) for owner, name in calls]
            for owner, name in calls:
                setattr(owner, name, partial(self._call, owner, name, getattr(owner, name)))
            self._warming.used = False
            try:
                yield
                if calls and not self._warming.used and not self.warming:
                    self.passes_without += 1
                    if self.passes_without == 1:
                        named = ", ".join(name for _, name in calls)
                        _log.warning("%s for an answer that did without %s", self._not_done, named)
            finally:
                for (owner, name), one in zip(calls, before, strict=True):
                    if one is None:
                        delattr(owner, name)
                    else:
                        setattr(owner, name, one)

    def give_up(self) -> None:
        """Prepare nothing more: nobody is to be answered any more. From any thread; the call that is being prepared
        goes on."""
        self._given_up = True

    def warm(self, policy: Policy) -> None:
        """Prepare what a policy calls, in all forms that it answers batches in; not in the thread that answers."""
        if self.why_not or self._given_up:
            return
        try:
            if not self._calls(policy):
                raise _NotPrepared(f"policy {type(policy).__name__} names nothing {self._named}")
            self._warming.on = True
            try:
                with self._pass_in(policy):
                    expected = self._try(policy)
                with self.pass_in(policy):
                    self._require_equal(expected, self._try(policy))
                    self._try_sizes_once(policy)
            finally:
                self._warming.on = False
                policy.reset(self._task)
            if not self._is_warm():
                raise _NotPrepared(f"nothing that {type(policy).__name__} names was called")
            if (said := self._prepared()) != self._said:
                self._said = said
                _log.info("%s of what %s does", said, type(policy).__name__)
        except Exception as error:  # of torch, its compilers, or the policy: it acts as it is
            said = str(error) if isinstance(error, _NotPrepared) else in_words(error)
            self.why_not = f"{self._not_done}: {said.splitlines()[0][:300]}"
            _log.log(logging.INFO if self.quiet else logging.WARNING, "%s", self.why_not)

    def _try(self, policy: Policy) -> Array:
        policy.reset(self._task)
        seen = self._spec.sample_observation(np.random.default_rng(0), policy.observation_history)
        return planned(policy, seen, None, True)

    def _require_equal(self, expected: Array, found: Array) -> None:
        error = float(np.abs(found - expected).max(initial=0.0))
        most = self._rounding * max(1.0, float(np.abs(expected).max(initial=0.0)))
        if not error <= most:
            raise _NotPrepared(f"actions differ by {error:.2g}, and may by {most:.2g}")

    def _try_sizes_once(self, policy: Policy) -> None:
        """In all sizes; not again for weights that came into the same memory, where nothing is new to prepare: of a
        large policy that takes seconds of each version, and robots' answers wait behind it."""
        where = [addresses_of(owner) for owner, _ in self._calls(policy)]
        if self._answered.get(id(policy)) == (policy, where):
            return
        self._try_sizes(policy)
        if all(where) and not self._given_up:
            self._answered[id(policy)] = policy, where

    def _try_sizes(self, policy: Policy) -> None:
        if not answers_in_batches(policy):
            return
        rng = np.random.default_rng(0)
        for size in self._sizes:
            if self._given_up:
                return
            seen = [
                self._spec.sample_observation(rng, policy.observation_history) for _ in range(size)
            ]
            made = planned_together(policy, [Query(one, task=self._task) for one in seen])
            if hasattr(policy, "continue_plan"):
                going_on = [
                    Query(one, task=self._task, plan=plan, frozen=1)
                    for one, plan in zip(seen, made, strict=True)
                ]
                planned_together(policy, going_on)


def addresses_of(owner: Any) -> tuple[int, ...]:
    """Where what a call reads besides its arguments lies; empty where that is not known."""
    import torch

    if not isinstance(owner, torch.nn.Module):
        return ()
    return tuple(t.data_ptr() for t in (*owner.parameters(), *owner.buffers()))


class Compiler(PreparedCalls):
    """Lets policies act by compiled calls, of what they name as :meth:`~user_core.interfaces.Policy.acting_calls`."""

    _not_done, _named = "not compiled", "to compile"

    def __init__(self, *args: Any, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        self._compiled: dict[tuple[type, str], Callable[..., Any]] = {}
        self._warm: set[Any] = set()

    def _calls(self, policy: Policy) -> list[tuple[Any, str]]:
        return policy.acting_calls()

    def _is_warm(self) -> bool:
        return bool(self._warm)

    def _call(
        self, owner: Any, name: str, own: Callable[..., Any], *arguments: Any, **keywords: Any
    ) -> Any:
        import torch

        if torch.is_grad_enabled():  # steered by gradients: that is left as it is
            return own(*arguments, **keywords)
        key = type(owner), name
        form = (
            key, _form(arguments), _form(keywords), torch.is_inference_mode_enabled(),
            torch.is_autocast_enabled("cpu"), torch.is_autocast_enabled("cuda"),
        )  # fmt: skip
        if form not in self._warm and not self.warming:
            self._launched(name)
            return own(*arguments, **keywords)
        compiled = self._compiled.get(key)
        if compiled is None:
            settings = torch._dynamo.config  # the first name is of torch 2.6 and newer
            limit = (
                "recompile_limit" if hasattr(settings, "recompile_limit") else "cache_size_limit"
            )
            setattr(settings, limit, _FORMS)
            function = getattr(type(owner), name)
            compiled = self._compiled[key] = torch.compile(function, dynamic=False)
        made = compiled(owner, *arguments, **keywords)
        self._warm.add(form)
        self._warming.used = True
        return made


def _form(value: Any) -> Any:
    """What decides which compiled call fits an argument."""
    if hasattr(value, "stride") and hasattr(value, "dtype"):
        return tuple(value.shape), tuple(value.stride()), str(value.dtype), str(value.device)
    if isinstance(value, Mapping):
        return tuple((name, _form(one)) for name, one in value.items())
    if isinstance(value, tuple | list):
        return tuple(_form(one) for one in value)
    return value
