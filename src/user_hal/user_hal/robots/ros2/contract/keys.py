"""All keys of a contract, and what follows from them together."""

from __future__ import annotations

from user_core.config import Config, setting
from user_core.specs import Array
from user_hal.cameras.with_cameras import CamerasConfig
from user_hal.robots.ros2.calls import CallConfig
from user_hal.robots.ros2.contract.actions import (
    ActionConfig,
    GroupConfig,
    HomeConfig,
    StopConfig,
)
from user_hal.robots.ros2.contract.parts import ArrayPlan, Part, plan_array
from user_hal.robots.ros2.contract.sources import (
    Bound,
    SourceConfig,
    TimingConfig,
    TransformConfig,
    UrdfConfig,
)
from user_hal.robots.ros2.frames import Frames
from user_hal.robots.ros2.messages import LayoutName
from user_hal.robots.ros2.stop_conditions import StopWhenConfig


class Contract(Config):
    """The keys of a contract; :class:`Ros2Config` is one whose parts fit each other."""

    robot: str = setting(doc="Kind of robot, for instance ur5e.", min_length=1)
    observation: dict[str, SourceConfig] = setting(
        doc="Arrays by name; standard names (user_core.specs) where there is one.", min_length=1
    )
    action: ActionConfig | None = setting(
        None, doc="What an action does; of a robot with groups, each has its own."
    )
    joints: tuple[str, ...] = setting((), doc="Joint names, in the order of all joint vectors.")
    groups: dict[str, GroupConfig] = setting(
        factory=dict,
        doc="Parts that are commanded by themselves, in the order of an action's elements: two "
        "arms, a lift, a base. Each has joints, action and home of its own, instead of those keys "
        "here (home here may still have before and after).",
    )
    prismatic: tuple[str, ...] = setting(
        (), doc="Joints that shift instead of turning: their numbers are m and m/s, not rad."
    )
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
    tool_velocity_limits: tuple[float, ...] = setting(
        (),
        doc="Fastest that the tool can move and turn: m/s, rad/s. A pose that jumps further is a "
        "fault; empty: not looked for.",
        gt=0,
        max_length=2,
    )
    base_frame: str = setting("base_link", doc="Frame of tool poses and twists.")
    transforms: dict[str, TransformConfig] = setting(
        factory=dict, doc="Frames that are fixed to others, by name."
    )
    urdf: UrdfConfig | None = setting(
        None,
        doc="Take limits, speeds, continuous and prismatic joints from the robot's URDF, where "
        "they are not said here.",
    )
    use_tf: bool = setting(
        False,
        doc="Where transforms does not say how two frames lie to each other, look on /tf and "
        "/tf_static.",
    )
    period_s: float = setting(0.1, doc="Control period.", unit="s", gt=0)
    timing: TimingConfig = setting(factory=TimingConfig, doc="When readings belong together.")
    cameras: CamerasConfig = setting(factory=CamerasConfig, doc="Cameras.")
    home: HomeConfig = setting(factory=HomeConfig, doc="Where an episode starts.")
    stop: StopConfig = setting(factory=StopConfig, doc="What a safe stop does.")
    stop_when: tuple[StopWhenConfig, ...] = setting(
        (), doc="Topics and services that stop the robot: a protective stop, a safety mode, a door."
    )
    before: tuple[CallConfig, ...] = setting(
        (),
        doc="Services and actions to call when the robot is connected (and each time it is "
        "connected anew), in order: switch a controller, choose a command type.",
    )
    after: tuple[CallConfig, ...] = setting(
        (), doc="Services and actions to call when it is closed, after what undoes those of before."
    )
    recover: tuple[CallConfig, ...] = setting(
        (),
        doc="Services and actions to call first in a reset, if a stop_when has held, or the robot "
        "has not followed: clear faults, recover from errors.",
    )

    @property
    def joint_names(self) -> tuple[str, ...]:
        """All joints, of all groups in their order."""
        own = (joint for group in self.groups.values() for joint in group.joints)
        return tuple(own) if self.groups else self.joints

    def joints_of(self, name: str) -> tuple[str, ...]:
        """The joints that an array of the observation is about."""
        group = self.groups.get(name.rpartition(".")[0])
        return self.joint_names if group is None else group.joints

    def base_frame_of(self, name: str) -> str:
        """The frame of tool poses and twists for an array of the observation."""
        group = self.groups.get(name.rpartition(".")[0])
        return self.base_frame if group is None else group.base_frame or self.base_frame

    def plan(self, name: str) -> ArrayPlan:
        """Which numbers of which topics become which elements of an array.

        Raises:
            ConfigError: The contract leaves it open, or contradicts itself.
        """
        return plan_array(name, self.observation[name], self.joints_of(name))

    def scaling(self, name: str) -> tuple[Array, Array]:
        """Scale and offset of an array's numbers, each (1,) or one per number."""
        return self.plan(name).scaling()

    def layout(self, name: str) -> LayoutName:
        """How an array is laid out."""
        return self.plan(name).layout

    def elements(self, name: str) -> tuple[str, ...]:
        """Names of the elements of an array; empty where they have none."""
        return self.plan(name).names

    def frames(self) -> Frames:
        """The frames that ``transforms`` relates."""
        return Frames({name: (t.parent, t.xyz, t.rpy) for name, t in self.transforms.items()})

    def frame_of(self, part: Part, name: str = "") -> str:
        """Frame of the messages of a part of an array; empty: whatever they say."""
        in_base = ("pose", "twist")
        return part.config.frame or (self.base_frame_of(name) if part.meaning in in_base else "")

    def message_frame(self, name: str) -> str:
        """Frame of the messages that an array comes from; empty: whatever they say."""
        plan = self.plan(name)
        if self.observation[name].parts:
            return self.observation[name].frame
        return self.frame_of(plan.parts[0], name)

    def observed_frame(self, name: str) -> str:
        """Frame of an array of the observation: that of its messages, except that the tool is
        seen in ``base_frame`` where the way there is known."""
        frame, base = self.message_frame(name), self.base_frame_of(name)
        if name.rpartition(".")[2] in ("tcp_pose", "tcp_velocity") and frame:
            known = self.use_tf or self.frames().between(frame, base) is not None
            return base if known else frame
        return frame
