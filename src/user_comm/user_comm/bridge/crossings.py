"""Which topics leave a host, and which way. What does not stand here stays where it is made:
observations, actions, pictures and everything else that is for the robot's own host. Where the
policy is elsewhere, coded observations and its answers cross instead, each way the newest.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Literal

from user_comm import topics
from user_comm.topics import Topic

MIB = 2**20
#: Zenoh's, most urgent first.
Priority = Literal[
    "real_time", "interactive_high", "interactive_low", "data_high", "data", "data_low",
    "background",
]  # fmt: skip


class Way(str, Enum):
    """Which way a topic crosses."""

    UP = "robot to learner"
    DOWN = "learner to robots"


@dataclass(frozen=True)
class Crossing:
    """How one topic crosses.

    Attributes:
        topic: The topic.
        way: Which way.
        priority: Zenoh's priority, by name.
        waits: Whether a message that the link cannot take now waits for it, instead of being
            dropped; only where one's own link is all that can be slow.
        max_bytes: A larger message is refused.
        max_rate_hz: No more than so many; the newest wins. 0: all.
        merged: On the learner's host the robots' messages come together on one topic.
        shared: One topic of that absolute name for a whole host, not one for each robot.
        addressed: Of what goes down, each robot gets its own.
    """

    topic: Topic
    way: Way
    priority: Priority = "data"
    waits: bool = False
    max_bytes: int = MIB
    max_rate_hz: float = 0.0
    merged: bool = False
    shared: bool = False
    addressed: bool = False


CROSSINGS: tuple[Crossing, ...] = (
    # Bulk. It waits at the robot's end of the link (the outbox sees to it that there is never
    # much), so that what must not wait can pass it on a connection of its own.
    Crossing(topics.TRAJECTORY, Way.UP, "data_low", waits=True, max_bytes=8 * MIB, merged=True),
    # The outbox times its resending by the acks.
    Crossing(topics.TRAJECTORY_ACK, Way.DOWN, "interactive_high"),
    # The actor has only a few observations under way, so that they are no bulk.
    Crossing(topics.REMOTE_OBSERVATION, Way.UP, "data_high", max_bytes=8 * MIB),
    Crossing(topics.REMOTE_ACTION, Way.DOWN, "real_time", addressed=True),
    Crossing(topics.POLICY, Way.DOWN, "interactive_low"),
    Crossing(topics.ROBOT_SPEC, Way.UP, "interactive_low"),
    Crossing(topics.SAFETY_STATUS, Way.UP, "interactive_high", max_rate_hz=20.0),
    Crossing(topics.EPISODE_RESULT, Way.UP, "data_high"),
    Crossing(topics.ACTOR_STATUS, Way.UP, "data_high", max_rate_hz=10.0),
    Crossing(topics.RESOURCES, Way.UP, "data_high", merged=True, shared=True),
    Crossing(topics.REPLAY_STATUS, Way.DOWN, "data_high", max_rate_hz=2.0),
    Crossing(topics.LEARNER_STATUS, Way.DOWN, "data_high", max_rate_hz=2.0),
    Crossing(topics.DIAGNOSTICS, Way.UP, "background", merged=True, shared=True),
)
