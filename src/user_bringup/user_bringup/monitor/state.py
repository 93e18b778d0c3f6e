"""The state of a running system, gathered from its status messages.

Messages are those of ``user_msgs``, taken by their fields, so that this needs no ROS.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

from user_bringup.monitor.shares import Corrected, Corrections, Evaluations, success_of
from user_comm.net.flow_table import FlowTable
from user_core.reasons import (
    ACTIONS_CLIPPED,
    BELOW_PEERS,
    POLICY_RETURNED,
    REWARDS_CONSTANT,
    STEPS_IRREGULAR,
    WAITS_FOR_GO,
)

ONLINE, DEMONSTRATION, EVALUATION = 0, 1, 2
STALE_AFTER_S = 5.0
"""A node that publishes its status once a second and was silent for this long is not well."""

#: In the names of diagnostics: what follows is the name of a node that a lifecycle manager manages.
MANAGED = ": managed "

#: Likewise, of what nodes say of their traffic.
LINK, FLOW = ": link ", ": flow "

#: What may look wrong with the data of a robot.
FLAGS = (BELOW_PEERS, REWARDS_CONSTANT, ACTIONS_CLIPPED)
#: Episodes that are told from those that come a second time.
_REMEMBERED = 1000


@dataclass
class Latest:
    """The newest message of one topic, and when it came (monotonic seconds)."""

    message: Any
    received_s: float


@dataclass
class Episodes:
    """The last episodes of one robot, of one source; of ``successes`` those that were judged."""

    successes: deque[bool] = field(default_factory=lambda: deque(maxlen=20))
    returns: deque[float] = field(default_factory=lambda: deque(maxlen=20))
    count: int = 0

    def add(self, success: bool | None, episode_return: float) -> None:
        """Count one more; ``success`` is None where nobody can tell."""
        if success is not None:
            self.successes.append(success)
        self.returns.append(episode_return)
        self.count += 1

    @property
    def success_rate(self) -> float:
        """Over the last 20 that were judged; NaN before the first."""
        return sum(self.successes) / len(self.successes) if self.successes else math.nan

    @property
    def mean_return(self) -> float:
        """Over the last 20; NaN before the first."""
        return sum(self.returns) / len(self.returns) if self.returns else math.nan


class SystemState:
    """Newest status of every actor, store, learner and safety gate, and what episodes brought.

    Args:
        clock_s: Monotonic seconds; injected in tests.
    """

    def __init__(self, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._clock_s = clock_s
        self.start_s = clock_s()
        self.actors: dict[str, Latest] = {}
        self.replays: dict[str, Latest] = {}
        self.learners: dict[str, Latest] = {}
        self.gates: dict[str, Latest] = {}
        self.episodes: dict[tuple[str, int], Episodes] = {}
        self._known: deque[Any] = deque(maxlen=_REMEMBERED)
        self.evaluations = Evaluations()
        self.corrections = Corrections()
        self.processes: dict[str, str] = {}
        self.standbys: dict[int, int] = {}  # own memory of each by its process, bytes
        self.memory: dict[str, int] = {}  # of processes by their kind, bytes
        self.gpu_memory: list[int] = []  # in use of each GPU, bytes
        self.managed: dict[str, Latest] = {}
        self._traffic = FlowTable()

    @property
    def elapsed_s(self) -> float:
        """Since this was made, seconds."""
        return self._clock_s() - self.start_s

    def take(self, kind: str, topic: str, message: Any) -> bool:
        """Take one message: kind is its type's name, for instance ``ActorStatus``.

        Returns:
            Whether it was new: an episode that was heard elsewhere before counts once.
        """
        latest = Latest(message, self._clock_s())
        if kind == "ActorStatus":
            self.actors[message.actor or topic] = latest
        elif kind == "ReplayStatus":
            self.replays[topic] = latest
        elif kind == "LearnerStatus":
            self.learners[topic] = latest
        elif kind == "SafetyStatus":
            self.gates[topic.rpartition("/")[0] or "/"] = latest
        elif kind == "DiagnosticArray":
            for status in message.status:
                _, _, name = status.name.partition(MANAGED)
                if name:  # of the lifecycle manager, one a node
                    self.managed[name] = Latest(status, latest.received_s)
                elif LINK in status.name or FLOW in status.name:
                    node, _, what = status.name.partition(": ")
                    values = {entry.key: entry.value for entry in status.values}
                    self._traffic.take(node, what, status.message, values, latest.received_s)
        elif kind == "EpisodeResult":
            name = (message.robot, message.start_ns, message.end_ns)
            if name in self._known:
                return False
            self._known.append(name)
            episodes = self.episodes.setdefault((message.robot, message.source), Episodes())
            success = success_of(message.outcome, message.source)
            episodes.add(success, message.episode_return)
            if message.source == EVALUATION:
                self.evaluations.add(message.last_version, success)
            if message.source == ONLINE:
                one = Corrected(message.takeovers, message.interventions, message.length, 1)
                self.corrections.add(one)
        return True

    def resume(self) -> None:
        """Listening begins again after a pause: who was heard before it is silent when nothing comes from now on."""
        now_s = self._clock_s()
        for group in (self.actors, self.replays, self.learners, self.gates, self.managed):
            for latest in group.values():
                latest.received_s = now_s

    def links(self) -> list[tuple[str, ...]]:
        """Links and what goes over them, newest figures, by the columns of
        :data:`~user_comm.net.flow_table.HEAD`; empty where all is on one machine."""
        now_s = self._clock_s()
        links = self._traffic.rows(now_s, ("link",))
        return [*links, *self._traffic.rows(now_s, ("flow",))] if links else []

    def rate_of(self, source: int) -> tuple[float, int]:
        """Success rate over the last judged episodes of a source, over all robots, and their
        number."""
        successes = [
            s for (_, kind), e in self.episodes.items() if kind == source for s in e.successes
        ]
        return (sum(successes) / len(successes) if successes else math.nan), len(successes)

    def silent(self) -> list[str]:
        """Names of those that have published a status before, and then fell silent."""
        now_s = self._clock_s()
        groups = (self.actors, self.replays, self.learners)
        return [
            name
            for group in groups
            for name, latest in group.items()
            if now_s - latest.received_s > STALE_AFTER_S
        ]

    def flags(self) -> list[str]:
        """What a replay store says of robots whose data look wrong, each with its code."""
        return [
            with_code(text, code)
            for latest in self.replays.values()
            if not self._is_old(latest)
            for text, code in zip(latest.message.warnings, latest.message.warning_codes)
            if code in FLAGS
        ]

    def returns(self) -> list[str]:
        """Where a learner withholds new policy versions, and why."""
        return [
            text
            for latest in self.learners.values()
            if not self._is_old(latest)
            for text, code in zip(latest.message.warnings, latest.message.warning_codes)
            if code == POLICY_RETURNED
        ]

    def _is_old(self, latest: Latest) -> bool:
        """Whether nothing has come for so long that what was said may no longer be true."""
        return self._clock_s() - latest.received_s > STALE_AFTER_S

    def warnings(self) -> list[str]:
        """What a person should look at, each with the name of who says so; late steps, which a busy machine makes
        by itself, come last."""
        found = [f"{name} is silent" for name in self.silent()]
        for name, latest in self.actors.items():
            if latest.message.code == WAITS_FOR_GO:  # the one thing that a person must do
                text = f"{name.strip('/')}: {latest.message.detail}"
                found.insert(0, with_code(text, WAITS_FOR_GO))
        for group in (self.actors, self.replays, self.learners):
            for name, latest in group.items():
                if self._is_old(latest):
                    continue  # what it said last may be over
                message, who = latest.message, name.strip("/")
                codes = zip_longest(message.warnings, message.warning_codes, fillvalue="")
                found += [with_code(f"{who}: {text}", code) for text, code in codes if text]
        for name, latest in self.gates.items():
            message, who = latest.message, name.strip("/")
            if message.state >= 2 and not self._is_old(latest):
                found.append(with_code(f"{who}: robot stopped, {message.detail}", message.cause))
        found += [f"{name}: {detail}" for name, detail in self.processes.items() if detail]
        found += [
            with_code(f"{name}: {latest.message.message}", _value(latest.message, "reason"))
            for name, latest in self.managed.items()
            if level_of(latest.message)
            and not self.processes.get(name)
            and not self._is_old(latest)
        ]
        return sorted(found, key=lambda text: text.endswith(f"[{STEPS_IRREGULAR}]"))


def with_code(text: str, code: str) -> str:
    """A text for people, with the code by which the reference lists it."""
    return f"{text} [{code}]" if code else text


def _value(status: Any, key: str) -> str:
    """A value of a ``diagnostic_msgs/DiagnosticStatus``; empty if it has none of this name."""
    return next((str(entry.value) for entry in status.values if entry.key == key), "")


def level_of(status: Any) -> int:
    """Level of a ``diagnostic_msgs/DiagnosticStatus``, which is a byte."""
    return status.level[0] if isinstance(status.level, bytes) else int(status.level)
