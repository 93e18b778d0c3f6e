"""Node ``inference``: the policy of robots on other hosts.

The actor on each robot's host keeps everything else: lease, person, reward, episodes, recording.
What it sees comes as ``remote_observation``; what the policy proposes goes as ``remote_action``, and why it proposes
nothing as ``remote_refusal``.
"""

from __future__ import annotations

import math
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import partial
from typing import Any

from std_msgs.msg import String

from user_actor.config import InferenceConfig
from user_actor.inference import Client, InferenceServer
from user_actor.inference.compiling import Compiler, PreparedCalls
from user_actor.inference.graphs import CallGraphs
from user_actor.inference.local_versions import on_gpu
from user_actor.inference.preparing import Preparing
from user_actor.nodes.policy_feed import PolicyFeed
from user_comm import topics
from user_comm.converters import PolicyAnnouncement, RobotDescription
from user_comm.diagnostics import Item, Level
from user_comm.endpoints import TopicPublisher
from user_comm.lifecycle import LifecycleNode
from user_comm.logs import bridge_logging
from user_comm.run import run
from user_core.errors import ConfigError, PolicyError, SuiteError, TransportError
from user_core.interfaces import Policy
from user_core.policies import policy_config_hash
from user_core.runtime.gpu_turns import TOGETHER_S, FairWait, GpuTurns, file_of, turns_on
from user_core.runtime.scheduling import let_threads_of_torch_sleep, make_process_prompt
from user_core.types import ActionChunk, Observation, Task
from user_core.weight_plane.wire import GPU

_LOOK_S = 0.2
_JOIN_S = 4.0
#: A robot is told again why it is not answered after this time, seconds.
_TELL_AGAIN_S = 1.0
#: How long the robot that is heard first waits for the others: a policy is made for the spec that most of them have.
_GATHER_S, _GATHER_LOOK_S = 1.0, 0.05


class _Robot:
    """A robot that this node may act for.

    Attributes:
        name: Its namespace without slashes; empty: that of the node.
        description: What it said about itself.
        why_not: Why it is not answered; empty if it is.
    """

    def __init__(self, name: str, actions: TopicPublisher, refusals: TopicPublisher) -> None:
        self.name, self._actions, self._refusals = name, actions, refusals
        self.description: RobotDescription | None = None
        self.why_not = ""
        self._told_s = -math.inf

    def send(self, chunk: ActionChunk) -> None:
        if not self._actions.publish(chunk):
            raise TransportError(f"topic {self._actions.topic}", got="an inactive node")

    def tell(self, text: str) -> None:
        """Why it is not answered: said of each of its observations, it hears it once a second."""
        now_s = time.monotonic()
        if now_s - self._told_s > _TELL_AGAIN_S:
            self._told_s = now_s
            self._refusals.publish(String(data=text[:1000]))


class InferenceNode(LifecycleNode):
    """Acts in a thread of its own on the newest observations; begins once a spec is known."""

    Config = InferenceConfig

    def configure(self, stack: ExitStack) -> None:
        stack.callback(bridge_logging(self.get_logger(), "user_actor"))
        stack.callback(bridge_logging(self.get_logger(), "user_comm"))
        config: InferenceConfig = self.config
        self._server: InferenceServer | None = None
        self._feeds: dict[str, PolicyFeed] = {}
        self._announced: dict[str, PolicyAnnouncement] = {}
        self._made_for = self._as_robot = ""
        self._takes_versions = False
        self._prepared: dict[str, PreparedCalls] = {}
        self._robots: dict[str, _Robot] = {}
        for name in [robot.strip("/") for robot in config.robots] or [""]:
            self._listen_to(name)
        for topic in self._learners():
            self.listen(topics.POLICY, partial(self._on_policy, topic), name=topic, always=True)
        self.diagnostics.watch("inference", self._item)
        stack.callback(self.diagnostics.unwatch, "inference")

    def _listen_to(self, name: str) -> None:
        def full(topic: topics.Topic) -> str:
            return f"/{name}/{topic.name}" if name else topic.name

        robot = _Robot(
            name,
            self.advertise(topics.REMOTE_ACTION, name=full(topics.REMOTE_ACTION)),
            self.advertise(topics.REMOTE_REFUSAL, name=full(topics.REMOTE_REFUSAL)),
        )
        self._robots[name] = robot
        self.listen(
            topics.ROBOT_SPEC, partial(self._on_spec, robot),
            name=full(topics.ROBOT_SPEC), always=True,
        )  # fmt: skip
        self.listen(
            topics.REMOTE_OBSERVATION, partial(self._on_observation, robot),
            name=full(topics.REMOTE_OBSERVATION),
        )  # fmt: skip

    def activate(self, stack: ExitStack) -> None:
        self._stop = threading.Event()
        thread = threading.Thread(
            target=self._serve_all, args=(self._stop,), name="inference", daemon=True
        )
        thread.start()
        stack.callback(self._join_thread, thread)
        stack.callback(self._stop_serving)

    def _join_thread(self, thread: threading.Thread) -> None:
        """Wait for the serving thread, and leave it behind where a policy does not return in time."""
        thread.join(_JOIN_S)
        if thread.is_alive():
            self.get_logger().warning(
                f"a policy has not returned within {_JOIN_S:g} s (it is made, or a version of it is prepared): "
                "it is left behind"
            )

    # --- acting, in a thread of its own: a large model may take a minute to load

    def _serve_all(self, stop: threading.Event) -> None:
        try:
            while not stop.is_set():
                if not any(r.description for r in self._robots.values()):
                    stop.wait(_LOOK_S)
                    continue
                end_s = time.monotonic() + _GATHER_S
                while (
                    not all(r.description for r in self._robots.values())
                    and time.monotonic() < end_s
                    and not stop.wait(_GATHER_LOOK_S)
                ):
                    pass
                if not stop.is_set():
                    self._serve(stop)
        except BaseException as error:  # of a plugin, a configuration; SystemExit, too
            self.get_logger().error(f"inference ended: {error}")
            if not stop.is_set():
                self.fail(error)

    def _serve(self, stop: threading.Event) -> None:
        """Answer until the node is deactivated, or another spec counts than the one that the policy was made for."""
        config: InferenceConfig = self.config
        name = self.get_fully_qualified_name().strip("/").replace("/", ".")
        known = self._known()
        self._made_for = made_for = self._that_counts(known)
        of_robot, first = next((n, d) for n, d in known.items() if self._hash(d) == made_for)
        self._as_robot = of_robot or first.spec.robot
        task = Task(first.task, config.instruction)
        pass_in, coarse = _in_precision(config.precision), config.precision != "float32"
        prepared: dict[str, PreparedCalls] = {}
        batching = config.batching.for_robots(len(self._robots))
        if config.compile:
            compiler = Compiler(batching.most, first.spec, task, pass_in, coarse)
            prepared["compiled"], pass_in = compiler, compiler.pass_in
        if config.cuda_graphs != "never" and _may_use_a_gpu(config):
            graphs = CallGraphs(
                batching.most,
                first.spec,
                task,
                pass_in,
                coarse,
                config.cuda_graphs == "auto",
            )
            prepared["cuda_graphs"], pass_in = graphs, graphs.pass_in
        self._prepared, preparing = prepared, Preparing()

        def prepare(policy: Policy) -> None:
            for one in prepared.values():
                one.warm(policy)

        def size(count: int) -> int:
            return max((one.size(count) for one in prepared.values()), default=count)

        with ExitStack() as stack:
            stack.callback(preparing.close)
            stack.callback(self._forget)
            for topic in self._learners():
                feed = PolicyFeed(
                    config, first.spec, name, config.seed, task=task,
                    pass_in=pass_in, prepare=prepare, local=config.local_versions,
                    preparing=preparing,
                )  # fmt: skip
                self._feeds[topic] = stack.enter_context(feed)
                label = "" if topic == topics.POLICY.name else f" of {topic}"
                self.diagnostics.watch(feed.flow.name + label, feed.flow.item)
                stack.callback(self.diagnostics.unwatch, feed.flow.name + label)
            some = self._feeds[topics.POLICY.name]
            self._require_effects(some.holder.acting)
            turns, shared = self._turns(some), file_of(_device_of(some.holder.acting), "preparing")
            if shared is not None:
                preparing.share(shared)
            if turns is not None:
                for feed in self._feeds.values():
                    feed.local.pace = FairWait(turns, TOGETHER_S)
            server = InferenceServer(
                batching,
                needs_version=config.before_first_version == "wait",
                turns=turns,
                size=size,
                preparing=preparing,
            )
            self._server = server
            for robot in list(self._robots.values()):
                self._join(robot, server)
            if len(self._robots) > 1:
                server.measure()
                self.get_logger().info(
                    f"has room for {self._room(server)} of {len(self._robots)} robots, by what batches take"
                )
            self._takes_versions = (
                True  # only now: a version that is prepared would make all that is measured slow
            )
            for topic, feed in list(self._feeds.items()):
                feed.announced(self._announced.get(topic))
            # What was said while nobody was served yet.
            if not stop.is_set() and self._that_counts(self._known()) == made_for:
                server.run()

    def _room(self, server: InferenceServer) -> int:
        """How many of the robots can be answered in time."""
        return min(server.admission.capacity, len(self._robots))

    def _join(self, robot: _Robot, server: InferenceServer) -> None:
        """Have a robot answered, if it is one that the policy knows."""
        config, description = self.config, robot.description
        if description is None:
            return
        spec = description.spec
        try:
            if (found := self._hash(description)) != self._made_for:
                raise PolicyError(
                    f"robot {spec.robot!r} for the policy of this host",
                    got=f"observations and actions of configuration {found[:12]}",
                    expected=f"{self._made_for[:12]}, as of {self._as_robot!r}",
                    hint="One inference_node acts for robots with equal specs",
                )
            of_robot = config.versions.get(robot.name) or config.versions.get(description.task)
            feed = self._feeds.get(of_robot or topics.POLICY.name)
            if feed is None:  # what answered has just ended
                return
            task = Task(description.task, config.instruction)
            name = robot.name or spec.robot
            server.add(Client(name, spec, feed.holder, robot.send, robot.tell, task))
            robot.why_not = ""
            self.get_logger().info(f"answers for {name!r}")
        except SuiteError as error:
            robot.why_not = str(error)
            self.get_logger().error(f"does not answer {robot.name!r}: {error}")

    def _known(self) -> dict[str, RobotDescription]:
        """What robots have said about themselves, in the order in which they are configured."""
        return {r.name: d for r in self._robots.values() if (d := r.description)}

    def _that_counts(self, known: dict[str, RobotDescription]) -> str:
        """Hash of the configuration to act with, see :func:`configuration_that_counts`."""
        robots = [self._hash(description) for description in known.values()]
        announced = [a.config_hash for t in self._learners() if (a := self._announced.get(t))]
        return configuration_that_counts(robots, announced)

    def _learners(self) -> list[str]:
        """Topics on which versions are announced, the usual learner's first."""
        return list(dict.fromkeys((topics.POLICY.name, *self.config.versions.values())))

    def _hash(self, description: RobotDescription) -> str:
        choice = self.config.policy
        return policy_config_hash(choice.plugin, choice.params, description.spec)

    def _turns(self, feed: PolicyFeed) -> GpuTurns | None:
        """Who waits for answers: training on the same GPU, where that is asked for, and pieces of versions."""
        device, config = _device_of(feed.holder.acting), self.config
        turns = turns_on(device) if config.shares_gpu else None
        if turns is None and config.shares_gpu:
            self.get_logger().warning(f"shares_gpu has no effect: the policy acts on {device}")
        if turns is None and config.local_versions != "network" and str(device).startswith("cuda"):
            return GpuTurns()
        return turns

    def _require_effects(self, policy: Policy) -> None:
        """Say what a policy that is on no GPU makes of settings for one; raises ConfigError where no version would
        come."""
        config: InferenceConfig = self.config
        if config.local_versions == GPU and not on_gpu(policy):
            raise ConfigError(
                "local_versions", got=f"gpu, and {type(policy).__name__} has no weights on a GPU, in place",
                expected="auto, memory or network", hint="Or let it act on one: policy.params.device: cuda",
            )  # fmt: skip
        if config.cuda_graphs == "always" and not _may_use_a_gpu(config):
            self.get_logger().warning(
                f"cuda_graphs has no effect: the policy acts on {_device_of(policy)}"
            )
        if config.precision != "float32" and policy.acts_without_torch:
            text = f"precision has no effect: {type(policy).__name__} acts with numpy, in float32"
            self.get_logger().warning(text)

    def _forget(self) -> None:
        self._server, self._takes_versions = None, False
        self._feeds = {}
        for robot in self._robots.values():
            robot.why_not = ""

    def _stop_serving(self) -> None:
        self._stop.set()
        for one in self._prepared.values():
            one.give_up()
        if self._server is not None:
            self._server.stop()

    # --- what comes in and goes out

    def _on_spec(self, robot: _Robot, description: RobotDescription) -> None:
        before = robot.description
        if before is not None and before.spec_hash == description.spec_hash:
            return
        robot.description = description
        server = self._server
        if server is None:
            return
        others = [
            r for r in self._robots.values() if r is not robot and r.description and not r.why_not
        ]
        if self._that_counts(self._known()) != self._made_for:
            server.stop()
        elif before is None:
            self._join(robot, server)
        elif others:  # which go on, with the policy that there is
            server.remove(robot.name or before.spec.robot)
            self._join(robot, server)
        else:
            server.stop()

    def _on_policy(self, topic: str, announcement: PolicyAnnouncement) -> None:
        self._announced[topic] = announcement
        feed = self._feeds.get(topic)
        if feed is not None and self._takes_versions:
            feed.announced(announcement)
        server = self._server
        if (
            server is not None
            and announcement.config_hash != self._made_for
            and self._that_counts(self._known()) != self._made_for
        ):
            server.stop()  # the learner learns for other robots than most

    def _on_observation(self, robot: _Robot, observation: Observation) -> None:
        server, description = self._server, robot.description
        if robot.why_not:
            robot.tell(robot.why_not)
        elif server is not None and description is not None:
            server.offer(robot.name or description.spec.robot, observation)

    def _item(self) -> Item:
        server = self._server
        feed = self._feeds.get(topics.POLICY.name)
        if server is None or feed is None:
            return Item("inference", Level.WARN, "waits for the robot's spec", {})
        clients = list(server.clients.values())
        why = next((c.counts.last_error for c in clients if c.counts.last_error), "")
        why = why or next((r.why_not for r in self._robots.values() if r.why_not), "")
        why = why or server.why_late
        for one in self._prepared.values():
            why = why or ("" if one.quiet else one.why_not)
        passes = dict(server.batches)
        rows = sum(size * count for size, count in passes.items())
        values: dict[str, Any] = {
            "answered": sum(c.counts.answered for c in clients),
            "superseded": sum(c.counts.superseded for c in clients),
            "refused": sum(c.counts.refused for c in clients),
            "policy_version": feed.holder.number,
            "versions_come_by": feed.local.last,
            "prepared_in_s": round(server.prepared_in_s, 2),
            "inference_p50_ms": round(server.inference.percentile_ns(50) * 1e-6, 1),
            "inference_p99_ms": round(server.inference.percentile_ns(99) * 1e-6, 1),
        }
        if len(self._robots) > 1:
            values |= {
                "robots": len(server.admission.robots),
                "capacity": self._room(server),
                "turned_away": sum(c.counts.turned_away for c in clients),
                "late": sum(c.counts.late for c in clients),
                "late_while_prepared": sum(c.counts.late_preparing for c in clients),
                "batch_mean": round(rows / max(1, sum(passes.values())), 2),
            }
            for client in clients:
                values[f"{client.name} answer_p99_ms"] = round(
                    client.ages.percentile_ns(99) * 1e-6, 1
                )
        for kind, one in self._prepared.items():
            values[kind] = one.why_not or "yes"
            values[f"{kind} calls_not_warmed"] = one.unwarmed
            values[f"{kind} answers_without"] = one.passes_without
        return Item("inference", Level.WARN if why else Level.OK, why, values)


def configuration_that_counts(robots: Sequence[str], announced: Sequence[str]) -> str:
    """Which configuration an inference node acts with, whatever it heard first.

    Args:
        robots: Hashes of the configuration for each robot that is known, in the order of ``robots``; one at least.
        announced: Those that learners have announced versions of, the usual learner's first.

    Returns:
        The first announced one that a robot has, else that of most robots; of two that as many have, the one of the
        first robot.
    """
    for found in announced:
        if found in robots:
            return found
    return max(robots, key=list(robots).count)


def _device_of(policy: Any) -> Any:
    config = getattr(policy, "config", None)
    return getattr(policy, "device", getattr(config, "device", "cpu"))


def _may_use_a_gpu(config: InferenceConfig) -> bool:
    """Whether the policy is to act on one: what acts with numpy alone needs no torch."""
    device = config.policy.params.get("device", "cpu")
    return str(device).startswith("cuda")


def _in_precision(precision: str) -> Callable[[Policy], AbstractContextManager[Any]]:
    if precision == "float32":
        return nullcontext
    from user_core.policies.torch_policy import in_precision  # only here: it needs torch

    return lambda policy: in_precision(precision, _device_of(policy))


def main() -> None:
    """Entry point of the executable ``inference_node``."""
    make_process_prompt()
    let_threads_of_torch_sleep()
    sys.exit(run(InferenceNode, "inference"))


if __name__ == "__main__":
    main()
