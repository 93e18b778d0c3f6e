"""Topics for drivers, over real DDS."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy

from user_comm.topic_io import RosTopicIo, open_topic_io
from user_core.errors import DeviceTimeout, TransportError
from user_testing.waiting import wait_until


@pytest.fixture(scope="module")
def io() -> Iterator[RosTopicIo]:
    with open_topic_io("driver_side") as topics:
        yield topics


@pytest.fixture(scope="module")
def other() -> Iterator[RosTopicIo]:
    with open_topic_io("robot_side") as topics:
        yield topics


def test_a_message_arrives_whole(io: RosTopicIo, other: RosTopicIo) -> None:
    got: list[Any] = []
    subscription = io.subscribe("whole", "sensor_msgs/msg/JointState", got.append)
    publisher = other.publisher("whole", "sensor_msgs/JointState")
    wait_until(lambda: publisher.subscribers == 1 and subscription.publishers == 1)
    message = publisher.new()
    message.name, message.position = ["a", "b"], [0.5, -1.5]
    publisher.publish(message)
    wait_until(lambda: got)
    assert list(got[0].name) == ["a", "b"] and list(got[0].position) == [0.5, -1.5]
    assert io.topics()["/whole"] == ["sensor_msgs/msg/JointState"]
    subscription.close()
    subscription.close()
    wait_until(lambda: publisher.subscribers == 0)
    publisher.close()
    with pytest.raises(TransportError, match="cannot publish on '/?whole'"):
        publisher.publish(message)


@pytest.mark.parametrize("offered", [ReliabilityPolicy.BEST_EFFORT, ReliabilityPolicy.RELIABLE])
@pytest.mark.parametrize("asked", ["best_effort", "match"])
def test_sensor_topics_are_heard_whatever_they_offer(
    io: RosTopicIo, other: RosTopicIo, offered: Any, asked: Any
) -> None:
    topic = f"sensor_{asked}_{offered.name.lower()}"
    cls = other.message_class("std_msgs/msg/Float64")
    publisher = other._node.create_publisher(cls, topic, QoSProfile(depth=1, reliability=offered))
    wait_until(lambda: f"/{topic}" in io.topics())
    got: list[Any] = []
    subscription = io.subscribe(topic, "std_msgs/msg/Float64", got.append, reliability=asked)
    wait_until(lambda: publisher.get_subscription_count() == 1)
    wait_until(lambda: (publisher.publish(cls(data=2.5)), got)[1])
    assert got[0].data == 2.5
    [info] = io._node.get_subscriptions_info_by_topic(f"/{topic}")
    expected = offered if asked == "match" else ReliabilityPolicy.BEST_EFFORT
    assert info.qos_profile.reliability == expected
    subscription.close()
    other._node.destroy_publisher(publisher)


def test_messages_come_in_order_past_an_executor_that_nobody_spins(other: RosTopicIo) -> None:
    node = Node("unspun", context=other._node.context)
    io = RosTopicIo(node)
    got: list[float] = []
    subscription = io.subscribe(
        "many", "std_msgs/msg/Float64", lambda m: got.append(m.data), depth=50
    )
    publisher = other.publisher("many", "std_msgs/msg/Float64", depth=50)
    wait_until(lambda: publisher.subscribers == 1)
    message = publisher.new()
    for number in range(40):
        message.data = float(number)
        publisher.publish(message)
    wait_until(lambda: len(got) == 40)
    assert got == sorted(got)
    [thread] = [t for t in threading.enumerate() if t.name == "topics of unspun"]
    subscription.close()
    thread.join(60)
    assert not thread.is_alive(), "nothing to look into, and it still looks"
    got.clear()
    again = io.subscribe("many", "std_msgs/msg/Float64", lambda m: got.append(m.data))
    wait_until(lambda: (publisher.publish(message), got)[1])
    again.close()
    node.destroy_node()


def test_a_node_of_the_same_name_is_another(io: RosTopicIo) -> None:
    """The same deployment on two hosts: both drive one robot, and each says who else does."""
    name, space = io._node.get_name(), io._node.get_namespace()
    mine = io.publisher("commands", "std_msgs/msg/Float64")
    heard = io.subscribe("commands", "std_msgs/msg/Float64", lambda message: None)
    wait_until(lambda: mine.subscribers == 1)
    assert io.endpoints("commands") == ([], [])
    with open_topic_io(name, namespace=space) as twin:
        theirs = twin.publisher("commands", "std_msgs/msg/Float64")
        own = io._node.get_fully_qualified_name()
        wait_until(lambda: [end.node for end in io.endpoints("commands")[0]] == [own])
        assert not io.endpoints("commands")[1]
        theirs.close()
        wait_until(lambda: not io.endpoints("commands")[0])
    heard.close()
    mine.close()


def test_a_callback_that_raises_is_counted_and_the_next_message_arrives(
    io: RosTopicIo, other: RosTopicIo
) -> None:
    got: list[float] = []

    def callback(message: Any) -> None:
        got.append(message.data)
        if message.data < 0:
            raise ValueError("negative")

    subscription = io.subscribe("raises", "std_msgs/msg/Float64", callback, depth=5)
    publisher = other.publisher("raises", "std_msgs/msg/Float64", depth=5)
    wait_until(lambda: publisher.subscribers == 1)
    for number in (-1.0, 2.0):
        message = publisher.new()
        message.data = number
        publisher.publish(message)
    wait_until(lambda: got == [-1.0, 2.0])
    assert io.callback_errors["/raises"] == 1
    subscription.close()


def test_latched_and_raw(io: RosTopicIo, other: RosTopicIo) -> None:
    publisher = other.publisher("latched", "std_msgs/msg/String", latched=True)
    message = publisher.new()
    message.data = "hello"
    publisher.publish(message)
    got: list[Any] = []
    io.subscribe(
        "latched", "std_msgs/msg/String", got.append, reliability="reliable", latched=True, raw=True
    )
    wait_until(lambda: got)
    assert isinstance(got[0], bytes) and b"hello" in got[0]


def test_services_answer_or_time_out_with_their_names(io: RosTopicIo, other: RosTopicIo) -> None:
    from std_srvs.srv import SetBool, Trigger

    release = threading.Event()

    def answer(request: Any, response: Any) -> Any:
        response.success, response.message = request.data, "done"
        return response

    def hang(_: Any, response: Any) -> Any:
        release.wait(60)
        return response

    other._node.create_service(SetBool, "set", answer)
    assert io.call("set", "std_srvs/srv/SetBool", {"data": True}, timeout_s=5.0).success is True
    with pytest.raises(TransportError, match="field 'date'"):
        io.call("set", "std_srvs/srv/SetBool", {"date": True}, timeout_s=5.0)
    with pytest.raises(DeviceTimeout, match=r"'sett': got no server.*'/set'"):
        io.call("sett", "std_srvs/srv/SetBool", {}, timeout_s=0.3)
    other._node.create_service(Trigger, "hang", hang)
    try:
        with pytest.raises(DeviceTimeout, match="'hang': got no answer within 0.5 s"):
            io.call("hang", "std_srvs/srv/Trigger", {}, timeout_s=0.5)
    finally:
        release.set()


def test_goals_are_sent_as_if_to_a_topic(io: RosTopicIo, other: RosTopicIo) -> None:
    actions = pytest.importorskip("test_msgs.action", reason="no action interface to test with")
    from rclpy.action import ActionServer

    orders: list[int] = []

    def execute(handle: Any) -> Any:
        orders.append(handle.request.order)
        handle.succeed()
        return actions.Fibonacci.Result()

    server = ActionServer(other._node, actions.Fibonacci, "count", execute)
    goals = io.goals("count", "test_msgs/action/Fibonacci")
    wait_until(lambda: goals.subscribers == 1)
    goal = goals.new()
    goal.order = 7
    goals.publish(goal)
    wait_until(lambda: orders == [7])
    goals.close()
    assert goals.subscribers == 0
    with pytest.raises(TransportError, match="count"):
        goals.publish(goal)
    server.destroy()


@pytest.mark.parametrize(
    ("type_name", "message"),
    [
        ("sensor_msgs/msg/JointStates", r"expected one of \[.*'JointState'"),
        ("no_such_msgs/msg/X", "installed package 'no_such_msgs'"),
        ("JointState", "expected package/msg/Name"),
        ("sensor_msgs/srv/SetCameraInfo", "expected package/msg/Name"),
    ],
)
def test_an_unknown_interface_says_what_there_is(
    io: RosTopicIo, type_name: str, message: str
) -> None:
    with pytest.raises(TransportError, match=message):
        io.subscribe("any", type_name, print)


def test_a_bad_topic_name_is_refused(io: RosTopicIo) -> None:
    with pytest.raises(TransportError, match="cannot subscribe to 'a b'"):
        io.subscribe("a b", "std_msgs/msg/Float64", print)
    with pytest.raises(TransportError, match="cannot publish 'a b'"):
        io.publisher("a b", "std_msgs/msg/Float64")


def test_publishing_after_shutdown_is_an_error_not_a_crash() -> None:
    with open_topic_io("short_lived") as topics:
        publisher = topics.publisher("late", "std_msgs/msg/Float64")
        message = publisher.new()
    with pytest.raises(TransportError, match="late"):
        publisher.publish(message)


def test_endpoints_come_and_go_beside_the_executor_that_spins_the_node(
    other: RosTopicIo,
) -> None:
    """A driver that reconnects does it in its own thread; rclpy's executor must not stumble."""
    node = Node("reconnecting", context=other._node.context, start_parameter_services=False)
    executor = SingleThreadedExecutor(context=other._node.context)
    executor.add_node(node)
    node.create_timer(0.001, lambda: None)  # so that it is often between collecting and waiting
    errors: list[Exception] = []
    done = threading.Event()

    def spin() -> None:
        while not done.is_set():
            try:
                executor.spin_once(timeout_sec=0.05)
            except Exception as error:
                errors.append(error)

    thread = threading.Thread(target=spin)
    thread.start()
    try:
        io = RosTopicIo(node)
        before = len(list(node.waitables))
        for _ in range(150):
            publisher = io.publisher("come_and_go", "std_msgs/msg/Float64")
            subscription = io.subscribe("come_and_go", "std_msgs/msg/Float64", lambda _: None)
            goals = io.goals("come_and_go", "test_msgs/action/Fibonacci")
            for endpoint in (publisher, subscription, goals):
                endpoint.close()
        wait_until(lambda: len(list(node.waitables)) == before)
        assert not list(node.subscriptions)
        io.close()
    finally:
        done.set()
        thread.join()
        executor.shutdown()
        node.destroy_node()
    assert not errors
