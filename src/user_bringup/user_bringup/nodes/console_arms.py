"""What the console needs of a ROS graph to draw robots: URDF, joints, workspace boxes and goal.

They are subscribed to while a page asks for them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rclpy.node import Node
from visualization_msgs.msg import Marker

from user_comm import topics
from user_comm.subscriptions import CheckedSubscription
from user_comm.topics import Topic, interface_class, profile

#: A page asks some times a second; one that asked this long ago is gone.
_KEPT_S = 5.0


@dataclass
class ArmState:
    """A robot as it is drawn now.

    Attributes:
        urdf: Its description; empty before it came.
        joints: Positions of its joints, rad or m, by name.
        lines: Edges of its workspace boxes: frame, and pairs of points (x, y, z), metres.
        goal: Frame, place (x, y, z) and radius of the goal, metres; None where there is none.
        asked_s: When a page asked last, monotonic.
    """

    urdf: str = ""
    joints: Mapping[str, float] = field(default_factory=dict)
    lines: tuple[tuple[str, tuple[tuple[float, float, float], ...]], ...] = ()
    goal: tuple[str, tuple[float, float, float], float] | None = None
    asked_s: float = 0.0


class Arms:
    """Robots that somebody looks at in three dimensions. Any thread.

    Args:
        node: Subscribes.
    """

    def __init__(self, node: Node) -> None:
        self._node, self._lock = node, threading.Lock()
        self._states: dict[str, tuple[ArmState, list[CheckedSubscription]]] = {}

    def of(self, namespace: str) -> ArmState:
        """The state of a robot, kept up to date while this is called."""
        with self._lock:
            if namespace not in self._states:
                state = ArmState()
                self._states[namespace] = (state, self._subscribe(namespace, state))
            found = self._states[namespace][0]
            found.asked_s = time.monotonic()
            return found

    def forget(self) -> None:
        """Listen no more to those that nobody asks for; in the node's own thread."""
        now_s = time.monotonic()
        with self._lock:
            old = [n for n, (s, _) in self._states.items() if now_s - s.asked_s > _KEPT_S]
            gone = [self._states.pop(namespace)[1] for namespace in old]
        for subscriptions in gone:
            for subscription in subscriptions:
                subscription.destroy()

    def _subscribe(self, namespace: str, state: ArmState) -> list[CheckedSubscription]:
        def listen(topic: Topic, take: Any) -> CheckedSubscription:
            return CheckedSubscription(
                self._node, f"{namespace}/{topic.name}", interface_class(topic.type), None, take,
                profile(topic.quality),
            )  # fmt: skip

        def described(message: Any) -> None:
            state.urdf = str(message.data)

        def moved(message: Any) -> None:
            named = zip(message.name, message.position, strict=False)
            state.joints = {**state.joints, **{str(n): float(p) for n, p in named}}

        def marked(message: Any) -> None:
            state.lines, state.goal = _lines(message.markers), _goal(message.markers)

        return [
            listen(topics.ROBOT_DESCRIPTION, described),
            listen(topics.JOINT_STATES, moved),
            listen(topics.MARKERS, marked),
        ]


def _lines(markers: Any) -> Any:
    return tuple(
        (m.header.frame_id, tuple((p.x, p.y, p.z) for p in m.points))
        for m in markers
        if m.type == Marker.LINE_LIST
    )


def _goal(markers: Any) -> Any:
    for m in markers:
        if m.ns == "goal":
            at = m.pose.position
            return m.header.frame_id, (at.x, at.y, at.z), m.scale.x / 2
    return None
