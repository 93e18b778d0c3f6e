"""Whether joints and sources of a contract fit each other."""

from __future__ import annotations

import numpy as np

from user_core.errors import ConfigError
from user_hal.robots.ros2.contract.keys import Contract
from user_hal.robots.ros2.contract.sources import POSES, Bound
from user_hal.robots.ros2.messages import JOINT_KINDS, LAYOUTS, POSE_RPY_SIZE, layout_named


def check_joints(config: Contract) -> None:
    """Joints are named once; what is said about some of them is about known ones."""
    if len(set(config.joints)) != len(config.joints):
        raise ConfigError("joints", got=list(config.joints), expected="each name once")
    unknown = sorted(set(config.continuous) - set(config.joints))
    if unknown:
        raise ConfigError("continuous", got=unknown, expected=f"some of {list(config.joints)}")
    limits = config.joint_velocity_limits
    if limits is not None:
        check_bounds("joint_velocity_limits", None, limits, len(config.joints))
        if np.min(limits) <= 0:
            raise ConfigError("joint_velocity_limits", got=limits, expected="numbers above zero")
    kind = config.action.kind
    if kind in JOINT_KINDS and not config.joints:
        raise ConfigError("joints", got="none", expected=f"names, for {kind.value} actions")


def check_source(config: Contract, name: str) -> None:
    """One entry of the observation says what is taken, and how much."""
    source, where = config.observation[name], f"observation.{name}"
    layout, count = config.layout(name), element_count(config, name)
    is_vector = layout in ("vector", "scalar")
    standard = LAYOUTS[layout_named(name)].size
    if standard is not None and count != standard:
        raise ConfigError(
            where,
            got=f"{count} numbers",
            expected=f"{standard}: {' '.join(LAYOUTS[layout_named(name)].names)}",
            hint="Six numbers with angles are layout: pose_rpy" if name == "tcp_pose" else "",
        )
    if layout == "pose_rpy":
        if source.names or source.size not in (None, POSE_RPY_SIZE):
            raise ConfigError(where, got="names or size of a pose_rpy", expected="none, or size 6")
        if len(source.indices) not in (0, POSE_RPY_SIZE):
            raise ConfigError(
                f"{where}.indices", got=f"{len(source.indices)} numbers", expected=POSE_RPY_SIZE
            )
    elif (source.length, source.angle) != ("m", "rad"):
        raise ConfigError(
            f"{where}.length and angle",
            got=f"{source.length}, {source.angle} of a {layout}",
            expected="layout: pose_rpy beside them",
        )
    if (
        not is_vector
        and layout != "pose_rpy"
        and (source.names or source.indices or source.size is not None)
    ):
        raise ConfigError(where, got=f"names, indices or size of a {layout}", expected="none")
    for key, numbers, usual in (("scale", source.scale, 1.0), ("offset", source.offset, 0.0)):
        values = np.atleast_1d(numbers)
        if len(values) not in (1, count):
            raise ConfigError(
                f"{where}.{key}", got=f"{len(values)} numbers", expected=f"1 or {count}"
            )
        if not is_vector and list(values) != [usual]:
            raise ConfigError(f"{where}.{key}", got=numbers, expected=f"none for a {layout}")
        if not np.isfinite(values).all() or (key == "scale" and not values.all()):
            raise ConfigError(f"{where}.{key}", got=numbers, expected="finite, and no scale of 0")
    check_bounds(where, source.low, source.high, count)


def element_count(config: Contract, name: str) -> int:
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


def require_joint_position(config: Contract) -> None:
    """Joints are observed in the order in which they are commanded."""
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


def require_tcp_pose(config: Contract, why: str) -> None:
    """The pose of the tool is observed."""
    if "tcp_pose" not in config.observation or config.layout("tcp_pose") not in POSES:
        raise ConfigError(
            "observation", got=sorted(config.observation), expected=f"tcp_pose, because {why}"
        )


def check_bounds(where: str, low: Bound, high: Bound, count: int) -> None:
    """Bounds have as many numbers as what they bound, and low is below high."""
    for side, bound in (("low", low), ("high", high)):
        if isinstance(bound, tuple) and len(bound) != count:
            raise ConfigError(
                f"{where} {side}", got=f"{len(bound)} numbers", expected=f"1 or {count}"
            )
        if bound is not None and not np.isfinite(bound).all():
            raise ConfigError(f"{where} {side}", got=bound, expected="finite numbers")
    if low is not None and high is not None and not np.all(np.asarray(low) <= np.asarray(high)):
        raise ConfigError(f"{where} low", got=low, expected=f"at most high, {high}")
