"""The reader beside the executor: by the caller's thread, and by a thread of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile
from std_msgs.msg import String

from user_comm import topics
from user_comm.converters import action_chunk_to_message
from user_comm.subscriptions import TopicReader
from user_comm.topics import interface_class, profile
from user_core.types import ActionChunk
from user_testing.waiting import wait_until

QOS = QoSProfile(depth=10)
SECOND_NS = 10**9


@pytest.fixture
def node() -> Iterator[Node]:
    context = rclpy.Context()
    rclpy.init(context=context)
    node = Node("reader", context=context, start_parameter_services=False)
    yield node
    node.destroy_node()
    rclpy.shutdown(context=context)


def threads(name: str) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == name]


def connected(publisher: object) -> None:
    wait_until(lambda: publisher.get_subscription_count() > 0, "the publisher knows the reader")


def test_the_callers_thread_waits_for_messages_and_takes_them_checked(node: Node) -> None:
    reader, got = TopicReader(node), []
    subscription = reader.listen(topics.ACTION, got.append)
    publisher = node.create_publisher(
        interface_class(topics.ACTION.type), topics.ACTION.name, profile(topics.ACTION.quality)
    )
    connected(publisher)
    chunk = ActionChunk(np.zeros((1, 2), np.float32), period_ns=5)
    publisher.publish(action_chunk_to_message(chunk))
    reader.wait(60 * SECOND_NS)
    assert not got  # waiting takes nothing
    assert reader.take() and not reader.take()
    assert [one.period_ns for one in got] == [5]
    bad = action_chunk_to_message(chunk)
    bad.acted_by = 99
    publisher.publish(bad)
    reader.wait(60 * SECOND_NS)
    assert reader.take()
    assert subscription.counts.refused.total() == 1 and len(got) == 1
    other: list[object] = []
    subscription.callback = other.append
    publisher.publish(action_chunk_to_message(chunk))
    reader.wait(60 * SECOND_NS)
    reader.take()
    assert len(other) == 1 and len(got) == 1
    reader.close()
    wait_until(lambda: publisher.get_subscription_count() == 0, "the subscription is ended")


def test_a_wait_is_ended_from_another_thread_even_before_it_begins(node: Node) -> None:
    reader = TopicReader(node)
    reader.listen(topics.ACTION, lambda chunk: None)
    reader.wait(0)  # the first one also builds the wait set
    reader.take()
    reader.wake()
    begin_s = time.monotonic()
    reader.wait(60 * SECOND_NS)
    thread = threading.Timer(0.05, reader.wake)
    thread.start()
    reader.wait(60 * SECOND_NS)
    thread.join()
    assert time.monotonic() - begin_s < 30
    reader.close()


@pytest.mark.parametrize("period_s", [0.0, 0.004])
def test_a_thread_of_its_own_reads_as_long_as_there_is_anything_to_read(
    node: Node, period_s: float
) -> None:
    errors: list[str] = []
    name = f"own {period_s}"
    reader = TopicReader(
        node, name, period_s=period_s, on_error=lambda topic, error: errors.append(topic)
    )
    assert not threads(name)
    got: list[str] = []

    def fail(message: String) -> None:
        raise RuntimeError(message.data)

    good = reader.subscribe(String, "good", QOS, lambda m: got.append(m.data), raw=False)
    reader.subscribe(String, "bad", QOS, fail, raw=False)
    publishers = [node.create_publisher(String, topic, QOS) for topic in ("bad", "good")]
    for publisher in publishers:
        connected(publisher)
    for number in range(20):
        for publisher in publishers:
            publisher.publish(String(data=str(number)))
        wait_until(lambda number=number: len(got) == number + 1, "it is read")
    assert got == [str(number) for number in range(20)]
    wait_until(lambda: len(errors) == 20, "the errors of the other topic are told")
    assert set(errors) == {"/bad"}

    reader.unsubscribe(good)
    wait_until(lambda: publishers[1].get_subscription_count() == 0, "it is ended")
    reader.close()
    assert not threads(name)


def test_a_reader_without_topics_has_no_thread_and_begins_again(node: Node) -> None:
    reader, got = TopicReader(node, "again"), []
    publisher = node.create_publisher(String, "words", QOS)
    for word in ("one", "two"):
        subscription = reader.subscribe(String, "words", QOS, got.append)
        connected(publisher)
        publisher.publish(String(data=word))
        wait_until(lambda word=word: any(word.encode() in data for data in got), "it is read")
        reader.unsubscribe(subscription)
        wait_until(lambda: not threads("again"), "the thread ends")
    reader.close()


def test_a_callback_may_end_its_own_subscription(node: Node) -> None:
    reader, got = TopicReader(node, "once"), []

    def once(data: bytes) -> None:
        got.append(data)
        reader.unsubscribe(subscription)

    subscription = reader.subscribe(String, "words", QOS, once)
    publisher = node.create_publisher(String, "words", QOS)
    connected(publisher)
    publisher.publish(String(data="x"))
    wait_until(lambda: got and not threads("once"), "it is read, and the thread ends")
    wait_until(lambda: publisher.get_subscription_count() == 0, "the subscription is ended")
    reader.close()


def test_the_executor_does_not_see_what_is_read_beside_it(node: Node) -> None:
    reader, got = TopicReader(node), []
    reader.subscribe(String, "words", QOS, got.append)
    executor_got: list[String] = []
    node.create_subscription(String, "words", executor_got.append, QOS)
    publisher = node.create_publisher(String, "words", QOS)
    wait_until(lambda: publisher.get_subscription_count() == 2, "both are known")
    publisher.publish(String(data="x"))
    executor = SingleThreadedExecutor(context=node.context)
    executor.add_node(node)
    wait_until(lambda: executor.spin_once(timeout_sec=0.1) or executor_got, "the executor's")
    executor.shutdown()
    assert not got
    assert reader.take() and len(got) == 1
    reader.close()


def test_the_thread_ends_with_its_node() -> None:
    context = rclpy.Context()
    rclpy.init(context=context)
    node = Node("short", context=context, start_parameter_services=False)
    TopicReader(node, "orphan").subscribe(String, "words", QOS, lambda data: None)
    assert threads("orphan")
    node.destroy_node()
    wait_until(lambda: not threads("orphan"), "the thread ends")
    rclpy.shutdown(context=context)
