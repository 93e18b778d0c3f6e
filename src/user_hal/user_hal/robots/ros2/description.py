"""What the robot's URDF says of its joints, where the contract is silent: limits, which turn
without an end, which shift, which only follow another."""

from __future__ import annotations

import difflib
import threading
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from user_core.errors import ConfigError, DeviceTimeout
from user_hal.robot_description import Urdf, UrdfJoint, file_of, parse_urdf
from user_hal.robots.ros2.contract.actions import ActionConfig, HomeConfig
from user_hal.robots.ros2.contract.keys import Contract
from user_hal.robots.ros2.contract.sources import Bound
from user_hal.topic_io import TopicIo

#: Target bound of a joint that has none, rad: ten thousand turns.
NO_BOUND = 1e5
#: What a contract may go beyond the limits of a URDF by rounding.
_ROUNDING = 1e-3
_STRING = "std_msgs/msg/String"

C = TypeVar("C", bound=Contract)


def read_urdf(path: str) -> Urdf:
    """Read a URDF file; ``package://PACKAGE/...`` is looked for in the workspaces that are
    sourced.

    Raises:
        ConfigError: There is no such file, or it is no URDF.
    """
    file = file_of(path)
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError("urdf.file", got=f"{path} ({error})", expected="a URDF file") from error
    if "xacro" in text and file.suffix != ".urdf":
        raise ConfigError(
            "urdf.file",
            got=f"{path}, which is xacro",
            expected="a URDF file",
            hint="Write the output of xacro to a file, or take topic: /robot_description",
        )
    return parse_urdf(text)


def hear_urdf(io: TopicIo, topic: str, timeout_s: float) -> Urdf:
    """Take the URDF from the topic of robot_state_publisher, which keeps it for all who come.

    Raises:
        DeviceTimeout: Nobody publishes it.
        ConfigError: It is no URDF.
    """
    heard: list[str] = []
    done = threading.Event()

    def take(message: object) -> None:
        heard.append(str(getattr(message, "data", "")))
        done.set()

    subscription = io.subscribe(topic, _STRING, take, reliability="reliable", latched=True)
    try:
        if not done.wait(timeout_s):
            others = sorted(name for name in io.topics() if name.endswith("robot_description"))
            raise DeviceTimeout(
                f"topic {subscription.topic!r} (urdf)",
                got=f"no robot description within {timeout_s:g} s",
                expected=f"{_STRING}, kept (transient local); topics that look like it: {others}",
                hint="Start robot_state_publisher, correct urdf.topic, or give urdf.file",
            )
    finally:
        subscription.close()
    return parse_urdf(heard[-1])


def described(contract: C, urdf: Urdf) -> tuple[C, list[str]]:
    """The contract with what a URDF says of its joints, and what it says against the contract.

    Limits of joints fill ``target_low`` and ``target_high``, speeds ``joint_velocity_limits``,
    where the contract says nothing; continuous and prismatic joints are added to its own.

    Raises:
        ConfigError: A joint is not in the URDF, or only follows another; home is out of reach.
    """
    joints = {name: _joint(urdf, name) for name in contract.joint_names}
    notes: list[str] = []
    changes: dict[str, object] = {
        key: (*getattr(contract, key), *_of_kind(joints, kind, getattr(contract, key)))
        for key, kind in (("continuous", "continuous"), ("prismatic", "prismatic"))
    }
    if contract.joint_velocity_limits is None and joints:
        silent = [name for name, joint in joints.items() if joint.velocity is None]
        if silent:
            notes.append(f"the URDF has no velocity limits of {silent}: jumps are not looked for")
        else:
            changes["joint_velocity_limits"] = tuple(j.velocity for j in joints.values())
    if contract.groups:
        changes["groups"] = {
            name: group.replace(
                action=_bounded(f"groups.{name}.", group.action, group.joints, joints, notes)
            )
            for name, group in contract.groups.items()
        }
        for name, group in contract.groups.items():
            _check_home(f"groups.{name}.", group.home, group.joints, joints)
    elif contract.action is not None:
        changes["action"] = _bounded("", contract.action, contract.joints, joints, notes)
        _check_home("", contract.home, contract.joints, joints)
    return contract.replace(**changes), notes


def _joint(urdf: Urdf, name: str) -> UrdfJoint:
    joint = urdf.joints.get(name)
    moving = [item.name for item in urdf.joints.values() if item.moves and not item.mimics]
    if joint is None or not joint.moves:
        near = difflib.get_close_matches(name, moving, n=1)
        raise ConfigError(
            "joints",
            got=f"{name!r}, which is {'fixed' if joint else 'not'} in the URDF of {urdf.name!r}",
            expected=f"some of {moving}",
            hint=f"Did you mean {near[0]!r}?" if near else "",
        )
    if joint.mimics:
        raise ConfigError(
            "joints",
            got=f"{name!r}, which only follows {joint.mimics!r} (mimic in the URDF)",
            expected=f"joints that move by themselves: {moving}",
            hint="Leave it out; it is where the other one is",
        )
    return joint


def _of_kind(joints: dict[str, UrdfJoint], kind: str, said: Sequence[str]) -> tuple[str, ...]:
    return tuple(n for n, joint in joints.items() if joint.kind == kind and n not in said)


def _bounded(
    where: str,
    action: ActionConfig,
    names: Sequence[str],
    joints: dict[str, UrdfJoint],
    notes: list[str],
) -> ActionConfig:
    """An action whose targets stay within the limits of the joints."""
    if not names:
        return action
    changes: dict[str, object] = {}
    for key, side, sign in (("target_low", "lower", -1.0), ("target_high", "upper", 1.0)):
        limits = [getattr(joints[name], side) for name in names]
        said: Bound = getattr(action, key)
        if said is None:
            if any(limit is not None for limit in limits):
                changes[key] = tuple(sign * NO_BOUND if v is None else v for v in limits)
            continue
        own = np.broadcast_to(np.asarray(said, float), (len(names),))
        for name, limit, value in zip(names, limits, own):
            if limit is not None and sign * (value - limit) > _ROUNDING:
                notes.append(
                    f"{where}action.{key} of {name!r}, {value:g}, is beyond the {side} limit of "
                    f"the URDF, {limit:g}"
                )
    return action.replace(**changes) if changes else action


def _check_home(
    where: str, home: HomeConfig, names: Sequence[str], joints: dict[str, UrdfJoint]
) -> None:
    for name, value in zip(names, home.joints):
        joint = joints[name]
        low = -NO_BOUND if joint.lower is None else joint.lower
        high = NO_BOUND if joint.upper is None else joint.upper
        if not low - _ROUNDING <= value <= high + _ROUNDING:
            raise ConfigError(
                f"{where}home.joints of {name!r}",
                got=value,
                expected=f"{low:g} to {high:g}, the limits of the URDF",
            )
