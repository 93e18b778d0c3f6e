"""What the forms have in common: where the robot is, and where commands so far lead."""

from __future__ import annotations

from abc import ABC, abstractmethod

from user_core.specs import Arrays
from user_hal.safety.layout import MotionLayout
from user_hal.safety.motion import Motion


class Form(ABC):
    """Translates one kind of action to a displacement and back.

    Attributes:
        rest: The action that would move nothing, (A,); extras keep what was asked.
        resting: Whether the robot was held since the last command: the target is where it is.
    """

    def __init__(self, layout: MotionLayout, motion: Motion) -> None:
        self.layout, self.motion = layout, motion
        self.rest = [0.0] * layout.action_size
        self.resting = True

    @abstractmethod
    def start(self, values: list[float]) -> bool:
        """Fill ``motion.displacement`` and ``rest`` from an action, (A,).

        Returns whether the action had to be brought into its proper form for that.

        Raises:
            Refused: The action has no meaning, for instance a quaternion of length zero.
        """

    @abstractmethod
    def finish(self, values: list[float]) -> None:
        """Write the action that does ``motion.displacement`` into ``values``, (A,)."""

    def observe(self, arrays: Arrays) -> None:
        """Take over the measured position."""
        motion, layout = self.motion, self.layout
        if layout.joints.stop and "joint_position" in arrays:
            motion.position[:] = arrays["joint_position"][layout.joint_rows].tolist()
        elif layout.linear.stop and "tcp_pose" in arrays:
            motion.position[:] = arrays["tcp_pose"][layout.linear].tolist()
        if self.resting:
            motion.target[:] = motion.position

    def sent(self, values: list[float]) -> None:
        """The action, (A,), is being sent."""
        self.resting = False

    def hold(self) -> None:
        """The robot was stopped and holds where it is."""
        self.resting = True
        self.motion.target[:] = self.motion.position
