"""All keys of a contract, and what follows from them together."""

from __future__ import annotations

import numpy as np

from user_core.config import Config, setting
from user_core.specs import Array
from user_hal.cameras.with_cameras import CamerasConfig
from user_hal.robots.ros2.contract.actions import ActionConfig, HomeConfig, StopConfig
from user_hal.robots.ros2.contract.sources import Bound, SourceConfig, TimingConfig, TransformConfig
from user_hal.robots.ros2.frames import Frames
from user_hal.robots.ros2.messages import JOINT_STATE, LayoutName, layout_named


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
    period_s: float = setting(0.1, doc="Control period.", unit="s", gt=0)
    timing: TimingConfig = setting(factory=TimingConfig, doc="When readings belong together.")
    cameras: CamerasConfig = setting(factory=CamerasConfig, doc="Cameras.")
    home: HomeConfig = setting(factory=HomeConfig, doc="Where an episode starts.")
    stop: StopConfig = setting(factory=StopConfig, doc="What a safe stop does.")

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
