"""What an action does: the topics that move robot and gripper, the way home, and the stop."""

from __future__ import annotations

from typing import Literal

from user_core.config import Config, setting
from user_core.errors import ConfigError
from user_core.specs import ActionKind
from user_hal.robots.ros2.contract.sources import Bound
from user_hal.robots.ros2.messages import (
    FITTING,
    JOINT_STATE,
    JOINT_TRAJECTORY,
    NUMBERS,
    PARALLEL_GRIPPER_ACTION,
    TWIST,
)


class CommandConfig(Config):
    """The topic that moves the robot."""

    topic: str = setting(doc="Topic that a controller listens to.", min_length=1)
    type: Literal[
        "trajectory_msgs/msg/JointTrajectory",
        "std_msgs/msg/Float64MultiArray",
        "geometry_msgs/msg/TwistStamped",
        "geometry_msgs/msg/PoseStamped",
        "sensor_msgs/msg/JointState",
    ] = setting(doc="Its message type.")
    quantity: Literal["auto", "position", "velocity"] = setting(
        "auto",
        doc="What the numbers for joints are; auto: velocity for joint_velocity actions through "
        "Float64MultiArray and JointState, else position.",
    )
    frame: str = setting(
        "",
        doc="header.frame_id of poses and twists; empty: the robot's base_frame. Another one "
        "needs a way in transforms.",
    )
    time_from_start_s: float | None = setting(
        None,
        doc="JointTrajectory: when the point is to be reached; empty: one control period.",
        unit="s",
        gt=0,
    )
    scale: Bound = setting(
        None,
        doc="Factor from rad, rad/s, m/s to the robot's own number: one, or one per element. "
        "Empty: for joints the inverse of joint_position's (a JointTrajectory beside a scaled "
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


class GripperConfig(Config):
    """The last element of an action opens (1) and closes (0) a gripper by its own topic."""

    topic: str = setting(doc="Topic, or name of the action.", min_length=1)
    type: Literal[
        "std_msgs/msg/Float64",
        "std_msgs/msg/Float64MultiArray",
        "trajectory_msgs/msg/JointTrajectory",
        "sensor_msgs/msg/JointState",
        "control_msgs/action/GripperCommand",
        "control_msgs/action/ParallelGripperCommand",
    ] = setting(doc="Its type.")
    closed: float = setting(doc="The gripper's own number when it is closed, in its own unit.")
    opened: float = setting(doc="The gripper's own number when it is open.")
    joints: tuple[str, ...] = setting(
        (),
        doc="Joints of the gripper, for JointTrajectory, JointState and ParallelGripperCommand.",
    )
    max_effort: float = setting(0.0, doc="Effort for types that have one.", unit="N", ge=0)
    min_change: float = setting(
        0.01, doc="Smaller changes of the opening are not sent.", ge=0, le=1
    )
    time_from_start_s: float = setting(
        0.5, doc="JointTrajectory: duration of a movement.", unit="s", gt=0
    )
    require_subscriber: bool = setting(
        True, doc="Connecting fails while nobody listens to the topic."
    )

    def validate(self) -> None:
        """Refuse what cannot be sent."""
        if self.opened == self.closed:
            raise ConfigError("opened of the gripper", got=self.opened, expected="not closed's")
        by_name = (JOINT_TRAJECTORY, JOINT_STATE, PARALLEL_GRIPPER_ACTION)
        if self.type in by_name and not self.joints:
            raise ConfigError(
                "joints of the gripper", got="none", expected=f"names for {self.type}"
            )


class ActionConfig(Config):
    """What an action means, and how far it goes."""

    kind: ActionKind = setting(doc="What the numbers mean.")
    command: CommandConfig = setting(doc="The topic that carries it out.")
    low: Bound = setting(doc="Smallest action: one number, or one per element without gripper.")
    high: Bound = setting(doc="Largest action, likewise.")
    rotation: bool = setting(
        True, doc="Tool actions: whether they also turn the tool, or only shift it."
    )
    base: Literal["target", "measured"] = setting(
        "target",
        doc="What a change starts from: the last target (exact sums, no sagging), or the measured "
        "position.",
    )
    max_lead_rad: float = setting(
        0.3,
        doc="Farthest that a target runs ahead of measured joints or rotation.",
        unit="rad",
        gt=0,
    )
    max_lead_m: float = setting(
        0.1, doc="Farthest that a target runs ahead of the measured tool.", unit="m", gt=0
    )
    target_low: Bound = setting(None, doc="Lowest joint target that changes may add up to.")
    target_high: Bound = setting(None, doc="Highest joint target.")
    gripper: GripperConfig | None = setting(None, doc="Gripper, as the last element of an action.")

    def validate(self) -> None:
        """Refuse pairs of action and message that do not go together."""
        kind, command = self.kind, self.command
        fitting = FITTING.get(kind, ())
        if command.type not in fitting:
            raise ConfigError(
                f"command type for {kind.value} actions",
                got=command.type,
                expected=f"one of {list(fitting)}"
                if fitting
                else f"a kind in {[k.value for k in FITTING]}",
            )
        if kind is ActionKind.JOINT_POSITION and command.quantity == "velocity":
            raise ConfigError("quantity of the command", got="velocity", expected="position")
        if command.type == JOINT_TRAJECTORY and command.quantity == "velocity":
            raise ConfigError(
                "quantity of a JointTrajectory",
                got="velocity",
                expected="position: trajectory controllers refuse a last point that moves",
            )
        if self.low is None or self.high is None:
            raise ConfigError("low and high of the action", got="no limit", expected="numbers")


class TriggerConfig(Config):
    """A std_srvs/srv/Trigger service to call."""

    service: str = setting(doc="Name of the service.", min_length=1)
    timeout_s: float = setting(5.0, doc="How long to wait for its answer.", unit="s", gt=0)


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
    speed_rad_s: float = setting(0.3, doc="Speed of joints and rotation.", unit="rad/s", gt=0)
    speed_m_s: float = setting(0.1, doc="Speed of the tool.", unit="m/s", gt=0)
    tolerance_rad: float = setting(0.02, doc="Distance at which home is reached.", unit="rad", gt=0)
    tolerance_m: float = setting(0.005, doc="Distance at which home is reached.", unit="m", gt=0)
    rate_hz: float = setting(50.0, doc="Rate of targets on the way.", unit="Hz", gt=0, le=1000)
    timeout_s: float = setting(30.0, doc="Time after which homing has failed.", unit="s", gt=0)
    gripper: float | None = setting(None, doc="Opening at the start, 0 to 1.", ge=0, le=1)
    before: tuple[TriggerConfig, ...] = setting((), doc="Services to call first, in order.")
    after: tuple[TriggerConfig, ...] = setting((), doc="Services to call last, in order.")


class StopConfig(Config):
    """What a safe stop is, for robots that take positions (velocities become zero)."""

    hold: Literal["measured", "target"] = setting(
        "measured", doc="Hold where the robot is, or where it was sent last."
    )
    time_s: float = setting(0.2, doc="JointTrajectory: time to come to rest.", unit="s", gt=0)


def carries_velocities(action: ActionConfig, command: CommandConfig) -> bool:
    """Whether a command's numbers are velocities. ``auto``: of the action's own topic only."""
    if command.type == TWIST:
        return True
    if command.quantity != "auto":
        return command.quantity == "velocity"
    own = command is action.command and action.kind is ActionKind.JOINT_VELOCITY
    return own and command.type in (NUMBERS, JOINT_STATE)
