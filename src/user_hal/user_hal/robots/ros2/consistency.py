"""Do the parts of a contract fit each other? Checked before anything is connected."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from user_core.errors import ConfigError
from user_hal.robots.ros2.kinds import JOINT_KINDS, JOINT_TYPES, POSE, TOOL_TYPES
from user_hal.robots.ros2.layouts import LAYOUTS

if TYPE_CHECKING:
    from user_hal.robots.ros2.contract import Bound, CommandConfig, Ros2Config


def check(config: Ros2Config) -> None:
    """Raise ConfigError for the first thing that does not fit."""
    _check_joints(config)
    for name in config.observation:
        _check_source(config, name)
    if all(source.resample == "latest" for source in config.observation.values()):
        raise ConfigError(
            "resample of the observation",
            got="latest everywhere",
            expected="linear or nearest for at least one topic, whose stamps the others follow",
        )
    _check_action(config)
    _check_home(config)


def element_count(config: Ros2Config, name: str) -> int:
    """Number of elements of an observation; ConfigError where the contract leaves it open."""
    source = config.observation[name]
    size = LAYOUTS[config.layout(name)].size
    if size is None:
        size = len(config.elements(name)) or len(source.indices) or source.size
    if size is None:
        raise ConfigError(
            f"observation.{name}",
            got=f"a vector of unknown size at {source.field!r}",
            expected="names, indices, size, or a layout",
        )
    return size


def _check_joints(config: Ros2Config) -> None:
    if len(set(config.joints)) != len(config.joints):
        raise ConfigError("joints", got=list(config.joints), expected="each name once")
    kind = config.action.kind
    if kind in JOINT_KINDS and not config.joints:
        raise ConfigError("joints", got="none", expected=f"names, for {kind.value} actions")


def _check_source(config: Ros2Config, name: str) -> None:
    source, where = config.observation[name], f"observation.{name}"
    layout, count = config.layout(name), element_count(config, name)
    is_vector = layout in ("vector", "scalar")
    if not is_vector and (source.names or source.indices or source.size is not None):
        raise ConfigError(where, got=f"names, indices or size of a {layout}", expected="none")
    for key, values in (("scale", source.scale), ("offset", source.offset)):
        if len(values) not in (1, count):
            raise ConfigError(
                f"{where}.{key}", got=f"{len(values)} numbers", expected=f"1 or {count}"
            )
        if not is_vector and values not in ((1.0,), (0.0,)):
            raise ConfigError(f"{where}.{key}", got=values, expected=f"none for a {layout}")
    _check_bounds(where, source.low, source.high, count)


def _check_action(config: Ros2Config) -> None:
    action = config.action
    if action.kind in JOINT_KINDS:
        _require_joint_position(config)
        count = len(config.joints)
        _check_bounds("action.target", action.target_low, action.target_high, count)
    else:
        count = 7 if action.kind.value == "ee_pose" else (6 if action.rotation else 3)
        if action.command.type == POSE:
            _require_tcp_pose(config, "poses are commanded")
    _check_bounds("action", action.low, action.high, count)


def _check_home(config: Ros2Config) -> None:
    home = config.home
    if home.joints and home.pose:
        raise ConfigError("home", got="joints and pose", expected="one of them")
    command = home.command or config.action.command
    if home.joints:
        if len(home.joints) != len(config.joints):
            raise ConfigError(
                "home.joints", got=f"{len(home.joints)} numbers", expected=len(config.joints)
            )
        _require_joint_position(config)
        _require_type("home.joints", command, joint=True)
    if home.pose:
        norm = float(np.linalg.norm(home.pose[3:]))
        if len(home.pose) != 7 or abs(norm - 1) > 1e-2:
            raise ConfigError(
                "home.pose",
                got=f"{len(home.pose)} numbers, quaternion of length {norm:.3f}",
                expected="x y z and a unit quaternion qx qy qz qw",
            )
        _require_tcp_pose(config, "home is a pose")
        _require_type("home.pose", command, joint=False)
    if home.gripper is not None and config.action.gripper is None:
        raise ConfigError("home.gripper", got=home.gripper, expected="action.gripper as well")


def _require_type(what: str, command: CommandConfig, *, joint: bool) -> None:
    fitting = JOINT_TYPES if joint else TOOL_TYPES
    if command.type not in fitting:
        raise ConfigError(
            what,
            got=f"a command of type {command.type}",
            expected=f"one of {list(fitting)}",
            hint="Give home.command a topic that can go there",
        )


def _require_joint_position(config: Ros2Config) -> None:
    if "joint_position" not in config.observation:
        raise ConfigError(
            "observation", got=sorted(config.observation), expected="joint_position among them"
        )
    if config.elements("joint_position") != config.joints:
        raise ConfigError(
            "observation.joint_position.names",
            got=list(config.elements("joint_position")),
            expected=f"the robot's joints {list(config.joints)}",
        )


def _require_tcp_pose(config: Ros2Config, why: str) -> None:
    if "tcp_pose" not in config.observation or config.layout("tcp_pose") != "pose":
        raise ConfigError(
            "observation", got=sorted(config.observation), expected=f"tcp_pose, because {why}"
        )


def _check_bounds(where: str, low: Bound, high: Bound, count: int) -> None:
    for side, bound in (("low", low), ("high", high)):
        if isinstance(bound, tuple) and len(bound) != count:
            raise ConfigError(
                f"{where} {side}", got=f"{len(bound)} numbers", expected=f"1 or {count}"
            )
        if bound is not None and not np.isfinite(bound).all():
            raise ConfigError(f"{where} {side}", got=bound, expected="finite numbers")
    if low is not None and high is not None and not np.all(np.asarray(low) <= np.asarray(high)):
        raise ConfigError(f"{where} low", got=low, expected=f"at most high, {high}")
