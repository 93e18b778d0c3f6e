"""One action group of a robot, shown as if it were a robot of its own.

What knows one kind of action (the safety gate, a hand device, a scripted expert) drives a robot
of several groups through one view per group::

    for view in group_views(robot.spec):
        own = view.arrays(observation.arrays)  # "joint_position", not "left.joint_position"
        action[view.part] = decide(view.spec, own)

A robot without groups has one view: the robot itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from user_core.errors import SpecError
from user_core.specs import ActionGroup, ActionKind, Array, Arrays, ArraySpec, RobotSpec

JOINT_KINDS = (ActionKind.JOINT_POSITION, ActionKind.JOINT_DELTA, ActionKind.JOINT_VELOCITY)
TOOL_KINDS = (ActionKind.EE_DELTA, ActionKind.EE_TWIST, ActionKind.EE_POSE)

#: What is a velocity, or a change of where something is.
_RATES = (
    ActionKind.JOINT_DELTA,
    ActionKind.JOINT_VELOCITY,
    ActionKind.EE_DELTA,
    ActionKind.EE_TWIST,
    ActionKind.BASE_TWIST,
)

#: Standard arrays with one number per joint.
_PER_JOINT = ("joint_position", "joint_velocity", "joint_effort")
#: Standard arrays of one tool.
_OF_A_TOOL = ("tcp_pose", "tcp_velocity", "wrench")
#: A spec has an observation, although nothing may be measured of a group (a base, for instance).
_NOTHING_SEEN = {"nothing": ArraySpec((0,))}


@dataclass(frozen=True)
class GroupView:
    """One action group, as if it were a robot of its own.

    Attributes:
        name: Of the group; empty for a robot without groups.
        spec: What the group shows and takes. Its own observations have their standard names
            (``joint_position``); those of other groups are left out, those of no group (cameras)
            are there.
        part: Its elements of an action.
        sources: Which array of the robot each array of the group comes from, and which of its
            rows; None: all.
    """

    name: str
    spec: RobotSpec
    part: slice
    sources: dict[str, tuple[str, Array | None]]

    def source(self, name: str) -> tuple[str, Array]:
        """Which array of the robot an array of the group is in, and in which of its rows."""
        source, rows = self.sources[name]
        return source, np.arange(self.spec.observation[name].shape[0]) if rows is None else rows

    def arrays(self, arrays: Arrays) -> Arrays:
        """The group's share of an observation; what is not in ``arrays`` is left out."""
        if not self.name:
            return arrays
        found: dict[str, Array] = {}
        for name, (source, rows) in self.sources.items():
            if source in arrays:
                array = arrays[source]
                found[name] = array if rows is None else array[rows]
        return found


def group_views(spec: RobotSpec) -> tuple[GroupView, ...]:
    """The groups of a robot, in the order of the elements of an action; at least one."""
    if not spec.action_groups:
        whole = {name: (name, None) for name in spec.observation}
        return (GroupView("", spec, slice(0, spec.action.size), dict(whole)),)
    views, start = [], 0
    for group in spec.action_groups:
        views.append(_view(spec, group, start))
        start += group.size
    return tuple(views)


def group_view(spec: RobotSpec, name: str) -> GroupView:
    """One group by its name.

    Raises:
        SpecError: There is none of this name.
    """
    for view in group_views(spec):
        if view.name == name:
            return view
    raise SpecError(
        f"action group of {spec.robot!r}",
        got=name,
        expected=f"one of {[group.name for group in spec.action_groups]}",
    )


def measured_opening(spec: RobotSpec, place: int, arrays: Arrays) -> float:
    """How far the gripper at a place of ``spec.grippers`` is open, 0 to 1; 1 where nothing tells."""
    names = spec.action.names
    own = names[spec.grippers[place]] if names else "gripper"
    if own != "gripper" and own in arrays and arrays[own].size == 1:
        return float(arrays[own].flat[0])
    seen = arrays.get("gripper")
    return float(seen.flat[place]) if seen is not None and place < seen.size else 1.0


def _view(spec: RobotSpec, group: ActionGroup, start: int) -> GroupView:
    part = slice(start, start + group.size)
    sources = _sources(spec, group, part)
    observation = {
        name: _rows_of(spec.observation[source], rows) for name, (source, rows) in sources.items()
    }
    own = replace(
        spec,
        robot=f"{spec.robot}.{group.name}",
        observation=observation or dict(_NOTHING_SEEN),
        action=_own_action(spec.action, group, part),
        action_kind=group.kind,
        grippers=tuple(i - start for i in spec.grippers if part.start <= i < part.stop),
        action_groups=(),
        hold_choices=tuple(
            choice
            for i, choice in zip(spec.action.categorical, spec.hold_choices)
            if part.start <= i < part.stop
        ),
    )
    return GroupView(group.name, own, part, sources)


def _sources(
    spec: RobotSpec, group: ActionGroup, part: slice
) -> dict[str, tuple[str, Array | None]]:
    groups = {each.name for each in spec.action_groups}
    found: dict[str, tuple[str, Array | None]] = {}
    # What is the group's own goes before what all groups share.
    for name in spec.observation:
        prefix, dot, rest = name.partition(".")
        if dot and prefix in groups:
            if prefix == group.name:
                found[rest] = (name, None)
        elif name in _PER_JOINT:
            rows = _joint_rows(spec, name, group, part)
            if rows is not None:
                found.setdefault(name, (name, rows))
        elif name == "gripper":
            own = [place for place, i in enumerate(spec.grippers) if part.start <= i < part.stop]
            if own and spec.observation[name].shape == (len(spec.grippers),):
                found.setdefault(name, (name, np.asarray(own, np.intp)))
        elif name not in _OF_A_TOOL or _only_arm(spec, group):
            found.setdefault(name, (name, None))
    return found


def _only_arm(spec: RobotSpec, group: ActionGroup) -> bool:
    """Whether what is measured at the tool can only be this group's."""
    tools = [each for each in spec.action_groups if each.kind in TOOL_KINDS]
    arms = tools or [each for each in spec.action_groups if each.kind in JOINT_KINDS]
    return arms == [group]


def _joint_rows(spec: RobotSpec, name: str, group: ActionGroup, part: slice) -> Array | None:
    """Rows of an array with all joints that are the group's; None where nobody can tell."""
    measured = spec.observation[name]
    row_of = {joint: row for row, joint in enumerate(measured.names)}
    known = [row_of[joint] for joint in spec.action.names[part] if joint in row_of]
    if known:
        return np.asarray(known, np.intp)
    if any(
        each.kind in TOOL_KINDS or each.kind is ActionKind.GENERIC for each in spec.action_groups
    ):
        return None  # how many joints these have is not said
    start = 0
    first = 0
    for each in spec.action_groups:
        grippers = sum(first <= i < first + each.size for i in spec.grippers)
        count = each.size - grippers if each.kind in JOINT_KINDS else 0
        if each.name == group.name:
            fits = count and len(measured.shape) == 1 and start + count <= measured.size
            return np.arange(start, start + count) if fits else None
        start, first = start + count, first + each.size
    return None


def _rows_of(spec: ArraySpec, rows: Array | None) -> ArraySpec:
    if rows is None:
        return spec
    chosen = [int(row) for row in rows]
    return replace(
        spec,
        shape=(len(chosen),),
        low=_chosen(spec.low, chosen),
        high=_chosen(spec.high, chosen),
        names=tuple(spec.names[i] for i in chosen) if spec.names else (),
        categorical=tuple(new for new, i in enumerate(chosen) if i in spec.categorical),
    )


def _own_action(spec: ArraySpec, group: ActionGroup, part: slice) -> ArraySpec:
    """The group's elements; ``left_dx`` or ``left.dx`` of a tool or base is called ``dx`` there,
    whereas joints keep their names."""
    own = _rows_of(spec, np.arange(part.start, part.stop))
    if group.kind in JOINT_KINDS:
        return own
    ends = (f"{group.name}.", f"{group.name}_")
    return replace(
        own, names=tuple(n.removeprefix(ends[0]).removeprefix(ends[1]) for n in own.names)
    )


def _chosen(bound: Any, rows: Sequence[int]) -> Any:
    return tuple(bound[i] for i in rows) if isinstance(bound, tuple) else bound


def standing_still(spec: RobotSpec) -> tuple[Array, Array]:
    """Which elements of an action mean "stand still" at some value, (A,) bool, and which value that
    is, (A,): 0 of a velocity or a change, and of a choice the one that changes nothing."""
    rates = np.zeros(spec.action.shape, bool)
    for view in group_views(spec):
        rates[view.part] = view.spec.action_kind in _RATES
    rates[list(spec.grippers)] = False
    chosen, still = list(spec.action.categorical), np.zeros(spec.action.shape)
    rates[chosen] = bool(spec.hold_choices)
    if spec.hold_choices:
        still[chosen] = spec.hold_choices
    return rates, still
