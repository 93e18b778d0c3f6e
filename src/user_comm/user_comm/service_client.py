"""Calls of services, with a time limit."""

from __future__ import annotations

import threading
from typing import Any

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.client import Client
from rclpy.node import Node

from user_core.errors import TransportError


class ServiceClient:
    """Calls one service; see :meth:`user_comm.endpoints.Endpoints.client`."""

    def __init__(self, node: Node, name: str, service_type: type[Any]) -> None:
        self._node = node
        self.client: Client[Any, Any] = node.create_client(
            service_type, name, callback_group=MutuallyExclusiveCallbackGroup()
        )
        self.name = self.client.srv_name
        self.request_type: type[Any] = service_type.Request

    def call(self, request: Any, timeout_s: float) -> Any:
        """Call, and wait for the answer. Not from the executor's own thread: it would wait for
        itself.

        Raises:
            TransportError: Nobody offers the service, or there was no answer in time.
        """
        if not self.client.wait_for_service(timeout_sec=timeout_s):
            raise TransportError(
                f"service {self.name}",
                came=f"nobody offers it within {timeout_s:g} s",
                cure="Is the node that offers it running, and configured?",
            )
        answered = threading.Event()
        future = self.client.call_async(request)
        future.add_done_callback(lambda _: answered.set())
        if not answered.wait(timeout_s):
            self.client.remove_pending_request(future)
            raise TransportError(f"service {self.name}", came=f"no answer within {timeout_s:g} s")
        return future.result()

    def destroy(self) -> None:
        """Call it no longer."""
        self._node.destroy_client(self.client)
