"""Markers for rviz: the goal, the workspace box, and who is acting."""

from __future__ import annotations

from geometry_msgs.msg import Point
from std_msgs.msg import ColorRGBA
from visualization_msgs.msg import Marker, MarkerArray

from user_comm.converters import set_stamp
from user_core.specs import Arrays
from user_core.types import ActedBy, ActionChunk, Observation
from user_hal.display import DisplayConfig
from user_hal.runtime.status import HalStatus
from user_hal.safety.rules.workspace import WorkspaceConfig
from user_hal.safety.supervisor import SafetyState

_GREEN = ColorRGBA(r=0.2, g=0.8, b=0.3, a=0.6)
_BLUE = ColorRGBA(r=0.3, g=0.5, b=1.0, a=0.8)
_WHITE = ColorRGBA(r=1.0, g=1.0, b=1.0, a=1.0)
_RED = ColorRGBA(r=1.0, g=0.2, b=0.2, a=1.0)
_LINE_M, _TEXT_M, _TEXT_ABOVE_M = 0.003, 0.04, 0.12
_ACTORS = {
    ActedBy.POLICY: "policy",
    ActedBy.HUMAN: "human",
    ActedBy.SCRIPT: "script",
    ActedBy.RANDOM: "random",
}
#: Corners of a box, and the pairs of them that its edges join.
_CORNERS = [(x, y, z) for x in (0, 1) for y in (0, 1) for z in (0, 1)]
_EDGES = [(a, b) for a in range(8) for b in range(a + 1, 8) if bin(a ^ b).count("1") == 1]


def markers(
    observation: Observation,
    status: HalStatus,
    acting: ActionChunk | None,
    display: DisplayConfig,
    box: WorkspaceConfig,
) -> MarkerArray:
    """All markers of this moment, in the base frame."""
    found = [_who(observation.arrays, status, acting)]
    if box.given:
        found.append(_box(box))
    goal = observation.arrays.get(display.goal)
    if goal is not None and goal.ndim == 1 and len(goal) >= 3:
        marker = _marker("goal", Marker.SPHERE, _GREEN, 2 * display.goal_radius_m)
        x, y, z = goal[:3].tolist()
        marker.pose.position = Point(x=x, y=y, z=z)
        found.append(marker)
    for marker in found:
        marker.header.frame_id = display.base_frame
        set_stamp(marker.header.stamp, observation.stamp_ns)
    return MarkerArray(markers=found)


def who_acts(status: HalStatus, acting: ActionChunk | None) -> str:
    """Who drives the robot now, or why nobody does."""
    if status.state in (SafetyState.STOPPED, SafetyState.EMERGENCY):
        return f"{status.state.name}: {status.cause.code if status.cause else ''}"
    if status.state is SafetyState.IDLE or acting is None:
        return "idle"
    version = f" v{acting.policy_version}" if acting.policy_version else ""
    return _ACTORS[acting.acted_by] + version


def _who(arrays: Arrays, status: HalStatus, acting: ActionChunk | None) -> Marker:
    stopped = status.state in (SafetyState.STOPPED, SafetyState.EMERGENCY)
    marker = _marker("acting", Marker.TEXT_VIEW_FACING, _RED if stopped else _WHITE, _TEXT_M)
    marker.text = who_acts(status, acting)
    pose = arrays.get("tcp_pose")
    x, y, z = pose[:3].tolist() if pose is not None else (0.0, 0.0, 0.5)
    marker.pose.position = Point(x=x, y=y, z=z + _TEXT_ABOVE_M)
    return marker


def _box(box: WorkspaceConfig) -> Marker:
    marker = _marker("workspace", Marker.LINE_LIST, _BLUE, _LINE_M)
    corners = [
        Point(
            **{axis: (box.low, box.high)[side][i] for i, (axis, side) in enumerate(zip("xyz", c))}
        )
        for c in _CORNERS
    ]
    marker.points = [corners[end] for edge in _EDGES for end in edge]
    return marker


def _marker(namespace: str, kind: int, colour: ColorRGBA, size_m: float) -> Marker:
    marker = Marker(ns=namespace, type=kind, action=Marker.ADD, color=colour)
    marker.pose.orientation.w = 1.0
    marker.scale.x = marker.scale.y = marker.scale.z = size_m
    return marker
