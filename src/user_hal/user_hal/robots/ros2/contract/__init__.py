"""The contract: which topics make an observation, and which carry out an action.

One YAML file brings a robot in; every key is one of these fields. Ready ones are in
``user_bringup/config/robots``. Whether the parts of a contract fit each other is checked before
anything is connected, and the robot's spec follows from it.

- :mod:`~user_hal.robots.ros2.contract.sources`: keys of ``observation`` and ``timing``;
- :mod:`~user_hal.robots.ros2.contract.parts`: which numbers become which elements;
- :mod:`~user_hal.robots.ros2.contract.actions`, :mod:`~user_hal.robots.ros2.contract.grippers`:
  keys of ``action``, ``home``, ``stop`` and ``groups``;
- :mod:`~user_hal.robots.ros2.contract.groups`: one group as if it were a robot of its own;
- :mod:`~user_hal.robots.ros2.contract.keys`: all keys, and what follows from them together;
- :mod:`~user_hal.robots.ros2.contract.source_checks`,
  :mod:`~user_hal.robots.ros2.contract.action_checks`: whether they fit each other;
- :mod:`~user_hal.robots.ros2.contract.spec`: the robot's spec.
"""

from __future__ import annotations

from user_hal.robots.ros2.contract.action_checks import (
    check_group,
    check_has_joints,
    check_topics,
)
from user_hal.robots.ros2.contract.actions import (
    ActionConfig,
    CommandConfig,
    GroupConfig,
    HomeConfig,
    StopConfig,
    carries_velocities,
)
from user_hal.robots.ros2.contract.grippers import GripperConfig
from user_hal.robots.ros2.contract.groups import Group, groups_of
from user_hal.robots.ros2.contract.keys import Contract
from user_hal.robots.ros2.contract.source_checks import (
    check_joints,
    check_moments,
    check_source,
    element_count,
)
from user_hal.robots.ros2.contract.sources import (
    SourceConfig,
    TimingConfig,
    TransformConfig,
    UrdfConfig,
)
from user_hal.robots.ros2.contract.spec import robot_spec

__all__ = [
    "ActionConfig",
    "CommandConfig",
    "GripperConfig",
    "Group",
    "GroupConfig",
    "HomeConfig",
    "Ros2Config",
    "SourceConfig",
    "StopConfig",
    "TimingConfig",
    "TransformConfig",
    "UrdfConfig",
    "carries_velocities",
    "check_contract",
    "element_count",
    "groups_of",
    "robot_spec",
]


class Ros2Config(Contract):
    """A robot on ROS 2 topics."""

    def validate(self) -> None:
        """Refuse contracts whose parts do not fit each other."""
        check_contract(self)


def check_contract(config: Contract) -> None:
    """Raise ConfigError for the first thing that does not fit."""
    groups = groups_of(config)
    check_joints(config)
    for group in groups:
        check_has_joints(group)
    for name in config.observation:
        check_source(config, name)
    check_moments(config)
    for group in groups:
        check_group(group)
    check_topics(config, groups)
