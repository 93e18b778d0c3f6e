"""The contract: which topics make an observation, and which carry out an action.

One YAML file brings a robot in; every key is one of these fields. Ready ones are in
``user_bringup/config/robots``. Whether the parts of a contract fit each other is checked before
anything is connected, and the robot's spec follows from it.

- :mod:`~user_hal.robots.ros2.contract.sources`: keys of ``observation`` and ``timing``;
- :mod:`~user_hal.robots.ros2.contract.parts`: which numbers become which elements;
- :mod:`~user_hal.robots.ros2.contract.actions`: keys of ``action``, ``home`` and ``stop``;
- :mod:`~user_hal.robots.ros2.contract.keys`: all keys, and what follows from them together;
- :mod:`~user_hal.robots.ros2.contract.source_checks`,
  :mod:`~user_hal.robots.ros2.contract.action_checks`: whether they fit each other;
- :mod:`~user_hal.robots.ros2.contract.spec`: the robot's spec.
"""

from __future__ import annotations

from user_hal.robots.ros2.contract.action_checks import (
    check_action,
    check_echo,
    check_frames,
    check_home,
    check_units,
    command_scaling,
)
from user_hal.robots.ros2.contract.actions import (
    ActionConfig,
    CommandConfig,
    GripperConfig,
    HomeConfig,
    StopConfig,
    TriggerConfig,
    carries_velocities,
)
from user_hal.robots.ros2.contract.keys import Contract
from user_hal.robots.ros2.contract.source_checks import (
    check_joints,
    check_moments,
    check_source,
    element_count,
)
from user_hal.robots.ros2.contract.sources import SourceConfig, TimingConfig, TransformConfig
from user_hal.robots.ros2.contract.spec import GRIPPER, robot_spec

__all__ = [
    "GRIPPER",
    "ActionConfig",
    "CommandConfig",
    "GripperConfig",
    "HomeConfig",
    "Ros2Config",
    "SourceConfig",
    "StopConfig",
    "TimingConfig",
    "TransformConfig",
    "TriggerConfig",
    "carries_velocities",
    "check_contract",
    "command_scaling",
    "element_count",
    "robot_spec",
]


class Ros2Config(Contract):
    """A robot on ROS 2 topics."""

    def validate(self) -> None:
        """Refuse contracts whose parts do not fit each other."""
        check_contract(self)


def check_contract(config: Contract) -> None:
    """Raise ConfigError for the first thing that does not fit."""
    check_joints(config)
    for name in config.observation:
        check_source(config, name)
    check_moments(config)
    check_action(config)
    check_home(config)
    check_echo(config)
    check_frames(config)
    check_units(config)
