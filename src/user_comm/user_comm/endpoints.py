"""How a node's hooks get publishers, subscriptions, timers, services and clients.

Each belongs to the state it was made in: what is made in ``configure`` goes away on cleanup,
what is made in ``activate`` on deactivation. Names, types and quality of service come from
the topic table.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any, Protocol, TypeVar

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.lifecycle import LifecycleNode as RclpyLifecycleNode

from user_comm.callback_guard import CallbackGuard
from user_comm.cdr import CdrLimits
from user_comm.checked_subscription import CheckedSubscription
from user_comm.converters import CONVERTERS
from user_comm.diagnostics import Diagnostics
from user_comm.message_types import interface_class
from user_comm.publisher import TopicPublisher
from user_comm.ros_qos import profile
from user_comm.service_client import ServiceClient
from user_comm.service_server import ServiceHandler, ServiceServer
from user_comm.topics import Service, Topic
from user_core.errors import SuiteError


class Endpoint(Protocol):
    """Anything that can be given up."""

    def destroy(self) -> None:
        """Give it up."""


E = TypeVar("E", bound=Endpoint)


class Endpoints(RclpyLifecycleNode):
    """What :class:`~user_comm.lifecycle.LifecycleNode` offers to its subclasses' hooks."""

    diagnostics: Diagnostics
    _guard: CallbackGuard
    _collecting: ExitStack | None
    _is_active: bool
    _may_publish: bool

    def advertise(
        self, topic: Topic, *, name: str | None = None, always: bool = False
    ) -> TopicPublisher:
        """Publish a topic of the table.

        Args:
            topic: The topic; its converter turns core values into messages.
            name: Another name, for what does not stand in the table.
            always: Publish also while the node is not active, for status and latched topics.
        """
        converter = CONVERTERS.get(topic.type)
        publisher = TopicPublisher(
            self,
            name or topic.name,
            interface_class(topic.type),
            converter.encode if converter else None,
            profile(topic.quality),
            (lambda: True) if always else (lambda: self._may_publish),
        )
        return self._keep(publisher)

    def listen(
        self,
        topic: Topic,
        callback: Callable[[Any], None],
        *,
        name: str | None = None,
        always: bool = False,
        limits: CdrLimits | None = None,
        own_group: bool = False,
        **decode_options: Any,
    ) -> CheckedSubscription:
        """Subscribe to a topic of the table, checked.

        What cannot be taken is counted, logged and shown on the diagnostics, and the callback
        never sees it.

        Args:
            topic: The topic; its converter turns messages into core values.
            callback: Gets the values while the node is active.
            name: Another name, for what does not stand in the table.
            always: Call back also while the node is not active.
            limits: Sizes that are accepted at most.
            own_group: Let the callback run beside others under a multi-threaded executor.
            decode_options: For the converter, for instance ``specs``.
        """
        converter = CONVERTERS.get(topic.type)
        decode = converter.decode if converter else None
        subscription = CheckedSubscription(
            self,
            name or topic.name,
            interface_class(topic.type),
            partial(decode, **decode_options) if decode and decode_options else decode,
            self._gated(callback, f"callback of {name or topic.name}", always),
            profile(topic.quality),
            limits=limits,
            callback_group=MutuallyExclusiveCallbackGroup() if own_group else None,
        )
        key = f"topic {subscription.topic}"
        self.diagnostics.watch(key, subscription.counts.item)
        self._owner().callback(self.diagnostics.unwatch, key)
        return self._keep(subscription)

    def every(self, period_s: float, callback: Callable[[], None], *, always: bool = False) -> Any:
        """Call back periodically, by a clock that simulated time does not stop.

        For housekeeping: a control loop needs its own thread and absolute deadlines.
        """
        timer = self.create_timer(
            period_s,
            self._gated(callback, "timer", always),
            clock=Clock(clock_type=ClockType.STEADY_TIME),
        )
        self._owner().callback(self.destroy_timer, timer)
        return timer

    def serve(
        self,
        service: Service,
        handler: ServiceHandler,
        *,
        always: bool = False,
        in_thread: bool = False,
    ) -> ServiceServer:
        """Offer a service of the table.

        Args:
            service: The service.
            handler: ``handler(request, response)`` fills in the response; what it raises becomes
                an answer with ``success`` false, the error's code and its text.
            always: Answer also while the node is not active.
            in_thread: Run the handler in a thread of its own, so that the node goes on with
                everything else meanwhile. For what takes longer than a few milliseconds.
        """
        return self._keep(
            ServiceServer(
                self,
                service.name,
                interface_class(service.type),
                handler,
                self._guard,
                (lambda: True) if always else (lambda: self._is_active),
                in_thread=in_thread,
            )
        )

    def client(self, service: Service, name: str) -> ServiceClient:
        """Call a service of the table, offered by the node ``name`` (relative or absolute)."""
        full_name = service.name.replace("~", name, 1)
        return self._keep(ServiceClient(self, full_name, interface_class(service.type)))

    def _gated(self, callback: Callable[..., None], what: str, always: bool) -> Callable[..., None]:
        guarded = self._guard.wrap(callback, what)

        def gated(*arguments: Any) -> None:
            if always or self._is_active:
                guarded(*arguments)

        return gated

    def _keep(self, endpoint: E) -> E:
        self._owner().callback(endpoint.destroy)
        return endpoint

    def _owner(self) -> ExitStack:
        if self._collecting is None:
            raise SuiteError(
                f"endpoints of {self.get_name()}",
                got="one is made outside configure() and activate()",
                expected="it to belong to a state",
                hint="Make it in one of these hooks",
            )
        return self._collecting
