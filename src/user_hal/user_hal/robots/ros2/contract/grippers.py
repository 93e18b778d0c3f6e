"""Keys of a gripper: a topic, action or service of its own, or a part of the arm's message."""

from __future__ import annotations

from typing import Any

from user_core.config import Config, setting
from user_core.errors import ConfigError
from user_hal.robots.ros2.calls import CallConfig
from user_hal.robots.ros2.messages import (
    BOOL,
    GRIPPER_ACTION,
    JOINT_STATE,
    JOINT_TRAJECTORY,
    NUMBER,
    NUMBERS,
    PARALLEL_GRIPPER_ACTION,
    is_service,
)

#: Types that the driver fills by itself.
GRIPPER_TYPES = (
    NUMBER, NUMBERS, BOOL, JOINT_TRAJECTORY, JOINT_STATE, GRIPPER_ACTION, PARALLEL_GRIPPER_ACTION,
)  # fmt: skip
_BY_NAME = (JOINT_TRAJECTORY, JOINT_STATE, PARALLEL_GRIPPER_ACTION)

Numbers = float | tuple[float, ...]


class GripperConfig(Config):
    """The last element of an action opens (1) and closes (0) a gripper."""

    topic: str = setting("", doc="Topic; or name of the action or service, as the type is.")
    type: str = setting(
        "",
        doc="Its type: std_msgs/msg/Float64, Float64MultiArray, Bool, "
        "trajectory_msgs/msg/JointTrajectory, sensor_msgs/msg/JointState, "
        "control_msgs/action/GripperCommand, ParallelGripperCommand; or any other message, action "
        "or service type, with fields.",
    )
    fields: dict[str, Any] = setting(
        factory=dict,
        doc="What stands in which field, for other types: {width: value, speed: 0.1}. Words in "
        "fields that are no texts: value (the first finger's number), values, values[1], joints, "
        "opening (0 to 1), open (true or false), max_effort, duration.",
    )
    in_command: bool = setting(
        False,
        doc="The gripper's numbers are the last ones of the arm's own message (behind its joints), "
        "instead of a topic.",
    )
    closed: Numbers = setting(
        0.0, doc="The gripper's own number when it is closed, or one per finger, in its own unit."
    )
    opened: Numbers = setting(
        1.0, doc="The gripper's own number when it is open, or one per finger."
    )
    joints: tuple[str, ...] = setting(
        (),
        doc="Joints of the gripper, for messages that name joints.",
    )
    max_effort: float = setting(0.0, doc="Effort for types that have one.", unit="N", ge=0)
    min_change: float = setting(
        0.01, doc="Smaller changes of the opening are not sent.", ge=0, le=1
    )
    min_interval_s: float = setting(
        0.0,
        doc="Shortest time between two commands, for servers that block while they move.",
        unit="s",
        ge=0,
    )
    threshold: float | None = setting(
        None,
        doc="The gripper is only opened or closed: open from this opening on. Empty: 0.5 for Bool "
        "and for open and close, else it goes to any opening.",
        gt=0,
        lt=1,
    )
    hysteresis: float = setting(
        0.1, doc="Width around the threshold in which nothing changes.", ge=0, lt=1
    )
    open: CallConfig | None = setting(
        None, doc="Call that opens it, together with close, instead of a topic."
    )
    close: CallConfig | None = setting(None, doc="Call that closes it.")
    success: dict[str, Any] | None = setting(
        None, doc="Services: fields of the answer with the values they must have, as in calls."
    )
    timeout_s: float = setting(5.0, doc="Services: longest time until the answer.", unit="s", gt=0)
    time_from_start_s: float = setting(
        0.5, doc="JointTrajectory: duration of a movement.", unit="s", gt=0
    )
    require_subscriber: bool = setting(
        True, doc="Connecting fails while nobody listens to the topic."
    )

    @property
    def fingers(self) -> int:
        """How many numbers are sent."""
        sizes = [len(n) for n in (self.closed, self.opened) if isinstance(n, tuple)]
        return max([*sizes, len(self.joints), 1])

    @property
    def switch_at(self) -> float | None:
        """Opening from which it is open, if it is only opened or closed."""
        if self.threshold is None and (self.type == BOOL or self.open is not None):
            return 0.5
        return self.threshold

    def validate(self) -> None:
        """Refuse what cannot be sent."""
        ways = [bool(self.topic), self.in_command, self.open is not None or self.close is not None]
        if sum(ways) != 1:
            raise ConfigError(
                "gripper",
                got=f"topic {self.topic!r}, in_command {self.in_command}, "
                f"{'a call' if ways[2] else 'no calls'}",
                expected="one of topic, in_command, and open with close",
            )
        if (self.open is None) != (self.close is None):
            raise ConfigError("gripper", got="one of open and close", expected="both")
        if self.opened == self.closed:
            raise ConfigError("opened of the gripper", got=self.opened, expected="not closed's")
        for key, numbers in (("closed", self.closed), ("opened", self.opened)):
            if isinstance(numbers, tuple) and len(numbers) != self.fingers:
                raise ConfigError(
                    f"{key} of the gripper", got=f"{len(numbers)} numbers", expected=self.fingers
                )
        if self.topic and self.type not in GRIPPER_TYPES and not self.fields:
            raise ConfigError(
                "type of the gripper",
                got=self.type or "none",
                expected=f"one of {list(GRIPPER_TYPES)}, or fields beside it",
                hint="Say what stands where, for instance fields: {data: value}",
            )
        if self.type in _BY_NAME and not self.joints and not self.fields:
            raise ConfigError(
                "joints of the gripper", got="none", expected=f"names for {self.type}"
            )
        if self.success is not None and not is_service(self.type):
            raise ConfigError("success of the gripper", got=self.type, expected="a service")
