"""Where the arrays of an observation come from, and when readings belong together."""

from __future__ import annotations

from typing import Literal

import numpy as np

from user_core.config import Config, setting
from user_core.errors import ConfigError
from user_hal.robots.ros2.messages import NUMBER_POSES, LayoutChoice
from user_hal.topic_io import Reliability

Bound = float | tuple[float, ...] | None


#: Layouts that are a pose in the observation.
POSES = ("pose", *NUMBER_POSES)


class PartConfig(Config):
    """Where numbers of the observation come from."""

    topic: str = setting("", doc="Topic, for instance /joint_states.")
    type: str = setting("", doc="Its message type, for instance sensor_msgs/msg/JointState.")
    field: str = setting(
        "",
        doc="Path to the numbers in the message: names, [indices] and [*], for instance "
        "pose.position, arms[1].q, motor_state[*].q for the q of every element, or "
        "status[name=arm].level for the element with that name. Several, with "
        "commas between them, give a vector: x, y, z, rx, ry, rz.",
    )
    tf: str = setting(
        "",
        doc="Instead of a field: a frame whose pose in frame (or base_frame) is looked up on /tf "
        "and /tf_static, through as many frames as lie between. topic: another name of /tf.",
    )
    layout: LayoutChoice = setting(
        "auto",
        doc="What is found there. auto: by the observation's name (tcp_pose: pose, tcp_velocity: "
        "twist, wrench: wrench), else a vector. Poses of bare numbers: "
        "pose_rpy, x y z roll pitch yaw (about the fixed axes x, y, z, in this order); "
        "pose_rotvec, x y z and a rotation vector, as UR's; pose_xyzw and pose_wxyz, x y z and a "
        "quaternion; pose_columns and pose_rows, a matrix of 16 numbers (libfranka: columns).",
    )
    names: tuple[str, ...] = setting(
        (),
        doc="Elements to take, by their names in the message, in this order. Empty for a "
        "JointState: the robot's joints.",
    )
    names_field: str = setting("name", doc="Where the names stand in the message.")
    indices: tuple[int, ...] = setting((), doc="Elements to take, by position.", ge=0)
    length: Literal["m", "mm"] = setting(
        "m", doc="Poses of bare numbers: unit of x, y, z in the message."
    )
    angle: Literal["rad", "deg"] = setting(
        "rad",
        doc="pose_rpy and pose_rotvec: unit of the angles in the message.",
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
    not_finite: dict[Literal["inf", "-inf", "nan"], float] = setting(
        factory=dict,
        doc="Numbers, in the message's unit, to take instead of inf, -inf and nan, where those "
        "mean something (REP-117: nothing within range). Without it they are a fault.",
    )
    frame: str = setting(
        "",
        doc="Frame of the messages; of poses and twists base_frame, if empty. A message that says "
        "another frame is refused, unless transforms (or use_tf) knows the way; one that says "
        "none is taken only where this key says it. tcp_pose and tcp_velocity are "
        "taken to base_frame where the way is known.",
    )
    taken_at: Literal["auto", "origin", "tool"] = setting(
        "auto",
        doc="Twists and wrenches that are taken to another frame: origin: the velocity is that of "
        "the body at the frame's origin, the torque is about it, so that another origin changes "
        "them (lever arm). tool: both belong to the tool's own point, and only the axes turn. "
        "auto: tool for twists, origin for wrenches.",
    )
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
    latched: bool = setting(
        False,
        doc="Published once, or on change, and kept for those who come later (transient local): "
        "the latest counts, however old it is.",
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
        for what, number in self.not_finite.items():
            if not np.isfinite(number):
                raise ConfigError(f"not_finite {what}", got=number, expected="a finite number")
        if self.latched and self.max_age_s is not None:
            raise ConfigError(
                f"max_age_s of {self.topic}", got=self.max_age_s, expected="none beside latched"
            )
        if self.tf and (self.field or self.names or self.indices or self.size is not None):
            raise ConfigError(
                f"tf: {self.tf}", got="field, names, indices or size", expected="none beside tf"
            )


class ElementsConfig(PartConfig):
    """A part of an array."""

    elements: tuple[str, ...] = setting(
        (),
        doc="Names in the array of what this part gives, in its order, where they are not names: "
        "without names in the message, or with others. Parts without either fill what the "
        "others leave, in order.",
    )


class SourceConfig(PartConfig):
    """Where one array of the observation comes from."""

    parts: tuple[ElementsConfig, ...] = setting(
        (),
        doc="For an array that comes from several topics or fields: each with the keys that "
        "differ; the others are taken from here. Merged by names (the robot's joints), or else "
        "one behind the other. Each part has its own age.",
    )
    unit: str = setting("", doc="SI unit of the observation.")
    low: Bound = setting(None, doc="Smallest value, for the spec.")
    high: Bound = setting(None, doc="Largest value, for the spec.")
    dtype: Literal["float32", "float64"] = setting("float32", doc="Type in the observation.")

    def validate(self) -> None:
        """Refuse what says nothing, or two things."""
        super().validate()
        if self.parts and (self.names or self.indices or self.size is not None or self.tf):
            raise ConfigError(
                "keys beside parts", got="names, indices, size or tf", expected="those of each part"
            )
        for part in self.merged():
            missing = [k for k in ("topic", "type", "field") if not getattr(part, k)]
            if missing and not part.tf:
                raise ConfigError(
                    f"{', '.join(missing)} of {part.topic or part.type or 'a source'}",
                    got="nothing",
                    expected="topic, type and field, or tf",
                )

    def merged(self) -> tuple[PartConfig, ...]:
        """The parts, each with the keys of the whole that it does not say itself."""
        if not self.parts:
            return (self,)
        usual = ElementsConfig()
        inherited = {
            key: getattr(self, key)
            for key in PartConfig.model_fields
            if getattr(self, key) != getattr(usual, key)
        }
        return tuple(
            part.replace(
                **{k: v for k, v in inherited.items() if getattr(part, k) == getattr(usual, k)}
            )
            for part in self.parts
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


class UrdfConfig(Config):
    """Where the robot's URDF is, for what the contract does not say of its joints."""

    file: str = setting("", doc="A URDF file, or package://PACKAGE/FILE.")
    topic: str = setting(
        "/robot_description",
        doc="Topic of robot_state_publisher; heard when the robot is connected, unless there is a "
        "file.",
        min_length=1,
    )
