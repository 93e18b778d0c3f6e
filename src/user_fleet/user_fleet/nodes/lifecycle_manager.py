"""Node ``lifecycle_manager``: brings the nodes of a deployment up, and back up."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState as ChangeStateService
from lifecycle_msgs.srv import GetState
from rclpy.client import Client

from user_comm import topics
from user_comm.diagnostics import Level
from user_comm.lifecycle import LifecycleNode
from user_comm.run import run
from user_comm.services import ask
from user_core.errors import ConfigError, TransportError
from user_core.reasons import Reason
from user_fleet.deployment import load_record
from user_fleet.lifecycle import (
    AskState,
    ChangeState,
    Kill,
    LifecycleManager,
    LifecycleManagerConfig,
    Memory,
    Mode,
    Order,
)
from user_fleet.lifecycle.manager import NodeReport
from user_fleet.processes import find_processes, is_alive

_STEP_S = 0.1
_TELL_S = 0.25
_REPORT_S = 1.0


def slowness() -> float:
    """By how much this machine is overloaded: two processes that want each core are usual."""
    return max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1) / 2.0)


class LifecycleManagerNode(LifecycleNode):
    """Watches ``/diagnostics`` and the life-cycle services, and calls the latter.

    It has no thread of its own and never waits: each call is answered by a callback, or
    given up in time.
    """

    Config = LifecycleManagerConfig

    def configure(self, stack: ExitStack) -> None:
        config: LifecycleManagerConfig = self.config
        deployment = load_record(config.deployment)
        mine = [
            process
            for process in deployment.processes
            if process.ros
            and process.executable != "lifecycle_manager"
            and (not config.host or process.host in ("", config.host))
        ]
        if not mine:
            raise ConfigError("deployment", got="no process for this host", expected="some")
        folder = Path(config.deployment).parent
        memory = Memory(
            Path(config.memory_file or folder / "lifecycle.json"),
            Mode.RUN if config.bring_up else Mode.PAUSED,
        )
        words = {str(folder / "config" / f"{p.name}.yaml"): p.name for p in mine}

        def find(names: Any) -> dict[str, int]:
            return {words[word]: pid for word, pid in find_processes(words).items()}

        self._manager = LifecycleManager(
            mine, config.times, memory, time.monotonic(), find, slowness, is_alive
        )
        self._by_node = {p.node_name.lstrip("/"): p.name for p in mine}
        self._ask: dict[str, Client[Any, Any]] = {}
        self._change: dict[str, Client[Any, Any]] = {}
        self._pending: dict[str, tuple[Client[Any, Any], Any]] = {}
        for node in self._manager.nodes.values():
            name = node.spec.node_name
            self._ask[node.name] = self._lasting(stack, GetState, f"{name}/get_state")
            self._change[node.name] = self._lasting(
                stack, ChangeStateService, f"{name}/change_state"
            )
        self._said = dict.fromkeys(self._manager.nodes, "")
        self.listen(topics.DIAGNOSTICS, self._on_diagnostics, always=True)
        self.serve(topics.PAUSE, self._on_pause)
        self.serve(topics.RESUME, self._on_resume)
        self.serve(topics.SHUT_DOWN, self._on_shut_down)

    def activate(self, stack: ExitStack) -> None:
        self.every(_STEP_S, self._step)
        self.every(_TELL_S, self._tell_news)
        self.every(_REPORT_S, self._report)
        stack.callback(self._forget_calls)

    def _lasting(self, stack: ExitStack, kind: Any, name: str) -> Client[Any, Any]:
        client = self.create_client(kind, name)
        stack.callback(self.destroy_client, client)
        return client

    # --- what comes in ------------------------------------------------------------------

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            node, _, item = status.name.partition(": ")
            if item != "lifecycle" or node not in self._by_node:
                continue
            values = {entry.key: entry.value for entry in status.values}
            name = self._by_node[node]
            self._manager.complained(name, Reason(values.get("code", ""), values.get("cause", "")))
            if "state" in values:
                self._manager.heartbeat(name, values["state"], time.monotonic())

    def _on_pause(self, request: Any, response: Any) -> None:
        self._manager.pause()
        response.success, response.message = True, "all nodes are being deactivated"

    def _on_resume(self, request: Any, response: Any) -> None:
        self._manager.resume()
        response.success, response.message = True, "all nodes are being brought up"

    def _on_shut_down(self, request: Any, response: Any) -> None:
        self._manager.shut_down()
        response.success, response.message = True, "all nodes are being shut down"

    # --- what goes out ------------------------------------------------------------------

    def _step(self) -> None:
        for order in self._manager.step(time.monotonic()):
            self._carry_out(order)

    def _carry_out(self, order: Order) -> None:
        if isinstance(order, Kill):
            self.get_logger().error(f"{order.node} {order.reason}: killing process {order.pid}")
            with contextlib.suppress(ProcessLookupError):
                os.kill(order.pid, signal.SIGKILL)
        elif isinstance(order, AskState):
            self._call(order.node, self._ask, GetState.Request(), self._state_answered)
        elif isinstance(order, ChangeState):
            self.get_logger().info(f"{order.transition} {order.node}")
            request = ChangeStateService.Request(transition=Transition(id=order.number))
            self._call(order.node, self._change, request, self._changed)

    def _call(self, name: str, clients: Any, request: Any, answer: Any) -> None:
        self._drop(name)
        client = clients[name]
        if not client.service_is_ready():
            self._manager.unanswered(name)
            return
        try:
            future = ask(client, request)
        except TransportError:
            self._manager.unanswered(name)
            return
        self._pending[name] = (client, future)
        future.add_done_callback(partial(self._answered, name, answer))

    def _drop(self, name: str) -> None:
        """A node that has not answered the last call by now will not answer it."""
        client, future = self._pending.pop(name, (None, None))
        if client is not None and not future.done():
            client.remove_pending_request(future)

    def _answered(self, name: str, answer: Any, future: Any) -> None:
        if self._pending.get(name, (None, None))[1] is not future:
            return  # too late, it was given up
        del self._pending[name]
        if future.cancelled() or future.exception() is not None:
            self._manager.unanswered(name)
            return
        answer(name, future.result())
        if self.is_active:
            self._step()

    def _state_answered(self, name: str, response: Any) -> None:
        self._manager.state_answered(name, response.current_state.label, time.monotonic())

    def _changed(self, name: str, response: Any) -> None:
        self._manager.changed(name, response.success, time.monotonic())

    def _forget_calls(self) -> None:
        for name in list(self._pending):
            self._drop(name)

    def _tell_news(self) -> None:
        """Log and publish what has changed."""
        for report in self._manager.report(time.monotonic()):
            now = f"{report.state}; {report.reason}" if report.reason else report.state
            if now == self._said[report.name]:
                continue
            self._said[report.name] = now
            if report.serious:
                self.get_logger().warning(f"{report.name}: {now}")
            else:
                self.get_logger().info(f"{report.name}: {now}")
            self._show(report)

    def _report(self) -> None:
        for report in self._manager.report(time.monotonic()):
            self._show(report)

    def _show(self, report: NodeReport) -> None:
        level = Level.ERROR if report.serious else Level.WARN if report.reason else Level.OK
        values = {
            "node": report.node,
            "state": report.state,
            "since_s": f"{report.since_s:.1f}",
            "failures": report.failures,
            "pid": report.pid,
            "mode": self._manager.mode.value,
            "reason": report.reason.code,
        }
        text = str(report.reason) or report.state
        self.diagnostics.report(f"managed {report.name}", level, text, values)


def main() -> None:
    """Entry point of the executable ``lifecycle_manager``."""
    sys.exit(run(LifecycleManagerNode, "lifecycle_manager"))


if __name__ == "__main__":
    main()
