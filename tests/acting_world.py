"""Real nodes as processes, and a witness beside them, for tests of the acting half."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import rclpy
import yaml
from rclpy.executors import SingleThreadedExecutor
from user_msgs.msg import ActorStatus, ReplayStatus

from user_comm import topics
from user_comm.converters import CONVERTERS
from user_comm.message_types import interface_class
from user_comm.ros_qos import profile

NAMESPACE = "/r0"


class Process:
    """One node in a process of its own."""

    def __init__(
        self,
        module: str,
        params: dict[str, Any],
        folder: Path,
        name: str = "",
        env: dict[str, str] | None = None,
    ) -> None:
        self.module, self.name = module, name or module.rpartition(".")[2]
        self._env = {**os.environ, **(env or {})}
        self._file = folder / f"{self.name}.yaml"
        document = {"/**": {"ros__parameters": {"autostart": True, **params}}}
        self._file.write_text(yaml.safe_dump(document), encoding="utf-8")
        self._log = open(folder / f"{self.name}.log", "a", encoding="utf-8")  # noqa: SIM115
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> Process:
        program = f"from {self.module} import main; import sys; sys.exit(main())"
        command = [sys.executable, "-c", program, "--ros-args", "-r", f"__ns:={NAMESPACE}"]
        self.process = subprocess.Popen(
            [*command, "--params-file", str(self._file)],
            stdout=self._log, stderr=subprocess.STDOUT, text=True, env=self._env,
        )  # fmt: skip
        return self

    def kill(self) -> None:
        """End it as a crash does."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def interrupt(self) -> int:
        """End it as Ctrl-C does; the exit status."""
        assert self.process is not None
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(timeout=30)

    def close(self) -> None:
        self.kill()
        self._log.close()

    @property
    def log(self) -> str:
        return Path(self._log.name).read_text(encoding="utf-8")


class Witness:
    """A node that sees what the others say, and may say something itself."""

    def __init__(self) -> None:
        self.context = rclpy.Context()
        self.context.init()
        self.node = rclpy.create_node("witness", namespace=NAMESPACE, context=self.context)
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
        client = self.node.create_client(kind, name)
        assert client.wait_for_service(10.0), f"no service {name}"
        future = client.call_async(kind.Request(**fields))
        self.until(future.done, f"answer of {name}")
        return future.result()

    def until(self, condition: Callable[[], Any], what: str, timeout_s: float = 45.0) -> None:
        end_s = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < end_s, (
                f"still not: {what}\nactor: {self.actor}\nreplay: {self.replay}"
            )
            time.sleep(0.005)

    def forget(self) -> None:
        """What was seen so far does not count."""
        self.actor = self.replay = None
        self.results.clear()

    def close(self) -> None:
        self._executor.shutdown()
        self._thread.join(5.0)
        self.node.destroy_node()
        self.context.try_shutdown()


def committed_steps(outbox: Path) -> tuple[int, int]:
    """Steps ever committed by an outbox, and chunks that are still in it."""
    (file,) = outbox.glob("*/outbox.sqlite")
    with sqlite3.connect(file) as connection:
        (steps,) = connection.execute("SELECT value FROM meta WHERE key = 'steps'").fetchone()
        (chunks,) = connection.execute("SELECT count(*) FROM chunk").fetchone()
    connection.close()
    return int(steps), int(chunks)
