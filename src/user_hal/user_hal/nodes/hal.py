"""Node ``hal``: runs one robot, and is the only way to it.

Everything that reaches the robot comes through the action topic or the reset service, and both
lead through the lease and the safety gate; see :mod:`user_hal.runtime.control_loop`.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import ExitStack
from typing import Any

from rclpy.node import Node
from std_msgs.msg import String

from user_comm import topics
from user_comm.converters import RobotDescription, lease_to_message, observation_to_message
from user_comm.diagnostics import Item, Level
from user_comm.endpoints import TopicPublisher
from user_comm.lifecycle import LifecycleNode
from user_comm.logs import Throttle, bridge_logging
from user_comm.run import run
from user_comm.subscriptions import TopicReader
from user_comm.topic_io import RosTopicIo
from user_core.body.embodiment import space_of
from user_core.config import to_mapping
from user_core.errors import LeaseError, OldGrant, SuiteError
from user_core.interfaces import Robot
from user_core.reasons import HANGS, LOOP_DIED, NO_REASON, Reason
from user_core.runtime.processes.grants import grant_of_environment
from user_core.runtime.scheduling import hurry_middleware, make_process_prompt
from user_core.types import ActionChunk, Lease, Observation
from user_hal.node_configs import HalConfig
from user_hal.nodes.ros_time import RosTime
from user_hal.nodes.safety_status import (
    lease_item,
    loop_item,
    safety_item,
    safety_status_to_message,
)
from user_hal.nodes.standard_topics import StandardTopics, markers
from user_hal.robot_file import (
    RobotFile,
    build_robot,
    find_robot_file,
    load_robot_file,
    refuse_old_spelling,
)
from user_hal.robots.in_real_time import InRealTime
from user_hal.runtime.control_loop import HalLoop, HalStatus
from user_hal.runtime.grants import GrantOrder
from user_hal.runtime.obeyed import ObeyedLog
from user_hal.safety import Refused
from user_hal.safety.config import WorkspaceConfig
from user_hal.safety.emergency_stop import LatchFile, state_folder
from user_hal.topic_io import attach_topics, topics_commanded, topics_read, wants_topics

_STATUS_PERIOD_S = 1.0
_LOG_PERIOD_S = 0.2
#: What a reset may take beyond the driver's own limit before the caller is told.
_RESET_GRACE_S = 5.0


class HalNode(LifecycleNode):
    """Runs one robot behind the safety gate. See the README of this package for its topics."""

    Config = HalConfig

    def __init__(self, *arguments: Any, **options: Any) -> None:
        """Refuse a robot file that is not there or wrong at once: no further attempt finds it."""
        self._changed: set[str] = set()  # names of parameters that were set while it ran
        super().__init__(*arguments, **options)
        if name := self.get_parameter("robot_file").value:
            try:
                load_robot_file(find_robot_file(name))
            except SuiteError:
                self.destroy_node()
                raise

    def configure(self, stack: ExitStack) -> None:
        """Make the driver and everything around it; nothing is connected yet."""
        stack.callback(bridge_logging(self.get_logger(), "user_hal"))
        refuse_old_spelling(self._parameter_overrides, "robot")
        config = self._robot_file = self._expanded(self.config, self._changed)
        robot = self._make_robot(config, stack)
        self._loop = self._make_loop(robot, config, stack)
        self._advertise_topics(robot)
        waiter = self._listen_for_actions(stack)
        self._serve(waiter.reader)
        self._watch(stack)
        self._publish_spec()
        self._publish_urdf()
        self._show_status(self._loop.status())
        self.every(_STATUS_PERIOD_S, self._look_around, always=True)
        self.every(_LOG_PERIOD_S, self._obeyed.write, always=True)

    def _make_robot(self, config: RobotFile, stack: ExitStack) -> Robot:
        """The driver, with its topics; on simulated time where there is such a clock."""
        robot = build_robot(config)
        self._display = config.display.of(robot)
        ros_time = self._ros_time = RosTime(self)
        stack.callback(ros_time.close)
        if ros_time.is_simulated and wants_topics(robot):
            robot = InRealTime(robot, ros_time)
        self.is_hardware(f"{robot.spec.robot} ({self._resource_name()})")
        self._robot_trouble = getattr(robot, "trouble", lambda: NO_REASON)
        self._robot_warnings = getattr(robot, "warnings", tuple)
        topic_io = RosTopicIo(self)
        stack.callback(topic_io.close)
        attach_topics(robot, topic_io)
        self._taken = {self.resolve_topic_name(topic): "read from" for topic in topics_read(robot)}
        for topic in topics_commanded(robot):
            self._taken[self.resolve_topic_name(topic)] = "commanded by"
        return robot

    def _make_loop(self, robot: Robot, config: RobotFile, stack: ExitStack) -> HalLoop:
        """The control loop, which goes on from what its folder says of the process before: grants, an
        emergency stop that is latched, and whom the robot obeyed."""
        folder = state_folder(self.config.state_dir, self._resource_name())
        grants = GrantOrder(folder, grant_of_environment(), self._resource_name())
        self._obeyed = ObeyedLog(folder)
        stack.callback(self._obeyed.write, True)
        loop = HalLoop(
            robot,
            config.loop,
            config.safety,
            config.lease,
            resource=self._resource_name(),
            on_observation=self._show,
            on_status=self._show_status,
            latch=LatchFile(folder),
            on_lost=self._lost,
            grants=grants,
            obeyed=self._obeyed,
            space=space_of(config.embodiment, robot.spec, config.safety.action_scale),
        )
        if grants.own:
            self.get_logger().info(f"started under grant {grants.own} of the fleet's scheduler")
        return loop

    def _advertise_topics(self, robot: Robot) -> None:
        """Ours, and the standard ones that other people's nodes expect."""
        self._say = Throttle()
        self._marker_due_s = 0.0
        self._spec = self.advertise(topics.ROBOT_SPEC, always=True)
        self._status = self.advertise(topics.SAFETY_STATUS, always=True)
        self._observations = self.advertise(topics.OBSERVATION)
        self._markers = self.advertise(topics.MARKERS)
        self._robot_urdf = lambda: str(getattr(robot, "urdf", ""))
        self._urdf: TopicPublisher | None = None
        self._standard = StandardTopics(
            robot.spec,
            self._display,
            self._advertise_unread,
            self._show_markers,
            lambda: self._markers.wanted,
            getattr(robot, "calibrations", dict),
            self._ros_time.ros_ns,
        )

    def activate(self, stack: ExitStack) -> None:
        """Connect, in the loop's thread, and let commands in. A robot that is not there yet is
        waited for; the diagnostics say so meanwhile."""
        hurry_middleware()
        self._standard.start()
        stack.callback(self._standard.close)
        stack.callback(self._loop.close)  # first: it stops the robot
        self._loop.start()

    def accept(self, old: HalConfig, new: HalConfig) -> None:
        """Limits of a robot that is connected may be tightened, and not loosened."""
        self._loop.require_tighter(self._expanded(new, self._changed | _changes(old, new)).safety)

    def reconfigure(self, old: HalConfig, new: HalConfig) -> None:
        """Take over tighter limits."""
        self._changed |= _changes(old, new)
        if self.state == "unconfigured":
            return  # configuring takes them
        self._robot_file = self._expanded(new, self._changed)
        self._loop.tighten(self._robot_file.safety)
        self._show_status(self._loop.status())
        self.get_logger().warning("the safety limits were tightened, by a parameter")

    def _look_around(self) -> None:
        """Once a second: say how it is, and heed grants that another process has seen."""
        self._show_status(self._loop.status())
        self._publish_urdf()
        if over := self._loop.leases.look():
            self.end(over)

    def _expanded(self, config: HalConfig, changed: set[str]) -> RobotFile:
        """The robot file, overruled by parameters that were given at the start or since."""
        return config.expand([*self._parameter_overrides, *changed])

    def _lost(self, reason: Reason) -> None:
        """In the sentinel's thread: the robot was told to stop, and nothing drives it any more."""
        self.end(reason, final=reason.code not in (HANGS, LOOP_DIED))

    def _advertise_unread(self, topic: topics.Topic) -> TopicPublisher | None:
        """A standard topic, unless the robot itself is read from it or commanded by it: this node
        would hear itself, and a robot that has died would seem to live; or what was measured would
        be obeyed."""
        name = self.resolve_topic_name(topic.name)
        if name not in self._taken:
            return self.advertise(topic)
        self.get_logger().info(f"{name} is not published: the robot is {self._taken[name]} it")
        return None

    def _listen_for_actions(self, stack: ExitStack) -> ActionWaiter:
        """The loop's thread takes actions from the middleware itself, without an executor."""
        waiter = ActionWaiter(self, self._on_action)
        stack.callback(waiter.destroy)
        counts = waiter.subscription.counts
        self.diagnostics.watch(f"topic {counts.name}", counts.item)
        stack.callback(self.diagnostics.unwatch, f"topic {counts.name}")
        self._loop.waiter = waiter
        return waiter

    def _serve(self, reader: TopicReader) -> None:
        timeout_s = self._loop.config.driver.reset_s + _RESET_GRACE_S
        self.serve_by_loop(topics.RESET, self._begin_reset, self._was_reset, reader, timeout_s)
        self.serve(topics.EMERGENCY_STOP, self._on_emergency_stop, always=True)
        self.serve(topics.RESET_EMERGENCY_STOP, self._on_reset_emergency_stop, always=True)
        self.serve(topics.ACQUIRE_LEASE, self._on_acquire_lease)
        self.serve(topics.RENEW_LEASE, self._on_renew_lease)
        self.serve(topics.RELEASE_LEASE, self._on_release_lease)

    def _watch(self, stack: ExitStack) -> None:
        for name, item in (("lease", lease_item), ("control loop", loop_item)):

            def source(item: Any = item) -> Item:
                found: Item = item(self._loop.status())
                return found

            self.diagnostics.watch(name, source)
            stack.callback(self.diagnostics.unwatch, name)

        def robot_item() -> Item:
            trouble = self._robot_trouble() or next(iter(self._robot_warnings()), NO_REASON)
            level = Level.WARN if trouble else Level.OK
            return Item("robot", level, trouble.text or "does what it is told, as far as is known")

        self.diagnostics.watch("robot", robot_item)
        stack.callback(self.diagnostics.unwatch, "robot")

    # --- what comes in ------------------------------------------------------------------

    def _on_action(self, chunk: ActionChunk) -> None:
        try:
            self._loop.submit(chunk)
        except Refused as refusal:
            if text := self._say(refusal.code, f"refused a command: {refusal}"):
                self.get_logger().warning(text)

    def _begin_reset(self, request: Any) -> Future[Observation]:
        seed = None if request.seed < 0 else int(request.seed)
        return self._loop.reset(seed, request.lease_token)

    def _was_reset(self, observation: Observation, response: Any) -> None:
        shown = self._loop.space.shown(observation)
        response.observation = observation_to_message(shown, self._display.base_frame)
        response.success = True

    def _on_emergency_stop(self, request: Any, response: Any) -> None:
        self.get_logger().error("EMERGENCY STOP, by service")
        self._loop.press_emergency("a call of the service")
        response.success, response.message = True, "stopped; latched until it is reset"

    def _on_reset_emergency_stop(self, request: Any, response: Any) -> None:
        self._loop.reset_emergency()
        self.get_logger().warning("the emergency stop was reset, by service")
        response.success, response.message = True, "commands may pass again"

    def _on_acquire_lease(self, request: Any, response: Any) -> None:
        self._require_resource(request.resource)
        leases = self._loop.leases
        try:
            lease = leases.acquire(
                request.holder, request.duration_s, request.preempt, int(request.grant)
            )
        except LeaseError as error:
            self._fill_lease(response)
            old = isinstance(error, OldGrant)
            if old and (text := self._say(error.code, f"refused a lease: {error}")):
                self.get_logger().warning(text)
            raise
        under = f", under grant {request.grant}" if request.grant else ""
        self.get_logger().info(f"leased to {lease.holder!r} with token {lease.token}{under}")
        self._fill_lease(response, lease)
        response.success = True

    def _on_renew_lease(self, request: Any, response: Any) -> None:
        self._require_resource(request.resource)
        try:
            lease = self._loop.leases.renew(request.token)
        except LeaseError:
            self._fill_lease(response)
            raise
        self._fill_lease(response, lease)
        response.success = True

    def _on_release_lease(self, request: Any, response: Any) -> None:
        self._require_resource(request.resource)
        self._loop.leases.release(request.token)
        response.success = True

    # --- what goes out ------------------------------------------------------------------

    def _show(self, observation: Observation) -> None:
        """In the loop's thread: what the actor waits for first, the rest in another thread."""
        shown = self._loop.space.shown(observation)
        self._observations.publish(shown, frame_id=self._display.base_frame)
        self._standard.show(observation)

    def _show_markers(self, observation: Observation) -> None:
        now_s = time.monotonic()
        if now_s >= self._marker_due_s and self._markers.wanted:
            self._marker_due_s = now_s + 1.0 / self._display.marker_rate_hz
            box = self._robot_file.safety.workspace
            status, acting = self._loop.status(), self._loop.acting
            stamped = dataclasses.replace(
                observation, stamp_ns=self._ros_time.ros_ns(observation.stamp_ns)
            )
            boxes = self._boxes_of_groups()
            self._markers.publish(markers(stamped, status, acting, self._display, box, boxes))

    def _boxes_of_groups(self) -> dict[str, tuple[WorkspaceConfig, str]]:
        shown, boxes = self._loop.spec.observation, {}
        for name, limits in self._robot_file.safety.groups.items():
            pose = shown.get(f"{name}.tcp_pose") or shown.get("tcp_pose")
            boxes[name] = (limits.workspace, pose.frame if pose is not None else "")
        return boxes

    def _show_status(self, status: HalStatus) -> None:
        self._status.publish(safety_status_to_message(status, self._display.base_frame))
        item = safety_item(status)
        self.diagnostics.report(item.name, item.level, item.message, item.values)

    def _publish_urdf(self) -> None:
        """Once, as soon as the driver knows it: one that hears it from a topic has it when it is connected. Where
        somebody else says it on the same topic, he is left to it."""
        name = self.resolve_topic_name(topics.ROBOT_DESCRIPTION.name)
        if self._urdf is None and (text := self._robot_urdf()) and not self.count_publishers(name):
            self._urdf = self.advertise(topics.ROBOT_DESCRIPTION, always=True)
            self._urdf.publish(String(data=text))

    def _publish_spec(self) -> None:
        self._spec.publish(
            RobotDescription(
                spec=self._loop.space.spec,
                task=self._robot_file.task,
                base_frame=self._display.base_frame,
                stamp_ns=time.time_ns(),
            )
        )

    def _fill_lease(self, response: Any, lease: Lease | None = None) -> None:
        present, left_s = self._loop.leases.current
        lease = lease or present
        if lease is not None:
            response.lease = lease_to_message(lease, left_s)

    def _require_resource(self, name: str) -> None:
        mine = self._loop.leases.resource
        if name and name != mine:
            raise LeaseError("resource", got=repr(name), expected=f"{mine!r}, or nothing")

    def _resource_name(self) -> str:
        return self.config.resource or self.get_namespace().strip("/") or self.get_name()


def _changes(old: HalConfig, new: HalConfig) -> set[str]:
    """Dotted names of the parameters that differ."""

    def of(before: Mapping[str, Any], after: Mapping[str, Any], path: str) -> Iterator[str]:
        for key, value in after.items():
            other = before.get(key)
            if isinstance(value, Mapping) and isinstance(other, Mapping):
                yield from of(other, value, f"{path}{key}.")
            elif value != other:
                yield f"{path}{key}"

    return set(of(to_mapping(old), to_mapping(new), ""))


class ActionWaiter:
    """Waits for actions and deadlines at once; a :class:`~user_hal.runtime.control_loop.Waiter`.

    Args:
        node: Subscribes.
        callback: Gets every action chunk, in the thread that waits.

    Attributes:
        reader: Reads them; may read services, too.
        subscription: Checked: what cannot be decoded is counted and never seen.
    """

    def __init__(self, node: Node, callback: Callable[[ActionChunk], None]) -> None:
        self._callback = callback
        self.reader = TopicReader(node)
        self.subscription = self.reader.listen(topics.ACTION, callback)
        self.wake, self.destroy = self.reader.wake, self.reader.close

    def wait(self, until_ns: int) -> None:
        """Wait until a time of the monotonic clock; hand over actions that come."""
        self.reader.wait(until_ns - time.monotonic_ns())
        self.reader.take()

    def discard(self) -> None:
        """Throw away actions that arrived while the loop was not waiting for them."""
        self.subscription.callback = lambda chunk: None
        self.reader.take()
        self.subscription.callback = self._callback


def main() -> int:
    """Run the node."""
    make_process_prompt()
    return run(HalNode, "hal")


if __name__ == "__main__":
    sys.exit(main())
