"""Versions of a learner on the same host: into the policy that does not act, without a network."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, Literal, Protocol, TypeAlias

from user_actor.loop.acting.policy import PolicyHolder
from user_core.errors import PolicyError, SuiteError, TransportError, in_words
from user_core.interfaces import Policy
from user_core.runtime.closing import Closing
from user_core.types import PolicyVersion
from user_core.weight_plane.taking import Mappings, Taking, is_offered_here, take
from user_core.weight_plane.wire import GPU, MEMORY

_log = logging.getLogger(__name__)
#: How versions come. ``auto``: the first of the others that can be.
Way: TypeAlias = Literal["auto", "gpu", "memory", "network"]
NETWORK: Way = "network"
_LOOK_S = 0.005
#: A learner that was on this host a moment ago has replaced a version that is gone; the next is announced soon.
_NEXT_S = 1.0


class Announced(Protocol):
    """What is known of a version before it comes."""

    @property
    def number(self) -> int:
        """Its number."""

    @property
    def content_hash(self) -> str:
        """The hash of what it holds."""


class LocalVersions(Closing):
    """Called with a version that was announced: whether it came by a way of this host, and needs no network.

    A policy that names its weights in place (:meth:`~user_core.interfaces.Policy.in_place`) is filled where it is,
    piece by piece; others load arrays from memory. The policy that acts is not touched, and the other one is offered
    when all of the version is there and was found right. Whatever fails, the version then comes over the network,
    unless another way was asked for by name.

    Args:
        holder: Has both policies.
        way: How they are to come.

    Attributes:
        pace: Called before each piece; may wait until no answer is due, but not for ever
            (:class:`~user_core.runtime.gpu_turns.FairWait`).
        last: By which way the last one came; empty before the first.
        why: Why not by a better one.
    """

    def __init__(self, holder: PolicyHolder, way: Way = "auto") -> None:
        self._holder, self._way = holder, way
        self.pace: Callable[[], object] = lambda: None
        self._mappings = Mappings()
        self.last, self.why = "", ""

    def __call__(self, announced: Announced, cancelled: Callable[[], bool]) -> bool:
        """Take a version, in the thread that loads versions.

        Args:
            announced: Which.
            cancelled: Whether it is not wanted any more.

        Raises:
            TransportError: It cannot be had by the way that was asked for.
        """
        if self._way == NETWORK:
            return False
        why = "no learner of this host offers it"
        if is_offered_here(announced.content_hash):
            while self._holder.spare is None:  # until the one before has been taken
                if cancelled():
                    return False
                time.sleep(_LOOK_S)
            with self._holder.preparing():
                came, why = self._by_ways(announced, cancelled)
            if came:
                return True
        elif self.last in (GPU, MEMORY):
            _wait(cancelled)
        if cancelled():
            return False
        if self._way != "auto":
            raise TransportError(
                f"policy version {announced.number}", got=why, expected=f"by way of {self._way}",
                hint="local_versions: auto takes what there is",
            )  # fmt: skip
        self._say(NETWORK, why)
        return False

    def close(self) -> None:
        """Let go of the learner's memory. Idempotent."""
        self._mappings.close()

    def _by_ways(self, announced: Announced, cancelled: Callable[[], bool]) -> tuple[bool, str]:
        """Whether one has worked, and why others have not."""
        spare = self._holder.spare
        assert spare is not None  # only this thread loads it
        try:
            is_there = on_gpu(spare)
        except Exception as error:
            return False, in_words(error)
        ways = [self._way] if self._way != "auto" else [GPU, MEMORY] if is_there else [MEMORY]
        why = "" if GPU in ways or self._way == MEMORY else "the policy does not have its weights on a GPU, in place"  # fmt: skip
        while ways:
            try:
                way = self._take(announced, ways, spare, cancelled)
                if way != ways[0] and not why:
                    why = "the learner has it on no GPU, or the next version will be the first"
                self._say(way, why)
                return True, why
            except (
                Exception
            ) as error:  # also of the policy, of torch, of a driver: there is the network
                why = str(error) if isinstance(error, SuiteError) else in_words(error)
                if cancelled():
                    break
                _log.warning("policy version %d by way of %s: %s", announced.number, ways[0], why)
            ways = ways[1:]
        return False, why

    def _take(
        self, announced: Announced, ways: list[Any], spare: Policy, cancelled: Callable[[], bool]
    ) -> Any:
        """Which way it came. Raises what has kept it from coming."""
        taking = take(announced.content_hash, ways, cancelled, self._mappings)
        if taking is None:
            raise TransportError("a learner of this host", got="none any more", expected="one")
        with taking:
            offer = taking.offer
            if offer.number != announced.number:
                raise PolicyError("number of a policy version", got=offer.number, expected=announced.number)  # fmt: skip
            version = PolicyVersion(
                offer.number, {}, offer.config_hash, offer.update, offer.environment_steps, offer.created_ns
            )  # fmt: skip
            if self._fill(taking, spare):
                taking.taken(self._mappings)
                self._holder.load(version, lambda policy: None)
            else:
                arrays = taking.arrays().arrays
                taking.taken()
                self._holder.load(version, lambda policy: policy.load(arrays))
            return offer.way

    def _fill(self, taking: Taking, spare: Policy) -> bool:
        """Whether the policy could be filled in place."""
        place = spare.in_place()
        if place is None:
            if taking.offer.way == GPU:
                raise PolicyError(f"policy {type(spare).__name__}", got="no weights in place", expected="some, on a GPU")  # fmt: skip
            return False
        with place as tensors:
            try:
                taking.fill(tensors, self.pace, self._mappings)
            except PolicyError:  # other types, for instance: nothing has changed
                if taking.offer.way == GPU:
                    raise
                return False
        return True

    def _say(self, way: str, why: str) -> None:
        if (way, why) != (self.last, self.why):
            self.last, self.why = way, why
            _log.info("policy versions come by way of %s%s", way, f": {why}" if why else "")


def on_gpu(policy: Policy) -> bool:
    """Whether a policy that is filled in place has weights on a GPU."""
    place = policy.in_place()
    if place is None:
        return False
    with place as tensors:
        return any(getattr(t, "is_cuda", False) for t in tensors.values())


def _wait(cancelled: Callable[[], bool]) -> None:
    end_s = time.monotonic() + _NEXT_S
    while not cancelled() and time.monotonic() < end_s:
        time.sleep(_LOOK_S)
