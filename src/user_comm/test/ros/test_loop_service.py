"""A service that a control loop answers, and a caller that takes the answer himself."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import pytest
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from std_srvs.srv import Trigger

from user_comm.services import LoopService, ServiceClient
from user_comm.subscriptions import TopicReader
from user_core.errors import DeviceError, TransportError
from user_testing.waiting import wait_until

SECOND_NS = 10**9


class Loop:
    """A loop that answers when it is told to, and the guard of its node."""

    def __init__(self, node: Node, name: str, timeout_s: float = 30.0) -> None:
        self.asked: list[Future[str]] = []
        self.faults: list[BaseException] = []
        self.active = True
        self.reader = TopicReader(node)
        self.service = LoopService(
            node, name, Trigger, self._begin, self._finish, self, lambda: self.active,
            reader=self.reader, timeout_s=timeout_s,
        )  # fmt: skip

    def _begin(self, request: Any) -> Future[str]:
        self.asked.append(Future())
        self.threads = threading.current_thread()
        return self.asked[-1]

    def _finish(self, text: str, response: Any) -> None:
        response.success, response.message = True, text

    def report(self, what: str, error: BaseException) -> None:
        self.faults.append(error)

    def look(self) -> None:
        self.reader.wait(SECOND_NS // 50)
        self.reader.take()


@pytest.fixture
def nodes() -> Iterator[tuple[Node, Node]]:
    context = rclpy.Context()
    rclpy.init(context=context)
    pair = tuple(
        Node(name, context=context, start_parameter_services=False) for name in ("robot", "actor")
    )
    yield pair  # type: ignore[misc]
    for node in pair:
        node.destroy_node()
    rclpy.shutdown(context=context)


@pytest.fixture
def spun(nodes: tuple[Node, Node]) -> Iterator[None]:
    """An executor spins the node of the service."""
    executor = SingleThreadedExecutor(context=nodes[0].context)
    executor.add_node(nodes[0])
    thread = threading.Thread(target=executor.spin)
    thread.start()
    yield
    executor.shutdown()
    thread.join()


def caller(node: Node, name: str) -> tuple[ServiceClient, TopicReader]:
    reader = TopicReader(node)
    return ServiceClient(node, name, Trigger, reader), reader


def test_two_loops_call_each_other_without_another_thread(nodes: tuple[Node, Node]) -> None:
    loop, (client, reader) = Loop(nodes[0], "each_other"), caller(nodes[1], "each_other")
    call = client.begin(Trigger.Request(), 30.0)

    def asked() -> bool:
        loop.look()
        return call.look() is None and len(loop.asked) == 1

    wait_until(asked, "the loop has taken the request")
    assert loop.threads is threading.current_thread()
    loop.asked[0].set_result("home")

    def answer() -> Any:
        reader.wait(SECOND_NS // 50)
        reader.take()
        return call.look()

    wait_until(answer, "the answer is there")
    assert (answer().success, answer().message) == (True, "home")
    refused = client.begin(Trigger.Request(), 30.0)
    wait_until(lambda: loop.look() or len(loop.asked) == 2, "the second request is taken")
    loop.asked[1].set_exception(DeviceError("robot", got="a wall"))
    call = refused
    wait_until(answer, "the second answer is there")
    assert not answer().success and "a wall" in answer().message and not loop.faults


def test_while_the_loop_does_not_read_the_executor_takes_requests(
    nodes: tuple[Node, Node], spun: None
) -> None:
    loop, (client, reader) = Loop(nodes[0], "unread"), caller(nodes[1], "unread")
    loop.active = False
    call = client.begin(Trigger.Request(), 30.0)

    def answer() -> Any:
        reader.wait(SECOND_NS // 50)
        reader.take()
        return call.look()

    wait_until(answer, "an answer of the executor")
    assert not answer().success and "not active" in answer().message
    loop.active = True
    call = client.begin(Trigger.Request(), 30.0)
    wait_until(lambda: call.look() is None and loop.asked, "the executor asks the loop")
    assert loop.threads is not threading.current_thread()
    loop.asked[0].set_result("home")
    wait_until(answer, "an answer")
    assert answer().message == "home"


def test_who_waits_too_long_is_told_and_a_late_answer_changes_nothing(
    nodes: tuple[Node, Node], spun: None
) -> None:
    loop, (client, reader) = Loop(nodes[0], "late", timeout_s=0.2), caller(nodes[1], "late")
    call = client.begin(Trigger.Request(), 30.0)

    def answer() -> Any:
        loop.look()  # takes the request, and never does what it asks for
        reader.wait(0)
        reader.take()
        return call.look()

    wait_until(answer, "an answer, since the timer is the executor's")
    assert not answer().success and "0.2 s" in answer().message
    loop.asked[0].set_result("home")
    assert not loop.faults


def test_a_call_that_nobody_offers_or_answers_ends(nodes: tuple[Node, Node]) -> None:
    client, _ = caller(nodes[1], "nobody")
    call = client.begin(Trigger.Request(), 0.05)
    with pytest.raises(TransportError, match="nobody offers it"):
        wait_until(call.look, "an error")
    loop = Loop(nodes[0], "nobody")
    call = client.begin(Trigger.Request(), 0.5)
    with pytest.raises(TransportError, match=r"no answer within 0\.5 s"):
        wait_until(call.look, "an error")
    assert not loop.asked
