"""What a HAL shows to people and to nodes that are not ours."""

from __future__ import annotations

from dataclasses import dataclass

from user_core.config import Config, setting


@dataclass(frozen=True)
class DisplayConfig(Config):
    """Frames (REP-105), and what is drawn."""

    base_frame: str = setting("base", doc="Base frame of the robot.", min_length=1)
    tool_frame: str = setting("tcp", doc="Frame of the tool centre point.", min_length=1)
    marker_rate_hz: float = setting(
        10.0, doc="Markers a second, at most, while somebody looks.", unit="Hz", gt=0
    )
    goal: str = setting(
        "goal_position",
        doc="Array of the observation whose first three values are the goal in the base frame; "
        "drawn as a sphere where the robot has it.",
    )
    goal_radius_m: float = setting(0.02, doc="Radius of that sphere.", unit="m", gt=0)
