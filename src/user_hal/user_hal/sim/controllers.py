"""The controllers that ros2_control runs on an arm, for a simulated one.

Each does what the controller of that name does with its command; the last command wins. Pure:
:mod:`user_hal.nodes.sim_ros_robot` puts them on topics.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum, auto

import numpy as np

from user_core.errors import DeviceFault, SpecError
from user_core.specs import Array
from user_hal.sim.kinematics import damped_step, rotation_matrix
from user_hal.sim.scene import Scene

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
