"""Topics for drivers, through an rclpy node.

:class:`RosTopicIo` is what ``user_hal.topic_io.TopicIo`` asks for. Drivers see that protocol
only, and this is the one place where their topics meet rclpy.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Literal

import rclpy
from action_msgs.msg import GoalStatus
from action_msgs.srv import CancelGoal
from rclpy.action.client import ActionClient
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.duration import Duration
from rclpy.executors import SingleThreadedExecutor
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy

from user_comm.lost_messages import spin, twice
from user_comm.services import ask
from user_comm.start import end_spinning, start_rclpy
from user_comm.subscriptions import TopicReader, let_go
from user_comm.topics import interface_class
from user_core.errors import DeviceTimeout, TransportError

#: How long the end of a publisher waits for its last messages to be received, seconds.
_LAST_WORDS_S = 0.5
#: A goal that holds the robot is answered within this time, or those before it are cancelled.
_UNANSWERED_S = 0.5
#: A server that is seen may not yet see who asks; its answer would be lost.
_MATCH_S = 0.1
#: How long a goal that is not done in time is given to be cancelled, seconds.
_CANCEL_S = 1.0
#: Deadlines from here on are what the graph says where there is none.
_NO_DEADLINE_NS = 10**17


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
        on_error: Callable[[str, BaseException], None],
    ) -> None:
        self._node, self._callback, self._on_error = node, callback, on_error
        self._reader = reader
        self.topic = node.resolve_topic_name(topic)
        self._closed = False
        self.writer = b""  # number of the publisher of the newest message
        self._subscription = reader.subscribe(
            cls, topic, profile, self._receive, raw=raw, on_writer=self._note_writer
        )

    @property
    def publishers(self) -> int:
        """Publishers that the graph knows."""
        return int(self._node.count_publishers(self.topic))

    @property
    def publisher_nodes(self) -> Sequence[str]:
        """Full names of the nodes of these publishers."""
        infos = self._node.get_publishers_info_by_topic(self.topic)
        return sorted(_node_name(info) for info in infos)

    def writers(self) -> Mapping[bytes, str]:
        """Numbers of the publishers that the graph knows now, each with its node's name."""
        infos = self._node.get_publishers_info_by_topic(self.topic)
        return {bytes(info.endpoint_gid): _node_name(info) for info in infos}

    def close(self) -> None:
        """End the subscription."""
        if not self._closed:
            self._closed = True
            self._reader.unsubscribe(self._subscription)

    def _note_writer(self, writer: bytes) -> None:
        self.writer = writer

    def _receive(self, message: Any) -> None:
        if self._closed:
            return
        try:
            self._callback(message)
        except (Exception, SystemExit) as error:  # one bad message must not end all others
            self._on_error(self.topic, error)


def _count_on(topic: str, ends: Iterable[Any]) -> int:
    """How many publishers or subscriptions are of a topic. One that another thread destroys meanwhile is of none."""
    count = 0
    for end in ends:
        with suppress(rclpy_implementation.InvalidHandle):
            count += end.topic_name == topic
    return count


def _without(own: str, count: int, found: Iterable[Endpoint]) -> list[Endpoint]:
    """Endpoints without the first ``count`` of the node ``own``."""
    others = []
    for end in found:
        if end.node == own and count > 0:
            count -= 1
        else:
            others.append(end)
    return others


def _node_name(info: Any) -> str:
    if "UNKNOWN" in info.node_name:
        return "a node whose name has not come yet"
    return f"{info.node_namespace.rstrip('/')}/{info.node_name}"


class RosPublisher:
    """One publisher; see :meth:`~user_comm.topic_io.RosTopicIo.publisher`."""

    def __init__(self, node: Node, cls: type[Any], topic: str, profile: QoSProfile) -> None:
        self._node, self._cls = node, cls
        self.topic = node.resolve_topic_name(topic)
        # A driver is told what was not sent: it may be a stop.
        self._publisher: Any = node.create_publisher(cls, topic, profile, publisher_class=Publisher)

    def new(self) -> Any:
        """A new message with default values."""
        return self._cls()

    def publish(self, message: Any) -> None:
        """Send a message. Raises TransportError after close, when ROS has shut down, or where the middleware took it
        neither at once nor at a second attempt."""
        publisher = self._publisher
        try:
            twice(lambda: publisher.publish(message))
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
        let_go(self._node, lambda: self._node.destroy_publisher(publisher))


class _ActionClient(ActionClient):
    """Whole before the executor sees it: rclpy's makes its lock after it has joined the node."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self._lock = threading.Lock()
        super().__init__(*args, **options)


class RosGoals:
    """Sends goals of one action; see :meth:`~user_comm.topic_io.RosTopicIo.goals`."""

    def __init__(self, node: Node, cls: type[Any], action: str) -> None:
        self._node, self._cls, self.topic = node, cls, action
        self.accepted: bool | None = None  # the newest goal; None: not answered yet
        self.rejected = False
        self.failure: Any = None
        self._newest: Any = None
        self._holding: Any = None  # a goal whose rejection cancels those before
        self._canceller: Any = node.create_client(
            CancelGoal,
            f"{action}/_action/cancel_goal",
            callback_group=MutuallyExclusiveCallbackGroup(),
        )
        self._client: Any = _ActionClient(
            node, cls, action, callback_group=MutuallyExclusiveCallbackGroup()
        )

    def new(self) -> Any:
        """A new goal with default values."""
        return self._cls.Goal()

    def publish(self, message: Any) -> None:
        """Send a goal. Raises TransportError after close, or when ROS has shut down."""
        self._send(message, holds=False)

    def publish_or_cancel(self, message: Any) -> None:
        """Send a goal; should it be rejected, or not be answered in time, cancel those before."""
        self._send(message, holds=True)
        timer = threading.Timer(_UNANSWERED_S, self._not_answered, (self._newest,))
        timer.daemon = True
        timer.start()

    @property
    def subscribers(self) -> int:
        """1 while there is a server."""
        return int(self._client is not None and self._client.server_is_ready())

    def close(self) -> None:
        """End the client."""
        client, self._client = self._client, None
        if client is not None:
            let_go(self._node, client.destroy)
            canceller = self._canceller
            let_go(self._node, lambda: self._node.destroy_client(canceller))

    def _send(self, message: Any, *, holds: bool) -> None:
        try:
            self.accepted = None
            self._newest = future = twice(lambda: self._client.send_goal_async(message))
            if holds:
                self._holding = future
            future.add_done_callback(self._answered)
        except Exception as error:
            raise TransportError(f"cannot send a goal to {self.topic!r}", got=error) from error

    def _answered(self, future: Any) -> None:
        handle = future.result()
        if handle is None or self._client is None:
            return
        if future is self._newest:
            self.accepted = bool(handle.accepted)
        self.rejected = not handle.accepted
        if handle.accepted:
            handle.get_result_async().add_done_callback(
                lambda done, own=future: self._ended(own, done.result())
            )
            return
        self._node.get_logger().warning(
            f"{self.topic}: the server rejected a goal", throttle_duration_sec=1.0
        )
        if future is self._holding:
            self._cancel_all()

    def _not_answered(self, future: Any) -> None:
        if future is self._newest and not future.done():
            self._cancel_all()

    def _cancel_all(self) -> None:
        """Nothing of the action may go on; a request without a goal means all of them."""
        if self._client is not None:
            ask(self._canceller, CancelGoal.Request())

    def _ended(self, future: Any, response: Any) -> None:
        if response is None:
            return
        if response.status == GoalStatus.STATUS_ABORTED and future is self._newest:
            self.failure = response.result
            self._node.get_logger().warning(
                f"{self.topic}: the server aborted a goal", throttle_duration_sec=1.0
            )
        elif response.status in (GoalStatus.STATUS_SUCCEEDED, GoalStatus.STATUS_CANCELED):
            self.failure = None


Reliability = Literal["best_effort", "reliable", "match"]


@dataclass(frozen=True)
class Endpoint:
    """A publisher or subscription that the graph knows; see ``user_hal.topic_io.Endpoint``."""

    node: str
    type_name: str
    reliability: str
    durability: str
    deadline_s: float
    liveliness: str


def _endpoint(info: Any) -> Endpoint:
    profile = info.qos_profile
    deadline_ns = profile.deadline.nanoseconds
    return Endpoint(
        _node_name(info),
        info.topic_type,
        profile.reliability.name.lower(),
        profile.durability.name.lower(),
        deadline_ns * 1e-9 if deadline_ns < _NO_DEADLINE_NS else 0.0,
        profile.liveliness.name.lower(),
    )


class RosTopicIo:
    """Subscriptions, publishers, actions and services of one node, for drivers.

    Messages are taken by a thread of this object (:class:`~user_comm.subscriptions.TopicReader`),
    not by the node's executor; those of one topic stay in order. What is called and waited for
    (:meth:`call`, :meth:`act`) has a node of its own, spun by the thread that waits; the answers to
    :meth:`goals` come through the node's executor.

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

    @property
    def graph(self) -> str:
        """Which ROS graph this is, for what must be told apart on one host."""
        return f"ROS domain {self._node.context.get_domain_id()}"

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

    def call(self, service: str, type_name: str, request: Any, *, timeout_s: float) -> Any:
        """Call a service and wait for its answer, at most ``timeout_s`` in all."""
        cls = _interface(type_name, "srv")
        message = request if isinstance(request, cls.Request) else cls.Request()
        for field, value in request.items() if isinstance(request, Mapping) else ():
            try:
                setattr(message, field, value)
            except (AttributeError, AssertionError, TypeError) as error:
                raise TransportError(
                    f"field {field!r} of a request to {service!r}",
                    got=f"{value!r} ({error})",
                    expected=f"the fields of {type_name}",
                ) from error
        deadline_s = time.monotonic() + timeout_s
        with self._own_executor() as (node, wait):
            client: Any = node.create_client(cls, service)
            if not client.wait_for_service(timeout_sec=timeout_s):
                raise self._no_server(service, type_name, timeout_s)
            time.sleep(_MATCH_S)
            future = ask(client, message)
            if not wait(future, deadline_s):
                raise DeviceTimeout(f"service {service!r}", got=f"no answer within {timeout_s} s")
            return future.result()

    def act(self, action: str, type_name: str, goal: Any, *, timeout_s: float) -> tuple[str, Any]:
        """Carry out a goal and wait for its end, at most ``timeout_s`` in all."""
        deadline_s = time.monotonic() + timeout_s
        cls = _interface(type_name, "action")
        with self._own_executor() as (node, wait):
            client: Any = ActionClient(node, cls, action)
            if not client.wait_for_server(timeout_sec=timeout_s):
                raise DeviceTimeout(
                    f"action {action!r}",
                    got=f"no server within {timeout_s} s",
                    expected=f"a server of {type_name}",
                )
            time.sleep(_MATCH_S)
            sent = twice(lambda: client.send_goal_async(goal))
            if not wait(sent, deadline_s):
                raise DeviceTimeout(f"action {action!r}", got=f"no answer within {timeout_s} s")
            handle = sent.result()
            if not handle.accepted:
                return "rejected", None
            ended = handle.get_result_async()
            if not wait(ended, deadline_s):
                wait(handle.cancel_goal_async(), time.monotonic() + _CANCEL_S)
                raise DeviceTimeout(f"action {action!r}", got=f"not done within {timeout_s} s")
            status = ended.result().status
            return _STATUSES.get(status, f"status {status}"), ended.result().result

    def message_class(self, type_name: str) -> type[Any]:
        """The class of a message type."""
        return _interface(type_name, "msg")

    def request_class(self, type_name: str) -> type[Any]:
        """The class of requests of a service, or of goals of an action."""
        if type_name.split("/")[1:2] == ["action"]:
            goal: type[Any] = _interface(type_name, "action").Goal
            return goal
        request: type[Any] = _interface(type_name, "srv").Request
        return request

    def topics(self) -> dict[str, Sequence[str]]:
        """Names of the topics that are in the graph now, each with its type names."""
        return dict(self._node.get_topic_names_and_types())

    def service_types(self) -> dict[str, Sequence[str]]:
        """Names of the services that others offer now, each with its type names. The graph also
        names those that are only asked, by a client whose server is not there."""
        node = self._node
        own = {name for name, _ in node.get_service_names_and_types_by_node(
            node.get_name(), node.get_namespace())}  # fmt: skip
        known = node.get_service_names_and_types()
        return {name: t for name, t in known if name not in own and node.count_services(name)}

    def endpoints(self, topic: str) -> tuple[Sequence[Endpoint], Sequence[Endpoint]]:
        """Publishers and subscriptions of a topic, without those of our node. Another node of
        the same name, on another host for instance, is there as any other."""
        node = self._node
        name, own = node.resolve_topic_name(topic), node.get_fully_qualified_name()
        publishers, subscriptions = (
            _without(own, _count_on(name, ends), map(_endpoint, infos))
            for ends, infos in (
                (list(node.publishers), node.get_publishers_info_by_topic(name)),
                (list(node.subscriptions), node.get_subscriptions_info_by_topic(name)),
            )
        )
        return publishers, subscriptions

    def now_ns(self) -> int:
        """The node's clock, nanoseconds."""
        return int(self._node.get_clock().now().nanoseconds)

    @contextmanager
    def _own_executor(self) -> Iterator[tuple[Node, Callable[[Any, float], bool]]]:
        """A node for one call, and a function that waits for a future of it until a moment
        (monotonic). Its executor runs in this thread: whoever spins our node may wait for us."""
        node = Node(
            f"{self._node.get_name()}_calls",
            namespace=self._node.get_namespace(),
            context=self._node.context,
            start_parameter_services=False,
            enable_rosout=False,
        )
        executor = SingleThreadedExecutor(context=self._node.context)
        executor.add_node(node)

        def wait(future: Any, until_s: float) -> bool:
            while not future.done() and (left_s := until_s - time.monotonic()) > 0:
                executor.spin_once(timeout_sec=min(left_s, 0.1))
            return bool(future.done())

        try:
            yield node, wait
        finally:
            executor.remove_node(node)
            executor.shutdown(timeout_sec=1.0)
            node.destroy_node()

    def _failed(self, topic: str, error: BaseException) -> None:
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
    start_rclpy(args, context=context)
    node = Node(name, namespace=namespace, context=context, start_parameter_services=False)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)

    def failed(error: BaseException) -> None:
        node.get_logger().error(f"a callback failed: {error}", throttle_duration_sec=5.0)

    thread = threading.Thread(
        target=spin,
        args=(executor,),
        kwargs={"failed": failed, "tolerates": Exception, "for_ever": True},
        name=f"{name} spin",
        daemon=True,
    )
    thread.start()
    topic_io = RosTopicIo(node)
    try:
        yield topic_io
    finally:
        topic_io.close()
        end_spinning(thread, executor, node, context=context)


def _profile(depth: int, reliable: bool, latched: bool) -> QoSProfile:
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=depth,
        reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
    )


_STATUSES = {
    GoalStatus.STATUS_SUCCEEDED: "succeeded",
    GoalStatus.STATUS_ABORTED: "aborted",
    GoalStatus.STATUS_CANCELED: "canceled",
}


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
