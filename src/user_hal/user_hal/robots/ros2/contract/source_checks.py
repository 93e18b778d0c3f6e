"""Whether joints and sources of a contract fit each other."""

from __future__ import annotations

import numpy as np

from user_core.errors import ConfigError
from user_hal.robots.ros2.contract.keys import Contract
from user_hal.robots.ros2.contract.sources import Bound
from user_hal.robots.ros2.messages import LAYOUTS, layout_named


def check_joints(config: Contract) -> None:
    """Joints are named once; what is said about some of them is about known ones."""
    joints = config.joint_names
    if len(set(joints)) != len(joints):
        raise ConfigError("joints", got=list(joints), expected="each name once")
    for key in ("continuous", "prismatic"):
        unknown = sorted(set(getattr(config, key)) - set(joints))
        if unknown:
            raise ConfigError(key, got=unknown, expected=f"some of {list(joints)}")
    both = sorted(set(config.continuous) & set(config.prismatic))
    if both:
        raise ConfigError("continuous", got=f"{both}, also prismatic", expected="one of the two")
    if len(config.tool_velocity_limits) == 1:
        raise ConfigError(
            "tool_velocity_limits", got=config.tool_velocity_limits, expected="m/s and rad/s"
        )
    limits = config.joint_velocity_limits
    if limits is not None:
        check_bounds("joint_velocity_limits", None, limits, len(joints))
        if np.min(limits) <= 0:
            raise ConfigError("joint_velocity_limits", got=limits, expected="numbers above zero")


def check_source(config: Contract, name: str) -> None:
    """One entry of the observation says what is taken, and how much."""
    where, count = f"observation.{name}", element_count(config, name)
    standard = LAYOUTS[layout_named(name)].size
    if standard is not None and count != standard:
        raise ConfigError(
            where,
            got=f"{count} numbers",
            expected=f"{standard}: {' '.join(LAYOUTS[layout_named(name)].names)}",
            hint="Six numbers with angles are layout: pose_rpy or pose_rotvec, 16 a matrix: "
            "pose_columns or pose_rows"
            if name == "tcp_pose"
            else "",
        )
    for part in config.plan(name).parts:
        if "TFMessage" in part.config.type and not part.config.tf:
            raise ConfigError(
                f"{where}.field",
                got=f"{part.config.field}: the order of transforms in a message changes",
                expected="a frame by its name",
                hint="Write tf: FRAME instead of type and field; its pose is looked up",
            )
    check_bounds(where, config.observation[name].low, config.observation[name].high, count)


def check_moments(config: Contract) -> None:
    """There is something whose stamps the others can follow."""
    parts = [part for name in config.observation for part in config.plan(name).parts]
    if all(part.config.resample == "latest" or part.config.latched for part in parts):
        raise ConfigError(
            "resample of the observation",
            got="latest everywhere",
            expected="linear or nearest for at least one topic, whose stamps the others follow",
        )


def element_count(config: Contract, name: str) -> int:
    """Number of elements of an observation; ConfigError where the contract leaves it open."""
    return config.plan(name).size


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
