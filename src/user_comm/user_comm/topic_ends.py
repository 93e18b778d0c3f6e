"""The ends of topics and actions that :class:`~user_comm.topic_io.RosTopicIo` hands out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from rclpy.action.client import ActionClient
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.qos import QoSProfile

from user_comm.topic_poller import PolledGroup, TopicPoller
from user_core.errors import TransportError

#: How long the end of a publisher waits for its last messages to be received, seconds.
_LAST_WORDS_S = 0.5


class RosSubscription:
    """One subscription; see :meth:`~user_comm.topic_io.RosTopicIo.subscribe`."""

    def __init__(
        self,
        node: Node,
        cls: type[Any],
        topic: str,
        callback: Callable[[Any], None],
        profile: QoSProfile,
        raw: bool,
        errors: Counter[str],
        poller: TopicPoller,
    ) -> None:
        self._node, self._callback, self._errors = node, callback, errors
        self._poller, self._depth = poller, profile.depth
        self.topic = node.resolve_topic_name(topic)
        self._closed = False
        self._subscription: Any = node.create_subscription(
            cls, topic, self._receive, profile, callback_group=PolledGroup(), raw=raw
        )
        poller.add(self)

    @property
    def publishers(self) -> int:
        """Publishers that the graph knows."""
        return int(self._node.count_publishers(self.topic))

    def close(self) -> None:
        """End the subscription."""
        if not self._closed:
            self._closed = True
            self._poller.remove(self)
            self._node.destroy_subscription(self._subscription)

    def poll(self) -> None:
        """Take what has come, at most as much as is kept, and call back for each."""
        subscription = self._subscription
        for _ in range(self._depth):
            try:
                with subscription.handle:
                    taken = subscription.handle.take_message(
                        subscription.msg_type, subscription.raw
                    )
            except Exception as error:
                if type(error).__name__ == "InvalidHandle" or not self._node.context.ok():
                    self._poller.remove(self)  # destroyed with its node
                else:
                    self._fail(error)
                return
            if taken is None:
                return
            self._receive(taken[0])

    def _receive(self, message: Any) -> None:
        if self._closed:
            return
        try:
            self._callback(message)
        except Exception as error:  # one bad message must not end all others
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        self._errors[self.topic] += 1
        self._node.get_logger().error(
            f"callback of {self.topic}: {type(error).__name__}: {error}",
            throttle_duration_sec=1.0,
        )


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
        self._client: Any = ActionClient(
            node, cls, action, callback_group=MutuallyExclusiveCallbackGroup()
        )

    def new(self) -> Any:
        """A new goal with default values."""
        return self._cls.Goal()

    def publish(self, message: Any) -> None:
        """Send a goal. Raises TransportError after close, or when ROS has shut down."""
        try:
            self._client.send_goal_async(message).add_done_callback(self._answered)
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
        if handle is not None and not handle.accepted:
            self._node.get_logger().warning(
                f"{self.topic}: the server rejected a goal", throttle_duration_sec=1.0
            )
