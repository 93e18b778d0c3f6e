"""One command on its way through the gate, as the displacement that it asks for."""

from __future__ import annotations

from user_hal.safety.layout import MotionLayout


class Motion:
    """Scratch space that all rules work on; made once, filled anew for every command.

    The gate works on lists of plain floats: for the handful of elements that an action has,
    that takes a third of the time of numpy (``benchmarks/gate.py``). All numbers are in metres
    and radians (extras in their own unit).

    Attributes:
        displacement: What the robot is to move within one period, (D,); rules reduce it.
        asked: The same as it was asked for, (D,).
        previous: Displacement of the command before, (D,); zero when the robot rested.
        position: Measured position that the displacement starts from: the tool's x y z, or
            the joints, (P,). The first P elements of a displacement move it.
        target: Where the commands so far lead, (P,); equals ``position`` after a hold.
        period_s: Control period of the robot.
        elapsed_s: Time since the command before, at most a few periods.
    """

    def __init__(self, layout: MotionLayout, period_s: float) -> None:
        size, moving = layout.size, max(layout.linear.stop, layout.joints.stop)
        self.layout = layout
        self.displacement = [0.0] * size
        self.asked = [0.0] * size
        self.previous = [0.0] * size
        self.position = [0.0] * moving
        self.target = [0.0] * moving
        self.period_s = period_s
        self.elapsed_s = period_s
