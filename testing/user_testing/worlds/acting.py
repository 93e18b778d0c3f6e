"""A node that listens to the others of a ROS graph, and what an outbox holds."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import rclpy
from rclpy.executors import SingleThreadedExecutor
from user_msgs.msg import ActorStatus, ReplayStatus

from user_comm import topics
from user_comm.converters import CONVERTERS
from user_comm.start import end_spinning
from user_comm.topics import interface_class, profile
from user_testing.waiting import TIMEOUT_S, wait_until

NAMESPACE = "/r0"


class GraphProbe:
    """A node that hears what the others say, and may say something itself."""

    def __init__(self) -> None:
        self.context = rclpy.Context()
        self.context.init()
        self.node = rclpy.create_node("probe", namespace=NAMESPACE, context=self.context)
        self.actor: ActorStatus | None = None
        self.replay: ReplayStatus | None = None
        self.results: list[Any] = []
        self.hear(topics.ACTOR_STATUS, lambda m: setattr(self, "actor", m))
        self.hear(topics.REPLAY_STATUS, lambda m: setattr(self, "replay", m))
        self.hear(topics.EPISODE_RESULT, lambda report: self.results.append(report.result))
        self._executor = SingleThreadedExecutor(context=self.context)
        self._executor.add_node(self.node)
        self._thread = threading.Thread(target=self._executor.spin, daemon=True)
        self._thread.start()

    def hear(self, topic: topics.Topic, callback: Callable[[Any], None]) -> None:
        converter = CONVERTERS.get(topic.type)
        decode = converter.decode if converter is not None else lambda message: message
        self.node.create_subscription(
            interface_class(topic.type),
            topic.name,
            lambda message: callback(decode(message)),
            profile(topic.quality),
        )

    def speaker(self, topic: topics.Topic) -> Callable[[Any], None]:
        publisher = self.node.create_publisher(
            interface_class(topic.type), topic.name, profile(topic.quality)
        )
        encode = CONVERTERS[topic.type].encode
        return lambda value: publisher.publish(encode(value))

    def call(self, name: str, kind: Any, **fields: Any) -> Any:
        """Call a service; returns its answer.

        As a person does by the command line: with a new client, and once more if the answer got
        lost, for DDS drops one that is ready before both ends know each other.
        """
        for _ in range(6):
            client = self.node.create_client(kind, name)
            self.until(client.service_is_ready, f"service {name}")
            future = client.call_async(kind.Request(**fields))
            end_s = time.monotonic() + TIMEOUT_S / 6
            while not future.done() and time.monotonic() < end_s:
                time.sleep(0.005)
            self.node.destroy_client(client)
            if future.done():
                return future.result()
        raise AssertionError(f"no answer of {name}")

    def until(self, condition: Callable[[], Any], what: str, timeout_s: float = TIMEOUT_S) -> None:
        """Wait for something; the error says how actor and store are."""
        wait_until(
            condition, what, timeout_s, seen=lambda: f"actor: {self.actor}\nreplay: {self.replay}"
        )

    def forget(self) -> None:
        """What was seen so far does not count."""
        self.actor = self.replay = None
        self.results.clear()

    def close(self) -> None:
        end_spinning(self._thread, self._executor, self.node)
        self.context.try_shutdown()


def committed_steps(outbox: Path) -> tuple[int, int]:
    """Steps ever committed by an outbox, and chunks that are still in it."""
    (file,) = outbox.glob("*/outbox.sqlite")
    with sqlite3.connect(file) as connection:
        (steps,) = connection.execute("SELECT value FROM meta WHERE key = 'steps'").fetchone()
        (chunks,) = connection.execute("SELECT count(*) FROM chunk").fetchone()
    connection.close()
    return int(steps), int(chunks)
