"""One group of a contract as if it were a robot of its own; a contract without groups is one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from user_core.errors import ConfigError
from user_core.specs import ActionKind, Array
from user_hal.robots.ros2.contract.actions import (
    ActionConfig,
    CommandConfig,
    HomeConfig,
    StopConfig,
    carries_velocities,
    command_quantity,
)
from user_hal.robots.ros2.contract.keys import Contract
from user_hal.robots.ros2.contract.parts import JOINT_ARRAYS
from user_hal.robots.ros2.messages import JOINT_KINDS, TOOL_KINDS

#: Arrays whose units a command's numbers have, unless it says its own; the first that is there.
_MEASURED_AS = {
    "positions": ("joint_position",),
    "velocities": ("joint_velocity", "joint_position"),
    "efforts": ("joint_effort",),
}


@dataclass(frozen=True)
class Group:
    """A part of a robot that is commanded by itself.

    Attributes:
        contract: The whole contract.
        name: Of the group; empty for a robot without groups.
        joints: Its joints.
        action: What its part of an action does.
        home: Where it starts.
        stop: How it stops.
        base_frame: Frame of its tool poses and twists.
    """

    contract: Contract
    name: str
    joints: tuple[str, ...]
    action: ActionConfig
    home: HomeConfig
    stop: StopConfig
    base_frame: str

    @property
    def where(self) -> str:
        """Path of its keys in the contract, with a dot behind it."""
        return f"groups.{self.name}." if self.name else ""

    @property
    def moves_joints(self) -> bool:
        """Whether its actions are about joints."""
        return self.action.kind in (*JOINT_KINDS, ActionKind.GENERIC)

    def label(self, element: str) -> str:
        """Name of an element of its action that is no joint."""
        return f"{self.name}.{element}" if self.name else element

    def source(self, quantity: str) -> str | None:
        """The array of the observation that shows a quantity of this group; None: none does."""
        observation = self.contract.observation
        own = f"{self.name}.{quantity}" if self.name else quantity
        if own in observation:
            return own
        shared = quantity in JOINT_ARRAYS or self._only_tool()
        return quantity if quantity in observation and shared else None

    def rows(self, quantity: str) -> Array | None:
        """The group's rows of an array with an element for each joint; None: all of them.

        Raises:
            ConfigError: The array has not all of the joints.
        """
        name = self.source(quantity)
        if name is None or quantity not in JOINT_ARRAYS:
            return None
        names = self.contract.elements(name)
        if names == self.joints:
            return None
        if not self.name or name != quantity or not set(self.joints) <= set(names):
            raise ConfigError(
                f"observation.{name}.names",
                got=list(names),
                expected=f"the robot's joints {list(self.joints)}"
                if not self.name
                else f"the joints of group {self.name!r}, {list(self.joints)}, among them",
            )
        return np.array([names.index(joint) for joint in self.joints], np.intp)

    def per_joint(self, value: float | tuple[float, ...], prismatic: float) -> Array:
        """A number for each joint, (n,): several as they are; of one, prismatic joints have
        ``prismatic`` instead."""
        if isinstance(value, tuple):
            return np.array(value, float)
        shifts = [joint in self.contract.prismatic for joint in self.joints]
        return np.where(shifts, prismatic, value)

    def scaling(self, command: CommandConfig) -> tuple[Array, Array]:
        """Scale and offset from our units to the robot's own, each (1,) or (n,)."""
        scale: Array = np.ones(1)
        offset: Array = np.zeros(1)
        quantity = command_quantity(self.action, command)
        for array in _MEASURED_AS.get(quantity, ()):
            name = self.source(array)
            names = self.contract.elements(name) if name is not None else ()
            if name is None or not set(self.joints) <= set(names):
                continue
            factors, zeros = self.contract.scaling(name)
            if array == "joint_velocity" and np.all(factors == 1):
                continue  # not said: as the positions
            rows = np.array([names.index(joint) for joint in self.joints], np.intp)
            scale = 1.0 / _chosen(factors, rows)
            offset = -_chosen(zeros, rows)  # of the joint positions, before scaling
            break
        if command.scale is not None:
            scale = np.atleast_1d(command.scale)
        offset = offset * scale if command.offset is None else np.atleast_1d(command.offset)
        return scale, offset if quantity == "positions" else np.zeros(1)

    def velocities(self, command: CommandConfig) -> bool:
        """Whether a command's numbers are velocities."""
        return carries_velocities(self.action, command)

    def commands(self) -> list[tuple[str, CommandConfig]]:
        """Its topics for motion, each with its path in the contract."""
        both = (("action.command", self.action.command), ("home.command", self.home.command))
        return [(self.where + where, command) for where, command in both if command is not None]

    def topics(self) -> list[tuple[str, str, str]]:
        """The topics that it is moved by: path in the contract, topic, type."""
        return [
            (where, topic, command.type)
            for where, command in self.commands()
            for topic in command.topics(self.joints)
        ]

    def _only_tool(self) -> bool:
        """Whether what is measured at the tool can only be this group's."""
        groups = self.contract.groups.values()
        kinds = [group.action.kind for group in groups]
        tools = [k for k in kinds if k in TOOL_KINDS] or [k for k in kinds if k in JOINT_KINDS]
        return not self.name or (len(tools) == 1 and self.action.kind is tools[0])


def groups_of(contract: Contract) -> tuple[Group, ...]:
    """The groups of a contract, in the order of the elements of an action; at least one.

    Raises:
        ConfigError: Something is said both of groups and of the whole robot, or not at all.
    """
    if not contract.groups:
        if contract.action is None:
            raise ConfigError("action", got="nothing", expected="a mapping, or groups")
        return (
            Group(
                contract, "", contract.joints, contract.action, contract.home, contract.stop,
                contract.base_frame,
            ),
        )  # fmt: skip
    for key in ("action", "joints"):
        if getattr(contract, key):
            raise ConfigError(key, got="given beside groups", expected="a key of each group")
    home = contract.home
    if home.joints or home.pose or home.command is not None or home.gripper is not None:
        raise ConfigError(
            "home", got="a place beside groups", expected="home of each group; here before, after"
        )
    return tuple(
        Group(
            contract,
            name,
            group.joints,
            group.action,
            group.home,
            group.stop or contract.stop,
            group.base_frame or contract.base_frame,
        )
        for name, group in contract.groups.items()
    )


def _chosen(values: Array, rows: Array | None) -> Array:
    return values if rows is None or len(values) == 1 else values[rows]
