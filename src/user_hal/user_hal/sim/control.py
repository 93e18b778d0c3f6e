"""How a simulated arm is commanded.

The first part are the three kinds of action of the driver ``mujoco``; the second the controllers
that ros2_control runs on an arm, for :mod:`user_hal.nodes.sim_ros_robot`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from enum import Enum, auto
from typing import ClassVar

import numpy as np

from user_core.errors import ConfigError, DeviceFault, SpecError
from user_core.specs import ActionKind, Array, ArraySpec
from user_hal.sim.kinematics import damped_step, rotation_matrix
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


#: A twist that is not renewed for this long ends, as with MoveIt Servo.
TWIST_TIMEOUT_S = 0.1


class _Mode(Enum):
    HOLD = auto()
    VELOCITY = auto()
    TWIST = auto()


class ArmControllers:
    """Commands to one scene, and its clockwork. Whoever shares it between threads locks it.

    Args:
        scene: The arm. Commands move its targets.
    """

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self._mode = _Mode.HOLD
        self._velocity_rad_s: Array = np.zeros(scene.joint_count)
        self._twist: Array = np.zeros(6)
        self._twist_age_s = 0.0
        self._opening: float | None = None
        self._arm_left_s = self._gripper_left_s = 0.0  # until what was ordered is done

    def trajectory(self, names: Sequence[str], positions: Sequence[float], time_s: float) -> None:
        """joint_trajectory_controller: go to a point within a time.

        Raises:
            SpecError: The names are not exactly the arm's joints, or a position is missing.
        """
        joints = self.scene.arm.joint_names
        if sorted(names) != sorted(joints) or len(positions) != len(names):
            raise SpecError(
                "joints of a trajectory",
                got=f"{list(names)} with {len(positions)} positions",
                expected=list(joints),
            )
        by_name = dict(zip(names, positions, strict=True))
        self._go(np.array([by_name[name] for name in joints]), time_s)

    def positions(self, values: Sequence[float]) -> None:
        """forward_position_controller: go there at once (within the velocity limits)."""
        self._go(self._vector("positions", values), self.scene.timestep_s)

    def velocities(self, values: Sequence[float]) -> None:
        """forward_velocity_controller: move so until another command comes."""
        self._velocity_rad_s = self._vector("velocities", values)
        self._mode = _Mode.VELOCITY

    def twist(self, values: Sequence[float]) -> None:
        """MoveIt Servo: move the tool so (m/s, rad/s, base frame), for a short time."""
        twist = np.asarray(values, float)
        if twist.shape != (6,) or not np.isfinite(twist).all():
            raise SpecError("twist", got=twist.tolist(), expected="6 finite numbers")
        self._twist, self._twist_age_s, self._mode = twist, 0.0, _Mode.TWIST

    def pose(self, values: Sequence[float]) -> None:
        """A Cartesian controller: bring the tool to x y z (m) qx qy qz qw in the base frame.

        Raises:
            DeviceFault: The arm cannot reach it.
        """
        pose = np.asarray(values, float)
        matrix = np.eye(4)
        matrix[:3, :3] = rotation_matrix(pose[3:] / np.linalg.norm(pose[3:]))
        matrix[:3, 3] = pose[:3]
        joints = self.scene.kinematics.inverse(
            matrix, self.scene.targets, tolerance=1e-4, iterations=30
        )
        if joints is None:
            raise DeviceFault("pose", got=pose.tolist(), expected="a pose within reach")
        self._go(joints, 0.05)

    def gripper(self, position_m: float) -> None:
        """A gripper controller: bring each finger to a position, 0 m when closed."""
        gripper = self.scene.arm.gripper
        self._opening = min(max(position_m / gripper.stroke_m, 0.0), 1.0)
        self._gripper_left_s = 1.5 * gripper.stroke_m / gripper.velocity_m_s

    def hold(self) -> None:
        """Stop where the arm is."""
        self._mode = _Mode.HOLD
        self.scene.hold()

    def advance(self, period_s: float) -> None:
        """Let time pass, at most a tenth of a second at a time."""
        scene = self.scene
        if self._mode is _Mode.VELOCITY:
            scene.set_joint_targets(
                scene.targets + self._velocity_rad_s * period_s, self._opening, period_s
            )
        elif self._mode is _Mode.TWIST:
            self._twist_age_s += period_s
            if self._twist_age_s > TWIST_TIMEOUT_S:
                self._mode = _Mode.HOLD
            else:
                self._follow_twist(period_s)
        elif self._arm_left_s <= 0 < self._gripper_left_s:  # the fingers move with the arm only
            scene.set_joint_targets(scene.targets, self._opening, period_s)
        self._arm_left_s -= period_s
        self._gripper_left_s -= period_s
        scene.advance(max(1, round(period_s / scene.timestep_s)))

    def _follow_twist(self, period_s: float) -> None:
        scene = self.scene
        joints = scene.targets
        jacobian = scene.kinematics.jacobian(joints)
        step = damped_step(
            jacobian, self._twist * period_s, np.zeros(scene.joint_count), damping=0.01
        )
        scene.set_joint_targets(joints + step, self._opening, period_s)

    def _go(self, joints_rad: Array, time_s: float) -> None:
        if not np.isfinite(joints_rad).all():
            raise SpecError("joint positions", got=joints_rad.tolist(), expected="finite numbers")
        self._mode = _Mode.HOLD
        time_s = max(time_s, self.scene.timestep_s)
        speed_rad_s = self.scene.kinematics.velocity_rad_s
        slowest_s = float(np.max(np.abs(joints_rad - self.scene.targets) / speed_rad_s))
        self._arm_left_s = max(time_s, 2 * slowest_s)
        self.scene.set_joint_targets(joints_rad, self._opening, time_s)

    def _vector(self, what: str, values: Sequence[float]) -> Array:
        vector = np.asarray(values, float)
        if vector.shape != (self.scene.joint_count,) or not np.isfinite(vector).all():
            raise SpecError(
                what, got=vector.tolist(), expected=f"{self.scene.joint_count} finite numbers"
            )
        return vector
