"""Node ``inference``: the policy of a robot on another host.

The actor on the robot's host keeps everything else: lease, person, reward, episodes, recording.
What it sees comes as ``remote_observation``; what the policy proposes goes as ``remote_action``.
"""

from __future__ import annotations

import sys
import threading
from contextlib import ExitStack

from user_actor.config import InferenceConfig
from user_actor.loop.inference_server import InferenceServer
from user_actor.nodes.policy_feed import PolicyFeed
from user_comm import topics
from user_comm.converters import PolicyAnnouncement, RobotDescription
from user_comm.diagnostics import Item, Level
from user_comm.lifecycle import LifecycleNode
from user_comm.logs import bridge_logging
from user_comm.run import run
from user_core.errors import TransportError
from user_core.runtime.gpu_turns import GpuTurns, turns_on
from user_core.runtime.scheduling import make_process_prompt
from user_core.types import ActionChunk, Observation, Task

_LOOK_S = 0.2
_JOIN_S = 4.0


class InferenceNode(LifecycleNode):
    """Acts in a thread of its own on the newest observation; begins once the spec is known."""

    Config = InferenceConfig

    def configure(self, stack: ExitStack) -> None:
        stack.callback(bridge_logging(self.get_logger(), "user_actor"))
        stack.callback(bridge_logging(self.get_logger(), "user_comm"))
        self._server: InferenceServer | None = None
        self._feed: PolicyFeed | None = None
        self._announced: PolicyAnnouncement | None = None
        self._description: RobotDescription | None = None
        self._actions = self.advertise(topics.REMOTE_ACTION)
        self.listen(topics.ROBOT_SPEC, self._on_spec, always=True)
        self.listen(topics.POLICY, self._on_policy, always=True)
        self.listen(topics.REMOTE_OBSERVATION, self._on_observation)
        self.diagnostics.watch("inference", self._item)
        stack.callback(self.diagnostics.unwatch, "inference")

    def activate(self, stack: ExitStack) -> None:
        self._stop = threading.Event()
        thread = threading.Thread(
            target=self._serve_all, args=(self._stop,), name="inference", daemon=True
        )
        thread.start()
        stack.callback(thread.join, _JOIN_S)  # a policy that hangs is left behind
        stack.callback(self._stop_serving)

    # --- acting, in a thread of its own: a large model may take a minute to load

    def _serve_all(self, stop: threading.Event) -> None:
        try:
            while not stop.is_set():
                description = self._description
                if description is None:
                    stop.wait(_LOOK_S)
                else:
                    self._serve(description, stop)
        except BaseException as error:  # of a plugin, a configuration; SystemExit, too
            self.get_logger().error(f"inference ended: {error}")
            if not stop.is_set():
                self.fail(error)

    def _serve(self, description: RobotDescription, stop: threading.Event) -> None:
        """Answer until the node is deactivated, or the robot has become another."""
        config: InferenceConfig = self.config
        name = self.get_fully_qualified_name().strip("/").replace("/", ".")
        with ExitStack() as stack:
            task = Task(description.task, config.instruction)
            feed = stack.enter_context(
                PolicyFeed(config, description.spec, name, config.seed, task=task)
            )
            self.diagnostics.watch(feed.flow.name, feed.flow.item)
            stack.callback(self.diagnostics.unwatch, feed.flow.name)
            server = InferenceServer(
                description.spec, feed.holder, self._send,
                task=task,
                needs_version=config.before_first_version == "wait",
                turns=self._turns(feed) if config.shares_gpu else None,
            )  # fmt: skip
            self._feed, self._server = feed, server
            stack.callback(self._forget)
            feed.announced(self._announced)
            if not stop.is_set() and description is self._description:
                self.get_logger().info(f"answers for {description.spec.robot!r}")
                server.run()

    def _turns(self, feed: PolicyFeed) -> GpuTurns | None:
        policy = feed.holder.current().policy
        device = getattr(
            policy, "device", getattr(getattr(policy, "config", None), "device", "cpu")
        )
        turns = turns_on(device)
        if turns is None:
            self.get_logger().warning(f"shares_gpu has no effect: the policy acts on {device}")
        return turns

    def _forget(self) -> None:
        self._feed = self._server = None

    def _stop_serving(self) -> None:
        self._stop.set()
        if self._server is not None:
            self._server.stop()

    # --- what comes in and goes out

    def _on_spec(self, description: RobotDescription) -> None:
        before, self._description = self._description, description
        if before is None or before.spec_hash == description.spec_hash:
            self._description = before or description
        elif self._server is not None:
            self._server.stop()

    def _on_policy(self, announcement: PolicyAnnouncement) -> None:
        self._announced = announcement
        if self._feed is not None:
            self._feed.announced(announcement)

    def _on_observation(self, observation: Observation) -> None:
        if self._server is not None:
            self._server.offer(observation)

    def _send(self, chunk: ActionChunk) -> None:
        if not self._actions.publish(chunk):
            raise TransportError(f"topic {self._actions.topic}", got="an inactive node")

    def _item(self) -> Item:
        server, feed = self._server, self._feed
        if server is None or feed is None:
            return Item("inference", Level.WARN, "waits for the robot's spec", {})
        counts = server.counts
        level = Level.WARN if counts.last_error else Level.OK
        return Item(
            "inference",
            level,
            counts.last_error,
            {
                "answered": counts.answered,
                "superseded": counts.superseded,
                "refused": counts.refused,
                "policy_version": feed.holder.number,
                "inference_p50_ms": round(server.inference.percentile_ns(50) * 1e-6, 1),
                "inference_p99_ms": round(server.inference.percentile_ns(99) * 1e-6, 1),
            },
        )


def main() -> None:
    """Entry point of the executable ``inference_node``."""
    make_process_prompt()
    sys.exit(run(InferenceNode, "inference"))


if __name__ == "__main__":
    main()
