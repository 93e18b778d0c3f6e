"""What a URDF says about joints: order, limits, kind, who mimics whom."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

from user_core.errors import ConfigError

_MOVING = ("revolute", "continuous", "prismatic")


@dataclass(frozen=True)
class UrdfJoint:
    """A joint.

    Attributes:
        name: Its name.
        kind: revolute, continuous, prismatic, fixed.
        parent: The link that it hangs on.
        child: The link that it moves.
        lower: Lowest position, rad or m; None: no limit.
        upper: Highest position.
        velocity: Largest speed, rad/s or m/s; None: not said.
        mimics: The joint that it follows; empty: none.
    """

    name: str
    kind: str
    parent: str
    child: str
    lower: float | None = None
    upper: float | None = None
    velocity: float | None = None
    mimics: str = ""

    @property
    def moves(self) -> bool:
        """Whether it has a position."""
        return self.kind in _MOVING


@dataclass(frozen=True)
class Urdf:
    """A robot description.

    Attributes:
        name: Of the robot.
        root: The link that hangs on nothing.
        joints: All joints by name, from the root outwards, branch after branch.
        text: The document.
    """

    name: str
    root: str
    joints: dict[str, UrdfJoint]
    text: str = field(default="", repr=False, compare=False)

    def chain(self, link: str) -> list[UrdfJoint]:
        """The joints from the root to a link; empty for an unknown one."""
        by_child = {joint.child: joint for joint in self.joints.values()}
        found: list[UrdfJoint] = []
        while link in by_child and len(found) <= len(by_child):
            found.append(by_child[link])
            link = by_child[link].parent
        return found[::-1]

    def base_of(self, joints: Iterable[str]) -> str:
        """The link that all of these joints hang on, behind nothing that moves."""
        chains = [self.chain(self.joints[name].child) for name in joints if name in self.joints]
        if not chains:
            return self.root
        base = self.root
        for step in zip(*chains):
            if len({joint.name for joint in step}) > 1 or step[0].moves:
                break
            base = step[0].child
        return base

    def hangs_on(self, joint: str, others: Iterable[str]) -> bool:
        """Whether a joint is moved by one of the others."""
        if joint not in self.joints:
            return False
        above = {item.name for item in self.chain(self.joints[joint].parent)}
        return bool(above & set(others))


def file_of(path: str) -> Path:
    """The file that a path means; ``package://PACKAGE/...`` is looked for in the workspaces that are
    sourced.

    Raises:
        ConfigError: There is no such package.
    """
    if not path.startswith("package://"):
        return Path(path.removeprefix("file://")).expanduser()
    package, _, rest = path.removeprefix("package://").partition("/")
    prefixes = [Path(p) for p in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if p]
    for prefix in prefixes:
        if (prefix / "share" / package).is_dir():
            return prefix / "share" / package / rest
    raise ConfigError(
        path,
        got=f"package {package!r}, which is not installed",
        expected="a package of a workspace that is sourced",
    )


def parse_urdf(text: str) -> Urdf:
    """Read a URDF.

    Raises:
        ConfigError: It is no URDF.
    """
    if "<!ENTITY" in text or "<!DOCTYPE" in text:
        raise ConfigError("robot description", got="a document type", expected="plain URDF")
    try:
        robot = ElementTree.fromstring(text)  # noqa: S314 - entities are refused above
    except ElementTree.ParseError as error:
        raise ConfigError("robot description", got=str(error), expected="a URDF") from error
    if robot.tag != "robot":
        raise ConfigError("robot description", got=f"<{robot.tag}>", expected="<robot>")
    if _is_xacro(robot):
        raise ConfigError(
            "robot description", got="xacro, from which a URDF is yet to be made", expected="a URDF",
            hint="`xacro FILE.xacro NAME:=VALUE > robot.urdf` makes it, with the arguments of the robot's launch file",
        )  # fmt: skip
    joints = [_joint(item) for item in robot.findall("joint")]
    links = [str(item.get("name")) for item in robot.findall("link")]
    children = {joint.child for joint in joints}
    root = next((link for link in links if link not in children), links[0] if links else "")
    return Urdf(str(robot.get("name", "robot")), root, _ordered(joints, root), text)


def _is_xacro(robot: ElementTree.Element) -> bool:
    """Whether elements of xacro are left: its namespace is written in several ways."""
    return any(
        "xacro" in part.tag.partition("}")[0] for part in robot.iter() if "}" in str(part.tag)
    )


def _joint(item: ElementTree.Element) -> UrdfJoint:
    limit, mimic = item.find("limit"), item.find("mimic")
    kind = str(item.get("type"))

    def number(name: str) -> float | None:
        try:
            value = float(limit.get(name, "")) if limit is not None else math.nan
        except ValueError:
            return None
        return value if math.isfinite(value) else None

    bounded = kind in ("revolute", "prismatic")
    return UrdfJoint(
        str(item.get("name")),
        kind,
        _link(item, "parent"),
        _link(item, "child"),
        number("lower") if bounded else None,
        number("upper") if bounded else None,
        number("velocity") or None,
        "" if mimic is None else str(mimic.get("joint", "")),
    )


def _link(item: ElementTree.Element, side: str) -> str:
    found = item.find(side)
    return "" if found is None else str(found.get("link", ""))


def _ordered(joints: list[UrdfJoint], root: str) -> dict[str, UrdfJoint]:
    below: dict[str, list[UrdfJoint]] = {}
    for joint in joints:
        below.setdefault(joint.parent, []).append(joint)
    found: dict[str, UrdfJoint] = {}
    waiting = below.get(root, [])[::-1]
    while waiting:
        joint = waiting.pop()
        if joint.name not in found:
            found[joint.name] = joint
            waiting += below.get(joint.child, [])[::-1]
    for joint in joints:  # of a description in several pieces
        found.setdefault(joint.name, joint)
    return found
