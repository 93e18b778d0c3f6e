"""A node in a thread of its own that looks at the graph again and again, oftener while somebody wants to know."""

from __future__ import annotations

import logging
import math
import threading
import time
from abc import ABC, abstractmethod
from typing import TypeVar

import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor

from user_comm.logs import Throttle
from user_comm.lost_messages import spin
from user_comm.start import end_spinning, start_rclpy
from user_core.errors import in_words

_log = logging.getLogger(__name__)
#: One that has not asked for this long does not look any more.
_KEPT_S = 5.0
#: How often there is a look at the graph while nobody wants to know, and before the first one.
_IDLE_PERIOD_S, _FIRST_S = 2.0, 0.5
_Node = TypeVar("_Node", bound="GraphNode")


class Attention:
    """Whether somebody wants to know what there is. Any thread.

    Args:
        always: Somebody always does, without saying so.
    """

    def __init__(self, always: bool = False) -> None:
        self._asked_s = math.inf if always else -math.inf

    @property
    def is_paid(self) -> bool:
        """Somebody does."""
        return time.monotonic() - self._asked_s < _KEPT_S

    def pay(self) -> bool:
        """Somebody does: say so at least every two seconds. Returns whether nobody did before."""
        was_paid, self._asked_s = self.is_paid, max(self._asked_s, time.monotonic())
        return not was_paid


class GraphNode(ABC):
    """Takes part in a ROS graph from a thread of its own. A context manager.

    What is raised by one message, or by one look at the graph, is logged: what comes later must still be heard.

    Args:
        name: Of the node.
        period_s: How often it looks at the graph, seconds.
        domain: The ROS domain; None: that of the environment.
        context: Of another node of this process in that domain: each context takes part in the graph
            with threads and messages of its own. None: one of its own.
        attention: While nobody pays it, there are fewer looks; None: somebody always does.

    Attributes:
        context: The node's context.
        node: The node, once the block has begun.
    """

    def __init__(
        self,
        name: str,
        period_s: float,
        domain: int | None = None,
        context: Context | None = None,
        attention: Attention | None = None,
    ) -> None:
        self._name, self._period_s, self._domain = name, period_s, domain
        self._is_shared, self.context = context is not None, context or Context()
        self._attention = attention or Attention(always=True)
        self._say = Throttle()

    def __enter__(self: _Node) -> _Node:
        if not self._is_shared:
            start_rclpy([], context=self.context, domain_id=self._domain)
        self.node = rclpy.create_node(  # without what would announce it more than once a process
            self._name,
            context=self.context,
            use_global_arguments=False,
            enable_rosout=False,
            start_parameter_services=False,
        )
        self._executor = SingleThreadedExecutor(context=self.context)
        self._executor.add_node(self.node)
        self.begin()
        self._timer = self.node.create_timer(_FIRST_S, self._look)
        self._thread = threading.Thread(target=self._spin, name=self._name, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *ended: object) -> None:
        own = None if self._is_shared else self.context
        end_spinning(self._thread, self._executor, self.node, context=own)

    def begin(self) -> None:
        """The node is there; the first look comes later."""

    @abstractmethod
    def look(self) -> None:
        """Look at the graph. In the node's own thread."""

    def look_at_once(self) -> None:
        """Look now, beside what is due. Any thread."""
        self._executor.create_task(self._look)

    def _look(self) -> None:
        period_s = self._period_s if self._attention.is_paid else _IDLE_PERIOD_S
        self._timer.timer_period_ns = int(period_s * 1e9)
        self.look()

    def _spin(self) -> None:
        spin(self._executor, failed=self._failed, tolerates=Exception, for_ever=True)

    def _failed(self, error: BaseException) -> None:
        if text := self._say(type(error).__name__, f"{self._name}: {in_words(error)}"):
            _log.error("%s", text)
