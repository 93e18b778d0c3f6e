"""Kinematics of the simulated arms in plain numpy: poses, Jacobian, inverse, limits.

Slow beside the simulator's own (tens of microseconds), and meant to be read: this is what
MJCF and URDF are tested against, and what the expert and tools use without a simulator.
All poses are in the arm's base frame (REP-105), metres and radians; quaternions are x y z w.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from user_core.errors import SpecError
from user_core.specs import Array
from user_hal.sim.description import Arm, DHRow


def dh_transform(row: DHRow, joint_rad: float = 0.0) -> Array:
    """Pose of a joint frame in the one before, (4, 4); see :mod:`user_hal.sim.description`."""
    cos_q, sin_q = np.cos(joint_rad), np.sin(joint_rad)
    cos_a, sin_a = np.cos(row.alpha_rad), np.sin(row.alpha_rad)
    return np.array(
        [
            [cos_q, -sin_q, 0.0, row.a_m],
            [cos_a * sin_q, cos_a * cos_q, -sin_a, -sin_a * row.d_m],
            [sin_a * sin_q, sin_a * cos_q, cos_a, cos_a * row.d_m],
            [0.0, 0.0, 0.0, 1.0],
        ]
    )


def z_transform(yaw_rad: float, z_m: float = 0.0) -> Array:
    """Rotation about and translation along z, (4, 4)."""
    matrix = np.eye(4)
    cos, sin = np.cos(yaw_rad), np.sin(yaw_rad)
    matrix[:2, :2] = [[cos, -sin], [sin, cos]]
    matrix[2, 3] = z_m
    return matrix


def quaternion_xyzw(rotation: Array) -> Array:
    """Unit quaternion of a rotation matrix (3, 3); its largest element is positive.

    Takes the best conditioned of four formulas (S. W. Shepperd, "Quaternion from rotation
    matrix", J. Guidance and Control 1(3), 1978).
    """
    r = rotation
    trace = r[0, 0] + r[1, 1] + r[2, 2]
    squares = np.array([r[0, 0], r[1, 1], r[2, 2], trace])
    best = int(np.argmax(squares))
    q = np.empty(4)
    if best == 3:
        q[:] = (r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1], 1.0 + trace)
    else:
        i, j, k = best, (best + 1) % 3, (best + 2) % 3
        q[i] = 1.0 + 2.0 * r[i, i] - trace
        q[j] = r[j, i] + r[i, j]
        q[k] = r[k, i] + r[i, k]
        q[3] = r[k, j] - r[j, k]
    return q / np.linalg.norm(q)


def rotation_matrix(quaternion: Array) -> Array:
    """Rotation matrix (3, 3) of a unit quaternion x y z w."""
    x, y, z, w = quaternion
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def rotation_vector(rotation: Array) -> Array:
    """Axis times angle (3,) of a rotation matrix, angle from 0 to pi."""
    x, y, z, w = quaternion_xyzw(rotation)
    if w < 0:
        x, y, z, w = -x, -y, -z, -w
    sine = np.sqrt(x * x + y * y + z * z)
    scale = 2.0 if sine < 1e-9 else 2.0 * np.arctan2(sine, w) / sine
    return np.array([x, y, z]) * scale


def tool_down(position_m: Array, yaw_rad: float = 0.0) -> Array:
    """Pose (4, 4) of a tool that points down, its x axis to the front for no yaw."""
    cos, sin = np.cos(yaw_rad), np.sin(yaw_rad)
    pose = np.eye(4)
    pose[:3, :3] = [[cos, sin, 0.0], [sin, -cos, 0.0], [0.0, 0.0, -1.0]]
    pose[:3, 3] = position_m
    return pose


class Kinematics:
    """Kinematics of one arm with its gripper.

    Args:
        arm: Its description.

    Attributes:
        lower_rad: Position limits of the joints, (n,).
        upper_rad: Likewise.
        velocity_rad_s: Velocity limits of the joints, (n,).
        home_rad: Joint positions with the tool pointing down in front, (n,).
    """

    def __init__(self, arm: Arm) -> None:
        self.arm = arm
        self.lower_rad = np.array([joint.lower_rad for joint in arm.joints])
        self.upper_rad = np.array([joint.upper_rad for joint in arm.joints])
        self.velocity_rad_s = np.array([joint.velocity_rad_s for joint in arm.joints])
        self.home_rad = np.array(arm.home_rad)
        self._base = z_transform(arm.base_yaw_rad)
        flange_hand = z_transform(arm.gripper.yaw_rad)
        self._link_tcp = (
            dh_transform(arm.dh[-1]) @ flange_hand @ z_transform(0, arm.gripper.tcp_z_m)
        )

    @property
    def joint_count(self) -> int:
        """Number of joints, n."""
        return len(self.arm.joints)

    def link_poses(self, joints_rad: Array) -> Array:
        """Poses of the link frames in the base frame, (n, 4, 4), from the base outwards."""
        joints_rad = np.asarray(joints_rad, dtype=float)
        if joints_rad.shape != (self.joint_count,):
            raise SpecError(
                f"joint positions of {self.arm.name!r}",
                got=f"shape {joints_rad.shape}",
                expected=f"({self.joint_count},): {', '.join(self.arm.joint_names)}",
            )
        poses, pose = np.empty((self.joint_count, 4, 4)), self._base
        for i, joint_rad in enumerate(joints_rad):
            pose = pose @ dh_transform(self.arm.dh[i], joint_rad)
            poses[i] = pose
        return poses

    def flange_pose(self, joints_rad: Array) -> Array:
        """Pose of the flange in the base frame, (4, 4)."""
        flange: Array = self.link_poses(joints_rad)[-1] @ dh_transform(self.arm.dh[-1])
        return flange

    def tcp_pose(self, joints_rad: Array) -> Array:
        """Pose of the tool centre point in the base frame, (4, 4)."""
        tcp: Array = self.link_poses(joints_rad)[-1] @ self._link_tcp
        return tcp

    def jacobian(self, joints_rad: Array) -> Array:
        """Geometric Jacobian at the tool centre point, base frame, (6, n).

        Rows: vx vy vz (m/s) and wx wy wz (rad/s) per rad/s of each joint.
        """
        return self._pose_jacobian(joints_rad)[1]

    def _pose_jacobian(self, joints_rad: Array) -> tuple[Array, Array]:
        poses = self.link_poses(joints_rad)
        tcp = poses[-1] @ self._link_tcp
        axes = poses[:, :3, 2]
        jacobian = np.empty((6, self.joint_count))
        jacobian[:3] = np.cross(axes, tcp[:3, 3] - poses[:, :3, 3]).T
        jacobian[3:] = axes.T
        return tcp, jacobian

    def inverse(
        self,
        pose_base_tcp: Array,
        start_rad: Array | None = None,
        *,
        tolerance: float = 1e-6,
        iterations: int = 200,
    ) -> Array | None:
        """Joint positions that bring the tool to a pose (4, 4); None where none was found.

        Damped least squares (Y. Nakamura, H. Hanafusa, 1986) from ``start_rad`` (home by
        default), with the joints kept within their limits; redundancy is spent on staying
        near the start.
        """
        start = self.home_rad if start_rad is None else np.asarray(start_rad, dtype=float)
        return solve_inverse(
            self._pose_jacobian,
            pose_base_tcp,
            start,
            (self.lower_rad, self.upper_rad),
            tolerance,
            iterations,
        )


def solve_inverse(
    pose_jacobian: Callable[[Array], tuple[Array, Array]],
    pose_base_tcp: Array,
    start_rad: Array,
    limits_rad: tuple[Array, Array],
    tolerance: float,
    iterations: int,
) -> Array | None:
    """What :meth:`Kinematics.inverse` says, for any source of tool pose and Jacobian."""
    joints = start_rad.copy()
    for _ in range(iterations):
        tcp, jacobian = pose_jacobian(joints)
        error = np.empty(6)
        error[:3] = pose_base_tcp[:3, 3] - tcp[:3, 3]
        error[3:] = rotation_vector(pose_base_tcp[:3, :3] @ tcp[:3, :3].T)
        if np.abs(error).max() < tolerance:
            return joints
        step = damped_step(jacobian, error, 0.3 * (start_rad - joints), damping=1e-3)
        step *= min(1.0, 0.5 / max(float(np.abs(step).max()), 1e-9))
        joints = np.minimum(np.maximum(joints + step, limits_rad[0]), limits_rad[1])
    return None


def damped_step(jacobian: Array, error: Array, posture: Array, damping: float) -> Array:
    """Joint step (n,) towards a tool error (6,), and in the null space towards a posture (n,).

    dq = J# e + (1 - J# J) posture, with the damped inverse J# = J' (J J' + damping^2)^-1.
    """
    square = jacobian @ jacobian.T
    square.flat[:: square.shape[0] + 1] += damping * damping
    step: Array = posture + jacobian.T @ np.linalg.solve(square, error - jacobian @ posture)
    return step
