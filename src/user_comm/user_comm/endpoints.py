"""How a node's hooks get publishers, subscriptions, timers, services and clients.

Each belongs to the state it was made in: what is made in ``configure`` goes away on cleanup,
what is made in ``activate`` on deactivation. Names, types and quality of service come from
the topic table.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from concurrent import futures
from contextlib import ExitStack
from functools import cached_property, partial
from typing import Any, Protocol, TypeVar

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.lifecycle import LifecycleNode as RclpyLifecycleNode
from rclpy.node import Node
from rclpy.qos import QoSProfile

from user_comm.cdr import CdrLimits
from user_comm.converters import CONVERTERS
from user_comm.diagnostics import Diagnostics, code_of
from user_comm.logs import Throttle
from user_comm.lost_messages import LostMessages
from user_comm.services import LoopService, ServiceClient, ServiceHandler, ServiceServer
from user_comm.subscriptions import CheckedSubscription, TopicReader, let_go
from user_comm.topics import Service, Topic, interface_class, profile
from user_core.errors import (
    ConfigError,
    SuiteError,
    is_of_a_person,
    may_pass,
)
from user_core.reasons import NO_REASON, EqualFailures, Reason


class CallbackGuard:
    """Wraps the callbacks of one node and keeps the account of failed transitions.

    Args:
        logger: The node's logger.
        diagnostics: The node's diagnostics.

    Attributes:
        transition_error: What the last transition failed by, for people; None after one that
            went well.
        failure: The same as a reason; false after a transition that went well.
        equal: Failures of transitions that were equal, and cannot pass by themselves.
    """

    def __init__(self, logger: Any, diagnostics: Diagnostics) -> None:
        self._logger, self._diagnostics = logger, diagnostics
        self._say = Throttle()
        self._transition_code: str | None = None
        self.transition_error: str | None = None
        self.failure = NO_REASON
        self.equal = EqualFailures()

    def wrap(self, callback: Callable[..., Any], what: str) -> Callable[..., Any]:
        """The callback, with everything it raises logged (throttled) and reported."""

        def guarded(*arguments: Any) -> Any:
            try:
                return callback(*arguments)
            except BaseException as error:  # whatever a node's code or a plugin raises
                if is_of_a_person(error):
                    raise
                self.report(what, error)
                return None

        return guarded

    def report(self, what: str, error: BaseException) -> None:
        """Log an error with its traceback, at most once in five seconds for each kind."""
        self._diagnostics.error(error)
        if text := self._say((what, code_of(error)), f"{what}: {_trace(error)}"):
            self._logger.error(text)

    def transition_failed(self, what: str, error: BaseException) -> None:
        """Log why a transition failed, and keep it on the diagnostics until one goes well."""
        before = self.transition_error
        self.transition_error = f"cannot {what}: {error}" if str(error) else f"cannot {what}"
        self._transition_code = code_of(error)
        self.failure = Reason(code_of(error), self.transition_error)
        if may_pass(error):
            self.equal.clear()
        else:
            self.equal.add(self.failure)
        # Where in the code helps nobody with a wrong value, nor at every further attempt.
        known = isinstance(error, ConfigError) or self.transition_error == before
        self._logger.error(f"cannot {what}: {_label(error) if known else _trace(error)}")
        self._diagnostics.error(error)

    def resolve_transition(self) -> None:
        """A transition went well: what an earlier one failed by is over."""
        if self._transition_code is not None:
            self._diagnostics.resolve(self._transition_code)
        self._transition_code = self.transition_error = None
        self.failure = NO_REASON


def _label(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _trace(error: BaseException) -> str:
    """The error for people first, then where it came from."""
    trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    return f"{_label(error)}\n{trace.rstrip()}" if isinstance(error, SuiteError) else trace.rstrip()


class TopicPublisher:
    """Encodes and publishes; silent while its node is not active. May be used from any thread.

    Args:
        node: Publishes.
        topic: Name of the topic, relative to the node's namespace.
        message_type: Class of the message.
        encode: Value to message; without one, messages are published as they are.
        profile: Quality of service.
        may_publish: Whether the node's state allows it now.
    """

    def __init__(
        self,
        node: Node,
        topic: str,
        message_type: type[Any],
        encode: Callable[..., Any] | None,
        profile: QoSProfile,
        may_publish: Callable[[], bool],
    ) -> None:
        self._node, self._encode, self._may_publish = node, encode, may_publish
        self._make: Callable[[], Any] = partial(node.create_publisher, message_type, topic, profile)
        self.publisher = self._make()
        self.topic = self.publisher.topic_name

    @property
    def listeners(self) -> int:
        """How many subscriptions are known now."""
        return int(self.publisher.get_subscription_count())

    @property
    def wanted(self) -> bool:
        """Whether there is a subscriber now; without one, expensive messages need not be made."""
        return bool(self.listeners)

    @property
    def readers(self) -> set[str]:
        """Names of the nodes that subscribe, as far as they are known now; asks the graph, some 0.1 ms."""
        found = self._node.get_subscriptions_info_by_topic(self.topic)
        return {info.node_name for info in found}

    def publish(self, value: Any, **options: Any) -> bool:
        """Encode with ``options`` and publish; False if the node is not active.

        What the middleware does not take is counted as lost (:mod:`user_comm.lost_messages`).
        """
        if not self._may_publish():
            return False
        message = self._encode(value, **options) if self._encode else value
        self.publisher.publish(message)
        return True

    def publish_serialized(self, data: bytes) -> bool:
        """Publish a message that is serialised already; False if the node is not active."""
        if not self._may_publish():
            return False
        self.publisher.publish(data)
        return True

    def renew(self) -> None:
        """Be announced to all others anew, as another publisher: for who should hear this one, and does not."""
        before, self.publisher = self.publisher, self._make()
        let_go(self._node, lambda: self._node.destroy_publisher(before))

    def destroy(self) -> None:
        """Stop publishing."""
        self._node.destroy_publisher(self.publisher)


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

    @cached_property
    def lost(self) -> LostMessages:
        """The account of what this node said and the middleware did not take."""
        return LostMessages()  # here: rclpy makes publishers before anything of ours is there

    def create_publisher(self, *arguments: Any, **options: Any) -> Any:
        """As rclpy's, whose publisher counts a message that is not taken instead of raising."""
        options.setdefault("publisher_class", self.lost.publisher_class)
        return super().create_publisher(*arguments, **options)

    def destroy_publisher(self, publisher: Any) -> bool:
        """As rclpy's."""
        self.lost.forget(publisher)
        return bool(super().destroy_publisher(publisher))

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

    def serve_by_loop(
        self,
        service: Service,
        begin: Callable[[Any], futures.Future[Any]],
        finish: Callable[[Any, Any], None],
        reader: TopicReader,
        timeout_s: float,
    ) -> LoopService:
        """Offer a service of the table that a control loop answers, see :class:`LoopService`."""
        return self._keep(
            LoopService(
                self, service.name, interface_class(service.type), begin, finish, self._guard,
                lambda: self._is_active, reader=reader, timeout_s=timeout_s,
            )
        )  # fmt: skip

    def client(
        self, service: Service, name: str, reader: TopicReader | None = None
    ) -> ServiceClient:
        """Call a service of the table, offered by the node ``name`` (relative or absolute).

        Args:
            service: The service.
            name: Of the node.
            reader: Takes the answers in the thread that waits with it, instead of the executor.
        """
        full_name = service.name.replace("~", name, 1)
        return self._keep(ServiceClient(self, full_name, interface_class(service.type), reader))

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
