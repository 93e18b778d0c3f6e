"""Which numbers of which topic become which elements of an array of the observation."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from user_core.errors import ConfigError
from user_core.specs import Array
from user_hal.robots.ros2.contract.sources import ElementsConfig, PartConfig, SourceConfig
from user_hal.robots.ros2.messages import (
    ANGLE_POSES,
    JOINT_STATE,
    LAYOUTS,
    NUMBER_POSES,
    LayoutName,
    layout_named,
)

#: Standard arrays that have an element for each joint, alone or as ``<group>.<name>``.
JOINT_ARRAYS = ("joint_position", "joint_velocity", "joint_effort")


@dataclass(frozen=True)
class Part:
    """What one topic gives.

    Attributes:
        config: The keys of the contract, with those that it has from the whole array.
        layout: How the numbers lie in the message.
        meaning: What they are, for frames: ``pose``, ``twist``, ``wrench``, ...
        columns: Where its elements stand in the array.
        names: Their names in the message, in the same order; empty: taken by position.
        scale: Factor, (1,) or one per number of the message.
        offset: Added afterwards, likewise.
    """

    config: PartConfig
    layout: LayoutName
    columns: tuple[int, ...]
    names: tuple[str, ...]
    scale: Array
    offset: Array
    meaning: LayoutName


@dataclass(frozen=True)
class ArrayPlan:
    """An array of the observation.

    Attributes:
        layout: Of the whole array.
        names: Names of its elements; empty where they have none.
        size: Their number.
        parts: Where they come from.
    """

    layout: LayoutName
    names: tuple[str, ...]
    size: int
    parts: tuple[Part, ...]

    def scaling(self) -> tuple[Array, Array]:
        """Scale and offset of the elements, each (1,) or (size,)."""
        if len(self.parts) == 1:
            return self.parts[0].scale, self.parts[0].offset
        scale, offset = np.ones(self.size), np.zeros(self.size)
        for part in self.parts:
            if part.layout in NUMBER_POSES:
                continue
            columns = list(part.columns)
            scale[columns], offset[columns] = part.scale, part.offset
        return scale, offset


def is_joint_array(name: str) -> bool:
    """Whether an array has an element for each joint."""
    return name.rpartition(".")[2] in JOINT_ARRAYS


def plan_array(name: str, source: SourceConfig, joints: Sequence[str]) -> ArrayPlan:
    """Find out which numbers become which elements.

    Args:
        name: Of the array.
        source: What the contract says about it.
        joints: The joints of the robot (or of the group that the array belongs to).

    Raises:
        ConfigError: The contract leaves it open, or contradicts itself.
    """
    where, joints = f"observation.{name}", tuple(joints)
    if source.parts:
        return _plan_parts(where, name, source, joints)
    layout = _layout(source, layout_named(name))
    size = LAYOUTS[layout].size
    names: tuple[str, ...] = ()
    by_name: tuple[str, ...] = ()
    if size is None:
        if source.names or (_is_bare(source) and source.type == JOINT_STATE):
            names = by_name = source.names or joints
        size = len(names) or len(source.indices) or source.size
        if is_joint_array(name) and joints and not names and size in (None, len(joints)):
            names, size = joints, len(joints)
    if size is None or size == 0:
        raise ConfigError(
            where,
            got=f"a vector of unknown size at {source.field!r}",
            expected="names, indices, size, or a layout",
        )
    standard = layout_named(name)
    part = _part(where, source, layout, tuple(range(size)), by_name, standard)
    return ArrayPlan(layout, names, size, (part,))


def _plan_parts(where: str, name: str, source: SourceConfig, joints: tuple[str, ...]) -> ArrayPlan:
    merged = [part for part in source.merged() if isinstance(part, ElementsConfig)]
    open_parts = [i for i, part in enumerate(merged) if _takes_what_is_left(part)]
    wanted = joints if is_joint_array(name) or open_parts else ()
    labels = [part.elements or part.names for part in merged]
    counts = [_count(f"{where}.parts[{i}]", part) for i, part in enumerate(merged)]
    if not wanted:
        if open_parts:
            raise ConfigError(
                f"{where}.parts[{open_parts[0]}]", got="no names", expected="names or elements"
            )
        wanted = tuple(label for some in labels for label in some) if all(labels) else ()
    size = len(wanted) or sum(counts)
    columns = _columns(where, labels, counts, wanted, size, open_parts)
    parts = []
    for i, part in enumerate(merged):
        by_name = part.names
        if part.type == JOINT_STATE and _is_bare(part):
            by_name = part.elements or tuple(wanted[column] for column in columns[i])
        parts.append(
            _part(f"{where}.parts[{i}]", part, _layout(part, "vector"), columns[i], by_name)
        )
    return ArrayPlan("vector", wanted, size, tuple(parts))


def _columns(
    where: str,
    labels: Sequence[tuple[str, ...]],
    counts: Sequence[int],
    wanted: tuple[str, ...],
    size: int,
    open_parts: Sequence[int],
) -> list[tuple[int, ...]]:
    """Where the elements of each part stand: those with names at their names, the others, in
    order, where there is room."""
    taken: dict[int, int] = {}
    columns: list[tuple[int, ...]] = [()] * len(labels)
    for i, names in enumerate(labels):
        if not wanted:
            break
        for label in names:
            if label not in wanted:
                near = difflib.get_close_matches(label, wanted, n=1)
                raise ConfigError(
                    f"{where}.parts[{i}]",
                    got=f"element {label!r}",
                    expected=f"one of {list(wanted)}",
                    hint=f"Did you mean {near[0]!r}?"
                    if near
                    else "Where the message has other names, say elements as well",
                )
            column = wanted.index(label)
            if column in taken:
                raise ConfigError(
                    f"{where}.parts[{i}]",
                    got=f"{label!r}, which parts[{taken[column]}] gives as well",
                    expected="each element once",
                )
            taken[column] = i
        columns[i] = tuple(wanted.index(label) for label in names)
    room = [column for column in range(size) if column not in taken]
    for i, count in enumerate(counts):
        if columns[i] or i in open_parts:
            continue
        if count > len(room):
            raise ConfigError(
                f"{where}.parts[{i}]",
                got=f"{count} more elements",
                expected=f"at most {len(room)}: the parts together are to give {size}",
            )
        columns[i], room = tuple(room[:count]), room[count:]
    for i in open_parts:
        columns[i] = tuple(room)
    if room and not open_parts:
        raise ConfigError(
            f"{where}.parts",
            got=f"nothing for {[wanted[column] for column in room]}",
            expected="a part for every element",
        )
    return columns


def _is_bare(part: PartConfig) -> bool:
    return not (part.names or part.indices or part.size is not None)


def _takes_what_is_left(part: ElementsConfig) -> bool:
    """A JointState that says by its messages which joints it has."""
    return part.type == JOINT_STATE and _is_bare(part) and not part.elements


def _layout(part: PartConfig, by_name: LayoutName) -> LayoutName:
    if part.layout == "auto":
        return "pose" if part.tf else by_name
    return part.layout


def _count(where: str, part: ElementsConfig) -> int:
    said = {
        key: count
        for key, count in (
            ("elements", len(part.elements)),
            ("names", len(part.names)),
            ("indices", len(part.indices)),
            ("size", part.size),
            ("layout", LAYOUTS[_layout(part, "vector")].size),
        )
        if count
    }
    if _layout(part, "vector") in NUMBER_POSES:  # whatever they are, they become seven
        said = {"layout": 7, **({"elements": len(part.elements)} if part.elements else {})}
    if len(set(said.values())) > 1:
        raise ConfigError(where, got=f"different numbers of elements: {said}", expected="the same")
    if not said and not _takes_what_is_left(part):
        raise ConfigError(
            where,
            got=f"a vector of unknown size at {part.field!r}",
            expected="elements, names, indices, size, or a layout",
        )
    return next(iter(said.values()), 0)


def _part(
    where: str,
    part: PartConfig,
    layout: LayoutName,
    columns: tuple[int, ...],
    by_name: tuple[str, ...],
    standard: LayoutName = "vector",
) -> Part:
    _check_choice(where, part, layout)
    for key, labels in (("names", by_name), ("indices", part.indices)):
        if len(set(labels)) < len(labels):
            raise ConfigError(f"{where}.{key}", got=list(labels), expected="each once")
    count, is_vector = len(columns), layout in ("vector", "scalar")
    for key, numbers, usual in (("scale", part.scale, 1.0), ("offset", part.offset, 0.0)):
        values = np.atleast_1d(numbers)
        if len(values) not in (1, count):
            raise ConfigError(
                f"{where}.{key}", got=f"{len(values)} numbers", expected=f"1 or {count}"
            )
        if not is_vector and list(values) != [usual]:
            raise ConfigError(f"{where}.{key}", got=numbers, expected=f"none for a {layout}")
        if not np.isfinite(values).all() or (key == "scale" and not values.all()):
            raise ConfigError(f"{where}.{key}", got=numbers, expected="finite, and no scale of 0")
    scale, offset = np.atleast_1d(part.scale), np.atleast_1d(part.offset)
    if layout in NUMBER_POSES:
        scale, offset = _pose_scale(part, layout), np.zeros(1)
    return Part(part, layout, columns, by_name, scale, offset, _meaning(layout, standard, count))


def _meaning(layout: LayoutName, standard: LayoutName, count: int) -> LayoutName:
    if layout in NUMBER_POSES:
        return "pose"
    is_bare = layout == "vector" and standard != "vector" and LAYOUTS[standard].size == count
    return standard if is_bare else layout  # a twist or wrench of bare numbers


def _pose_scale(part: PartConfig, layout: LayoutName) -> Array:
    """Factors to m and rad, one for each number of a message."""
    scale: Array = np.ones(NUMBER_POSES[layout])
    shift = {"pose_columns": slice(12, 15), "pose_rows": slice(3, 12, 4)}.get(layout, slice(0, 3))
    if part.length == "mm":
        scale[shift] = 0.001
    if part.angle == "deg":
        scale[3:6] = np.pi / 180
    return scale


def _check_choice(where: str, part: PartConfig, layout: LayoutName) -> None:
    if part.angle != "rad" and layout in NUMBER_POSES and layout not in ANGLE_POSES:
        raise ConfigError(f"{where}.angle", got=f"that of a {layout}", expected="no angle there")
    if layout in NUMBER_POSES:
        count = NUMBER_POSES[layout]
        if part.names or part.size not in (None, count):
            raise ConfigError(
                where, got=f"names or size of a {layout}", expected=f"none, or size {count}"
            )
        if len(part.indices) not in (0, count):
            raise ConfigError(
                f"{where}.indices", got=f"{len(part.indices)} numbers", expected=count
            )
        return
    if (part.length, part.angle) != ("m", "rad"):
        raise ConfigError(
            f"{where}.length and angle",
            got=f"{part.length}, {part.angle} of a {layout}",
            expected="layout: pose_rpy (or another of bare numbers) beside them",
        )
    if layout not in ("vector", "scalar") and not _is_bare(part):
        raise ConfigError(where, got=f"names, indices or size of a {layout}", expected="none")
    if part.tf and layout != "pose":
        raise ConfigError(f"{where}.layout", got=layout, expected="pose, for tf")
    if part.taken_at != "auto" and layout not in ("twist", "wrench"):
        raise ConfigError(
            f"{where}.taken_at", got=f"that of a {layout}", expected="a twist or a wrench"
        )
