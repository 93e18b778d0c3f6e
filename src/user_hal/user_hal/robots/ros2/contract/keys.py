"""All keys of a contract, and what follows from them together."""

from __future__ import annotations

from user_core.config import Config, setting
from user_core.specs import Array
from user_hal.cameras.with_cameras import CamerasConfig
from user_hal.robots.ros2.contract.actions import ActionConfig, HomeConfig, StopConfig
from user_hal.robots.ros2.contract.parts import ArrayPlan, Part, plan_array
from user_hal.robots.ros2.contract.sources import Bound, SourceConfig, TimingConfig, TransformConfig
from user_hal.robots.ros2.frames import Frames
from user_hal.robots.ros2.messages import LayoutName


class Contract(Config):
    """The keys of a contract; :class:`Ros2Config` is one whose parts fit each other."""

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

    def joints_of(self, name: str) -> tuple[str, ...]:
        """The joints that an array of the observation is about."""
        return self.joints

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

    def frame_of(self, part: Part) -> str:
        """Frame of the messages of a part; empty: whatever they say."""
        in_base = ("pose", "pose_rpy", "twist")
        return part.config.frame or (self.base_frame if part.layout in in_base else "")

    def message_frame(self, name: str) -> str:
        """Frame of the messages that an array comes from; empty: whatever they say."""
        plan = self.plan(name)
        if self.observation[name].parts:
            return self.observation[name].frame
        return self.frame_of(plan.parts[0])

    def observed_frame(self, name: str) -> str:
        """Frame of an array of the observation: that of its messages, except that the tool is
        seen in ``base_frame`` where the way there is known."""
        frame = self.message_frame(name)
        if name.rpartition(".")[2] in ("tcp_pose", "tcp_velocity") and frame:
            known = self.use_tf or self.frames().between(frame, self.base_frame) is not None
            return self.base_frame if known else frame
        return frame
