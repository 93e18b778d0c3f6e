"""Stand-ins for the outside world: topics in one process, without ROS."""

from user_hal.fakes.local_topics import LocalTopics

__all__ = ["LocalTopics"]
