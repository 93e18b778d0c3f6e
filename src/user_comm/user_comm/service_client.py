"""Calls of services, with a time limit."""

from __future__ import annotations

import threading
import time
from typing import Any

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.client import Client
from rclpy.node import Node

from user_core.errors import TransportError

#: How soon a call notices that it is given up, or that a service has appeared.
_LOOK_S = 0.02


class ServiceClient:
    """Calls one service; see :meth:`user_comm.endpoints.Endpoints.client`."""

    def __init__(self, node: Node, name: str, service_type: type[Any]) -> None:
        self._node = node
        self.client: Client[Any, Any] = node.create_client(
            service_type, name, callback_group=MutuallyExclusiveCallbackGroup()
        )
        self.name = self.client.srv_name
        self.request_type: type[Any] = service_type.Request

    def call(self, request: Any, timeout_s: float, given_up: threading.Event | None = None) -> Any:
        """Call, and wait for the answer. Not from the executor's own thread: it would wait for
        itself.

        Args:
            request: A ``request_type``.
            timeout_s: Longest wait for the service to appear, and again for its answer.
            given_up: Nobody wants the answer any more once this is set: whoever ends a node must
                not have to wait for a peer that is gone.

        Raises:
            TransportError: Nobody offers the service, there was no answer in time, or the call
                was given up.
        """
        given_up = given_up or threading.Event()
        end_s = time.monotonic() + timeout_s
        while not self.client.service_is_ready():
            if time.monotonic() >= end_s:
                raise TransportError(
                    f"service {self.name}",
                    got=f"nobody offers it within {timeout_s:g} s",
                    hint="Is the node that offers it running, and configured?",
                )
            if given_up.wait(_LOOK_S):
                raise TransportError(f"service {self.name}", got="the call was given up")
        answered = threading.Event()
        future = self.client.call_async(request)
        future.add_done_callback(lambda _: answered.set())
        end_s = time.monotonic() + timeout_s
        while not answered.wait(_LOOK_S):
            late = time.monotonic() >= end_s
            if late or given_up.is_set():
                self.client.remove_pending_request(future)
                came = f"no answer within {timeout_s:g} s" if late else "the call was given up"
                raise TransportError(f"service {self.name}", got=came)
        return future.result()

    def tell(self, request: Any) -> None:
        """Send a request whose answer nobody waits for; if the service is not there, to nobody."""
        if self.client.service_is_ready():
            self.client.remove_pending_request(self.client.call_async(request))

    def destroy(self) -> None:
        """Call it no longer."""
        self._node.destroy_client(self.client)
