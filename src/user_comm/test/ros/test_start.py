"""How what spins in a thread ends."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from std_msgs.msg import String

from user_comm.start import end_spinning, start_rclpy


@pytest.fixture
def node(ros_domain: int) -> Iterator[Node]:
    context = rclpy.Context()
    start_rclpy([], context=context)
    yield Node("spun", context=context, start_parameter_services=False)
    context.try_shutdown()


def spun(node: Node) -> tuple[threading.Thread, SingleThreadedExecutor]:
    executor = SingleThreadedExecutor(context=node.context)
    executor.add_node(node)
    thread = threading.Thread(target=executor.spin, daemon=True)
    thread.start()
    return thread, executor


def test_a_node_is_destroyed_when_its_thread_has_ended(node: Node) -> None:
    node.create_subscription(String, "words", lambda message: None, 5)
    thread, executor = spun(node)
    assert end_spinning(thread, executor, node)
    assert not thread.is_alive()
    with pytest.raises(Exception, match="destruction"), node.handle:
        pass


def test_under_a_callback_that_hangs_nothing_is_destroyed(node: Node) -> None:
    began, go_on = threading.Event(), threading.Event()

    def hang() -> None:
        began.set()
        go_on.wait(60)

    node.create_timer(0.001, hang)
    thread, executor = spun(node)
    assert began.wait(60)
    assert not end_spinning(thread, executor, node, patience_s=0.2)
    with node.handle:
        assert node.get_name() == "spun"
    go_on.set()
    assert end_spinning(thread, executor, node)
