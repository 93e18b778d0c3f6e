"""A service that answers errors instead of raising them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.node import Node
from rclpy.task import Future

from user_comm.callback_guard import CallbackGuard
from user_comm.diagnostics import code_of
from user_core.errors import SuiteError

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
        guard: CallbackGuard,
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
        except SuiteError as error:  # an answer, not a fault of this node
            fill_error(response, code_of(error), str(error))
        except Exception as error:
            self._guard.report(f"service {self.name}", error)
            fill_error(response, code_of(error), f"{type(error).__name__}: {error}")
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


def fill_error(response: Any, code: str, message: str) -> None:
    """Say no, in the fields that our services and ``std_srvs/Trigger`` have for it."""
    for name, value in (("success", False), ("error_code", code), ("message", message)):
        if hasattr(response, name):
            setattr(response, name, value)
