"""From actions to targets: the three ways in which a simulated arm is commanded."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np

from user_core.errors import ConfigError
from user_core.specs import ActionKind, Array, ArraySpec
from user_hal.sim.mjcf import Drive
from user_hal.sim.scene import Scene

#: How far the commanded tool may stay ahead of the real one, on each axis, before the next
#: action is added, as a fraction of the largest action: bounds the force of contact.
LEASH = 0.4
#: The tool turns about the vertical by this much at most, either way.
YAW_RANGE_RAD = 1.5


class Control(ABC):
    """Turns an action into targets of a scene.

    Where the task moves the gripper, its opening (0 closed to 1 open) is the last element
    of every action.

    Attributes:
        kind: What the numbers of an action mean.
        drive: Which drive the scene needs.
        spec: Spec of an action.
    """

    kind: ClassVar[ActionKind]
    drive: ClassVar[Drive] = "joints"
    spec: ArraySpec

    def __init__(self, scene: Scene, period_s: float) -> None:
        self.scene = scene
        self.period_s = period_s

    @abstractmethod
    def apply(self, action: Array) -> None:
        """Begin to carry out an action (A,), within its bounds, in one control period."""

    def _vector_spec(
        self, low: list[float], high: list[float], unit: str, frame: str, names: list[str]
    ) -> ArraySpec:
        if self.scene.has_gripper:
            low, high, names = [*low, 0.0], [*high, 1.0], [*names, "gripper"]
        return ArraySpec(
            (len(low),),
            low=tuple(low),
            high=tuple(high),
            unit=unit,
            frame=frame,
            names=tuple(names),
        )

    def _gripper(self, action: Array) -> float | None:
        return float(action[-1]) if self.scene.has_gripper else None


class JointPosition(Control):
    """Absolute joint positions; the arm goes there at its velocity limit at most."""

    kind = ActionKind.JOINT_POSITION

    def __init__(self, scene: Scene, period_s: float) -> None:
        super().__init__(scene, period_s)
        kinematics = scene.kinematics
        self.spec = self._vector_spec(
            kinematics.lower_rad.tolist(),
            kinematics.upper_rad.tolist(),
            "rad",
            "",
            list(scene.arm.joint_names),
        )

    def apply(self, action: Array) -> None:
        joints = action[: self.scene.joint_count].astype(float)
        self.scene.set_joint_targets(joints, self._gripper(action), self.period_s)


class JointDelta(Control):
    """Change of the joint targets in one period: up to half of what the arm could do."""

    kind = ActionKind.JOINT_DELTA

    def __init__(self, scene: Scene, period_s: float) -> None:
        super().__init__(scene, period_s)
        step = np.minimum(0.5 * scene.kinematics.velocity_rad_s * period_s, 0.1)
        self.spec = self._vector_spec(
            (-step).tolist(), step.tolist(), "rad", "", list(scene.arm.joint_names)
        )

    def apply(self, action: Array) -> None:
        joints = self.scene.targets + action[: self.scene.joint_count]
        self.scene.set_joint_targets(joints, self._gripper(action), self.period_s)


class EeDelta(Control):
    """Change of the tool position (and heading, where the task turns the tool) in a period.

    The tool keeps pointing down. An action counts from the commanded tool, so that nothing
    drifts, whatever pulls at the arm; and the commanded tool stays near the real one, so
    that pushing against something builds up a force that the action determines, and that
    goes when the action goes.
    """

    kind = ActionKind.EE_DELTA
    drive = "tool"

    def __init__(self, scene: Scene, period_s: float) -> None:
        super().__init__(scene, period_s)
        task, scale = scene.task, period_s / 0.1
        high, names = [task.step_m * scale] * 3, ["dx", "dy", "dz"]
        self._turns = task.turns
        if task.turns:
            high, names = [*high, task.step_rad * scale], [*names, "rz"]
        self.spec = self._vector_spec(
            [-value for value in high], high, "m", scene.arm.base.name, names
        )
        self._leash_m = LEASH * task.step_m
        self._low_m, self._high_m = np.array(task.workspace_low_m), np.array(task.workspace_high_m)

    def apply(self, action: Array) -> None:
        scene, real_m, leash_m = self.scene, self.scene.tcp_position, self._leash_m
        target = scene.targets
        start_m = np.minimum(np.maximum(target[:3], real_m - leash_m), real_m + leash_m)
        goal_m = np.minimum(np.maximum(start_m + action[:3], self._low_m), self._high_m)
        yaw_rad = float(target[5])
        if self._turns:
            yaw_rad = min(max(yaw_rad + float(action[3]), -YAW_RANGE_RAD), YAW_RANGE_RAD)
        scene.set_tool_target(goal_m, yaw_rad, self._gripper(action), self.period_s)


CONTROLS: dict[str, type[Control]] = {
    control.kind.value: control for control in (EeDelta, JointDelta, JointPosition)
}


def control_named(name: str) -> type[Control]:
    """Return the control of this name; ConfigError lists those there are."""
    if name not in CONTROLS:
        raise ConfigError("control mode", got=name, expected=f"one of {sorted(CONTROLS)}")
    return CONTROLS[name]
