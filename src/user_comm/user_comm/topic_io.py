"""Topics for drivers, through an rclpy node.

:class:`RosTopicIo` is what ``user_hal.topic_io.TopicIo`` asks for. Drivers see that protocol
only, and this is the one place where their topics meet rclpy.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import rclpy
from rclpy.action.client import ActionClient
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup, ReentrantCallbackGroup
from rclpy.duration import Duration
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions

from user_comm.subscriptions import TopicReader
from user_comm.topics import interface_class
from user_core.errors import DeviceTimeout, TransportError

#: How long the end of a publisher waits for its last messages to be received, seconds.
_LAST_WORDS_S = 0.5


class RosSubscription:
    """One subscription; see :meth:`~user_comm.topic_io.RosTopicIo.subscribe`."""

    def __init__(
        self,
        reader: TopicReader,
        node: Node,
        cls: type[Any],
        topic: str,
        callback: Callable[[Any], None],
        profile: QoSProfile,
        raw: bool,
        on_error: Callable[[str, Exception], None],
    ) -> None:
        self._node, self._callback, self._on_error = node, callback, on_error
        self._reader = reader
        self.topic = node.resolve_topic_name(topic)
        self._closed = False
        self._subscription = reader.subscribe(cls, topic, profile, self._receive, raw=raw)

    @property
    def publishers(self) -> int:
        """Publishers that the graph knows."""
        return int(self._node.count_publishers(self.topic))

    @property
    def publisher_nodes(self) -> Sequence[str]:
        """Full names of the nodes of these publishers."""
        infos = self._node.get_publishers_info_by_topic(self.topic)
        return sorted(
            "a node whose name has not come yet"
            if "UNKNOWN" in info.node_name
            else f"{info.node_namespace.rstrip('/')}/{info.node_name}"
            for info in infos
        )

    def close(self) -> None:
        """End the subscription."""
        if not self._closed:
            self._closed = True
            self._reader.unsubscribe(self._subscription)

    def _receive(self, message: Any) -> None:
        if self._closed:
            return
        try:
            self._callback(message)
        except Exception as error:  # one bad message must not end all others
            self._on_error(self.topic, error)


class RosPublisher:
    """One publisher; see :meth:`~user_comm.topic_io.RosTopicIo.publisher`."""

    def __init__(self, node: Node, cls: type[Any], topic: str, profile: QoSProfile) -> None:
        self._node, self._cls = node, cls
        self.topic = node.resolve_topic_name(topic)
        self._publisher: Any = node.create_publisher(cls, topic, profile)

    def new(self) -> Any:
        """A new message with default values."""
        return self._cls()

    def publish(self, message: Any) -> None:
        """Send a message. Raises TransportError after close, or when ROS has shut down."""
        publisher = self._publisher
        try:
            publisher.publish(message)
        except Exception as error:
            raise TransportError(f"cannot publish on {self.topic!r}", got=error) from error

    @property
    def subscribers(self) -> int:
        """Subscriptions that are matched."""
        return 0 if self._publisher is None else int(self._publisher.get_subscription_count())

    def close(self) -> None:
        """End the publisher, when what was sent last (a stop, perhaps) has been received."""
        publisher, self._publisher = self._publisher, None
        if publisher is None:
            return
        try:
            publisher.wait_for_all_acked(Duration(seconds=_LAST_WORDS_S))
        except Exception as error:  # ROS has shut down: nobody can receive any more
            self._node.get_logger().debug(f"{self.topic}: {error}")
        self._node.destroy_publisher(publisher)


class RosGoals:
    """Sends goals of one action; see :meth:`~user_comm.topic_io.RosTopicIo.goals`."""

    def __init__(self, node: Node, cls: type[Any], action: str) -> None:
        self._node, self._cls, self.topic = node, cls, action
        self.accepted: bool | None = None  # the newest goal; None: not answered yet
        self._newest: Any = None
        self._client: Any = ActionClient(
            node, cls, action, callback_group=MutuallyExclusiveCallbackGroup()
        )

    def new(self) -> Any:
        """A new goal with default values."""
        return self._cls.Goal()

    def publish(self, message: Any) -> None:
        """Send a goal. Raises TransportError after close, or when ROS has shut down."""
        try:
            self.accepted = None
            self._newest = future = self._client.send_goal_async(message)
            future.add_done_callback(self._answered)
        except Exception as error:
            raise TransportError(f"cannot send a goal to {self.topic!r}", got=error) from error

    @property
    def subscribers(self) -> int:
        """1 while there is a server."""
        return int(self._client is not None and self._client.server_is_ready())

    def close(self) -> None:
        """End the client."""
        client, self._client = self._client, None
        if client is not None:
            client.destroy()

    def _answered(self, future: Any) -> None:
        handle = future.result()
        if handle is None:
            return
        if future is self._newest:
            self.accepted = bool(handle.accepted)
        if not handle.accepted:
            self._node.get_logger().warning(
                f"{self.topic}: the server rejected a goal", throttle_duration_sec=1.0
            )


Reliability = Literal["best_effort", "reliable", "match"]


class RosTopicIo:
    """Subscriptions, publishers, actions and services of one node, for drivers.

    Messages are taken by a thread of this object (:class:`~user_comm.subscriptions.TopicReader`),
    not by the node's executor; those of one topic stay in order. The answers of services and actions come
    through the executor: the node must be spun by another thread than the one in :meth:`call`.

    Args:
        node: Creates everything; relative names are resolved in its namespace.
        period_s: Shortest time between two looks for messages, seconds: what comes meanwhile is
            taken together.

    Attributes:
        callback_errors: How often the callback of each topic raised.
    """

    def __init__(self, node: Node, *, period_s: float = 0.004) -> None:
        self._node = node
        self._reader = TopicReader(
            node, f"topics of {node.get_name()}", period_s=period_s, on_error=self._failed
        )
        self.callback_errors: Counter[str] = Counter()

    def close(self) -> None:
        """End all subscriptions."""
        self._reader.close()

    def subscribe(
        self,
        topic: str,
        type_name: str,
        callback: Callable[[Any], None],
        *,
        depth: int = 1,
        reliability: Reliability = "best_effort",
        latched: bool = False,
        raw: bool = False,
    ) -> RosSubscription:
        """Call ``callback`` with every message; what it raises is logged and counted."""
        cls = self.message_class(type_name)
        reliable = reliability == "reliable" or (
            reliability == "match" and self._publishers_are_reliable(topic)
        )
        profile = _profile(depth, reliable, latched)
        try:
            return RosSubscription(
                self._reader, self._node, cls, topic, callback, profile, raw, self._failed
            )
        except Exception as error:  # names are checked by several layers, each with its own
            raise TransportError(f"cannot subscribe to {topic!r}", got=error) from error

    def publisher(
        self,
        topic: str,
        type_name: str,
        *,
        depth: int = 1,
        reliable: bool = True,
        latched: bool = False,
    ) -> RosPublisher:
        """A publisher of one topic."""
        cls = self.message_class(type_name)
        try:
            return RosPublisher(self._node, cls, topic, _profile(depth, reliable, latched))
        except Exception as error:
            raise TransportError(f"cannot publish {topic!r}", got=error) from error

    def goals(self, action: str, type_name: str) -> RosGoals:
        """Goals of an action, sent as if they were a topic."""
        try:
            return RosGoals(self._node, _interface(type_name, "action"), action)
        except TransportError:
            raise
        except Exception as error:
            raise TransportError(f"cannot be a client of {action!r}", got=error) from error

    def call(
        self, service: str, type_name: str, request: Mapping[str, Any], *, timeout_s: float
    ) -> Any:
        """Call a service and wait for its answer, at most ``timeout_s`` in all."""
        cls = _interface(type_name, "srv")
        message = cls.Request()
        for field, value in request.items():
            try:
                setattr(message, field, value)
            except (AttributeError, AssertionError, TypeError) as error:
                raise TransportError(
                    f"field {field!r} of a request to {service!r}",
                    got=f"{value!r} ({error})",
                    expected=f"the fields of {type_name}",
                ) from error
        client: Any = self._node.create_client(
            cls, service, callback_group=ReentrantCallbackGroup()
        )
        try:
            if not client.wait_for_service(timeout_sec=timeout_s):
                raise self._no_server(service, type_name, timeout_s)
            done = threading.Event()
            future = client.call_async(message)
            future.add_done_callback(lambda _: done.set())
            if not done.wait(timeout_s):
                client.remove_pending_request(future)
                raise DeviceTimeout(f"service {service!r}", got=f"no answer within {timeout_s} s")
            return future.result()
        finally:
            self._node.destroy_client(client)

    def message_class(self, type_name: str) -> type[Any]:
        """The class of a message type."""
        return _interface(type_name, "msg")

    def topics(self) -> dict[str, Sequence[str]]:
        """Names of the topics that are in the graph now, each with its type names."""
        return dict(self._node.get_topic_names_and_types())

    def now_ns(self) -> int:
        """The node's clock, nanoseconds."""
        return int(self._node.get_clock().now().nanoseconds)

    def _failed(self, topic: str, error: Exception) -> None:
        self.callback_errors[topic] += 1
        self._node.get_logger().error(
            f"callback of {topic}: {type(error).__name__}: {error}", throttle_duration_sec=1.0
        )

    def _no_server(self, service: str, type_name: str, timeout_s: float) -> DeviceTimeout:
        own = self._node.resolve_service_name(service)
        names = [
            name
            for name, types in self._node.get_service_names_and_types()
            if _full_name(type_name, "srv") in types and name != own  # our client is in the graph
        ]
        return DeviceTimeout(
            f"service {service!r}",
            got=f"no server within {timeout_s} s",
            expected=f"one of {names}" if names else f"a server of {type_name}",
        )

    def _publishers_are_reliable(self, topic: str) -> bool:
        infos = self._node.get_publishers_info_by_topic(self._node.resolve_topic_name(topic))
        return bool(infos) and all(
            info.qos_profile.reliability == ReliabilityPolicy.RELIABLE for info in infos
        )


@contextmanager
def open_topic_io(
    name: str, *, namespace: str = "", args: Sequence[str] = ()
) -> Iterator[RosTopicIo]:
    """A node of its own that is spun in a thread, for programs that are no node (the command
    line, tests). Everything ends with the ``with`` block. Signals are left alone: Ctrl-C raises
    KeyboardInterrupt in the main thread, and a robot can still be stopped while it passes through.

    Args:
        name: Name of the node.
        namespace: Its namespace.
        args: ROS arguments, for instance ``["--ros-args", "-r", "a:=b"]``.
    """
    context = rclpy.Context()
    rclpy.init(args=list(args), context=context, signal_handler_options=SignalHandlerOptions.NO)
    node = Node(name, namespace=namespace, context=context, start_parameter_services=False)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    stopping = threading.Event()

    def spin() -> None:
        while not stopping.is_set():
            executor.spin_once(timeout_sec=0.5)

    thread = threading.Thread(target=spin, name=f"{name} spin", daemon=True)
    thread.start()
    topic_io = RosTopicIo(node)
    try:
        yield topic_io
    finally:
        topic_io.close()
        stopping.set()
        executor.wake()
        thread.join(timeout=5.0)
        executor.shutdown()
        node.destroy_node()
        rclpy.shutdown(context=context)


def _profile(depth: int, reliable: bool, latched: bool) -> QoSProfile:
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=depth,
        reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
    )


def _full_name(name: str, kind: str) -> str:
    """``package/kind/Name``; the kind may be left out of the name."""
    parts = name.split("/")
    return f"{parts[0]}/{kind}/{parts[1]}" if len(parts) == 2 else name


def _interface(name: str, kind: str) -> type[Any]:
    full = _full_name(name, kind)
    if full.split("/")[1:2] != [kind]:
        raise TransportError(
            "name of an interface", got=repr(name), expected=f"package/{kind}/Name"
        )
    return interface_class(full)
