"""Node ``record``: writes the standard topics of a run to a bag."""

from __future__ import annotations

import os
import re
import sys
import time
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any

from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

from user_bringup.recording.config import RecorderConfig
from user_bringup.recording.definitions import definition
from user_bringup.recording.recorder import Recorder
from user_comm import topics
from user_comm.diagnostics import Level
from user_comm.lifecycle import LifecycleNode
from user_comm.run import run
from user_comm.topics import interface_class
from user_core.errors import SuiteError
from user_learner.data.mcap.bags import Channel

#: It gives way to whatever drives robots or learns.
_NICENESS = 5
_LOOK_S = 1.0
_IMAGES = (topics.CAMERA_IMAGE, topics.CAMERA_INFO)
#: What people and their tools read; tensors and trajectories are in the store.
_STANDARD = (
    topics.JOINT_STATES, topics.TCP_POSE, topics.TCP_TWIST, topics.WRENCH, topics.GRIPPER,
    topics.MARKERS, topics.INTERVENTION, topics.EPISODE_RESULT, topics.ACTOR_STATUS,
    topics.REPLAY_STATUS, topics.LEARNER_STATUS, topics.ROBOT_SPEC, topics.ROBOT_DESCRIPTION,
    topics.SAFETY_STATUS, topics.DIAGNOSTICS,
)  # fmt: skip
_FOREIGN = ("/tf", "/tf_static", "/rosout", "/clock")


class RecordNode(LifecycleNode):
    """Subscribes to the standard topics wherever they are in the graph, as they come, and hands the
    serialised messages to a :class:`Recorder`. With best effort, so that nobody waits for it."""

    Config = RecorderConfig

    def activate(self, stack: ExitStack) -> None:
        config: RecorderConfig = self.config
        self._recorder = Recorder(config)
        stack.callback(self._recorder.close)
        wanted = _STANDARD + (_IMAGES if config.images else ())
        patterns = [_pattern(topic.name) for topic in wanted]
        self._wanted = re.compile("|".join([*patterns, *map(re.escape, _FOREIGN), *config.topics]))
        self._not_wanted = re.compile("|".join(config.leave_out) or r"(?!)")
        self._heard: dict[str, Any] = {}
        stack.callback(self._end)
        self.every(_LOOK_S, self._look)

    def _look(self) -> None:
        for topic, types in self.get_topic_names_and_types():
            if topic in self._heard or len(types) != 1:
                continue
            if self._wanted.fullmatch(topic) and not self._not_wanted.fullmatch(topic):
                self._hear(topic, types[0])
        self._report()

    def _hear(self, topic: str, kind: str) -> None:
        publishers = self.get_publishers_info_by_topic(topic)
        if not publishers:
            return  # only listened to
        try:
            cls = interface_class(kind)
        except SuiteError as error:
            self._heard[topic] = None
            self.get_logger().warning(f"{topic} is not recorded: {error}")
            return
        latched = any(
            p.qos_profile.durability == DurabilityPolicy.TRANSIENT_LOCAL for p in publishers
        )
        channel = Channel(topic, kind, definition(cls, interface_class), latched)
        quality = QoSProfile(
            depth=100 if latched else 32,
            reliability=ReliabilityPolicy.RELIABLE if latched else ReliabilityPolicy.BEST_EFFORT,
            durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
        )
        self._heard[topic] = self.create_subscription(
            cls, topic, partial(self._take, channel), quality, raw=True
        )

    def _take(self, channel: Channel, data: bytes) -> None:
        self._recorder.put(channel, time.time_ns(), bytes(data))

    def _report(self) -> None:
        state = self._recorder.state
        numbers = {
            "messages": state.messages, "megabytes": round(state.nbytes / 1e6, 1),
            "files": state.files, "topics": len(self._heard), "left_out": state.left_out,
        }  # fmt: skip
        if state.reason:
            text = f"{state.reason.code}: {state.reason.text}"
            self.diagnostics.report("recording", Level.WARN, text, numbers)
        else:
            self.diagnostics.report("recording", Level.OK, str(self.config.folder), numbers)

    def _end(self) -> None:
        for subscription in self._heard.values():
            if subscription is not None:
                self.destroy_subscription(subscription)
        self._heard = {}


def _pattern(name: str) -> str:
    """A topic of the table, in any namespace; ``{camera}`` and the like stand for any name."""
    parts = re.split(r"\{\w+\}", name)
    inner = "[^/]+".join(map(re.escape, parts))
    return inner if name.startswith("/") else f"(?:/[^/]+)*/{inner}"


def main() -> None:
    """Entry point of the executable ``record_node``."""
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, _NICENESS)
    sys.exit(run(RecordNode, "record"))


if __name__ == "__main__":
    main()
