"""Safety limits of a robot whose actions have groups: what holds for each group.

What stands at the top level of a safety configuration holds for every group: one number is for
each of them, a list has an element for each element of all groups, in their order. What stands
under ``groups.<name>`` goes before it, for that group.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate

from user_core.body.action_groups import GroupView
from user_core.errors import ConfigError
from user_hal.safety.config import (
    BoundsConfig,
    ForceConfig,
    GroupLimits,
    JointLimitsConfig,
    MotionLimits,
    SafetyConfig,
    WorkspaceConfig,
)
from user_hal.safety.motion import MotionLayout


def config_of_groups(config: SafetyConfig, views: Sequence[GroupView]) -> list[SafetyConfig]:
    """One configuration per group, as if the group were a robot of its own.

    Raises:
        ConfigError: It names a group that there is not, or a list fits neither the elements of
            all groups nor is one number, or a limit fits no group.
    """
    names = [view.name for view in views if view.name]
    unknown = sorted(set(config.groups) - set(names))
    if unknown:
        raise ConfigError(
            f"safety.groups.{unknown[0]}",
            got="a group that the robot's actions do not have",
            expected=f"one of {names}" if names else "no groups: all actions are of one kind",
        )
    if not names:
        return [config]
    layouts = [MotionLayout.of(view.spec) for view in views]
    cut = zip(
        _bounds(config.bounds, layouts),
        *(_motion(getattr(config, what), layouts, what) for what in _MOTIONS),
        _joints(config.joint_limits, views, layouts),
        _boxes(config.workspace, views),
        _forces(config.force, views),
        _scales(config.action_scale, layouts),
    )
    made = []
    for view, parts in zip(views, cut):
        changes = dict(zip(_PARTS, parts))
        own = config.groups.get(view.name, GroupLimits())
        changes.update(_given(own))
        made.append(config.replace(**changes, groups={}))
    return made


_MOTIONS = ("step", "velocity", "acceleration")
_PARTS = ("bounds", *_MOTIONS, "joint_limits", "workspace", "force", "action_scale")


def _given(own: GroupLimits) -> Iterator[tuple[str, object]]:
    """What a group says for itself."""
    for what in _PARTS:
        value = getattr(own, what)
        if value.given if hasattr(value, "given") else value:
            yield what, value
    if own.target_lead_s is not None:
        yield "target_lead_s", own.target_lead_s


def _shares(values: tuple[float, ...], sizes: Sequence[int], where: str) -> list[tuple[float, ...]]:
    """Cut a list into one share per group; one number, or none, is for every group."""
    if len(values) < 2:
        return [values if size else () for size in sizes]
    if len(values) != sum(sizes):
        raise ConfigError(
            where,
            got=f"{len(values)} values",
            expected=f"one, or {sum(sizes)}: {', '.join(map(str, sizes))} for the groups in turn",
            hint="Or say it under groups.<name>, for one group",
        )
    ends = list(accumulate(sizes))
    return [values[end - size : end] for end, size in zip(ends, sizes)]


def _bounds(config: BoundsConfig, layouts: Sequence[MotionLayout]) -> list[BoundsConfig]:
    sizes = [layout.action_size for layout in layouts]
    low = _shares(config.low, sizes, "bounds.low")
    high = _shares(config.high, sizes, "bounds.high")
    return [config.replace(low=a, high=b) for a, b in zip(low, high)]


def _motion(config: MotionLimits, layouts: Sequence[MotionLayout], what: str) -> list[MotionLimits]:
    shares = _shares(config.each, [layout.size for layout in layouts], f"{what}.each")
    moving = [layout for layout in layouts if layout.linear.stop]
    if (config.linear is not None or config.angular is not None) and not moving:
        kinds = sorted({layout.kind.value for layout in layouts})
        raise ConfigError(
            f"{what}.linear" if config.linear is not None else f"{what}.angular",
            got=f"a limit on a tool or base, for groups of kind {kinds}",
            expected="a limit on what the actions move",
            hint=f"Remove it, or use {what}.each.",
        )
    return [
        config.replace(each=share)
        if layout.linear.stop
        else config.replace(each=share, linear=None, angular=None)
        for share, layout in zip(shares, layouts)
    ]


def _joints(
    config: JointLimitsConfig, views: Sequence[GroupView], layouts: Sequence[MotionLayout]
) -> list[JointLimitsConfig]:
    counts = []
    for view, layout in zip(views, layouts):
        measured = view.spec.observation.get("joint_position")
        counts.append(layout.joints.stop or (measured.size if measured is not None else 0))
    _some(config.given, any(counts), "joint_limits", "joint_position")
    low = _shares(config.low, counts, "joint_limits.low")
    high = _shares(config.high, counts, "joint_limits.high")
    return [
        config.replace(low=a, high=b) if count else JointLimitsConfig()
        for a, b, count in zip(low, high, counts)
    ]


def _boxes(config: WorkspaceConfig, views: Sequence[GroupView]) -> list[WorkspaceConfig]:
    shown = ["tcp_pose" in view.spec.observation for view in views]
    _some(config.given, any(shown), "workspace", "tcp_pose")
    return [config if show else WorkspaceConfig() for show in shown]


def _forces(config: ForceConfig, views: Sequence[GroupView]) -> list[ForceConfig]:
    shown = ["wrench" in view.spec.observation for view in views]
    _some(config.given, any(shown), "force", "wrench")
    return [config if show else ForceConfig() for show in shown]


def _scales(scale: tuple[float, ...], layouts: Sequence[MotionLayout]) -> list[tuple[float, ...]]:
    shares = _shares(scale, [layout.action_size for layout in layouts], "action_scale")
    return [
        () if layout.absolute and all(value == 1 or len(scale) == 1 for value in share) else share
        for share, layout in zip(shares, layouts)
    ]


def _some(given: bool, shown: bool, what: str, name: str) -> None:
    if given and not shown:
        raise ConfigError(
            what,
            got="no group that shows it",
            expected=f"a group with an observation {name!r}",
            hint=f"Remove {what} from the safety configuration, or use a driver that reads it.",
        )
