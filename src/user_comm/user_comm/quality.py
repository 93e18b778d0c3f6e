"""Quality of service as plain data, so that the topic table can be read without ROS.

:mod:`user_comm.ros_qos` turns it into rclpy's profiles.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Reliability(str, Enum):
    """Whether a sample that was lost on the way is sent again."""

    RELIABLE = "reliable"
    BEST_EFFORT = "best effort"


class Durability(str, Enum):
    """Whether a reader that comes late still gets the last samples."""

    VOLATILE = "volatile"
    TRANSIENT_LOCAL = "transient local"


@dataclass(frozen=True)
class Quality:
    """How one topic is carried.

    Attributes:
        depth: Samples that are kept for a reader (and, if transient local, for late ones);
            the oldest gives way.
        reliability: Whether lost samples are sent again.
        durability: Whether late readers get the kept samples.
    """

    depth: int = 1
    reliability: Reliability = Reliability.RELIABLE
    durability: Durability = Durability.VOLATILE

    def __str__(self) -> str:
        latched = ", transient local" if self.durability is Durability.TRANSIENT_LOCAL else ""
        return f"{self.reliability.value}{latched}, keep last {self.depth}"


#: Somebody acts on every sample, and only on the newest one.
COMMAND = Quality(depth=1)
#: Periodic and soon outdated: a lost sample is not worth the wait for its second coming.
SENSOR = Quality(depth=5, reliability=Reliability.BEST_EFFORT)
#: The last state, also for those who come late.
LATCHED = Quality(depth=1, durability=Durability.TRANSIENT_LOCAL)
#: Status once a second: reliable, so that a person sees every change.
STATUS = Quality(depth=10)
