"""The physics of one arm and one task: what a driver, or a ROS node, is built around."""

from __future__ import annotations

import math
from dataclasses import dataclass
from xml.etree import ElementTree as ET

import mujoco
import numpy as np
from user_core.errors import DeviceFault, SpecError
from user_core.specs import Array

from user_hal.sim.arms import arm_named
from user_hal.sim.kinematics import Kinematics
from user_hal.sim.mjcf import TOOL_AXES, Drive, scene_mjcf
from user_hal.sim.tasks import Task, task_named

GRAVITY_M_S2 = 9.81
#: Targets move at this fraction of the velocity limits at most, so that the joints, which at
#: times catch up, keep to the limits.
TARGET_SPEED = 0.8
#: Range of the simulated wrist force sensor, N and N m; readings saturate there.
WRENCH_RANGE = np.array([200.0, 200.0, 200.0, 20.0, 20.0, 20.0])

#: Stiffness along the null space of a redundant arm, N m/rad.
POSTURE_NM_RAD = 10.0
_ELBOW_JOINT = 2
_OTHER_JOINTS = [0, 1, 3, 4, 5, 6]
_UNSTABLE = [
    int(kind)
    for kind in (
        mujoco.mjtWarning.mjWARN_BADQPOS,
        mujoco.mjtWarning.mjWARN_BADQVEL,
        mujoco.mjtWarning.mjWARN_BADQACC,
    )
]


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

    The arm is driven by targets that move evenly to what was asked for, and pull the arm
    along like springs (impedance control), so that contact forces stay bounded: see
    :mod:`user_hal.sim.mjcf` for the two drives. Not thread-safe: whoever shares a scene
    between threads locks it.

    Args:
        arm: Name of the arm, see :data:`user_hal.sim.arms.ARMS`.
        task: Name of the task, or a task.
        timestep_s: Physics time step.
        drive: ``joints`` to be driven by :meth:`set_joint_targets`, ``tool`` by
            :meth:`set_tool_target`.
    """

    def __init__(
        self,
        arm: str,
        task: str | Task,
        timestep_s: float = 0.005,
        drive: Drive = "joints",
    ) -> None:
        self.arm = arm_named(arm)
        self.task = task_named(task) if isinstance(task, str) else task
        self.drive = drive
        self.kinematics = Kinematics(self.arm)
        self.timestep_s = timestep_s
        self.model = mujoco.MjModel.from_xml_string(scene_xml(arm, self.task, timestep_s, drive))
        self.data = mujoco.MjData(self.model)
        self.task.bind(self.model)
        self.joint_count = len(self.arm.joints)
        self.has_gripper = self.task.moves_gripper
        self._fingers = [
            int(self.model.joint(name).qposadr[0])
            for name in self.arm.gripper.finger_names
            if self.has_gripper
        ]
        self._tcp = self.model.site("tcp").id
        self._hand = self.model.body("hand").id
        self._root = int(self.model.body_rootid[self._hand])
        self._tool_weight_n = float(self.model.body_subtreemass[self._hand]) * GRAVITY_M_S2
        self._driven = self.joint_count if drive == "joints" else len(TOOL_AXES)
        gains, bias = self.model.actuator_gainprm, self.model.actuator_biasprm
        #: How far a moving target runs ahead, s: makes up for the damping (kv / kp).
        self._lead_s = -bias[: self._driven, 2] / gains[: self._driven, 0]
        self._ramp_steps = 0
        self._jacobian = np.zeros((6, self.model.nv))
        self._wrench = np.zeros(6)
        self.reset(np.random.default_rng(0))

    # -- driving ---------------------------------------------------------------------------

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
        self.data.qpos[: self.joint_count] = joints
        for address in self._fingers:
            self.data.qpos[address] = self.arm.gripper.stroke_m
        if self.has_gripper:
            self.data.act[self._driven] = self.arm.gripper.stroke_m
        mujoco.mj_forward(self.model, self.data)
        self.hold()
        self._measure()

    @property
    def targets(self) -> Array:
        """What pulls the arm now: joint positions (n,), or x y z, tilt about x and y, yaw of
        the tool (6,); a copy."""
        d = self._driven
        targets: Array = self.data.act[:d] - self._lead_s * self.data.ctrl[:d]
        return targets

    def set_joint_targets(
        self, joints_rad: Array, gripper: float | None = None, duration_s: float = 0.1
    ) -> None:
        """Begin to move the joint targets evenly, to arrive after ``duration_s``.

        Where the arm is too slow for that, all joints take as much longer as the slowest.

        Args:
            joints_rad: Joint positions, (n,); clipped to the limits of the arm.
            gripper: Opening, 0 closed to 1 open; None leaves the gripper as it is.
            duration_s: When to arrive, seconds of simulated time from now.
        """
        if self.drive != "joints" or joints_rad.shape != (self.joint_count,):
            raise SpecError(
                "joint targets",
                came=f"shape {joints_rad.shape} for drive {self.drive!r}",
                expected=f"shape ({self.joint_count},) for drive 'joints'",
            )
        kinematics = self.kinematics
        goal = np.minimum(np.maximum(joints_rad, kinematics.lower_rad), kinematics.upper_rad)
        way = np.abs(goal - self.targets)
        needed_s = float(np.max(way / kinematics.velocity_rad_s)) / TARGET_SPEED
        self._ramp(goal, gripper, max(duration_s, needed_s))

    def set_tool_target(
        self,
        position_m: Array,
        yaw_rad: float = 0.0,
        gripper: float | None = None,
        duration_s: float = 0.1,
    ) -> None:
        """Begin to move the tool's target evenly, to arrive after ``duration_s``.

        The tool keeps pointing down.

        Args:
            position_m: Of the tool centre point, (3,).
            yaw_rad: Rotation about the vertical; 0 is the x axis of the tool to the front.
            gripper: Opening, 0 closed to 1 open; None leaves the gripper as it is.
            duration_s: When to arrive, seconds of simulated time from now.
        """
        if self.drive != "tool" or position_m.shape != (3,):
            raise SpecError(
                "tool target",
                came=f"shape {position_m.shape} for drive {self.drive!r}",
                expected="shape (3,) for drive 'tool'",
            )
        goal = np.zeros(6)
        goal[:3], goal[5] = position_m, yaw_rad
        self._ramp(goal, gripper, duration_s)
        self._push_to_posture()

    def _ramp(self, goal: Array, gripper: float | None, duration_s: float) -> None:
        d, data = self._driven, self.data
        start = self.targets
        self._ramp_steps = max(1, math.ceil(duration_s / self.timestep_s - 1e-6))
        duration_s = self._ramp_steps * self.timestep_s
        velocity = (goal - start) / duration_s
        data.ctrl[:d] = velocity
        data.act[:d] = start + self._lead_s * velocity
        if self.has_gripper and gripper is not None:
            device = self.arm.gripper
            way_m = min(max(gripper, 0.0), 1.0) * device.stroke_m - data.act[d]
            limit = device.velocity_m_s
            data.ctrl[d] = min(max(way_m / duration_s, -limit), limit)

    def _push_to_posture(self) -> None:
        """Keep a redundant arm near its home posture by a torque that the tool does not feel.

        The null space of the Jacobian of seven joints is one direction: the joint motion
        that leaves the tool where it is. A spring along it needs one small linear system.
        """
        if self.joint_count != 7:
            return
        n, jacobian = self.joint_count, self._jacobian
        mujoco.mj_jacSite(self.model, self.data, jacobian[:3], jacobian[3:], self._tcp)
        direction = np.ones(n)
        direction[_OTHER_JOINTS] = np.linalg.solve(
            jacobian[:, _OTHER_JOINTS], -jacobian[:, _ELBOW_JOINT]
        )
        direction /= math.sqrt(direction @ direction)
        away = direction @ (self.kinematics.home_rad - self.data.qpos[:n])
        self.data.qfrc_applied[:n] = POSTURE_NM_RAD * away * direction

    def hold(self) -> None:
        """Stop where the arm is: the targets become what is measured. The grip stays."""
        d, data = self._driven, self.data
        if self.drive == "joints":
            data.act[:d] = data.qpos[:d]
        else:
            data.act[:d] = 0.0
            data.act[:3] = self.tcp_position
            data.act[5] = self.tcp_yaw_rad
        data.ctrl[:] = 0.0
        data.qfrc_applied[:] = 0.0
        self._ramp_steps = 0

    def advance(self, substeps: int) -> None:
        """Let time pass; raise DeviceFault where the physics becomes unstable."""
        moving = min(substeps, self._ramp_steps)
        if moving:
            mujoco.mj_step(self.model, self.data, moving)
            self._ramp_steps -= moving
            if not self._ramp_steps:
                self.data.act[: self._driven] = self.targets
                self.data.ctrl[:] = 0.0
                self.data.qfrc_applied[:] = 0.0
        if substeps > moving:
            mujoco.mj_step(self.model, self.data, substeps - moving)
        self._measure()

    # -- measuring -------------------------------------------------------------------------

    def _measure(self) -> None:
        """Bring what is derived from positions up to date; ``mj_step`` leaves it a step behind."""
        model, data = self.model, self.data
        if any(data.warning[kind].number for kind in _UNSTABLE):
            raise DeviceFault(
                f"simulation of {self.arm.name}/{self.task.name}",
                came="motion that is not finite",
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

    @property
    def tcp_yaw_rad(self) -> float:
        """How the tool is turned about the vertical."""
        matrix = self.data.site_xmat[self._tcp]
        return math.atan2(matrix[3], matrix[0])

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


def scene_xml(
    arm: str, task: str | Task, timestep_s: float = 0.005, drive: Drive = "joints"
) -> str:
    """The MJCF document of a scene."""
    task = task_named(task) if isinstance(task, str) else task
    root = scene_mjcf(
        arm_named(arm), timestep_s, drive=drive, movable_fingers=task.moves_gripper
    )
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
