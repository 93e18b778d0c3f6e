"""Everything about safety that a robot's configuration says."""

from __future__ import annotations

from dataclasses import dataclass

from user_core.config import Config, setting
from user_hal.safety.rules.bounds import BoundsConfig
from user_hal.safety.rules.joint_limits import JointLimitsConfig
from user_hal.safety.rules.motion_limits import MotionLimits
from user_hal.safety.rules.workspace import WorkspaceConfig
from user_hal.safety.stops.force import ForceConfig


@dataclass(frozen=True)
class SafetyConfig(Config):
    """What may reach a robot, and what stops it. What is not given is not limited."""

    watchdog_s: float = setting(
        0.5,
        doc="A robot that gets no command for this long stops; longer than its control period.",
        unit="s",
        gt=0,
    )
    max_observation_age_s: float = setting(
        0.5, doc="A robot whose newest reading is older stops.", unit="s", gt=0
    )
    max_chunk_s: float = setting(
        2.0, doc="Longest time that one chunk may drive the robot by itself.", unit="s", gt=0
    )
    bounds: BoundsConfig = setting(
        factory=BoundsConfig, doc="Bounds of each element of an action, inside the robot's own."
    )
    step: MotionLimits = setting(
        factory=MotionLimits, doc="How far one command may move, m and rad."
    )
    velocity: MotionLimits = setting(
        factory=MotionLimits, doc="How fast commands may move, m/s and rad/s."
    )
    acceleration: MotionLimits = setting(
        factory=MotionLimits, doc="How quickly the velocity may change, m/s^2 and rad/s^2."
    )
    workspace: WorkspaceConfig = setting(
        factory=WorkspaceConfig, doc="Box in the base frame that the tool stays in."
    )
    joint_limits: JointLimitsConfig = setting(
        factory=JointLimitsConfig, doc="Ranges that the joints stay in."
    )
    force: ForceConfig = setting(
        factory=ForceConfig, doc="Force and torque at the tool that stop it."
    )
    action_scale: tuple[float, ...] = setting(
        (),
        doc="What one unit of each element of a change or velocity action moves, in m or rad (per "
        "s): one number for all that move tool or joints, or one per element. Empty: the "
        "actions are in SI units already.",
        gt=0,
    )
    target_lead_s: float = setting(
        0.1,
        doc="How far the robot may lag behind its target, as time of full motion. The box and the "
        "joint limits are kept for the target, too, up to this lead; a robot that lags further "
        "is taken to be blocked, so that pushing against something does not use up its box.",
        unit="s",
        gt=0,
    )
