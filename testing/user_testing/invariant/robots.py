"""The robots of the campaign: one for each way in which an action becomes a message."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any

JOINTS = ("a", "b", "c")
#: Of every robot here: the third joint turns without an end, and its readings wrap.
CONTINUOUS = (False, False, True)
PERIOD_S = 0.1
WATCHDOG_S = 0.35
LEAD_RAD, LEAD_M = 0.2, 0.06
HOME_RAD_S, HOME_M_S, HOME_HZ = 0.5, 0.15, 20.0
HOME_JOINTS = (0.3, -0.9, 1.1)
HOME_POSE = (0.42, 0.05, 0.31, 1.0, 0.0, 0.0, 0.0)
START_JOINTS = (0.5, -1.2, 1.4)
START_POSE = (0.4, 0.0, 0.3, 1.0, 0.0, 0.0, 0.0)
#: The gripper's own numbers.
CLOSED_M, OPEN_M = 0.0, 0.08

NUMBERS = "std_msgs/msg/Float64MultiArray"
TRAJECTORY = "trajectory_msgs/msg/JointTrajectory"
TWIST = "geometry_msgs/msg/TwistStamped"
POSE = "geometry_msgs/msg/PoseStamped"
JOINT_STATE = "sensor_msgs/msg/JointState"
BASE = "geometry_msgs/msg/Twist"


def joints_of(group: str) -> tuple[str, ...]:
    """The names of the joints of a group; of a robot without groups, if it is empty."""
    return tuple(f"{group}_{name}" for name in JOINTS) if group else JOINTS


@dataclass(frozen=True)
class Limits:
    """Limits of one part of a motion: a joint, or the tool's shift or turn.

    Attributes:
        name: For messages.
        part: Which elements of a change, of which the length counts.
        step: Of one command, m or rad.
        velocity: In m/s or rad/s.
        acceleration: In m/s^2 or rad/s^2.
        lead: How far a stop may take the target.
        home_step: Of one target of the way home.
        tolerance: How near to home the way ends with a last step.
    """

    name: str
    part: slice
    step: float
    velocity: float
    acceleration: float
    lead: float
    home_step: float
    tolerance: float


@dataclass(frozen=True)
class CampaignRobot:
    """One robot of the campaign.

    Attributes:
        name: For the table.
        contract: Of the driver ``ros2``.
        safety: Configuration of the gate.
        limits: What nothing may exceed.
        pose: Whether targets are of the tool.
        rate: Whether what reaches the robot are velocities.
        measured: Whether changes start from the measured position.
        absolute: Whether actions are targets.
        summed: Whether actions are velocities that the driver sums up.
        bounds: Greatest number of each element of an action, without gripper.
        gripper: Whether there is one.
        blend_rows: Of the chunk player.
        target_low: Limits of the driver on targets, lowest.
        target_high: Likewise, highest.
        base: Whether it drives on a floor: velocities ahead, to the left, and of turning.
        groups: Robots that one action moves, by name.
    """

    name: str
    contract: dict[str, Any]
    safety: dict[str, Any]
    limits: tuple[Limits, ...]
    pose: bool = False
    rate: bool = False
    measured: bool = False
    absolute: bool = False
    summed: bool = False
    bounds: tuple[float, ...] = ()
    gripper: bool = False
    blend_rows: int = 0
    target_low: tuple[float, ...] = ()
    target_high: tuple[float, ...] = ()
    base: bool = False
    groups: tuple[tuple[str, CampaignRobot], ...] = ()

    @property
    def parts(self) -> tuple[tuple[str, CampaignRobot], ...]:
        """Its groups by name, or the whole robot under an empty name."""
        return self.groups or (("", self),)


JOINT_STEP, JOINT_VELOCITY, JOINT_ACCELERATION = 0.06, 0.8, 4.0
TOOL = {"linear": (0.02, 0.25, 1.5), "angular": (0.08, 1.0, 6.0)}
TARGET_LOW, TARGET_HIGH = (-2.5, -2.5, -50.0), (2.5, 2.5, 50.0)


def _joint_limits(rate: bool = False) -> tuple[Limits, ...]:
    return tuple(
        Limits(
            f"joint {name}", slice(i, i + 1), JOINT_STEP, JOINT_VELOCITY, JOINT_ACCELERATION,
            LEAD_RAD, HOME_RAD_S / (1.0 if rate else HOME_HZ), 0.02,
        )
        for i, name in enumerate(JOINTS)
    )  # fmt: skip


def _tool_limits(rate: bool = False) -> tuple[Limits, ...]:
    by = 1.0 if rate else HOME_HZ
    return (
        Limits("shift", slice(0, 3), *TOOL["linear"], LEAD_M, HOME_M_S / by, 0.005),
        Limits("turn", slice(3, 6), *TOOL["angular"], LEAD_RAD, HOME_RAD_S / by, 0.02),
    )


def _joint_source() -> dict[str, Any]:
    return {"topic": "/joint_states", "type": JOINT_STATE, "field": "position"}


def _pose_source() -> dict[str, Any]:
    return {"topic": "/tool", "type": POSE, "field": "pose"}


def _joints(
    kind: str, command_type: str, bounds: tuple[float, ...], *, rate: bool = False, **options: Any
) -> CampaignRobot:
    action: dict[str, Any] = {
        "kind": kind,
        "low": [-bound for bound in bounds],
        "high": list(bounds),
        "max_lead_rad": LEAD_RAD,
        "command": {"topic": "/command", "type": command_type},
    }
    if rate and kind == "joint_delta":
        action["command"]["quantity"] = "velocity"
    measured = bool(options.get("measured"))
    if measured:
        action["base"] = "measured"
    if not rate:
        action["target_low"], action["target_high"] = list(TARGET_LOW), list(TARGET_HIGH)
    if options.get("gripper"):
        action["gripper"] = {
            "topic": "/gripper",
            "type": "control_msgs/action/GripperCommand",
            "closed": CLOSED_M,
            "opened": OPEN_M,
        }
    contract: dict[str, Any] = {
        "robot": "toy",
        "joints": list(JOINTS),
        "continuous": ["c"],
        "period_s": PERIOD_S,
        "observation": {"joint_position": _joint_source()},
        "action": action,
        "home": {
            "joints": list(HOME_JOINTS), "speed_rad_s": HOME_RAD_S, "rate_hz": HOME_HZ,
            "timeout_s": 8.0,
        },
        "timing": {"connect_timeout_s": 0.5},
    }  # fmt: skip
    if options.pop("jumps", False):
        contract["joint_velocity_limits"] = 2.0
    safety = {
        "watchdog_s": WATCHDOG_S,
        "velocity": {"each": [JOINT_VELOCITY]},
        "acceleration": {"each": [JOINT_ACCELERATION]},
    }
    if not (rate or kind == "joint_velocity"):
        safety["step"] = {"each": [JOINT_STEP]}
    name = f"{kind} by {command_type.rpartition('/')[2]}"
    name += " (velocities)" if rate and kind == "joint_delta" else ""
    name += " from measured" if measured else ""
    name += ", limits of readings" if "joint_velocity_limits" in contract else ""
    return CampaignRobot(
        name, contract, safety, _joint_limits(rate), rate=rate,
        absolute=kind == "joint_position", summed=kind == "joint_velocity" and not rate,
        bounds=bounds, target_low=() if rate else TARGET_LOW,
        target_high=() if rate else TARGET_HIGH, **options,
    )  # fmt: skip


def _tool(kind: str, command_type: str, bounds: tuple[float, ...], **options: Any) -> CampaignRobot:
    rate = command_type == TWIST
    action: dict[str, Any] = {
        "kind": kind,
        "low": [-bound for bound in bounds],
        "high": list(bounds),
        "max_lead_rad": LEAD_RAD,
        "max_lead_m": LEAD_M,
        "command": {"topic": "/command", "type": command_type},
    }
    contract: dict[str, Any] = {
        "robot": "toy tool",
        "base_frame": "base",
        "period_s": PERIOD_S,
        "observation": {"tcp_pose": _pose_source()},
        "action": action,
        "home": {
            "pose": list(HOME_POSE), "speed_rad_s": HOME_RAD_S, "speed_m_s": HOME_M_S,
            "rate_hz": HOME_HZ, "timeout_s": 8.0,
        },
        "timing": {"connect_timeout_s": 0.5},
    }  # fmt: skip
    linear, angular = TOOL["linear"], TOOL["angular"]
    safety: dict[str, Any] = {
        "watchdog_s": WATCHDOG_S,
        "velocity": {"linear": linear[1], "angular": angular[1]},
        "acceleration": {"linear": linear[2], "angular": angular[2]},
        "workspace": {"low": [0.1, -0.5, 0.0], "high": [0.8, 0.5, 0.8]},
    }
    if kind != "ee_twist":
        safety["step"] = {"linear": linear[0], "angular": angular[0]}
    return CampaignRobot(
        f"{kind} by {command_type.rpartition('/')[2]}", contract, safety, _tool_limits(rate),
        pose=True, rate=rate, absolute=kind == "ee_pose", summed=kind == "ee_twist" and not rate,
        bounds=bounds, **options,
    )  # fmt: skip


def _base() -> CampaignRobot:
    linear, angular = TOOL["linear"], TOOL["angular"]
    action = {
        "kind": "base_twist", "sideways": True, "low": [-0.5, -0.5, -2.0], "high": [0.5, 0.5, 2.0],
        "command": {"topic": "/command", "type": BASE},
    }  # fmt: skip
    contract: dict[str, Any] = {"observation": {}, "action": action}
    safety = {
        "velocity": {"linear": linear[1], "angular": angular[1]},
        "acceleration": {"linear": linear[2], "angular": angular[2]},
    }
    shift, turn = _tool_limits(rate=True)
    limits = (replace(shift, part=slice(0, 2)), replace(turn, part=slice(2, 3)))
    return CampaignRobot(
        "base_twist by Twist",
        contract,
        safety,
        limits,
        rate=True,
        base=True,
        bounds=(0.5, 0.5, 2.0),
    )


def _grouped(**parts: CampaignRobot) -> CampaignRobot:
    """One robot of several: their topics and joints are called by the group."""
    observation: dict[str, Any] = {}
    groups: dict[str, Any] = {}
    limits: dict[str, Any] = {}
    named: list[tuple[str, CampaignRobot]] = []
    for name, part in parts.items():
        own = copy.deepcopy(part.contract)
        for array, source in own["observation"].items():
            source["topic"] = f"/{name}{source['topic']}"
            observation[f"{name}.{array}"] = source
        action = own["action"]
        action["command"]["topic"] = f"/{name}/command"
        if "gripper" in action:
            action["gripper"]["topic"] = f"/{name}/gripper"
        group: dict[str, Any] = {"action": action}
        if not part.pose and not part.base:
            group["joints"] = list(joints_of(name))
        if "home" in own:
            group["home"] = own["home"]
        groups[name] = group
        limits[name] = {key: value for key, value in part.safety.items() if key != "watchdog_s"}
        named.append((name, replace(part, contract=own)))
    contract = {
        "robot": "toys", "base_frame": "base", "period_s": PERIOD_S, "observation": observation,
        "continuous": [joints_of(n)[2] for n, p in parts.items() if not p.pose and not p.base],
        "groups": groups, "timing": {"connect_timeout_s": 0.5},
    }  # fmt: skip
    name = " and ".join(f"{name}: {part.name}" for name, part in parts.items())
    return CampaignRobot(
        name, contract, {"watchdog_s": WATCHDOG_S, "groups": limits}, (), groups=tuple(named)
    )


_DELTA = (0.1, 0.1, 0.1)
_TOOL_DELTA = (0.05, 0.05, 0.05, 0.2, 0.2, 0.2)
_TOOL_TWIST = (0.5, 0.5, 0.5, 2.0, 2.0, 2.0)

ROBOTS: tuple[CampaignRobot, ...] = (
    _joints("joint_delta", NUMBERS, _DELTA, gripper=True),
    _joints("joint_delta", TRAJECTORY, _DELTA, jumps=True, blend_rows=2),
    _joints("joint_delta", NUMBERS, _DELTA, measured=True),
    _joints("joint_delta", NUMBERS, _DELTA, rate=True),
    _joints("joint_position", TRAJECTORY, (3.0, 3.0, 3.2)),
    _joints("joint_position", JOINT_STATE, (3.0, 3.0, 3.2), jumps=True, gripper=True),
    _joints("joint_velocity", NUMBERS, (1.5,) * 3, rate=True),
    _joints("joint_velocity", TRAJECTORY, (1.5,) * 3),
    _tool("ee_delta", POSE, _TOOL_DELTA),
    _tool("ee_delta", TWIST, _TOOL_DELTA),
    _tool("ee_pose", POSE, (1.0,) * 7),
    _tool("ee_twist", TWIST, _TOOL_TWIST),
    _tool("ee_twist", POSE, _TOOL_TWIST),
    _grouped(
        left=_joints("joint_delta", NUMBERS, _DELTA, gripper=True),
        right=_joints("joint_position", TRAJECTORY, (3.0, 3.0, 3.2), gripper=True),
    ),
    _grouped(arm=_joints("joint_delta", TRAJECTORY, _DELTA), base=_base()),
)
