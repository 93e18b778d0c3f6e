"""Whether action, commands, frames and the way home of a contract fit each other."""

from __future__ import annotations

import numpy as np

from user_core.errors import ConfigError
from user_core.specs import Array
from user_hal.robots.ros2.contract.actions import CommandConfig, carries_velocities
from user_hal.robots.ros2.contract.keys import Contract
from user_hal.robots.ros2.contract.source_checks import (
    check_bounds,
    require_joint_position,
    require_tcp_pose,
)
from user_hal.robots.ros2.frames import plain
from user_hal.robots.ros2.messages import (
    JOINT_KINDS,
    JOINT_TRAJECTORY,
    JOINT_TYPES,
    POSE,
    TOOL_TYPES,
)


def check_action(config: Contract) -> None:
    """The action fits what is observed, and its bounds its size."""
    action = config.action
    if action.kind in JOINT_KINDS:
        require_joint_position(config)
        count = len(config.joints)
        check_bounds("action.target", action.target_low, action.target_high, count)
    else:
        count = 7 if action.kind.value == "ee_pose" else (6 if action.rotation else 3)
        if action.command.type == POSE:
            require_tcp_pose(config, "poses are commanded")
    check_bounds("action", action.low, action.high, count)


def command_scaling(config: Contract, command: CommandConfig) -> tuple[Array, Array]:
    """Scale and offset from our units to the robot's own, each (1,) or (n,)."""
    scale: Array = np.ones(1)
    offset: Array = np.zeros(1)
    if command.type in JOINT_TYPES and "joint_position" in config.observation:
        observed, offset = config.scaling("joint_position")
        scale, offset = 1.0 / observed, -offset  # of the joint positions, before scaling
    if command.scale is not None:
        scale = np.atleast_1d(command.scale)
    offset = offset * scale if command.offset is None else np.atleast_1d(command.offset)
    return scale, np.zeros(1) if carries_velocities(config.action, command) else offset


def check_units(config: Contract) -> None:
    """Scales, offsets and ranges of commands fit their messages."""
    for where, command in (
        ("action.command", config.action.command),
        ("home.command", config.home.command),
    ):
        if command is not None:
            _check_units_of(config, where, command)


def _check_units_of(config: Contract, where: str, command: CommandConfig) -> None:
    velocities = carries_velocities(config.action, command)
    count = len(config.joints) if command.type in JOINT_TYPES else 6
    for key in ("scale", "offset", "low", "high"):
        value = getattr(command, key)
        if value is None:
            continue
        if command.type == POSE:
            raise ConfigError(f"{where}.{key}", got=value, expected="none: poses are in m")
        if key == "offset" and velocities:
            raise ConfigError(f"{where}.offset", got=value, expected="none for velocities")
        if key in ("low", "high") and not velocities:
            raise ConfigError(
                f"{where}.{key}",
                got=value,
                expected="none for positions",
                hint=f"Write action.target_{key}, in rad",
            )
        numbers = np.atleast_1d(value)
        if len(numbers) not in (1, count):
            raise ConfigError(
                f"{where}.{key}", got=f"{len(numbers)} numbers", expected=f"1 or {count}"
            )
        if not np.isfinite(numbers).all() or (key == "scale" and not numbers.all()):
            raise ConfigError(f"{where}.{key}", got=value, expected="finite, and no scale of 0")
    check_bounds(where, command.low, command.high, count)
    if command.type != JOINT_TRAJECTORY or command.scale is not None:
        return
    if "joint_position" not in config.observation:
        return
    observed, _ = config.scaling("joint_position")
    if not np.all(observed == 1.0):
        inverse = np.round(1.0 / observed, 6).tolist()
        raise ConfigError(
            f"{where}.scale",
            got=f"none, beside observation.joint_position.scale {observed.tolist()}",
            expected="the factor from rad to the controller's unit",
            hint=f"Write scale: {inverse} if the controller takes what joint_position reports, "
            "scale: 1.0 if it takes rad",
        )


def check_frames(config: Contract) -> None:
    """What is commanded and what it builds on are in frames whose relation is known."""
    base, frames = config.base_frame, config.frames()
    hint = f"Say where it is: transforms: {{FRAME: {{parent: {base}, xyz: [x, y, z], rpy: [r, p, y]}}}}, or use_tf: true"
    drives_tool = config.action.kind not in JOINT_KINDS or bool(config.home.pose)
    for name in ("tcp_pose", "tcp_velocity"):
        if not drives_tool or name not in config.observation:
            continue
        if plain(config.observed_frame(name)) != plain(base):
            raise ConfigError(
                f"observation.{name}.frame",
                got=config.message_frame(name),
                expected=f"{base}, the frame of what is commanded (base_frame)",
                hint=hint,
            )
    for where, command in (
        ("action.command", config.action.command),
        ("home.command", config.home.command),
    ):
        if command is None or not command.frame:
            continue
        if command.type not in TOOL_TYPES:
            raise ConfigError(
                f"{where}.frame", got=command.frame, expected=f"none for {command.type}"
            )
        if not config.use_tf and frames.between(base, command.frame) is None:
            raise ConfigError(
                f"{where}.frame",
                got=command.frame,
                expected=f"{base}, the frame of the action (base_frame)",
                hint=hint,
            )


def check_echo(config: Contract) -> None:
    """What this node commands is not what it reads: a robot that has died would seem to follow."""
    read = {
        part.config.topic.lstrip("/"): name
        for name in config.observation
        for part in config.plan(name).parts
    }
    for where, command in (
        ("action.command", config.action.command),
        ("action.gripper", config.action.gripper),
        ("home.command", config.home.command),
    ):
        if command is not None and command.topic.lstrip("/") in read:
            raise ConfigError(
                f"{where}.topic",
                got=f"{command.topic!r}, which observation.{read[command.topic.lstrip('/')]} reads",
                expected="another topic than those that the robot is read from",
            )


def check_home(config: Contract) -> None:
    """The way home can be gone and seen."""
    home = config.home
    if home.joints and home.pose:
        raise ConfigError("home", got="joints and pose", expected="one of them")
    command = home.command or config.action.command
    if home.joints:
        if len(home.joints) != len(config.joints):
            raise ConfigError(
                "home.joints", got=f"{len(home.joints)} numbers", expected=len(config.joints)
            )
        require_joint_position(config)
        _require_type("home.joints", command, joint=True)
    if home.pose:
        norm = float(np.linalg.norm(home.pose[3:]))
        if len(home.pose) != 7 or abs(norm - 1) > 1e-2:
            raise ConfigError(
                "home.pose",
                got=f"{len(home.pose)} numbers, quaternion of length {norm:.3f}",
                expected="x y z and a unit quaternion qx qy qz qw",
            )
        require_tcp_pose(config, "home is a pose")
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
