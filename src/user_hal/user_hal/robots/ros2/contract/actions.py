"""What an action does: the topics that move robot and gripper, the way home, and the stop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from user_core.config import Config, setting
from user_core.errors import ConfigError
from user_core.specs import ActionKind
from user_hal.robots.ros2.calls import CallConfig
from user_hal.robots.ros2.contract.grippers import GripperConfig
from user_hal.robots.ros2.contract.sources import Bound
from user_hal.robots.ros2.messages import (
    BUILT_IN,
    FITTING,
    FOLLOW_TRAJECTORY,
    JOINT_JOG,
    JOINT_KINDS,
    JOINT_STATE,
    JOINT_TRAJECTORY,
    NUMBER,
    NUMBERS,
    PLAIN_TWIST,
    TOOL_KINDS,
    TWIST,
    is_action,
    is_service,
)

Numbers = float | tuple[float, ...]

#: What the numbers of a command are.
Quantity = Literal["positions", "velocities", "efforts", "pose", "twist"]

_QUANTITIES: dict[str, Quantity] = {
    "position": "positions",
    "velocity": "velocities",
    "effort": "efforts",
    "pose": "pose",
    "pose_rpy": "pose",
    "twist": "twist",
}
_ONLY: dict[str, Quantity] = {
    JOINT_TRAJECTORY: "positions",
    FOLLOW_TRAJECTORY: "positions",
    JOINT_JOG: "velocities",
    TWIST: "twist",
    PLAIN_TWIST: "twist",
}
_OF_KIND: dict[ActionKind, tuple[Quantity, ...]] = {
    ActionKind.JOINT_POSITION: ("positions",),
    ActionKind.JOINT_DELTA: ("positions", "velocities"),
    ActionKind.JOINT_VELOCITY: ("velocities", "positions"),
    ActionKind.EE_DELTA: ("pose", "twist"),
    ActionKind.EE_TWIST: ("twist", "pose"),
    ActionKind.EE_POSE: ("pose",),
    ActionKind.BASE_TWIST: ("twist",),
    ActionKind.GENERIC: ("efforts",),
}


class CommandConfig(Config):
    """The topic or action that moves the robot."""

    topic: str = setting(
        doc="Topic that a controller listens to, or name of the action. With {joint} in it a topic "
        "for each joint, by its name.",
        min_length=1,
    )
    type: str = setting(
        doc="Its type: trajectory_msgs/msg/JointTrajectory, std_msgs/msg/Float64MultiArray, "
        "sensor_msgs/msg/JointState, control_msgs/msg/JointJog, "
        "control_msgs/action/FollowJointTrajectory, geometry_msgs/msg/Pose, PoseStamped, Twist, "
        "TwistStamped; or any other message or action type, with fields.",
    )
    fields: dict[str, Any] = setting(
        factory=dict,
        doc="What stands in which field, for other types: {name: arm, cmd: values}. Words in fields "
        "that are no texts: values, values[0] (the numbers, in the robot's units), joints (their "
        "names), fingers (a gripper in the message), value (of one joint, on its own topic), duration (time_from_start_s), measured (the "
        "joints as they are), zeros. Constants of the type stand by their names.",
    )
    quantity: Literal["auto", "position", "velocity", "effort", "pose", "pose_rpy", "twist"] = (
        setting(
            "auto",
            doc="What the numbers are. auto: velocity for joint_velocity actions through "
            "Float64MultiArray, JointState and other types, and through JointJog; effort for "
            "generic actions; else position, pose or twist, as the type or the action is. "
            "pose_rpy: six numbers, x y z roll pitch yaw, for other types.",
        )
    )
    frame: str = setting(
        "",
        doc="header.frame_id of poses and twists; empty: the robot's base_frame. Another one "
        "needs a way in transforms.",
    )
    time_from_start_s: float | None = setting(
        None,
        doc="JointTrajectory: when the point is to be reached; empty: one control period, of an "
        "action two, as a goal is first accepted.",
        unit="s",
        gt=0,
    )
    scale: Bound = setting(
        None,
        doc="Factor from rad, rad/s, m/s to the robot's own number: one, or one per element. "
        "Empty: for joints the inverse of joint_position's (of velocities that of joint_velocity, "
        "where that has one; of efforts that of joint_effort; a JointTrajectory beside a scaled "
        "joint_position must say it), else 1.",
    )
    offset: Bound = setting(
        None,
        doc="Joint positions: added after scaling. Empty: so that the zeros are joint_position's.",
    )
    low: Bound = setting(
        None,
        doc="Velocities and twists: smallest number that the robot accepts, in its own unit, for "
        "instance -1 of a unitless servo. What is cut there is reported as not carried out.",
    )
    high: Bound = setting(None, doc="Largest number that the robot accepts, likewise.")
    require_subscriber: bool = setting(
        True, doc="Connecting fails while nobody listens to the topic."
    )

    @property
    def per_joint(self) -> bool:
        """Whether each joint has a topic of its own."""
        return "{joint}" in self.topic

    @property
    def mapping(self) -> dict[str, Any]:
        """What stands in which field; empty for types that the driver fills by itself."""
        plain = self.per_joint and self.type == NUMBER
        return {"data": "value"} if plain and not self.fields else self.fields

    def topics(self, joints: Sequence[str]) -> list[str]:
        """Its topic, or those of the joints."""
        if not self.per_joint:
            return [self.topic]
        return [self.topic.replace("{joint}", joint) for joint in joints]

    def validate(self) -> None:
        """Refuse a type that the driver cannot fill."""
        if self.per_joint and (self.type in BUILT_IN or is_action(self.type)):
            raise ConfigError(
                "type of a command with a topic per joint",
                got=self.type,
                expected=f"{NUMBER}, or another message type with fields, for instance "
                "{data: value}",
            )
        if is_service(self.type):
            raise ConfigError(
                "type of the command", got=self.type, expected="a message or action type",
                hint="A service blocks; commands come in every period",
            )  # fmt: skip
        if self.type not in BUILT_IN and not self.mapping:
            raise ConfigError(
                "type of the command",
                got=self.type,
                expected=f"one of {list(BUILT_IN)}, or fields beside it",
                hint="Say what stands where, for instance fields: {data: values}",
            )


class ActionConfig(Config):
    """What an action means, and how far it goes."""

    kind: ActionKind = setting(
        doc="What the numbers mean. generic: efforts of the joints, see stop.effort."
    )
    command: CommandConfig = setting(doc="The topic that carries it out.")
    low: Bound = setting(doc="Smallest action: one number, or one per element without gripper.")
    high: Bound = setting(doc="Largest action, likewise.")
    rotation: bool = setting(
        True, doc="Tool actions: whether they also turn the tool, or only shift it."
    )
    sideways: bool = setting(
        False, doc="base_twist: whether the base also goes sideways: vx, vy, wz instead of vx, wz."
    )
    base: Literal["target", "measured"] = setting(
        "target",
        doc="What a change starts from: the last target (exact sums, no sagging), or the measured "
        "position.",
    )
    max_lead_rad: Numbers = setting(
        0.3,
        doc="Farthest that a target runs ahead of measured joints or rotation: one number, or one "
        "per joint, each in the joint's unit.",
        unit="rad",
        gt=0,
    )
    max_lead_m: float = setting(
        0.1,
        doc="Farthest that a target runs ahead of the measured tool, or of prismatic joints.",
        unit="m",
        gt=0,
    )
    target_low: Bound = setting(None, doc="Lowest joint target that changes may add up to.")
    target_high: Bound = setting(None, doc="Highest joint target.")
    gripper: GripperConfig | None = setting(None, doc="Gripper, as the last element of an action.")
    grippers: dict[str, GripperConfig] = setting(
        factory=dict,
        doc="Several grippers by name, as the last elements of an action, where one controller takes "
        "the joints of several arms.",
    )

    @property
    def all_grippers(self) -> dict[str, GripperConfig]:
        """Each gripper by the name of its element."""
        if self.gripper is not None:
            return {"gripper": self.gripper}
        return {f"{name}_gripper": gripper for name, gripper in self.grippers.items()}

    def validate(self) -> None:
        """Refuse pairs of action and message that do not go together."""
        if self.gripper is not None and self.grippers:
            raise ConfigError("grippers", got="given beside gripper", expected="one of the two")
        kind, command = self.kind, self.command
        fitting = FITTING.get(kind, ())
        if not fitting or (command.type in BUILT_IN and command.type not in fitting):
            raise ConfigError(
                f"command type for {kind.value} actions",
                got=command.type,
                expected=f"one of {list(fitting)}"
                if fitting
                else f"a kind in {[k.value for k in FITTING]}",
            )
        if command.type == JOINT_TRAJECTORY and command.quantity == "velocity":
            raise ConfigError(
                "quantity of a JointTrajectory",
                got="velocity",
                expected="position: trajectory controllers refuse a last point that moves",
            )
        quantity = command_quantity(self, command)
        if quantity not in _OF_KIND[kind]:
            expected = [k for k, q in _QUANTITIES.items() if q in _OF_KIND[kind]]
            raise ConfigError(
                "quantity of the command",
                got=command.quantity,
                expected=f"{' or '.join(expected)}, for {kind.value} actions",
            )
        only = _ONLY.get(command.type, quantity)
        if quantity != only:
            raise ConfigError(
                f"quantity of a {command.type}", got=command.quantity, expected=f"{only}, or auto"
            )
        if command.quantity == "pose_rpy" and command.type in BUILT_IN:
            raise ConfigError(
                f"quantity of a {command.type}", got="pose_rpy", expected="pose, or another type"
            )
        if command.per_joint and kind not in (*JOINT_KINDS, ActionKind.GENERIC):
            raise ConfigError(
                "topic of the command", got=command.topic, expected=f"one topic, for {kind.value}"
            )
        if self.low is None or self.high is None:
            raise ConfigError("low and high of the action", got="no limit", expected="numbers")


class HomeConfig(Config):
    """Where an episode starts, and how to get there."""

    joints: tuple[float, ...] = setting(
        (), doc="Joint positions, in the robot's order.", unit="rad"
    )
    pose: tuple[float, ...] = setting(
        (), doc="For robots that are driven by their tool: x y z (m) qx qy qz qw in the base frame."
    )
    command: CommandConfig | None = setting(
        None, doc="Topic for the way home, where it is not the action's."
    )
    noise: float = setting(
        0.0, doc="Half width of uniform noise on each joint (rad) or on x, y, z (m).", ge=0
    )
    speed_rad_s: Numbers = setting(
        0.3,
        doc="Speed of joints and rotation: one number, or one per joint, each in the joint's unit.",
        unit="rad/s",
        gt=0,
    )
    speed_m_s: float = setting(
        0.1, doc="Speed of the tool, and of prismatic joints.", unit="m/s", gt=0
    )
    tolerance_rad: Numbers = setting(
        0.02,
        doc="Distance at which home is reached: one number, or one per joint, likewise.",
        unit="rad",
        gt=0,
    )
    tolerance_m: float = setting(
        0.005, doc="Distance at which home is reached, of tool or prismatic joints.", unit="m", gt=0
    )
    rate_hz: float = setting(50.0, doc="Rate of targets on the way.", unit="Hz", gt=0, le=1000)
    timeout_s: float = setting(30.0, doc="Time after which homing has failed.", unit="s", gt=0)
    gripper: Bound = setting(
        None, doc="Opening at the start, 0 to 1; one number, or one per gripper.", ge=0, le=1
    )
    before: tuple[CallConfig, ...] = setting(
        (), doc="Services and actions to call first, in order."
    )
    after: tuple[CallConfig, ...] = setting((), doc="Services and actions to call last, in order.")


class StopConfig(Config):
    """What a safe stop is, for robots that take positions or efforts (velocities become zero)."""

    hold: Literal["measured", "target"] = setting(
        "measured", doc="Hold where the robot is, or where it was sent last."
    )
    time_s: float = setting(0.2, doc="JointTrajectory: time to come to rest.", unit="s", gt=0)
    effort: Bound = setting(
        None,
        doc="Efforts: what a stop sends, one number or one per joint. Must be said: zero is right "
        "for an arm that carries its own weight (gravity compensation), and lets another one fall.",
        unit="N m",
    )


class GroupConfig(Config):
    """One part of a robot that is commanded by itself: an arm, a lift, a base. The keys mean what
    they mean at the top of a contract; its observations are named GROUP.joint_position and so on,
    or are its share of a joint_position for all groups."""

    joints: tuple[str, ...] = setting((), doc="Its joints, in the order of all joint vectors.")
    action: ActionConfig = setting(doc="What its part of an action does.")
    home: HomeConfig = setting(factory=HomeConfig, doc="Where an episode starts.")
    stop: StopConfig | None = setting(None, doc="What a safe stop does; empty: as the contract's.")
    base_frame: str = setting(
        "", doc="Frame of its tool poses and twists; empty: the contract's base_frame."
    )
    before: tuple[CallConfig, ...] = setting(
        (),
        doc="Services and actions to call for this group when the robot is connected, after those of "
        "the whole robot.",
    )
    after: tuple[CallConfig, ...] = setting(
        (), doc="Services and actions to call for it when the robot is closed, before those of all."
    )
    recover: tuple[CallConfig, ...] = setting(
        (),
        doc="Services and actions to call first in a reset, if this group has not followed, or a "
        "stop_when has held.",
    )


def command_quantity(action: ActionConfig, command: CommandConfig) -> Quantity:
    """What a command's numbers are. Of a topic for the way home ``auto`` is a place."""
    if command.quantity != "auto":
        return _QUANTITIES[command.quantity]
    if command.type in _ONLY:
        return _ONLY[command.type]
    own = command is action.command
    if command.type in (NUMBERS, JOINT_STATE) or action.kind in (*JOINT_KINDS, ActionKind.GENERIC):
        if not own:
            return "positions"
        return _OF_KIND[action.kind][0] if action.kind not in TOOL_KINDS else "positions"
    return _OF_KIND[action.kind][0] if own and command.type not in BUILT_IN else "pose"


def carries_velocities(action: ActionConfig, command: CommandConfig) -> bool:
    """Whether a command's numbers are velocities."""
    return command_quantity(action, command) in ("velocities", "twist")
