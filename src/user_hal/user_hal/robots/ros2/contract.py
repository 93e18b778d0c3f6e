"""The contract: which topics make an observation, and which carry out an action.

One YAML file brings a robot in; every key is one of these fields. Ready ones are in
``user_bringup/config/robots``. Whether the parts of a contract fit each other is checked before
anything is connected, and the robot's spec follows from it.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from user_core.config import Config, setting
from user_core.errors import ConfigError
from user_core.specs import ActionKind, Array, ArraySpec, RobotSpec
from user_hal.cameras.with_cameras import CamerasConfig
from user_hal.robots.ros2.frames import Frames, plain
from user_hal.robots.ros2.messages import (
    FITTING,
    JOINT_KINDS,
    JOINT_STATE,
    JOINT_TRAJECTORY,
    JOINT_TYPES,
    LAYOUTS,
    NUMBERS,
    PARALLEL_GRIPPER_ACTION,
    POSE,
    POSE_RPY_SIZE,
    TOOL_TYPES,
    TWIST,
    LayoutChoice,
    LayoutName,
    layout_named,
)
from user_hal.topic_io import Reliability

Bound = float | tuple[float, ...] | None

#: Layouts that are a pose in the observation.
POSES = ("pose", "pose_rpy")


class SourceConfig(Config):
    """Where one array of the observation comes from."""

    topic: str = setting(doc="Topic, for instance /joint_states.", min_length=1)
    type: str = setting(doc="Its message type, for instance sensor_msgs/msg/JointState.")
    field: str = setting(
        doc="Path to the numbers in the message: names and [indices], for instance pose.position."
    )
    layout: LayoutChoice = setting(
        "auto",
        doc="What is found there. auto: by the observation's name (tcp_pose: pose, tcp_velocity: "
        "twist, wrench: wrench), else a vector. pose_rpy: six numbers, x y z roll pitch yaw.",
    )
    names: tuple[str, ...] = setting(
        (),
        doc="Elements to take, by their names in the message, in this order. Empty for a "
        "JointState: the robot's joints.",
    )
    names_field: str = setting("name", doc="Where the names stand in the message.")
    indices: tuple[int, ...] = setting((), doc="Elements to take, by position.", ge=0)
    length: Literal["m", "mm"] = setting("m", doc="pose_rpy: unit of x, y, z in the message.")
    angle: Literal["rad", "deg"] = setting(
        "rad",
        doc="pose_rpy: unit of roll, pitch, yaw (about the fixed axes x, y, z, in this order).",
    )
    size: int | None = setting(
        None, doc="Number of elements of a vector that is taken whole.", ge=1, le=4096
    )
    scale: float | tuple[float, ...] = setting(
        1.0, doc="Factor to the observation's unit: one, or one per element; not 0."
    )
    offset: float | tuple[float, ...] = setting(
        0.0, doc="Added after scaling: one, or one per element."
    )
    unit: str = setting("", doc="SI unit of the observation.")
    frame: str = setting(
        "",
        doc="Frame of the messages; of poses and twists base_frame, if empty. A message that says "
        "another frame is refused, unless transforms knows the way. tcp_pose and tcp_velocity are "
        "taken to base_frame where transforms knows the way.",
    )
    low: Bound = setting(None, doc="Smallest value, for the spec.")
    high: Bound = setting(None, doc="Largest value, for the spec.")
    dtype: Literal["float32", "float64"] = setting("float32", doc="Type in the observation.")
    resample: Literal["linear", "nearest", "latest"] = setting(
        "linear",
        doc="How the value at the common moment is found: between its neighbours (rotations on "
        "the great circle), the nearest, or simply the latest, which then does not take part "
        "in finding the common moment (slow topics).",
    )
    stamp: Literal["auto", "header", "arrival"] = setting(
        "auto", doc="When it was measured: as the header says (auto: if it says), or as it came."
    )
    max_age_s: float | None = setting(
        None, doc="Largest age, instead of the timing's.", unit="s", gt=0
    )
    reliability: Reliability = setting("best_effort", doc="How delivery is asked for.")

    def validate(self) -> None:
        """Refuse two ways of choosing elements at once."""
        chosen = [bool(self.names), bool(self.indices), self.size is not None]
        if sum(chosen) > 1:
            raise ConfigError(
                f"elements of {self.topic} {self.field}",
                got="more than one of names, indices, size",
                expected="at most one",
            )


class TimingConfig(Config):
    """When readings belong together."""

    max_age_s: float = setting(0.2, doc="Age at which a topic counts as silent.", unit="s", gt=0)
    max_skew_s: float = setting(
        0.05, doc="Largest time from the common moment to a real message.", unit="s", gt=0
    )
    max_ahead_s: float = setting(
        0.05,
        doc="How far stamps may be ahead of this machine's clock before the clocks count as not "
        "synchronised.",
        unit="s",
        ge=0,
    )
    history: int = setting(256, doc="Messages remembered of each topic.", ge=2, le=65536)
    jump_margin: float = setting(
        2.0, doc="Factor on joint_velocity_limits above which a reading is a jump.", ge=1
    )
    settled_readings: int = setting(
        5, doc="Readings in a row that must fit each other after a jump.", ge=1
    )
    connect_timeout_s: float = setting(
        5.0, doc="How long connecting waits for topics.", unit="s", gt=0
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


class TransformConfig(Config):
    """Where a frame is that is fixed to another."""

    parent: str = setting(doc="The other frame.", min_length=1)
    xyz: tuple[float, ...] = setting((0.0, 0.0, 0.0), doc="Its origin there.", unit="m")
    rpy: tuple[float, ...] = setting(
        (0.0, 0.0, 0.0),
        doc="Roll, pitch, yaw about the other's fixed axes, as in URDF.",
        unit="rad",
    )

    def validate(self) -> None:
        """Refuse other counts than three."""
        for key, values in (("xyz", self.xyz), ("rpy", self.rpy)):
            if len(values) != 3 or not np.isfinite(values).all():
                raise ConfigError(f"{key} of a transform", got=values, expected="3 finite numbers")


class Ros2Config(Config):
    """A robot on ROS 2 topics."""

    robot: str = setting(doc="Kind of robot, for instance ur5e.", min_length=1)
    observation: dict[str, SourceConfig] = setting(
        doc="Arrays by name; standard names (user_core.specs) where there is one.", min_length=1
    )
    action: ActionConfig = setting(doc="What an action does.")
    joints: tuple[str, ...] = setting((), doc="Joint names, in the order of all joint vectors.")
    continuous: tuple[str, ...] = setting(
        (),
        doc="Joints that turn without an end. Readings of theirs are interpolated, and changes and "
        "the way home taken, the short way round.",
    )
    joint_velocity_limits: Bound = setting(
        None,
        doc="Fastest that the joints can move (the velocity limits of the URDF): one number, or "
        "one per joint. A reading that jumps further is a fault; empty: not looked for.",
        unit="rad/s",
    )
    base_frame: str = setting("base_link", doc="Frame of tool poses and twists.")
    transforms: dict[str, TransformConfig] = setting(
        factory=dict, doc="Frames that are fixed to others, by name."
    )
    period_s: float = setting(0.1, doc="Control period.", unit="s", gt=0)
    timing: TimingConfig = setting(factory=TimingConfig, doc="When readings belong together.")
    cameras: CamerasConfig = setting(factory=CamerasConfig, doc="Cameras.")
    home: HomeConfig = setting(factory=HomeConfig, doc="Where an episode starts.")
    stop: StopConfig = setting(factory=StopConfig, doc="What a safe stop does.")

    def validate(self) -> None:
        """Refuse contracts whose parts do not fit each other."""
        check_contract(self)

    def scaling(self, name: str) -> tuple[Array, Array]:
        """Scale and offset of a source's numbers, each (1,) or one per number."""
        source = self.observation[name]
        if self.layout(name) != "pose_rpy":
            return np.atleast_1d(source.scale), np.atleast_1d(source.offset)
        length = 0.001 if source.length == "mm" else 1.0
        angle = np.pi / 180 if source.angle == "deg" else 1.0
        return np.repeat([length, angle], 3), np.zeros(1)

    def layout(self, name: str) -> LayoutName:
        """What stands at a source's field."""
        source = self.observation[name]
        return layout_named(name) if source.layout == "auto" else source.layout

    def frames(self) -> Frames:
        """The frames that ``transforms`` relates."""
        return Frames({name: (t.parent, t.xyz, t.rpy) for name, t in self.transforms.items()})

    def message_frame(self, name: str) -> str:
        """Frame of a source's messages; empty: whatever they say."""
        frame = self.observation[name].frame
        if not frame and self.layout(name) in ("pose", "pose_rpy", "twist"):
            frame = self.base_frame
        return frame

    def observed_frame(self, name: str) -> str:
        """Frame of an array of the observation: that of its messages, except that the tool is
        seen in ``base_frame`` where the way there is known."""
        frame = self.message_frame(name)
        if name in ("tcp_pose", "tcp_velocity") and frame:
            known = self.frames().between(frame, self.base_frame)
            return self.base_frame if known is not None else frame
        return frame

    def elements(self, name: str) -> tuple[str, ...]:
        """Names of the elements that a source takes from its messages; empty: by position."""
        source = self.observation[name]
        unnamed = not (source.names or source.indices or source.size is not None)
        return self.joints if source.type == JOINT_STATE and unnamed else source.names


def check_contract(config: Ros2Config) -> None:
    """Raise ConfigError for the first thing that does not fit."""
    _check_joints(config)
    for name in config.observation:
        _check_source(config, name)
    if all(source.resample == "latest" for source in config.observation.values()):
        raise ConfigError(
            "resample of the observation",
            got="latest everywhere",
            expected="linear or nearest for at least one topic, whose stamps the others follow",
        )
    _check_action(config)
    _check_home(config)
    _check_echo(config)
    _check_frames(config)
    _check_units(config)


def element_count(config: Ros2Config, name: str) -> int:
    """Number of elements of an observation; ConfigError where the contract leaves it open."""
    source = config.observation[name]
    size = LAYOUTS[config.layout(name)].size
    if size is None:
        size = len(config.elements(name)) or len(source.indices) or source.size
    if size is None:
        raise ConfigError(
            f"observation.{name}",
            got=f"a vector of unknown size at {source.field!r}",
            expected="names, indices, size, or a layout",
        )
    return size


def _check_joints(config: Ros2Config) -> None:
    if len(set(config.joints)) != len(config.joints):
        raise ConfigError("joints", got=list(config.joints), expected="each name once")
    unknown = sorted(set(config.continuous) - set(config.joints))
    if unknown:
        raise ConfigError("continuous", got=unknown, expected=f"some of {list(config.joints)}")
    limits = config.joint_velocity_limits
    if limits is not None:
        _check_bounds("joint_velocity_limits", None, limits, len(config.joints))
        if np.min(limits) <= 0:
            raise ConfigError("joint_velocity_limits", got=limits, expected="numbers above zero")
    kind = config.action.kind
    if kind in JOINT_KINDS and not config.joints:
        raise ConfigError("joints", got="none", expected=f"names, for {kind.value} actions")


def _check_source(config: Ros2Config, name: str) -> None:
    source, where = config.observation[name], f"observation.{name}"
    layout, count = config.layout(name), element_count(config, name)
    is_vector = layout in ("vector", "scalar")
    standard = LAYOUTS[layout_named(name)].size
    if standard is not None and count != standard:
        raise ConfigError(
            where,
            got=f"{count} numbers",
            expected=f"{standard}: {' '.join(LAYOUTS[layout_named(name)].names)}",
            hint="Six numbers with angles are layout: pose_rpy" if name == "tcp_pose" else "",
        )
    if layout == "pose_rpy":
        if source.names or source.size not in (None, POSE_RPY_SIZE):
            raise ConfigError(where, got="names or size of a pose_rpy", expected="none, or size 6")
        if len(source.indices) not in (0, POSE_RPY_SIZE):
            raise ConfigError(
                f"{where}.indices", got=f"{len(source.indices)} numbers", expected=POSE_RPY_SIZE
            )
    elif (source.length, source.angle) != ("m", "rad"):
        raise ConfigError(
            f"{where}.length and angle",
            got=f"{source.length}, {source.angle} of a {layout}",
            expected="layout: pose_rpy beside them",
        )
    if (
        not is_vector
        and layout != "pose_rpy"
        and (source.names or source.indices or source.size is not None)
    ):
        raise ConfigError(where, got=f"names, indices or size of a {layout}", expected="none")
    for key, numbers, usual in (("scale", source.scale, 1.0), ("offset", source.offset, 0.0)):
        values = np.atleast_1d(numbers)
        if len(values) not in (1, count):
            raise ConfigError(
                f"{where}.{key}", got=f"{len(values)} numbers", expected=f"1 or {count}"
            )
        if not is_vector and list(values) != [usual]:
            raise ConfigError(f"{where}.{key}", got=numbers, expected=f"none for a {layout}")
        if not np.isfinite(values).all() or (key == "scale" and not values.all()):
            raise ConfigError(f"{where}.{key}", got=numbers, expected="finite, and no scale of 0")
    _check_bounds(where, source.low, source.high, count)


def _check_action(config: Ros2Config) -> None:
    action = config.action
    if action.kind in JOINT_KINDS:
        _require_joint_position(config)
        count = len(config.joints)
        _check_bounds("action.target", action.target_low, action.target_high, count)
    else:
        count = 7 if action.kind.value == "ee_pose" else (6 if action.rotation else 3)
        if action.command.type == POSE:
            _require_tcp_pose(config, "poses are commanded")
    _check_bounds("action", action.low, action.high, count)


def carries_velocities(action: ActionConfig, command: CommandConfig) -> bool:
    """Whether a command's numbers are velocities. ``auto``: of the action's own topic only."""
    if command.type == TWIST:
        return True
    if command.quantity != "auto":
        return command.quantity == "velocity"
    own = command is action.command and action.kind is ActionKind.JOINT_VELOCITY
    return own and command.type in (NUMBERS, JOINT_STATE)


def command_scaling(config: Ros2Config, command: CommandConfig) -> tuple[Array, Array]:
    """Scale and offset from our units to the robot's own, each (1,) or (n,)."""
    scale: Array = np.ones(1)
    offset: Array = np.zeros(1)
    if command.type in JOINT_TYPES and "joint_position" in config.observation:
        source = config.observation["joint_position"]
        scale = 1.0 / np.atleast_1d(source.scale)
        offset = -np.atleast_1d(source.offset)  # of the joint positions, before scaling
    if command.scale is not None:
        scale = np.atleast_1d(command.scale)
    offset = offset * scale if command.offset is None else np.atleast_1d(command.offset)
    return scale, np.zeros(1) if carries_velocities(config.action, command) else offset


def _check_units(config: Ros2Config) -> None:
    for where, command in (
        ("action.command", config.action.command),
        ("home.command", config.home.command),
    ):
        if command is not None:
            _check_units_of(config, where, command)


def _check_units_of(config: Ros2Config, where: str, command: CommandConfig) -> None:
    velocities = carries_velocities(config.action, command)
    count = len(config.joints) if command.type in JOINT_TYPES else 6
    for key in ("scale", "offset", "low", "high"):
        value = getattr(command, key)
        if value is None:
            continue
        if command.type == POSE:
            raise ConfigError(f"{where}.{key}", got=value, expected="none: poses are in m")
        if key == "offset" and velocities:
            raise ConfigError(f"{where}.offset", got=value, expected="none for velocities")
        if key in ("low", "high") and not velocities:
            raise ConfigError(
                f"{where}.{key}",
                got=value,
                expected="none for positions",
                hint=f"Write action.target_{key}, in rad",
            )
        numbers = np.atleast_1d(value)
        if len(numbers) not in (1, count):
            raise ConfigError(
                f"{where}.{key}", got=f"{len(numbers)} numbers", expected=f"1 or {count}"
            )
        if not np.isfinite(numbers).all() or (key == "scale" and not numbers.all()):
            raise ConfigError(f"{where}.{key}", got=value, expected="finite, and no scale of 0")
    _check_bounds(where, command.low, command.high, count)
    if command.type != JOINT_TRAJECTORY or command.scale is not None:
        return
    source = config.observation.get("joint_position")
    if source is not None and not np.all(np.atleast_1d(source.scale) == 1.0):
        inverse = np.round(1.0 / np.atleast_1d(source.scale), 6).tolist()
        raise ConfigError(
            f"{where}.scale",
            got=f"none, beside observation.joint_position.scale {source.scale}",
            expected="the factor from rad to the controller's unit",
            hint=f"Write scale: {inverse} if the controller takes what joint_position reports, "
            "scale: 1.0 if it takes rad",
        )


def _check_frames(config: Ros2Config) -> None:
    """What is commanded and what it builds on are in frames whose relation is known."""
    base, frames = config.base_frame, config.frames()
    hint = f"Say where it is: transforms: {{FRAME: {{parent: {base}, xyz: [x, y, z], rpy: [r, p, y]}}}}"
    drives_tool = config.action.kind not in JOINT_KINDS or bool(config.home.pose)
    for name in ("tcp_pose", "tcp_velocity"):
        if not drives_tool or name not in config.observation:
            continue
        if plain(config.observed_frame(name)) != plain(base):
            raise ConfigError(
                f"observation.{name}.frame",
                got=config.message_frame(name),
                expected=f"{base}, the frame of what is commanded (base_frame)",
                hint=hint,
            )
    for where, command in (
        ("action.command", config.action.command),
        ("home.command", config.home.command),
    ):
        if command is None or not command.frame:
            continue
        if command.type not in TOOL_TYPES:
            raise ConfigError(
                f"{where}.frame", got=command.frame, expected=f"none for {command.type}"
            )
        if frames.between(base, command.frame) is None:
            raise ConfigError(
                f"{where}.frame",
                got=command.frame,
                expected=f"{base}, the frame of the action (base_frame)",
                hint=hint,
            )


def _check_echo(config: Ros2Config) -> None:
    """What this node commands is not what it reads: a robot that has died would seem to follow."""
    read = {source.topic.lstrip("/"): name for name, source in config.observation.items()}
    for where, command in (
        ("action.command", config.action.command),
        ("action.gripper", config.action.gripper),
        ("home.command", config.home.command),
    ):
        if command is not None and command.topic.lstrip("/") in read:
            raise ConfigError(
                f"{where}.topic",
                got=f"{command.topic!r}, which observation.{read[command.topic.lstrip('/')]} reads",
                expected="another topic than those that the robot is read from",
            )


def _check_home(config: Ros2Config) -> None:
    home = config.home
    if home.joints and home.pose:
        raise ConfigError("home", got="joints and pose", expected="one of them")
    command = home.command or config.action.command
    if home.joints:
        if len(home.joints) != len(config.joints):
            raise ConfigError(
                "home.joints", got=f"{len(home.joints)} numbers", expected=len(config.joints)
            )
        _require_joint_position(config)
        _require_type("home.joints", command, joint=True)
    if home.pose:
        norm = float(np.linalg.norm(home.pose[3:]))
        if len(home.pose) != 7 or abs(norm - 1) > 1e-2:
            raise ConfigError(
                "home.pose",
                got=f"{len(home.pose)} numbers, quaternion of length {norm:.3f}",
                expected="x y z and a unit quaternion qx qy qz qw",
            )
        _require_tcp_pose(config, "home is a pose")
        _require_type("home.pose", command, joint=False)
    if home.gripper is not None and config.action.gripper is None:
        raise ConfigError("home.gripper", got=home.gripper, expected="action.gripper as well")


def _require_type(what: str, command: CommandConfig, *, joint: bool) -> None:
    fitting = JOINT_TYPES if joint else TOOL_TYPES
    if command.type not in fitting:
        raise ConfigError(
            what,
            got=f"a command of type {command.type}",
            expected=f"one of {list(fitting)}",
            hint="Give home.command a topic that can go there",
        )


def _require_joint_position(config: Ros2Config) -> None:
    if "joint_position" not in config.observation:
        raise ConfigError(
            "observation", got=sorted(config.observation), expected="joint_position among them"
        )
    if config.elements("joint_position") != config.joints:
        raise ConfigError(
            "observation.joint_position.names",
            got=list(config.elements("joint_position")),
            expected=f"the robot's joints {list(config.joints)}",
        )


def _require_tcp_pose(config: Ros2Config, why: str) -> None:
    if "tcp_pose" not in config.observation or config.layout("tcp_pose") not in POSES:
        raise ConfigError(
            "observation", got=sorted(config.observation), expected=f"tcp_pose, because {why}"
        )


def _check_bounds(where: str, low: Bound, high: Bound, count: int) -> None:
    for side, bound in (("low", low), ("high", high)):
        if isinstance(bound, tuple) and len(bound) != count:
            raise ConfigError(
                f"{where} {side}", got=f"{len(bound)} numbers", expected=f"1 or {count}"
            )
        if bound is not None and not np.isfinite(bound).all():
            raise ConfigError(f"{where} {side}", got=bound, expected="finite numbers")
    if low is not None and high is not None and not np.all(np.asarray(low) <= np.asarray(high)):
        raise ConfigError(f"{where} low", got=low, expected=f"at most high, {high}")


GRIPPER = "gripper"

_UNITS = {
    ActionKind.JOINT_POSITION: "rad",
    ActionKind.JOINT_DELTA: "rad",
    ActionKind.JOINT_VELOCITY: "rad/s",
    ActionKind.EE_DELTA: "m",
    ActionKind.EE_TWIST: "m/s",
    ActionKind.EE_POSE: "m",
}


def robot_spec(config: Ros2Config, observation: dict[str, ArraySpec]) -> RobotSpec:
    """What the robot shows and takes.

    Args:
        config: The contract.
        observation: Specs of all arrays, images included.
    """
    action = _action_spec(config)
    return RobotSpec(
        robot=config.robot,
        observation=observation,
        action=action,
        action_kind=config.action.kind,
        period_s=config.period_s,
        grippers=() if config.action.gripper is None else (action.size - 1,),
    )


def _action_spec(config: Ros2Config) -> ArraySpec:
    action, kind = config.action, config.action.kind
    names = _element_names(config)
    low, high = (
        np.broadcast_to(np.asarray(bound, float), (len(names),)).tolist()
        for bound in (action.low, action.high)
    )
    if action.gripper is not None:
        names, low, high = (*names, GRIPPER), [*low, 0.0], [*high, 1.0]
    return ArraySpec(
        (len(names),),
        "float32",
        tuple(low),
        tuple(high),
        unit=_UNITS[kind],
        frame="" if kind in JOINT_KINDS else config.base_frame,
        names=names,
    )


def _element_names(config: Ros2Config) -> tuple[str, ...]:
    kind = config.action.kind
    if kind in JOINT_KINDS:
        return config.joints
    if kind is ActionKind.EE_POSE:
        return ("x", "y", "z", "qx", "qy", "qz", "qw")
    letters = "dx dy dz drx dry drz" if kind is ActionKind.EE_DELTA else "vx vy vz wx wy wz"
    return tuple(letters.split()[: 6 if config.action.rotation else 3])
