"""Node ``actor``: drives one robot, and sends what it experiences to a replay store."""

from __future__ import annotations

import dataclasses
import os
import sys
import threading
import time
from contextlib import ExitStack
from typing import Any

from std_msgs.msg import String
from user_msgs.msg import ActorStatus, SafetyStatus

from user_actor.config import ActorConfig
from user_actor.loop import ActorLoop, EpisodeLoop, PolicyHolder
from user_actor.loop.acting.fallback import Fallback, policy_of_file
from user_actor.loop.acting.policy import FixedPolicy, history_of
from user_actor.loop.acting.remote import InferenceLink
from user_actor.loop.actor_loop import WAS_ASKED_BACK
from user_actor.loop.stats import LoopState, LoopStatus
from user_actor.nodes.lease import LeaseKeeper
from user_actor.nodes.policy_feed import AnnouncedVersions, PolicyFeed
from user_actor.nodes.ports import RemoteInference, RosRobot, RosTeleop, WaitedObservations
from user_actor.outbox import Outbox, OutboxStatus
from user_comm import topics
from user_comm.converters import (
    EpisodeReport,
    Intervention,
    PolicyAnnouncement,
    RobotDescription,
    set_stamp,
    trajectory_chunk_to_cdr,
)
from user_comm.diagnostics import Flow, FlowFigures, Level
from user_comm.lifecycle import LifecycleNode
from user_comm.logs import bridge_logging
from user_comm.run import run
from user_comm.subscriptions import TopicReader
from user_core.errors import ConfigError, DeviceError, DeviceTimeout, TransportError
from user_core.reasons import NO_REASON, NODE_WAITS, POLICY_PULL, Reason
from user_core.runtime.clock import Clock
from user_core.runtime.processes.grants import grant_of_environment
from user_core.runtime.scheduling import hurry_middleware, make_process_prompt, urgent_thread
from user_core.specs import RobotSpec
from user_core.types import ActionChunk, EpisodeResult, Task, TrajectoryAck, TrajectoryChunk

_LOOK_S = 0.2
#: Longest wait for the acting thread: a policy, a reward or a disk may hang.
_JOIN_S = 4.0

_STATES = {
    LoopState.WAITING: ActorStatus.WAITING,
    LoopState.RESETTING: ActorStatus.RESETTING,
    LoopState.RUNNING: ActorStatus.RUNNING,
    LoopState.CLOSING: ActorStatus.RUNNING,
    LoopState.PAUSED: ActorStatus.PAUSED,
}


def outbox_figures(outbox: OutboxStatus) -> FlowFigures:
    """Trajectories as a flow, for diagnostics."""
    return FlowFigures(
        bytes=outbox.delivered_bytes,
        link_bytes_s=outbox.link_bytes_s,
        round_trip_s=outbox.round_trip_s,
        base_s=outbox.base_s,
        window_bytes=outbox.window_bytes,
        backlog_bytes=outbox.pending_bytes,
        backlog_age_s=outbox.oldest_age_s,
        again=outbox.resent,
        refused=outbox.aside_chunks,
        coding=outbox.coding,
    )


def actor_status_to_message(
    loop: LoopStatus | None, outbox: OutboxStatus, waiting_for: Reason = NO_REASON
) -> ActorStatus:
    """Encode; ``loop`` is None while there is none, ``waiting_for`` says why."""
    message = ActorStatus()
    set_stamp(message.header.stamp, time.time_ns())
    warnings = [*outbox.warnings, *(() if loop is None else loop.warnings)]
    message.warnings = [warning.text for warning in warnings]
    message.warning_codes = [warning.code for warning in warnings]
    message.outbox_chunks = outbox.pending_chunks
    message.outbox_bytes = outbox.pending_bytes
    message.outbox_age_s = float(outbox.oldest_age_s)
    message.outbox_fill = float(outbox.fill)
    message.success_rate = message.last_return = float("nan")
    if loop is None:
        message.state = ActorStatus.WAITING
        message.code, message.detail = waiting_for.code, waiting_for.text
        return message
    message.state = _STATES[loop.state]
    message.code, message.detail = loop.reason.code, loop.reason.text
    message.steps, message.episodes = loop.steps, loop.episodes
    message.success_rate = float(loop.success_rate)
    message.last_return = float(loop.last_return)
    message.rate_hz = float(loop.rate_hz)
    message.lateness_p99_ms = float(loop.lateness_p99_ms)
    message.overhead_p50_ms = float(loop.overhead_p50_ms)
    return message


# --- The node ---


class ActorNode(LifecycleNode):
    """Acts in a thread of its own while it is active; the executor only hands over.

    It begins once the robot's spec is known, and again with another one. What the outbox holds
    from earlier is delivered meanwhile.
    """

    Config = ActorConfig

    def configure(self, stack: ExitStack) -> None:
        config: ActorConfig = self.config
        stack.callback(bridge_logging(self.get_logger(), "user_actor"))
        stack.callback(bridge_logging(self.get_logger(), "user_comm"))
        self._name = config.name or self.get_fully_qualified_name().strip("/").replace("/", ".")
        self._description: RobotDescription | None = None
        self._robot: RosRobot | None = None
        self._teleop: RosTeleop | None = None
        self._loop: ActorLoop | None = None
        self._given_up = NO_REASON
        self._finish_s: float | None = None  # it was asked to finish; by the monotonic clock
        self._feed: PolicyFeed | None = None
        self._inference: InferenceLink | None = None
        self._announced: PolicyAnnouncement | None = None
        self._versions_heard = AnnouncedVersions()
        self._safety: Any = None
        self._heard = False
        self._outbox = Outbox(config.outbox, self._name)
        stack.callback(self._outbox.close)
        self._show(stack, Flow("trajectory", lambda: outbox_figures(self._outbox.status())))
        self._actions = self.advertise(topics.ACTION)
        self._trajectory = self.advertise(topics.TRAJECTORY)
        self._results = self.advertise(topics.EPISODE_RESULT)
        self._status = self.advertise(topics.ACTOR_STATUS, always=True)
        self._remote = self.advertise(topics.REMOTE_OBSERVATION)
        self._reader = TopicReader(self)
        stack.callback(self._reader.close)
        self._connect()
        self._observations = self._reader.listen(topics.OBSERVATION, lambda observation: None)
        self.diagnostics.watch("observations", self._observations.counts.item)
        stack.callback(self.diagnostics.unwatch, "observations")
        self.every(config.status_period_s, self._publish_status, always=True)
        self.every(_LOOK_S, self._look_for_listeners)

    def activate(self, stack: ExitStack) -> None:
        hurry_middleware()
        self._outbox.deliver_to(self._deliver)
        stack.callback(self._outbox.deliver_to, None)
        stack.callback(self._outbox.flush, 5.0)
        self._lease.start()
        stack.callback(self._lease.stop)
        self._stop = threading.Event()
        self._finish_s = None
        thread = threading.Thread(target=self._act, args=(self._stop,), name="actor", daemon=True)
        thread.start()
        stack.callback(_join, thread)
        stack.callback(self._stop_acting, "the actor is deactivated")

    def reconfigure(self, old: ActorConfig, new: ActorConfig) -> None:
        """Limits of episodes hold from the next one on."""
        loop = getattr(self, "_loop", None)
        if loop is not None:
            loop.episodes.limit_episodes(new.loop.max_episode_steps, new.loop.max_episode_s)

    # --- acting, in a thread of its own -------------------------------------------------

    def _act(self, stop: threading.Event) -> None:
        try:
            while not stop.is_set():
                description = self._description
                if description is None or self._finish_s is not None:
                    stop.wait(_LOOK_S)
                else:
                    self._act_with(description, stop)
        except BaseException as error:  # of a plugin, a configuration, the disk; SystemExit, too
            self.get_logger().error(f"acting ended: {error}")
            if stop.is_set():
                return
            if self._given_up:
                self.end(self._given_up)
            else:
                self.fail(error)

    def _act_with(self, description: RobotDescription, stop: threading.Event) -> None:
        """Act until the node is deactivated, or the robot has become another."""
        config: ActorConfig = self.config
        spec = description.spec
        self._outbox.prepare(spec, config.robot or spec.robot, description.task)
        with ExitStack() as stack:
            box = WaitedObservations(self._reader, self._observations)
            robot = RosRobot(
                spec, box, self._actions, self._reset, self._lease, config.loop.reset_timeout_s
            )
            stack.callback(robot.close)
            box.accept = robot.on_observation
            self._lease.on_lost = robot.on_lease_lost
            robot.on_safety(self._safety)
            teleop = RosTeleop(spec.lockstep)
            policy = self._policy(spec, stack)
            reward = config.reward.build("rewards", path="reward")
            episodes = EpisodeLoop(
                robot, policy, reward, self._outbox, config.loop, teleop=teleop,
                task=self._task(),
                on_result=lambda result: self._tell(result, description),
                fallback=self._fallback(spec, stack) if isinstance(policy, InferenceLink) else None,
            )  # fmt: skip
            loop = ActorLoop(episodes)
            service = f"{self.get_fully_qualified_name()}/go"
            loop.start.how = f"`user go`, or ros2 service call {service} std_srvs/srv/Trigger"
            inference = policy if isinstance(policy, InferenceLink) else None
            self._inference, self._robot, self._teleop, self._loop = inference, robot, teleop, loop
            stack.callback(self._forget_loop)
            if self._finish_s is not None:  # asked meanwhile
                loop.finish(max(0.0, self._finish_s - time.monotonic()))
            if not stop.is_set() and description is self._description:
                try:
                    with urgent_thread():
                        loop.run()
                finally:
                    self._given_up = loop.given_up
                # All episodes are recorded, or the robot was asked back.
                while (loop.is_done or self._finish_s is not None) and not stop.is_set():
                    stop.wait(_LOOK_S)

    def _policy(self, spec: RobotSpec, stack: ExitStack) -> PolicyHolder | InferenceLink | None:
        """What acts: a policy here, or one elsewhere, or a person."""
        config: ActorConfig = self.config
        if config.loop.mode == "demonstration":
            return None
        if config.remote.enabled:
            history = history_of(config.policy, spec)
            remote = stack.enter_context(
                RemoteInference(config.remote, spec, self._remote, history)
            )
            self._show(stack, remote.flow)
            self.diagnostics.watch("remote inference", remote.item)
            stack.callback(self.diagnostics.unwatch, "remote inference")
            return remote.link
        return self._versions(spec, stack)

    def _versions(self, spec: RobotSpec, stack: ExitStack) -> PolicyHolder:
        """The learner's versions, which act here."""
        config: ActorConfig = self.config
        seed, steps = config.loop.exploration.seed, self._outbox.total_steps
        feed = stack.enter_context(PolicyFeed(config, spec, self._name, seed, steps, self._task()))
        self._feed = feed
        self._show(stack, feed.flow)
        feed.announced(self._announced)
        return feed.holder

    def _task(self) -> Task:
        description = self._description
        return Task("" if description is None else description.task, self.config.instruction)

    def _fallback(self, spec: RobotSpec, stack: ExitStack) -> Fallback | None:
        """What acts here while the policy on the other host does not answer."""
        config: ActorConfig = self.config
        chosen = config.remote.fallback
        if not chosen.weights:
            return None
        policies: FixedPolicy | PolicyHolder
        if chosen.weights == "versions":
            policies = self._versions(spec, stack)
        else:
            choice = chosen.choice(config.policy)
            policies = policy_of_file(chosen.weights, choice, spec, self._task())
        return Fallback(chosen, policies, Clock(), grace_s=config.remote.silence_s)

    def _show(self, stack: ExitStack, flow: Flow) -> None:
        self.diagnostics.watch(flow.name, flow.item)
        stack.callback(self.diagnostics.unwatch, flow.name)

    def _stop_acting(self, why: str) -> None:
        self._stop.set()
        if self._loop is not None:
            self._loop.stop(why)

    def _forget_loop(self) -> None:
        self._robot = self._teleop = self._feed = self._inference = None
        self._loop = None

    def _tell(self, result: EpisodeResult, description: RobotDescription) -> None:
        robot = self.config.robot or description.spec.robot
        self._results.publish(EpisodeReport(result, robot, description.task))

    # --- what comes in, in the executor's thread ----------------------------------------

    def _connect(self) -> None:
        config: ActorConfig = self.config
        self.listen(topics.ROBOT_SPEC, self._on_spec, always=True)
        self.listen(topics.SAFETY_STATUS, self._on_safety, always=True)
        self.listen(topics.INTERVENTION, self._on_intervention)
        self.listen(topics.TRAJECTORY_ACK, self._on_ack, always=True)
        self.listen(topics.POLICY, self._on_policy, always=True)
        if config.remote.enabled:
            self.listen(topics.REMOTE_ACTION, self._on_remote_action)
            self.listen(topics.REMOTE_REFUSAL, self._on_remote_refusal)
        if config.loop.max_backlog_steps:
            self.listen(topics.LEARNER_BACKLOG, self._on_backlog, always=True)
        self.serve(topics.GO, self._on_go, always=True)
        self.serve(topics.EVALUATE, self._on_evaluate, always=True)
        self.serve(topics.FINISH, self._on_finish, always=True)
        self._reset = self.client(topics.RESET, config.hal, self._reader)
        self._lease = LeaseKeeper(
            config.lease,
            self._name,
            self.client(topics.ACQUIRE_LEASE, config.hal),
            self.client(topics.RENEW_LEASE, config.hal),
            self.client(topics.RELEASE_LEASE, config.hal),
            grant_of_environment(),
        )

    def _on_spec(self, description: RobotDescription) -> None:
        before, self._description = self._description, description
        if before is None or before.spec_hash == description.spec_hash:
            self._description = before or description
        elif self._loop is not None:
            self._loop.stop("the robot has become another")

    def _on_safety(self, status: Any) -> None:
        self._safety = status
        if status.state == SafetyStatus.EMERGENCY and self._loop is not None:
            self._loop.start.withdraw("there was an emergency stop")
        if self._robot is not None:
            self._robot.on_safety(status)

    def _on_go(self, request: Any, response: Any) -> None:
        if self._loop is None:
            raise DeviceError("go", got="the robot was not heard of yet" if self.is_active else
                              "an actor that is not active", expected="a robot that is ready",
                              hint="Say it again then")  # fmt: skip
        response.message, response.success = self._loop.start.go(), True
        self.get_logger().info(f"a person says go: {response.message}")

    def _on_finish(self, request: Any, response: Any) -> None:
        limit_s = float(request.limit_s)
        if not 0.0 <= limit_s < float("inf"):
            raise ConfigError("limit_s", got=limit_s, expected="seconds, 0 or more")
        if self._finish_s is None:
            self.get_logger().info(f"the robot is asked back: the episode has {limit_s:g} s to end")
            self._finish_s = time.monotonic() + limit_s
        loop = self._loop
        if loop is not None:
            loop.finish(limit_s)
        response.finished = loop is None or loop.is_finished
        response.outbox_chunks = self._outbox.status().pending_chunks
        response.message = (
            "no episode runs" if response.finished else "the episode goes on to its end"
        )
        response.success = True

    def _on_evaluate(self, request: Any, response: Any) -> None:
        if self._loop is None:
            raise DeviceError("evaluate", got="no robot that is acted on", expected="one",
                              hint="Say it again then")  # fmt: skip
        count = self._loop.evaluate_next()
        response.success, response.message = True, f"{count} evaluation episodes come next"
        self.get_logger().info(f"a person asks for an evaluation: {response.message}")

    def _on_intervention(self, intervention: Intervention) -> None:
        if self._teleop is not None:
            self._teleop.on_intervention(intervention)

    def _on_ack(self, ack: Any) -> None:
        self._outbox.acknowledge(TrajectoryAck(**dataclasses.asdict(ack)))

    def _on_policy(self, announcement: PolicyAnnouncement) -> None:
        self._announced = announcement
        self._versions_heard.announced(announcement)
        if self._feed is not None:
            self._feed.announced(announcement)

    def _on_remote_action(self, chunk: ActionChunk) -> None:
        if self._inference is not None:
            self._inference.on_answer(chunk)

    def _on_remote_refusal(self, message: String) -> None:
        if self._inference is not None:
            self._inference.on_refusal(message.data[:1000])

    def _on_backlog(self, message: Any) -> None:
        if self._loop is not None:
            self._loop.backlog.tell(message.data)

    # --- what goes out ------------------------------------------------------------------

    def _deliver(self, chunk: TrajectoryChunk) -> None:
        """In the outbox's thread."""
        if not self._trajectory.wanted:
            raise TransportError(f"topic {self._trajectory.topic}", got="no replay store listens")
        self._trajectory.publish_serialized(trajectory_chunk_to_cdr(chunk))

    def _look_for_listeners(self) -> None:
        heard = self._trajectory.wanted
        if heard and not self._heard:
            self._outbox.revive()
        self._heard = heard

    def _publish_status(self) -> None:
        loop, feed, inference = self._loop, self._feed, self._inference
        status = None if loop is None else loop.status()
        waiting_for = Reason(NODE_WAITS, "the robot's spec" if self.is_active else "activation")
        if self._finish_s is not None:
            waiting_for = WAS_ASKED_BACK
        message = actor_status_to_message(status, self._outbox.status(), waiting_for)
        message.actor = self._name
        if self._description is not None:
            message.robot = self.config.robot or self._description.spec.robot
            message.task = self._description.task
        fallback = None if loop is None else loop.episodes.actions.fallback
        if inference is not None and not (fallback is not None and fallback.acts):
            number = inference.version
            message.policy_version = number
            message.policy_age_s = self._versions_heard.age_s(number)
        elif feed is not None:
            message.policy_version, message.policy_age_s = feed.holder.number, feed.holder.age_s()
        elif fallback is not None and isinstance(fallback.policies, FixedPolicy):
            message.policy_version = fallback.policies.current().number
        if feed is not None and feed.puller.stats.last_error:
            message.warnings = [*message.warnings, feed.puller.stats.last_error]
            message.warning_codes = [*message.warning_codes, POLICY_PULL]
        self._status.publish(message)
        level = Level.WARN if message.warnings else Level.OK
        text = "; ".join([message.detail, *message.warnings]) or "acting"
        values: dict[str, str | int] = {
            "code": message.code,
            "warning_codes": ", ".join(message.warning_codes),
            "rounds_of_evaluations_given_up": 0 if status is None else status.rounds_given_up,
        }
        self.diagnostics.report("acting", level, text, values)


def _join(thread: threading.Thread) -> None:
    """Wait for the acting thread; raises DeviceTimeout when it is stuck, and leaves it behind."""
    thread.join(_JOIN_S)
    if thread.is_alive():
        raise DeviceTimeout(
            "end of acting", got=f"the acting thread still busy after {_JOIN_S:g} s",
            expected="policy, reward and disk to return",
        )  # fmt: skip


def main() -> None:
    """Entry point of the executable ``actor_node``."""
    make_process_prompt()
    # One observation at a time is no work for several threads, and theirs spin on the cores of
    # others; torch reads this when a policy imports it.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(run(ActorNode, "actor"))


if __name__ == "__main__":
    main()
