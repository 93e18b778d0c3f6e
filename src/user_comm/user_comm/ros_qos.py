"""Quality of service, from the topic table to rclpy's profiles."""

from __future__ import annotations

from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy

from user_comm.quality import Durability, Quality, Reliability


def profile(quality: Quality) -> QoSProfile:
    """The rclpy profile of a :class:`~user_comm.quality.Quality`."""
    reliable = quality.reliability is Reliability.RELIABLE
    latched = quality.durability is Durability.TRANSIENT_LOCAL
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=quality.depth,
        reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
    )
