"""Services of a node, and their callers: by the executor, by a thread, or by a control loop."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent import futures
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.client import Client
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.impl.implementation_singleton import rclpy_implementation as _rclpy
from rclpy.node import Node
from rclpy.task import Future

from user_comm.diagnostics import code_of
from user_comm.lost_messages import RCLError, twice
from user_comm.subscriptions import BesideExecutor, TopicReader, WhileUnread
from user_core.errors import DeviceTimeout, SuiteError, TransportError


class Guard(Protocol):
    """What hears of a node's faults (:class:`user_comm.endpoints.CallbackGuard`)."""

    def report(self, what: str, error: BaseException) -> object:
        """A callback failed by a fault of this node."""


#: How soon a call notices that it is given up, or that a service has appeared.
_LOOK_S = 0.02


def ask(client: Client[Any, Any], request: Any) -> Future[Any]:
    """Send a request; the future gets the answer.

    Raises:
        TransportError: The middleware took it neither at once nor at a second attempt.
    """
    try:
        return twice(lambda: client.call_async(request))
    except RCLError as error:
        raise TransportError(f"service {client.srv_name}", got=error) from error


class PendingCall:
    """One call of a service, by whoever looks at it again and again.

    Args:
        client: Of the service.
        name: Of the service, for messages.
        request: What to send, as soon as the service is there.
        timeout_s: Longest wait for the service to appear, and again for its answer.
        on_answer: Called when the answer has come, by whoever takes it.
    """

    def __init__(
        self,
        client: Client[Any, Any],
        name: str,
        request: Any,
        timeout_s: float,
        on_answer: Callable[[], object] = lambda: None,
    ) -> None:
        self._client, self._name, self._request = client, name, request
        self._timeout_s, self._on_answer = timeout_s, on_answer
        self._end_s = time.monotonic() + timeout_s
        self._asked: Future[Any] | None = None
        self.look()

    def look(self) -> Any:
        """The answer; None while there is none.

        Raises:
            TransportError: The service is not offered, there was no answer in time, or the middleware did not take
                the request.
        """
        if self._asked is None and self._client.service_is_ready():
            self._asked = ask(self._client, self._request)
            self._asked.add_done_callback(lambda _: self._on_answer())
            self._end_s = time.monotonic() + self._timeout_s
        if self._asked is not None and self._asked.done():
            return self._asked.result()
        if time.monotonic() < self._end_s:
            return None
        if self._asked is None:
            raise TransportError(
                f"service {self._name}",
                got=f"nobody offers it within {self._timeout_s:g} s",
                hint="Is the node that offers it running, and configured?",
            )
        self.give_up()
        got = f"no answer within {self._timeout_s:g} s"
        raise TransportError(f"service {self._name}", got=got)

    def give_up(self) -> None:
        """The answer is not wanted any more."""
        if self._asked is not None:
            self._client.remove_pending_request(self._asked)


class ServiceClient:
    """Calls one service; see :meth:`user_comm.endpoints.Endpoints.client`."""

    def __init__(
        self, node: Node, name: str, service_type: type[Any], reader: TopicReader | None = None
    ) -> None:
        self._node, self._reader = node, reader
        self.client: Client[Any, Any] = node.create_client(
            service_type,
            name,
            callback_group=BesideExecutor() if reader else MutuallyExclusiveCallbackGroup(),
        )
        self.name = self.client.srv_name
        self.request_type: type[Any] = service_type.Request
        if reader is not None:
            reader.read_calls(self.client)

    def begin(
        self, request: Any, timeout_s: float, on_answer: Callable[[], object] = lambda: None
    ) -> PendingCall:
        """Call, and return at once; the answer is there when it is looked at later.

        Args:
            request: A ``request_type``.
            timeout_s: Longest wait for the service to appear, and again for its answer.
            on_answer: Called when the answer has come, by whoever takes it.
        """
        return PendingCall(self.client, self.name, request, timeout_s, on_answer)

    def call(self, request: Any, timeout_s: float, given_up: threading.Event | None = None) -> Any:
        """Call, and wait for the answer. Not from the thread that takes it, which is the executor's
        or the reader's: it would wait for itself.

        Args:
            request: A ``request_type``.
            timeout_s: Longest wait for the service to appear, and again for its answer.
            given_up: The call is given up once this is set, so that a node can end without
                waiting for a peer that is gone.

        Raises:
            TransportError: The service is not offered, there was no answer in time, or the call
                was given up.
        """
        given_up, answered = given_up or threading.Event(), threading.Event()
        pending = self.begin(request, timeout_s, answered.set)
        while (answer := pending.look()) is None:
            if given_up.is_set():
                pending.give_up()
                raise TransportError(f"service {self.name}", got="the call was given up")
            answered.wait(_LOOK_S)
        return answer

    def tell(self, request: Any) -> None:
        """Send a request without waiting for its answer; does nothing if the service is not there."""
        if self.client.service_is_ready():
            with suppress(TransportError):
                self.client.remove_pending_request(ask(self.client, request))

    def destroy(self) -> None:
        """Call it no longer."""
        if self._reader is not None:
            self._reader.forget_calls(self.client)
        self._node.destroy_client(self.client)


ServiceHandler = Callable[[Any, Any], Any]

#: Error code of an answer from a node that is not active.
NOT_ACTIVE = "not_active"


class ServiceServer:
    """One service of a node; see :meth:`user_comm.endpoints.Endpoints.serve`."""

    def __init__(
        self,
        node: Node,
        name: str,
        service_type: type[Any],
        handler: ServiceHandler,
        guard: Guard,
        may_answer: Callable[[], bool],
        *,
        in_thread: bool,
    ) -> None:
        self._node, self._handler, self._guard = node, handler, guard
        self._may_answer = may_answer
        self.service = node.create_service(
            service_type,
            name,
            self._answer_in_thread if in_thread else self._answer,
            # A group of its own: the group of a call that waits lets nothing else through.
            callback_group=MutuallyExclusiveCallbackGroup() if in_thread else None,
        )
        self.name = self.service.srv_name

    def destroy(self) -> None:
        """Offer it no longer. A handler that is at work in its thread is not waited for."""
        self._node.destroy_service(self.service)

    def _answer(self, request: Any, response: Any) -> Any:
        if not self._may_answer():
            fill_error(response, NOT_ACTIVE, f"{self._node.get_name()} is not active")
            return response
        try:
            self._handler(request, response)
        except BaseException as error:  # SystemExit of a plugin, too
            say_no(response, error, self._guard, self.name)
        return response

    async def _answer_in_thread(self, request: Any, response: Any) -> Any:
        done: Future[Any] = Future(executor=self._node.executor)

        def work() -> None:
            self._answer(request, response)
            done.set_result(None)

        # A daemon: a handler that hangs must not keep the process from ending.
        threading.Thread(target=work, name=f"service {self.name}", daemon=True).start()
        await done
        return response


@dataclass
class _Unanswered:
    """A request whose answer is not there yet: the response to fill in, what sends it, and until
    when its caller is left waiting."""

    response: Any
    send: Callable[[], object]
    end_s: float


class LoopService:
    """A service whose requests a control loop takes with its own reader, and answers when it has
    done what was asked: no other thread has to be scheduled on the way.

    While the loop does not read, being stuck or not there, the executor takes the requests.

    Args:
        node: Offers it.
        name: Of the service.
        service_type: Its type.
        begin: Hands a request to the loop and returns at once; the future gives what came of it.
        finish: ``finish(what came of it, response)`` fills the response in.
        guard: Of the node.
        may_answer: Whether the node's state allows it.
        reader: The loop's.
        timeout_s: After this long the caller is told that nothing came of it.
    """

    def __init__(
        self,
        node: Node,
        name: str,
        service_type: type[Any],
        begin: Callable[[Any], futures.Future[Any]],
        finish: Callable[[Any, Any], None],
        guard: Guard,
        may_answer: Callable[[], bool],
        *,
        reader: TopicReader,
        timeout_s: float,
    ) -> None:
        self._node, self._reader, self._timeout_s = node, reader, timeout_s
        self._begin, self._finish = begin, finish
        self._guard, self._may_answer = guard, may_answer
        self._unanswered: dict[futures.Future[Any], _Unanswered] = {}
        self.service = node.create_service(
            service_type, name, self._answer, callback_group=WhileUnread(reader)
        )
        self.name = self.service.srv_name
        reader.read_calls(self.service, self._take)
        clock = Clock(clock_type=ClockType.STEADY_TIME)
        self._timer = node.create_timer(min(1.0, timeout_s / 4), self._look, clock=clock)

    def destroy(self) -> None:
        """Offer it no longer. What is unanswered stays so."""
        self._reader.forget_calls(self.service)
        self._node.destroy_timer(self._timer)
        self._node.destroy_service(self.service)

    def _take(self, request: Any, header: Any) -> None:
        """In the loop's thread."""
        response = self.service.srv_type.Response()

        def send() -> None:
            with suppress(_rclpy.InvalidHandle):  # the node went first
                try:
                    self.service.send_response(response, header)
                except RCLError as error:  # the caller will ask again
                    self._guard.report(f"answer of {self.name}", error)

        self._serve(request, response, send)

    async def _answer(self, request: Any, response: Any) -> Any:
        """In the executor's thread."""
        done: Future[Any] = Future(executor=self._node.executor)
        self._serve(request, response, lambda: done.set_result(None))
        await done
        return response

    def _serve(self, request: Any, response: Any, send: Callable[[], object]) -> None:
        if not self._may_answer():
            fill_error(response, NOT_ACTIVE, f"{self._node.get_name()} is not active")
            send()
            return
        try:
            result = self._begin(request)
        except BaseException as error:
            say_no(response, error, self._guard, self.name)
            send()
            return
        self._unanswered[result] = _Unanswered(response, send, time.monotonic() + self._timeout_s)
        result.add_done_callback(self._done)

    def _done(self, result: futures.Future[Any]) -> None:
        """In the thread that has done it."""
        waiting = self._unanswered.pop(result, None)
        if waiting is None:  # its caller was told that it takes too long
            return
        try:
            self._finish(result.result(), waiting.response)
        except BaseException as error:
            say_no(waiting.response, error, self._guard, self.name)
        waiting.send()

    def _look(self) -> None:
        now_s = time.monotonic()
        for result, waiting in list(self._unanswered.items()):
            if now_s > waiting.end_s and self._unanswered.pop(result, None) is not None:
                late = DeviceTimeout(self.name, got=f"nothing within {self._timeout_s:g} s")
                say_no(waiting.response, late, self._guard, self.name)
                waiting.send()


def say_no(response: Any, error: BaseException, guard: Guard, service: str) -> None:
    """Answer with an error; what is no error of ours is a fault of the node, too."""
    if isinstance(error, SuiteError):
        fill_error(response, code_of(error), str(error))
        return
    guard.report(f"service {service}", error)
    fill_error(response, code_of(error), f"{type(error).__name__}: {error}")


def fill_error(response: Any, code: str, message: str) -> None:
    """Say no, in the fields that our services and ``std_srvs/Trigger`` have for it."""
    for name, value in (("success", False), ("error_code", code), ("message", message)):
        if hasattr(response, name):
            setattr(response, name, value)
