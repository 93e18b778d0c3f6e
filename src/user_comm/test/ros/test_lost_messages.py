"""What the middleware does not take costs that message, and no thread, process or transition."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.impl.implementation_singleton import rclpy_implementation as _rclpy
from rclpy.publisher import Publisher
from rclpy.service import Service
from rclpy.task import Future
from std_msgs.msg import String
from std_srvs.srv import Trigger

from user_comm import topics
from user_comm.bridge.dispatcher import Dispatcher
from user_comm.diagnostics import Level
from user_comm.lifecycle import LifecycleNode
from user_comm.lost_messages import LenientStateMachine, LostMessages, RCLError, spin
from user_comm.run import watch_threads
from user_comm.services import ask
from user_comm.subscriptions import TopicReader
from user_comm.topic_io import RosTopicIo
from user_core.errors import TransportError
from user_testing.waiting import wait_until


class Speaker(LifecycleNode):
    """Says something latched, something else, and answers a service."""

    def configure(self, stack: ExitStack) -> None:
        self.latched = self.advertise(topics.ROBOT_DESCRIPTION, always=True)
        self.other = self.advertise(topics.REMOTE_REFUSAL, always=True)
        self.serve(topics.GO, lambda request, response: None, always=True)


class Refusing:
    """Stands in front of a method of rclpy, and lets the next so many calls fail."""

    def __init__(self, kind: type[Any], name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left, self.refused = 0, 0
        real, told = getattr(kind, name), self

        def method(self: Any, *arguments: Any, **options: Any) -> Any:
            if told.left:
                told.left, told.refused = told.left - 1, told.refused + 1
                raise RCLError(f"Failed to {name}: cannot publish data")
            return real(self, *arguments, **options)

        monkeypatch.setattr(kind, name, method)


@pytest.fixture(scope="module", autouse=True)
def ros() -> Iterator[None]:
    rclpy.init()
    yield
    rclpy.try_shutdown()


@pytest.fixture
def publishing(monkeypatch: pytest.MonkeyPatch) -> Refusing:
    return Refusing(Publisher, "publish", monkeypatch)


@pytest.fixture
def node() -> Iterator[Speaker]:
    speaker = Speaker(f"speaker{time.monotonic_ns()}")
    assert speaker.request("configure")
    yield speaker
    speaker.destroy_node()


@pytest.fixture
def spun(node: Speaker) -> Iterator[list[BaseException]]:
    """The node, spun in a thread; what its callbacks raised."""
    raised: list[BaseException] = []
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    done: Future[None] = Future(executor=executor)
    thread = threading.Thread(target=spin, args=(executor, done), kwargs={"failed": raised.append})
    thread.start()
    yield raised
    executor.create_task(done.set_result, None)
    thread.join(60)
    assert not thread.is_alive()
    executor.shutdown()


def heard(node: Speaker, topic: str) -> list[str]:
    found: list[str] = []
    node.create_subscription(
        String, topic, lambda message: found.append(message.data),
        topics.profile(topics.ROBOT_DESCRIPTION.quality),
    )  # fmt: skip
    return found


def test_a_message_that_is_not_taken_is_counted_and_shown(
    node: Speaker, publishing: Refusing
) -> None:
    assert node.lost.item().level is Level.OK
    publishing.left = 2
    assert node.other.publish(String(data="1")), "the node is active enough to speak"
    assert node.other.publish_serialized(b"\x00\x01\x00\x00\x01\x00\x00\x00\x00")
    assert node.lost.total == 2
    item = node.lost.item()
    assert item.level is Level.WARN and "cannot publish data" in item.message
    assert item.values["total"] == 2 and item.values["remote_refusal"] == 2


def test_what_is_wrong_with_the_message_itself_is_raised(node: Speaker) -> None:
    with pytest.raises(TypeError):
        node.other.publish("no message")


def test_what_is_latched_is_said_again_with_the_next_heartbeat(
    node: Speaker, spun: list[BaseException], publishing: Refusing
) -> None:
    listener = heard(node, node.latched.topic)
    publishing.left = 1
    node.latched.publish(String(data="old"))
    wait_until(lambda: listener == ["old"])
    assert publishing.refused == 1 and not spun


def test_a_publisher_that_is_renewed_is_heard(node: Speaker, spun: list[BaseException]) -> None:
    listener = heard(node, node.latched.topic)
    node.latched.publish(String(data="before"))
    wait_until(lambda: listener == ["before"])
    node.latched.renew()
    node.latched.publish(String(data="after"))
    wait_until(lambda: listener == ["before", "after"])
    assert len(list(node.publishers)) == len({p.topic_name for p in node.publishers}), "one each"


def test_what_is_latched_and_newer_is_not_overtaken(node: Speaker, publishing: Refusing) -> None:
    publishing.left = 1
    node.latched.publish(String(data="old"))
    node.latched.publish(String(data="new"))
    sent: list[Any] = []
    node.latched.publisher._publish = sent.append
    node.lost.say_again()
    assert not sent, "the newer one stands for it"


def test_a_heartbeat_that_is_not_taken_ends_nothing(
    node: Speaker, spun: list[BaseException], publishing: Refusing
) -> None:
    publishing.left = 2
    wait_until(lambda: node.lost.total == 2)
    assert not spun and publishing.refused == 2
    assert node.request("activate") and node.state == "active"


def test_an_answer_that_is_not_taken_is_asked_for_again(
    node: Speaker, spun: list[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    answering = Refusing(Service, "send_response", monkeypatch)
    client = node.create_client(Trigger, f"{node.get_name()}/go")
    assert client.wait_for_service(60.0)
    answering.left = 1
    lost = ask(client, Trigger.Request())
    wait_until(lambda: len(spun) == 1)
    assert isinstance(spun[0], RCLError) and not lost.done()
    answer = ask(client, Trigger.Request())
    wait_until(answer.done)


class Asked:
    """A client of which so many requests are not taken."""

    srv_name = "/go"

    def __init__(self, refuses: int) -> None:
        self.refuses = refuses

    def call_async(self, request: Any) -> Any:
        if self.refuses:
            self.refuses -= 1
            raise RCLError("failed to send request")
        return request


def test_a_request_is_sent_once_more_and_then_a_transport_error() -> None:
    once: Any = Asked(1)
    assert ask(once, "request") == "request"
    never: Any = Asked(2)
    with pytest.raises(TransportError, match="/go"):
        ask(never, "request")


def test_what_a_driver_sends_is_sent_once_more_and_then_raised(
    node: Speaker, publishing: Refusing
) -> None:
    io = RosTopicIo(node)
    publisher = io.publisher("stop", "std_msgs/msg/String")
    publishing.left = 1
    publisher.publish(String(data="stop"))
    assert publishing.refused == 1
    publishing.left = 2
    with pytest.raises(TransportError, match="stop"):
        publisher.publish(String(data="stop"))
    publisher.close()
    io.close()


class Machine:
    """As rcl's: changes the state, then fails to announce it; or does not change it at all."""

    def __init__(self) -> None:
        self.current_state = (1, "unconfigured")

    def trigger_transition_by_id(self, transition: int, publish: bool) -> None:
        if transition != 1:
            raise RCLError("no such transition from here")
        self.current_state = (10, "configuring")
        raise RCLError("Could not publish transition")


def test_a_transition_that_was_made_stands_though_it_was_not_announced() -> None:
    lost = LostMessages()
    machine = LenientStateMachine(Machine(), lost)
    machine.trigger_transition_by_id(1, True)
    assert machine.current_state[1] == "configuring" and lost.total == 1
    with pytest.raises(RCLError, match="no such transition"):
        machine.trigger_transition_by_id(3, True)


class Failing:
    """An executor whose callbacks raise, so many times."""

    def __init__(self, times: int, error: Exception) -> None:
        self.context, self.times, self.error = rclpy.get_default_context(), times, error

    def spin(self) -> None:
        if self.times:
            self.times -= 1
            raise self.error


def test_spinning_goes_on_but_not_through_nothing_but_failures() -> None:
    told: list[BaseException] = []
    few: Any = Failing(3, RCLError("failed to send response"))
    spin(few, failed=told.append)
    assert len(told) == 3
    destroyed: Any = Failing(2, _rclpy.InvalidHandle("cannot use Destroyable"))
    spin(destroyed, failed=told.append)
    assert destroyed.times == 0
    many: Any = Failing(10**6, RCLError("wait set"))
    with pytest.raises(RCLError):
        spin(many, failed=told.append)
    fault: Any = Failing(1, ValueError("of ours"))
    with pytest.raises(ValueError, match="of ours"):
        spin(fault, failed=told.append)
    tool: Any = Failing(52, ValueError("a bad message"))
    spin(tool, failed=told.append, tolerates=Exception, for_ever=True)
    assert tool.times == 0


def of_module(name: str, error: str = "RuntimeError") -> Callable[[], None]:
    """A thread's function that raises, in a module of this name."""
    space: dict[str, Any] = {"__name__": name}
    exec(f"def work():\n    raise {error}('cannot go on')", space)
    work: Callable[[], None] = space["work"]
    return work


@pytest.mark.parametrize("error", ["RuntimeError", "SystemExit"])
def test_a_thread_of_ours_that_ends_makes_its_node_begin_anew(
    node: Speaker, spun: list[BaseException], error: str
) -> None:
    assert node.request("activate")
    with watch_threads(node):
        threading.Thread(target=of_module("user_hal.runtime.loop", error), name="loop").start()
        wait_until(lambda: node.state == "unconfigured")
    items = {item.name: item for item in node.diagnostics.items()}
    assert "thread 'loop'" in items["lifecycle"].message
    assert items["lifecycle"].values["code"] == "thread_ended"
    assert not spun


def test_a_thread_of_somebody_else_that_ends_is_reported(node: Speaker) -> None:
    assert node.request("activate")
    with watch_threads(node):
        for error, name in (("RuntimeError", "worker"), ("SystemExit", "done")):
            work = of_module("some_sdk.worker", error)
            thread = threading.Thread(target=work, name=name)
            thread.start()
            thread.join()
    items = {item.name: item for item in node.diagnostics.items()}
    assert "thread 'worker'" in items["thread_ended"].message and node.state == "active"


def test_a_message_that_cannot_be_handled_ends_no_bridge() -> None:
    done: list[int] = []

    def handle(item: int) -> None:
        if item == 1:
            raise ValueError(item)
        done.append(item)

    dispatcher = Dispatcher("dispatcher")
    try:
        queue = dispatcher.queue(handle, 0, 10)
        dispatcher.offer(queue, 1)
        dispatcher.offer(queue, 2)
        wait_until(lambda: done == [2])
    finally:
        dispatcher.close()


def test_a_wait_that_fails_ends_no_reader(node: Speaker, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    found: list[Any] = []
    reader = TopicReader(node, "reader", on_error=lambda what, error: told.append(what))
    waiting = Refusing(TopicReader, "wait", monkeypatch)
    waiting.left = 2
    reader.subscribe(String, "heard", topics.profile(topics.REMOTE_REFUSAL.quality), found.append)
    try:
        wait_until(lambda: len(told) == 2)
        publisher = node.create_publisher(
            String, "heard", topics.profile(topics.REMOTE_REFUSAL.quality)
        )
        wait_until(lambda: publisher.get_subscription_count() > 0)

        def said() -> bool:
            publisher.publish(String(data="again"))
            return bool(found)

        wait_until(said)
    finally:
        reader.close()
