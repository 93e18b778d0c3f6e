"""Robots, hosts and processes of a deployment while it is being composed."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from user_fleet.deployment.tree import Node, Origin


@dataclass
class Member:
    """A robot, or a host: whatever has roles.

    Attributes:
        name: Of the robot or host; empty for the only host of a deployment that names none.
        host: Name of its host.
        is_robot: Which of the two.
        tree: What the deployment says of it.
        values: What its fragments say, by name.
        arguments: What its fragments declare.
        processes: What its fragments say of each process, by role, one laid over the other.
    """

    name: str
    host: str
    is_robot: bool
    tree: Node
    values: dict[str, Node] = field(default_factory=dict)
    arguments: dict[str, Node] = field(default_factory=dict)
    processes: dict[str, list[Node]] = field(default_factory=dict)


@dataclass
class Part:
    """A process while it is being composed.

    Attributes:
        role: What it is for, within its robot or host.
        member: Whose it is; None for a process that was given in full.
        layers: What is said of it, each laid over the one before.
        name: How it is called in the end.
        forced: Whether the deployment itself calls it so.
    """

    role: str
    member: Member | None
    layers: list[Node]
    name: str = ""
    forced: bool = False

    @property
    def path(self) -> str:
        """``robot0.actor``; its name alone, where it is nobody's."""
        owner = self.member.name if self.member is not None else ""
        return f"{owner}.{self.role}" if owner else self.role

    @property
    def origin(self) -> Origin:
        """Where it is first spoken of."""
        return self.layers[0].origin

    def get(self, key: str) -> Node | None:
        """What the last one says of this key, unresolved."""
        found = [node for layer in self.layers if (node := layer.get(key)) is not None]
        return found[-1] if found else None

    @property
    def is_managed(self) -> bool:
        """Whether a lifecycle manager looks after it."""
        return all(node is None or node.value for node in (self.get("ros"), self.get("lifecycle")))


def name_with_owner(role: str, owner: str) -> str:
    """``hal0`` for the hal of robot0, ``left_hal`` for that of left."""
    number = re.search(r"\d+$", owner)
    return f"{role}{number[0]}" if number else f"{owner}_{role}"
