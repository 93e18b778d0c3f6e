"""The physics of one arm and one task: what a driver, or a ROS node, is built around."""

from __future__ import annotations

from dataclasses import dataclass
from xml.etree import ElementTree as ET

import mujoco
import numpy as np
from user_core.errors import DeviceFault, SpecError
from user_core.specs import Array

from user_hal.sim.arms import arm_named
from user_hal.sim.kinematics import Kinematics
from user_hal.sim.mjcf import scene_mjcf
from user_hal.sim.tasks import Task, task_named

GRAVITY_M_S2 = 9.81
#: Range of the simulated wrist force sensor, N and N m; readings saturate there.
WRENCH_RANGE = np.array([200.0, 200.0, 200.0, 20.0, 20.0, 20.0])


@dataclass(frozen=True)
class SceneState:
    """What is measured at one moment. All float64, all copies, base frame, SI units.

    Attributes:
        joint_position: (n,) rad.
        joint_velocity: (n,) rad/s.
        tcp_pose: (7,) x y z qx qy qz qw.
        tcp_velocity: (6,) m/s and rad/s.
        wrench: (6,) what the surroundings do to the tool, at the tool centre point; the
            weight of the gripper is subtracted, its inertia is not, as with a real sensor.
        gripper: Opening, 0 to 1.
        features: The task's arrays, float32.
        success: Whether the task is solved.
        time_s: Simulated time since the reset.
    """

    joint_position: Array
    joint_velocity: Array
    tcp_pose: Array
    tcp_velocity: Array
    wrench: Array
    gripper: float
    features: dict[str, Array]
    success: bool
    time_s: float


class Scene:
    """An arm with a gripper on a table, with the objects of a task.

    The arm is driven by joint targets (:meth:`set_targets`), that move evenly to what was
    asked for; the joints follow like springs (joint impedance control), so that contact
    forces stay bounded. Not thread-safe: whoever shares it between threads locks it.

    Args:
        arm: Name of the arm, see :data:`user_hal.sim.arms.ARMS`.
        task: Name of the task or a task.
        timestep_s: Physics time step.
    """

    def __init__(self, arm: str, task: str | Task, timestep_s: float = 0.005) -> None:
        self.arm = arm_named(arm)
        self.task = task_named(task) if isinstance(task, str) else task
        self.kinematics = Kinematics(self.arm)
        self.timestep_s = timestep_s
        self.xml = scene_xml(self.arm.name, self.task, timestep_s)
        self.model = mujoco.MjModel.from_xml_string(self.xml)
        self.data = mujoco.MjData(self.model)
        self.task.bind(self.model)
        self.joint_count = n = len(self.arm.joints)
        self._tcp = self.model.site("tcp").id
        self._hand = self.model.body("hand").id
        self._root = int(self.model.body_rootid[self._hand])
        self._tool_weight_n = float(self.model.body_subtreemass[self._hand]) * GRAVITY_M_S2
        self._fingers = [
            int(self.model.joint(name).qposadr[0])
            for name in self.arm.gripper.finger_names
            if self.task.moves_gripper
        ]
        self._has_gripper = bool(self._fingers)
        limit = self.kinematics.velocity_rad_s
        gripper = [self.arm.gripper.velocity_m_s] * self._has_gripper
        self._speed_limit = np.concatenate([limit, gripper])
        self._ramp_steps = 0
        self._lower = np.concatenate([self.kinematics.lower_rad, [0.0] * self._has_gripper])
        self._upper = np.concatenate(
            [self.kinematics.upper_rad, [self.arm.gripper.stroke_m] * self._has_gripper]
        )
        self._jacobian = np.zeros((6, self.model.nv))
        self._wrench = np.zeros(6)
        self._home_quaternion = np.array([1.0, 0.0, 0.0, 0.0])
        self.reset(np.random.default_rng(0))

    # -- driving ---------------------------------------------------------------------------

    @property
    def has_gripper(self) -> bool:
        """Whether the fingers move."""
        return self._has_gripper

    @property
    def joint_targets(self) -> Array:
        """Where the joints are being pulled to now, (n,) rad; a copy."""
        targets: Array = self.data.act[: self.joint_count].copy()
        return targets

    def reset(self, rng: np.random.Generator) -> None:
        """Begin an episode at a random start."""
        for _ in range(100):
            mujoco.mj_resetData(self.model, self.data)
            start_m, yaw_rad = self.task.reset(self.data, rng)
            joints = self.kinematics.inverse(tool_down(start_m, yaw_rad), tolerance=1e-5)
            if joints is not None:
                break
        else:
            raise DeviceFault(
                f"start of task {self.task.name!r} with arm {self.arm.name!r}",
                came="no reachable start in 100 draws",
                expected="a workspace that the arm can reach with the tool pointing down",
            )
        n = self.joint_count
        self.data.qpos[:n] = joints
        self.data.act[:n] = joints
        for address in self._fingers:
            self.data.qpos[address] = self.arm.gripper.stroke_m
        if self._has_gripper:
            self.data.act[n] = self.arm.gripper.stroke_m
        self.hold()
        mujoco.mj_forward(self.model, self.data)
        self._measure()

    def set_targets(
        self, joints_rad: Array, gripper: float | None = None, duration_s: float = 0.1
    ) -> None:
        """Begin to move the targets evenly, to arrive after ``duration_s``.

        Where the arm is too slow for that, all joints take as much longer as the slowest.

        Args:
            joints_rad: Joint positions, (n,); clipped to the limits of the arm.
            gripper: Opening, 0 closed to 1 open; None leaves the gripper as it is.
            duration_s: When to arrive, seconds of simulated time from now.
        """
        n, act = self.joint_count, self.data.act
        if joints_rad.shape != (n,):
            raise SpecError("joint targets", came=joints_rad.shape, expected=(n,))
        goal = np.minimum(np.maximum(joints_rad, self._lower[:n]), self._upper[:n])
        ramp_steps = max(1, round(duration_s / self.timestep_s))
        velocity = (goal - act[:n]) / (ramp_steps * self.timestep_s)
        excess = float(np.max(np.abs(velocity) / self._speed_limit[:n]))
        if excess > 1.0:
            longer = int(np.ceil(ramp_steps * excess))
            velocity *= ramp_steps / longer
            ramp_steps = longer
        ctrl = self.data.ctrl
        ctrl[:n] = velocity
        ctrl[n : 2 * n] = velocity
        self._ramp_steps = ramp_steps
        if self._has_gripper and gripper is not None:
            stroke_m = self.arm.gripper.stroke_m
            way_m = min(max(gripper, 0.0), 1.0) * stroke_m - act[n]
            limit = self.arm.gripper.velocity_m_s
            ctrl[2 * n] = min(max(way_m / (ramp_steps * self.timestep_s), -limit), limit)

    def hold(self) -> None:
        """Stop where the arm is: the targets become what is measured. The grip stays."""
        n = self.joint_count
        self.data.act[:n] = self.data.qpos[:n]
        self.data.ctrl[:] = 0.0
        self._ramp_steps = 0

    def advance(self, substeps: int) -> None:
        """Let time pass; raise DeviceFault where the physics becomes unstable."""
        moving = min(substeps, self._ramp_steps)
        if moving:
            mujoco.mj_step(self.model, self.data, moving)
            self._ramp_steps -= moving
        if not self._ramp_steps:
            self.data.ctrl[:] = 0.0
        if substeps > moving:
            mujoco.mj_step(self.model, self.data, substeps - moving)
        self._measure()

    def step(self, joints_rad: Array, gripper: float | None = None, substeps: int = 20) -> None:
        """Move the targets to what is given within ``substeps`` time steps, and simulate them."""
        self.set_targets(joints_rad, gripper, substeps * self.timestep_s)
        self.advance(substeps)

    # -- measuring -------------------------------------------------------------------------

    def _measure(self) -> None:
        """Bring what is derived from positions up to date; ``mj_step`` leaves it a step behind."""
        model, data = self.model, self.data
        if data.warning[mujoco.mjtWarning.mjWARN_BADQACC].number:
            raise DeviceFault(
                f"simulation of {self.arm.name}/{self.task.name}",
                came="accelerations that are not finite",
                expected="stable physics",
                cure="Use more substeps for a control period",
            )
        mujoco.mj_rnePostConstraint(model, data)
        force_n, torque_nm = -data.cfrc_int[self._hand, 3:], -data.cfrc_int[self._hand, :3]
        about_m = data.subtree_com[self._root].copy()
        mujoco.mj_kinematics(model, data)
        mujoco.mj_comPos(model, data)
        tcp_m = data.site_xpos[self._tcp]
        torque_nm = torque_nm + _cross(about_m - tcp_m, force_n)
        weight_n = self._tool_weight_n
        arm_m = data.subtree_com[self._hand] - tcp_m
        wrench = self._wrench
        wrench[:3] = force_n
        wrench[2] += weight_n
        wrench[3:] = torque_nm
        wrench[3] += arm_m[1] * weight_n
        wrench[4] -= arm_m[0] * weight_n
        np.minimum(np.maximum(wrench, -WRENCH_RANGE, out=wrench), WRENCH_RANGE, out=wrench)

    @property
    def tcp_position(self) -> Array:
        """Position of the tool centre point, (3,) m; a view, valid until the next step."""
        position: Array = self.data.site_xpos[self._tcp]
        return position

    @property
    def tcp_rotation(self) -> Array:
        """Orientation of the tool, (3, 3); a view, valid until the next step."""
        rotation: Array = self.data.site_xmat[self._tcp].reshape(3, 3)
        return rotation

    def succeeded(self) -> bool:
        """Whether the task is solved now."""
        return self.task.succeeded(self.data, self.tcp_position, self.tcp_rotation)

    def state(self) -> SceneState:
        """Measure everything."""
        n, data = self.joint_count, self.data
        tcp_pose = np.empty(7)
        tcp_pose[:3] = self.tcp_position
        quaternion = np.empty(4)
        mujoco.mju_mat2Quat(quaternion, data.site_xmat[self._tcp])
        sign = 1.0 if quaternion[1] >= 0 else -1.0  # of the two, the one near "tool down"
        tcp_pose[3:6] = sign * quaternion[1:]
        tcp_pose[6] = sign * quaternion[0]
        jacobian = self._jacobian
        mujoco.mj_jacSite(self.model, data, jacobian[:3], jacobian[3:], self._tcp)
        return SceneState(
            joint_position=data.qpos[:n].copy(),
            joint_velocity=data.qvel[:n].copy(),
            tcp_pose=tcp_pose,
            tcp_velocity=jacobian @ data.qvel,
            wrench=self._wrench.copy(),
            gripper=self.opening(),
            features=self.task.features(data, self.tcp_position, self.tcp_rotation),
            success=self.succeeded(),
            time_s=float(data.time),
        )

    def opening(self) -> float:
        """Opening of the gripper, 0 closed to 1 open."""
        if not self._fingers:
            return 0.0
        stroke_m = self.arm.gripper.stroke_m * len(self._fingers)
        return float(min(max(sum(self.data.qpos[i] for i in self._fingers) / stroke_m, 0.0), 1.0))


def scene_xml(arm: str, task: str | Task, timestep_s: float = 0.005) -> str:
    """The MJCF document of a scene."""
    task = task_named(task) if isinstance(task, str) else task
    root = scene_mjcf(arm_named(arm), timestep_s, movable_fingers=task.moves_gripper)
    task.extend(root)
    ET.indent(root)
    return ET.tostring(root, encoding="unicode")


def tool_down(position_m: Array, yaw_rad: float = 0.0) -> Array:
    """Pose (4, 4) of a tool that points down, its x axis to the front for no yaw."""
    cos, sin = np.cos(yaw_rad), np.sin(yaw_rad)
    pose = np.eye(4)
    pose[:3, :3] = [[cos, sin, 0.0], [sin, -cos, 0.0], [0.0, 0.0, -1.0]]
    pose[:3, 3] = position_m
    return pose


def _cross(a: Array, b: Array) -> Array:
    """Cross product of two vectors, ten times faster than numpy's general one."""
    return np.array(
        (a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0])
    )
