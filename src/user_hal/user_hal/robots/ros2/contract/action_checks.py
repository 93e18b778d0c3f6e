"""Whether action, commands, frames and the way home of each group fit what is observed."""

from __future__ import annotations

import numpy as np

from user_core.errors import ConfigError
from user_core.specs import ActionKind
from user_hal.robots.ros2.contract.actions import CommandConfig, command_quantity
from user_hal.robots.ros2.contract.groups import Group
from user_hal.robots.ros2.contract.keys import Contract
from user_hal.robots.ros2.contract.source_checks import check_bounds
from user_hal.robots.ros2.contract.sources import POSES
from user_hal.robots.ros2.frames import plain
from user_hal.robots.ros2.messages import (
    FOLLOW_TRAJECTORY,
    JOINT_TRAJECTORY,
    JOINT_TYPES,
    NUMBERS,
    TOOL_TYPES,
)

_TRAJECTORIES = (JOINT_TRAJECTORY, FOLLOW_TRAJECTORY)


def check_group(group: Group) -> None:
    """Raise ConfigError for the first thing of a group that does not fit."""
    if group.name and (not group.name.isidentifier()):
        raise ConfigError("groups", got=repr(group.name), expected="names of letters, digits and _")
    check_action(group)
    check_home(group)
    check_frames(group)
    for where, command in group.commands():
        check_units(group, where, command)


def check_has_joints(group: Group) -> None:
    """Who moves joints says which."""
    if group.moves_joints and not group.joints:
        kind = group.action.kind.value
        raise ConfigError(f"{group.where}joints", got="none", expected=f"names, for {kind} actions")


def check_action(group: Group) -> None:
    """The action fits what is observed, and its bounds its size."""
    action, where = group.action, f"{group.where}action"
    if group.moves_joints:
        if action.kind is not ActionKind.GENERIC:
            _require_joint_position(group)
        count = len(group.joints)
        check_bounds(f"{where}.target", action.target_low, action.target_high, count)
        _check_count(f"{where}.max_lead_rad", action.max_lead_rad, count)
    elif action.kind is ActionKind.BASE_TWIST:
        count = 3 if action.sideways else 2
        if action.all_grippers:
            raise ConfigError(f"{where}.gripper", got="a gripper of a base", expected="none")
    else:
        count = 7 if action.kind is ActionKind.EE_POSE else (6 if action.rotation else 3)
        if command_quantity(action, action.command) == "pose":
            _require_tcp_pose(group, "poses are commanded")
    check_bounds(where, action.low, action.high, count)
    if action.kind is ActionKind.GENERIC:
        if group.stop.effort is None:
            raise ConfigError(
                f"{group.where}stop.effort",
                got="nothing, for efforts",
                expected="what a stop sends",
                hint="0.0 is right for an arm that carries its own weight, and lets another fall",
            )
        check_bounds(f"{group.where}stop.effort", group.stop.effort, None, count)
    _check_gripper(group, where)


def _check_gripper(group: Group, where: str) -> None:
    grippers = group.action.all_grippers
    inside = [gripper for gripper in grippers.values() if gripper.in_command]
    if not inside:
        return
    command = group.action.command
    if command.per_joint:
        raise ConfigError(
            f"{where}.gripper.in_command", got="a topic for each joint", expected="its own topic"
        )
    if command_quantity(group.action, command) != "positions" and not command.fields:
        raise ConfigError(
            f"{where}.gripper.in_command",
            got=f"a {command.type} of {command_quantity(group.action, command)}",
            expected="positions, or fields that say where the fingers stand",
        )
    if command.type in JOINT_TYPES and command.type != NUMBERS and not command.fields:
        for gripper in inside:
            if len(gripper.joints) != gripper.fingers:
                raise ConfigError(
                    f"{where}.gripper.joints", got=list(gripper.joints),
                    expected=f"{gripper.fingers} names, as the message names joints",
                )  # fmt: skip
    name = group.source("gripper")
    if name is None or group.contract.plan(name).size < len(grippers):
        raise ConfigError(
            "observation",
            got=sorted(group.contract.observation),
            expected=f"{group.label('gripper')}: the opening, as a stop must leave it as it is"
            + (f"; {len(grippers)} numbers" if len(grippers) > 1 else ""),
            hint="Take it from the joint states, scaled to 0 closed, 1 open",
        )


def check_units(group: Group, where: str, command: CommandConfig) -> None:
    """Scales, offsets and ranges of a command fit its message."""
    quantity = command_quantity(group.action, command)
    velocities = group.velocities(command)
    by_joints = quantity in ("positions", "velocities", "efforts")
    count = len(group.joints) if by_joints else 6
    for key in ("scale", "offset", "low", "high"):
        value = getattr(command, key)
        if value is None:
            continue
        if quantity == "pose" and (command.quantity != "pose_rpy" or key != "scale"):
            raise ConfigError(f"{where}.{key}", got=value, expected="none: poses are in m")
        if key == "offset" and quantity != "positions":
            raise ConfigError(f"{where}.offset", got=value, expected=f"none for {quantity}")
        if key in ("low", "high") and not velocities and quantity != "efforts":
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
    if command.type not in _TRAJECTORIES or command.scale is not None:
        return
    name = group.source("joint_position")
    if name is None:
        return
    scale = group.contract.scaling(name)[0]
    if not np.all(scale == 1.0):
        inverse = np.round(1.0 / scale, 6).tolist()
        raise ConfigError(
            f"{where}.scale",
            got=f"none, beside observation.{name}.scale {scale.tolist()}",
            expected="the factor from rad to the controller's unit",
            hint=f"Write scale: {inverse} if the controller takes what {name} reports, "
            "scale: 1.0 if it takes rad",
        )


def check_frames(group: Group) -> None:
    """What is commanded and what it builds on are in frames whose relation is known."""
    base, contract = group.base_frame, group.contract
    hint = f"Say where it is: transforms: {{FRAME: {{parent: {base}, xyz: [x, y, z], rpy: [r, p, y]}}}}, or use_tf: true"
    is_base = group.action.kind is ActionKind.BASE_TWIST
    drives_tool = (not group.moves_joints and not is_base) or bool(group.home.pose)
    for quantity in ("tcp_pose", "tcp_velocity"):
        name = group.source(quantity)
        if not drives_tool or name is None:
            continue
        if plain(contract.observed_frame(name)) != plain(base):
            raise ConfigError(
                f"observation.{name}.frame",
                got=contract.message_frame(name),
                expected=f"{base}, the frame of what is commanded (base_frame)",
                hint=hint,
            )
    for where, command in group.commands():
        if not command.frame:
            continue
        if command_quantity(group.action, command) not in ("pose", "twist"):
            raise ConfigError(
                f"{where}.frame", got=command.frame, expected=f"none for {command.type}"
            )
        if not contract.use_tf and contract.frames().between(base, command.frame) is None:
            raise ConfigError(
                f"{where}.frame",
                got=command.frame,
                expected=f"{base}, the frame of the action (base_frame)",
                hint=hint,
            )


def check_topics(contract: Contract, groups: tuple[Group, ...]) -> None:
    """What this node commands is not what it reads (a robot that has died would seem to follow),
    and no two groups command the same topic."""
    read = {
        part.config.topic.lstrip("/"): name
        for name in contract.observation
        for part in contract.plan(name).parts
        if part.config.topic
    }
    taken: dict[str, str] = {}
    for group in groups:
        commands = [(where, topic) for where, topic, _ in group.topics()]
        grippers = group.action.all_grippers.items()
        commands += [(f"{group.where}action.{n}", g.topic) for n, g in grippers if g.topic]
        for where, topic in commands:
            if topic.lstrip("/") in read:
                raise ConfigError(
                    f"{where}.topic",
                    got=f"{topic!r}, which observation.{read[topic.lstrip('/')]} reads",
                    expected="another topic than those that the robot is read from",
                )
            other = taken.setdefault(topic.lstrip("/"), group.name)
            if other != group.name:
                raise ConfigError(
                    f"{where}.topic", got=f"{topic!r}, which group {other!r} commands, too",
                    expected="a topic for each group, or one group with the joints of both",
                )  # fmt: skip


def check_home(group: Group) -> None:
    """The way home can be gone and seen."""
    home, where = group.home, f"{group.where}home"
    if home.joints and home.pose:
        raise ConfigError(where, got="joints and pose", expected="one of them")
    command = home.command or group.action.command
    if home.joints:
        count = len(group.joints)
        if len(home.joints) != count:
            raise ConfigError(f"{where}.joints", got=f"{len(home.joints)} numbers", expected=count)
        for key in ("speed_rad_s", "tolerance_rad"):
            _check_count(f"{where}.{key}", getattr(home, key), count)
        _require_joint_position(group)
        _require_quantity(group, f"{where}.joints", command, ("positions", "velocities"))
    if home.pose:
        norm = float(np.linalg.norm(home.pose[3:]))
        if len(home.pose) != 7 or abs(norm - 1) > 1e-2:
            raise ConfigError(
                f"{where}.pose",
                got=f"{len(home.pose)} numbers, quaternion of length {norm:.3f}",
                expected="x y z and a unit quaternion qx qy qz qw",
            )
        _require_tcp_pose(group, "home is a pose")
        _require_quantity(group, f"{where}.pose", command, ("pose", "twist"))
    grippers = len(group.action.all_grippers)
    if home.gripper is not None and not grippers:
        raise ConfigError(
            f"{where}.gripper", got=home.gripper, expected=f"{group.where}action.gripper as well"
        )
    if home.gripper is not None:
        _check_count(f"{where}.gripper", home.gripper, grippers)


def _require_quantity(
    group: Group, what: str, command: CommandConfig, fitting: tuple[str, ...]
) -> None:
    if command_quantity(group.action, command) not in fitting:
        types = JOINT_TYPES if "positions" in fitting else TOOL_TYPES
        raise ConfigError(
            what,
            got=f"a command of type {command.type}",
            expected=f"one of {list(types)}, or fields with a quantity that fits",
            hint=f"Give {group.where}home.command a topic that can go there",
        )


def _require_joint_position(group: Group) -> None:
    if group.source("joint_position") is None:
        raise ConfigError(
            "observation",
            got=sorted(group.contract.observation),
            expected=f"{group.label('joint_position')} among them",
        )
    group.rows("joint_position")


def _require_tcp_pose(group: Group, why: str) -> None:
    name = group.source("tcp_pose")
    if name is None or group.contract.layout(name) not in POSES:
        raise ConfigError(
            "observation",
            got=sorted(group.contract.observation),
            expected=f"{group.label('tcp_pose')}, because {why}",
        )


def _check_count(where: str, value: float | tuple[float, ...], count: int) -> None:
    if isinstance(value, tuple) and len(value) != count:
        raise ConfigError(where, got=f"{len(value)} numbers", expected=f"1 or {count}")
