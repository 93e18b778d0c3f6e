"""A hal node as a process of its own, with a mock robot that can be made to fail."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from user_msgs.msg import ActionChunk as ActionChunkMessage
from user_msgs.msg import SafetyStatus
from user_msgs.srv import AcquireLease, ReleaseLease, RenewLease, ResetRobot

from user_comm import topics
from user_comm.converters import action_chunk_to_message, observation_from_message
from user_comm.start import end_spinning
from user_comm.topics import interface_class, profile
from user_core.types import ActionChunk, Observation
from user_testing.processes import NodeProcess
from user_testing.waiting import TIMEOUT_S, wait_until

NAMESPACE = "/r0"
WATCHDOG_S = 0.3
PERIOD_NS = 20_000_000


class HalProcess(NodeProcess):
    """``hal`` with a mock robot in another process; ends with the ``with`` block in any case.

    Args:
        folder: For all its files.
        params: Its parameters beside those of the mock robot; None takes one of these away.
    """

    def __init__(self, folder: Path, params: dict[str, Any] | None = None) -> None:
        self.fault_file, self.log_file = folder / "faults.json", folder / "log.jsonl"
        known = {
            "robot": {
                "plugin": "mock",
                "params": {
                    "rate_hz": 50.0,
                    "fault_file": str(self.fault_file),
                    "log_file": str(self.log_file),
                },
            },
            "safety": {"watchdog_s": WATCHDOG_S},
            "loop": {"driver": {"backoff": {"longest_s": 0.5}}},
            "lease": {"required": False},
            "state_dir": str(folder / "state"),
            **(params or {}),
        }
        given = {name: value for name, value in known.items() if value is not None}
        super().__init__("user_hal.nodes.hal", given, folder, namespace=NAMESPACE)

    def fail(self, **faults: Any) -> None:
        """Make the robot fail, see ``MockFaults``; without arguments it is well again."""
        new = self.fault_file.with_suffix(".new")
        new.write_text(json.dumps(faults), encoding="utf-8")
        new.rename(self.fault_file)

    def reached(self, what: str = "") -> list[dict[str, Any]]:
        """What reached the robot so far."""
        if not self.log_file.exists():
            return []
        lines = self.log_file.read_text(encoding="utf-8").splitlines(keepends=True)
        if lines and not lines[-1].endswith("\n"):
            lines.pop()  # it is being written
        return [entry for entry in map(json.loads, lines) if not what or entry["what"] == what]


class Client:
    """A node beside the hal, in the domain of this moment: sees what it publishes, sends commands, calls services."""

    def __init__(self) -> None:
        self._context = rclpy.Context()
        self._context.init()
        self.node = Node("client", namespace=NAMESPACE, context=self._context)
        self.observations: list[Observation] = []
        self.statuses: list[SafetyStatus] = []
        self.diagnostics: dict[str, Any] = {}
        self._sequence = int(time.time() * 1e3)
        self.actions = self.node.create_publisher(
            ActionChunkMessage, "action", profile(topics.ACTION.quality)
        )
        self.hear(
            topics.OBSERVATION, lambda m: self.observations.append(observation_from_message(m))
        )
        self.hear(topics.SAFETY_STATUS, self.statuses.append)
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        self._clients: dict[str, Any] = {}
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self._thread = threading.Thread(target=self._executor.spin, daemon=True)
        self._thread.start()
        self._end = threading.Event()
        self._actor: threading.Thread | None = None

    def close(self) -> None:
        """End everything."""
        self.stop_driving()
        end_spinning(self._thread, self._executor, self.node, context=self._context)

    def hear(self, topic: topics.Topic, callback: Callable[[Any], None]) -> Any:
        """Subscribe to a topic of the table."""
        cls = interface_class(topic.type)
        return self.node.create_subscription(cls, topic.name, callback, profile(topic.quality))

    def send(self, chunk: ActionChunk) -> None:
        """Publish an action chunk as it is."""
        self.actions.publish(action_chunk_to_message(chunk))

    def command(self, rows: Any, **options: Any) -> None:
        """Publish a chunk with the next sequence number."""
        self._sequence += 1
        options.setdefault("sequence", self._sequence)
        options.setdefault("period_ns", PERIOD_NS)
        self.send(ActionChunk(rows, **options))

    def drive(self, rows: Any, **options: Any) -> None:
        """Publish the same chunk all the time, in another thread, as an actor does."""
        self.stop_driving()
        self._end.clear()

        def act() -> None:
            while not self._end.wait(PERIOD_NS * 1e-9):
                self.command(rows, **options)

        self._actor = threading.Thread(target=act, daemon=True)
        self._actor.start()

    def stop_driving(self) -> None:
        """Publish no more."""
        self._end.set()
        if self._actor is not None:
            self._actor.join()
            self._actor = None

    @property
    def status(self) -> Any:
        """The newest SafetyStatus; waits for the first."""
        self.wait_for(lambda: self.statuses)
        return self.statuses[-1]

    def diagnostic(self, item: str) -> Any:
        """The newest diagnostic of an item of the hal, or None."""
        return self.diagnostics.get(f"{NAMESPACE.lstrip('/')}/hal: {item}")

    def call(self, name: str, kind: Any, **fields: Any) -> Any:
        """Call a service of the hal."""
        client = self._clients.get(name)
        if client is None:
            client = self._clients[name] = self.node.create_client(kind, f"hal/{name}")
        assert client.wait_for_service(60.0), f"no service {name}"
        future = client.call_async(kind.Request(**fields))
        self.wait_for(future.done, 60.0)
        return future.result()

    def acquire(self, holder: str, duration_s: float = 5.0, preempt: bool = False) -> Any:
        """Ask for a lease."""
        return self.call(
            "acquire_lease", AcquireLease, holder=holder, duration_s=duration_s, preempt=preempt
        )

    def renew(self, token: int) -> Any:
        """Renew a lease."""
        return self.call("renew_lease", RenewLease, token=token)

    def release(self, token: int) -> Any:
        """Give a lease back."""
        return self.call("release_lease", ReleaseLease, token=token)

    def reset(self, seed: int = -1, token: int = 0) -> Any:
        """Reset the robot."""
        return self.call("reset", ResetRobot, seed=seed, lease_token=token)

    def wait_for(self, what: Callable[[], Any], timeout_s: float = TIMEOUT_S) -> float:
        """Wait until something is so; return how long it took, seconds."""
        began_s = time.monotonic()
        seen = lambda: f"status: {self.statuses[-1] if self.statuses else None}"  # noqa: E731
        wait_until(what, timeout_s=timeout_s, seen=seen, period_s=0.002)
        return time.monotonic() - began_s

    def wait_stopped(self, cause: str, timeout_s: float = TIMEOUT_S) -> None:
        """Wait for a safe stop with a cause."""
        self.wait_for(
            lambda: self.status.state == SafetyStatus.STOPPED and self.status.cause == cause,
            timeout_s,
        )

    def wait_active(self) -> None:
        """Wait until commands pass."""
        self.wait_for(lambda: self.status.state == SafetyStatus.ACTIVE)

    def _on_diagnostics(self, message: Any) -> None:
        for status in message.status:
            self.diagnostics[status.name] = status
