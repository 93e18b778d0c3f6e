"""Listens to the status of everything that runs, wherever it is in the graph."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.context import Context
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message
from user_msgs.msg import (
    ActorStatus,
    EpisodeResult,
    LearnerStatus,
    ReplayStatus,
    SafetyStatus,
)

from user_bringup.monitor import SystemState
from user_bringup.monitor.state import FLOW, LINK, MANAGED
from user_bringup.nodes.graph_listener import GraphListener
from user_bringup.nodes.graph_node import Attention
from user_comm.subscriptions import BesideExecutor
from user_core.runtime.closing import Closing

_KINDS: dict[str, Any] = {
    f"user_msgs/msg/{cls.__name__}": cls
    for cls in (ActorStatus, EpisodeResult, LearnerStatus, ReplayStatus, SafetyStatus)
} | {"diagnostic_msgs/msg/DiagnosticArray": DiagnosticArray}
#: Messages of a topic that are taken at one look, at most.
_AT_ONCE = 200
#: Nodes that may share a topic of status: between two looks each has said something.
_SHARED = 10
#: Of what is said of nodes and their traffic; the rest of the diagnostics is not decoded.
_SHOWN = tuple(mark.encode() for mark in (MANAGED, LINK, FLOW))
#: Told once, and therefore listened to always.
_ONCE = f"user_msgs/msg/{EpisodeResult.__name__}"


class Monitor(Closing):
    """Fills a :class:`SystemState` from the graph; read it under :attr:`lock`. A context manager.

    Args:
        on_episode: Called with every ``EpisodeResult``, under the lock.
        domains: The ROS domains to listen in; none: that of the environment. What is heard in
            several of them, because a bridge carries it, counts once.
        when_asked: Listen to more than the results of episodes only while :meth:`attend` is called.
        contexts: Contexts of other nodes of this process, by domain; see :class:`GraphNode`.
    """

    def __init__(
        self,
        on_episode: Callable[[Any], None] = lambda message: None,
        domains: Sequence[int] = (),
        when_asked: bool = False,
        contexts: Mapping[int | None, Context] | None = None,
    ) -> None:
        self.state = SystemState()
        self.lock = threading.Lock()
        self._on_episode = on_episode
        self._attention = Attention(always=not when_asked)
        there = contexts or {}
        self._ears = [
            _Ear(self._take, domain, there.get(domain), self._attention, polls=when_asked)
            for domain in domains or (None,)
        ]
        self._stack = ExitStack()

    def __enter__(self) -> Monitor:
        with ExitStack() as stack:
            for ear in self._ears:
                stack.enter_context(ear)
            self._stack = stack.pop_all()
        return self

    def attend(self) -> None:
        """Somebody looks at the state; call it at least every two seconds while he does. Any thread."""
        if self._attention.pay():
            with self.lock:
                self.state.resume()
            for ear in self._ears:
                ear.look_at_once()

    def close(self) -> None:
        """Stop listening."""
        self._stack.close()

    def _take(self, kind: str, topic: str, message: Any) -> None:
        with self.lock:
            if self.state.take(kind, topic, message) and kind == EpisodeResult.__name__:
                self._on_episode(message)


class _Ear(GraphListener):
    """Listens in one domain.

    Args:
        take: Called with kind, topic and message.
        domain: See :class:`GraphNode`.
        context: Likewise.
        attention: Likewise.
        polls: Take what has come at each look at the graph, twice a second, rather than be woken by each message: an
            executor of rclpy takes half a millisecond for that, some twenty times a second.
    """

    def __init__(
        self,
        take: Callable[[str, str, Any], None],
        domain: int | None,
        context: Context | None,
        attention: Attention,
        polls: bool,
    ) -> None:
        super().__init__("user_monitor", _KINDS, domain, context, attention)
        self._take, self._polls = take, polls

    def wants(self, kind: str) -> bool:
        """Results of episodes are told once, the rest again and again."""
        return kind == _ONCE or self._attention.is_paid

    def subscribe(self, topic: str, kind: str) -> Any:
        """Of the diagnostics of all nodes only those are decoded that the state is made of."""
        cls, take, quality = self.listen(topic, kind)

        def taken(data: bytes) -> None:
            if cls is not DiagnosticArray or any(mark in data for mark in _SHOWN):
                take(deserialize_message(data, cls))

        group = BesideExecutor() if self._polls else None
        return self.node.create_subscription(
            cls, topic, taken, quality, raw=True, callback_group=group
        )

    def look(self) -> None:
        """Look for topics, and take what has come."""
        super().look()
        if not self._polls:
            return
        for kind, subscription in list(self._subscriptions.values()):
            for _ in range(_AT_ONCE):
                try:
                    with subscription.handle:
                        taken = subscription.handle.take_message(_KINDS[kind], True)
                    if taken is None:
                        break
                    subscription.callback(taken[0])
                except Exception as error:  # one message must not hide those of others
                    self._failed(error)

    def listen(self, topic: str, kind: str) -> tuple[Any, Any, QoSProfile]:
        """A status that is lost is followed by the next; an episode is told once."""
        cls = _KINDS[kind]
        once = cls is EpisodeResult
        several = cls is DiagnosticArray  # all nodes share the topic
        newest = _SHARED if self._polls else 1
        quality = QoSProfile(
            depth=100 if once or several else newest,
            reliability=ReliabilityPolicy.RELIABLE if once else ReliabilityPolicy.BEST_EFFORT,
        )
        return cls, partial(self._take, cls.__name__, topic), quality
