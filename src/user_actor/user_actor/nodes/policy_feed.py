"""Policy versions: pulled, loaded beside the policy that acts, and swapped in."""

from __future__ import annotations

import math
import threading
import time
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any, Protocol

import numpy as np

from user_actor.inference.local_versions import NETWORK, LocalVersions, Way
from user_actor.loop import PolicyHolder
from user_comm.converters import PolicyAnnouncement
from user_comm.diagnostics import Flow
from user_comm.net.sessions import ZenohConfig, open_session
from user_comm.policy_blobs.puller import PolicyPuller
from user_core import plugins
from user_core.interfaces import Policy
from user_core.plugins import PluginChoice
from user_core.policies import policy_made_for
from user_core.specs import RobotSpec, digest
from user_core.types import Task

_NO_TASK = Task()
#: This many versions are remembered: one that acts elsewhere is hardly older.
_VERSIONS = 256


class FeedConfig(Protocol):
    """What a node's configuration says about its policy."""

    @property
    def policy(self) -> PluginChoice:
        """What acts."""

    @property
    def zenoh(self) -> ZenohConfig:
        """Where versions are pulled from."""

    @property
    def relay(self) -> str:
        """Key of the site's relay; empty: none."""

    @property
    def policy_share(self) -> float:
        """Part of the link's rate that versions may take."""


class PolicyFeed:
    """The policy for one robot, for as long as its spec stays the same; a context manager.

    Args:
        config: What acts, and where versions come from.
        spec: The robot.
        name: Of the actor, for the seeds of its policies.
        seed: Of exploration; -1: another one each time.
        steps: Steps that the actor ever made.
        task: What is to be done: what versions are tried out for before the first episode.
        pass_in: What each pass of a policy is made in, by the policy.
        prepare: Called with each policy that is to act, before it is offered.
        local: How versions of a learner on this host come.
        preparing: What a policy is made ready in, beside the one that acts.

    Attributes:
        holder: Has the policy to act with.
        local: What comes from a learner on this host.
        puller: Gets the versions.
        flow: What comes over the network, for diagnostics.
    """

    def __init__(
        self, config: FeedConfig, spec: RobotSpec, name: str, seed: int = -1, steps: int = 0,
        task: Task = _NO_TASK,
        pass_in: Callable[[Policy], AbstractContextManager[Any]] = nullcontext,
        prepare: Callable[[Policy], object] = lambda policy: None,
        local: Way = NETWORK,
        preparing: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:  # fmt: skip
        choice = config.policy
        made_for = policy_made_for(choice.plugin, choice.params, spec)
        seeds = policy_seeds(choice, name, seed, steps)

        def make() -> Policy:
            params = {**choice.params, **next(seeds)}
            policy: Policy = plugins.build(
                "policies", choice.plugin, params, spec, path="policy.params"
            )
            return policy

        self._stack = ExitStack()
        with ExitStack() as stack:
            self.puller = stack.enter_context(
                PolicyPuller(
                    lambda end: open_session(config.zenoh, end),
                    made_for,
                    relay=config.relay,
                    link_share=config.policy_share,
                    take_here=None if local == NETWORK else self._take_here,
                )
            )
            self.holder = PolicyHolder(
                make, spec, self.puller, digest(made_for), self.puller.call_again, pass_in=pass_in,
                prepare=prepare, preparing=preparing,
            )  # fmt: skip
            self.local = LocalVersions(self.holder, local)
            self._stack.callback(self.local.close)
            self.holder.begin(task)
            # One thread pulls a version and loads it beside the policy that acts.
            self.puller.on_version = self.holder.load_newest
            self.puller.call_again()
            self._stack = stack.pop_all()
        self.flow = Flow("policy", self.puller.figures)

    def __enter__(self) -> PolicyFeed:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _take_here(self, announcement: PolicyAnnouncement, cancelled: Callable[[], bool]) -> bool:
        return self.local(announcement, cancelled)

    def announced(self, announcement: PolicyAnnouncement | None) -> None:
        """A version is there, as its announcement says."""
        if announcement is not None:
            self.puller.announced(announcement)


class AnnouncedVersions:
    """When versions were made, as their announcements say: for one that acts elsewhere, whose answers carry its number
    alone. Any thread.
    """

    def __init__(self) -> None:
        self._created_ns: OrderedDict[int, int] = OrderedDict()
        self._lock = threading.Lock()

    def announced(self, announcement: PolicyAnnouncement) -> None:
        """A version is there. A learner that begins anew gives numbers anew: the last one counts."""
        with self._lock:
            self._created_ns[announcement.number] = announcement.created_ns
            self._created_ns.move_to_end(announcement.number)
            while len(self._created_ns) > _VERSIONS:
                self._created_ns.popitem(last=False)

    def age_s(self, number: int) -> float:
        """Time since a version was made, seconds; 0 without one (number 0), NaN where no announcement of it was
        heard."""
        if not number:
            return 0.0
        with self._lock:
            created_ns = self._created_ns.get(number, 0)
        return max(0.0, (time.time_ns() - created_ns) * 1e-9) if created_ns else math.nan


def policy_seeds(
    choice: PluginChoice, name: str, seed: int, steps: int
) -> Iterator[dict[str, int]]:
    """Another ``seed`` for every policy that is made, where it has one and none was chosen.

    Robots that share weights must not share their noise, nor must the two policies that take
    turns, nor an actor with what it was before a restart; but a run that is repeated with the
    same ``seed`` explores as before.

    Args:
        choice: The policy.
        name: Of the actor.
        seed: Of exploration; -1: another one each time.
        steps: Steps that the actor ever made.
    """
    fields = plugins.load("policies", choice.plugin).Config.model_fields
    entropy = None if seed < 0 else [seed, zlib.crc32(name.encode()), steps]
    source = np.random.default_rng(entropy)
    while True:
        drawn = int(source.integers(2**31))
        yield {"seed": drawn} if "seed" in fields and "seed" not in choice.params else {}
