"""The physics of one arm and one task, what is measured of it, and the observation that makes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from xml.etree import ElementTree as ET

import mujoco
import numpy as np

from user_core.errors import DeviceFault, SpecError
from user_core.specs import Array, ArraySpec
from user_hal.sim.arms import arm_named
from user_hal.sim.kinematics import Kinematics, solve_inverse, tool_down
from user_hal.sim.mjcf import TOOL_AXES, Drive, optical_frame, scene_mjcf
from user_hal.sim.tasks import Task, task_named

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
        time_s: Simulated time since the reset.
    """

    joint_position: Array
    joint_velocity: Array
    tcp_pose: Array
    tcp_velocity: Array
    wrench: Array
    gripper: float
    features: dict[str, Array]
    time_s: float


GRAVITY_M_S2 = 9.81
#: Targets move at this fraction of the velocity limits at most, so that the joints, which at
#: times catch up, keep to the limits.
TARGET_SPEED = 0.8

#: Stiffness along the null space of a redundant arm, N m/rad.
POSTURE_NM_RAD = 10.0


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
        self.task.bind(self.model, self.data)
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
        self._felt = np.zeros(6)
        self._jacobian = np.zeros((6, self.model.nv))
        self._wrench = np.zeros(6)
        # Views of the simulator's memory, which stays where it is; to ask for them anew
        # each time would cost as much as a physics step.
        data, d, n = self.data, self._driven, self.joint_count
        self._act, self._ctrl, self._push = data.act[:d], data.ctrl[:d], data.qfrc_applied[:n]
        self._qpos, self._qvel = data.qpos[:n], data.qvel[:n]
        #: Position of the tool centre point, (3,) m; a view.
        self.tcp_position: Array = data.site_xpos[self._tcp]
        #: Orientation of the tool, (3, 3); a view.
        self.tcp_rotation: Array = data.site_xmat[self._tcp].reshape(3, 3)
        self._tcp_matrix = data.site_xmat[self._tcp]
        self._inner_force = data.cfrc_int[self._hand]
        self._canary = data.userdata
        self._centre_m = data.subtree_com[self._root]
        self._hand_centre_m = data.subtree_com[self._hand]
        self.reset(np.random.default_rng(0))

    # -- driving ---------------------------------------------------------------------------

    def reset(self, rng: np.random.Generator) -> None:
        """Begin an episode at a random start."""
        for _ in range(100):
            mujoco.mj_resetData(self.model, self.data)
            start_m, yaw_rad = self.task.reset(rng)
            joints = self._joints_for(tool_down(start_m, yaw_rad))
            if joints is not None:
                break
        else:
            raise DeviceFault(
                f"start of task {self.task.name!r} with arm {self.arm.name!r}",
                got="no reachable start in 100 draws",
                expected="a workspace that the arm can reach with the tool pointing down",
            )
        self.data.qpos[: self.joint_count] = joints
        for address in self._fingers:
            self.data.qpos[address] = self.arm.gripper.stroke_m
        if self.has_gripper:
            self.data.act[self._driven] = self.arm.gripper.stroke_m
        self._canary[0] = 1.0
        mujoco.mj_forward(self.model, self.data)
        self.hold()
        mujoco.mj_forward(self.model, self.data)  # the drives hold now: forces of a robot at rest
        self._measure()

    def _joints_for(self, pose_base_tcp: Array) -> Array | None:
        """Inverse kinematics from home, with the simulator's own kinematics: ten times faster."""
        model, data, jacobian = self.model, self.data, self._jacobian
        tcp = np.eye(4)

        def pose_jacobian(joints_rad: Array) -> tuple[Array, Array]:
            self._qpos[:] = joints_rad
            mujoco.mj_kinematics(model, data)
            mujoco.mj_comPos(model, data)
            mujoco.mj_jacSite(model, data, jacobian[:3], jacobian[3:], self._tcp)
            tcp[:3, :3], tcp[:3, 3] = self.tcp_rotation, self.tcp_position
            return tcp, jacobian[:, : self.joint_count]

        kinematics = self.kinematics
        limits = kinematics.lower_rad, kinematics.upper_rad
        return solve_inverse(pose_jacobian, pose_base_tcp, kinematics.home_rad, limits, 1e-4, 50)

    @property
    def targets(self) -> Array:
        """What pulls the arm now: joint positions (n,), or x y z, tilt about x and y, yaw of
        the tool (6,); a copy."""
        targets: Array = self._act - self._lead_s * self._ctrl
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
                got=f"shape {joints_rad.shape} for drive {self.drive!r}",
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
                got=f"shape {position_m.shape} for drive {self.drive!r}",
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
        self._ctrl[:] = velocity
        self._act[:] = start + self._lead_s * velocity
        if self.has_gripper and gripper is not None:
            device = self.arm.gripper
            way_m = min(max(gripper, 0.0), 1.0) * device.stroke_m - data.act[d]
            limit = device.velocity_m_s
            data.ctrl[d] = min(max(way_m / duration_s, -limit), limit)

    def _push_to_posture(self) -> None:
        """Keep a redundant arm near its home posture by a torque that the tool does not feel.

        A spring, projected on the null space of the Jacobian: (1 - J' (J J')^-1 J) d for a
        distance d from home. MuJoCo's small Cholesky takes a fifth of the time of numpy's.
        """
        n = self.joint_count
        if n <= 6:
            return
        mujoco.mj_jacSite(self.model, self.data, self._jacobian[:3], self._jacobian[3:], self._tcp)
        jacobian, away = self._jacobian[:, :n], self.kinematics.home_rad - self._qpos
        square = jacobian @ jacobian.T
        mujoco.mju_cholFactor(square, 1e-9)
        mujoco.mju_cholSolve(self._felt, square, jacobian @ away)
        self._push[:] = POSTURE_NM_RAD * (away - self._felt @ jacobian)

    def hold(self) -> None:
        """Stop where the arm is: the targets become what is measured. The grip stays."""
        if self.drive == "joints":
            self._act[:] = self._qpos
        else:
            self._act[:] = 0.0
            self._act[:3] = self.tcp_position
            self._act[5] = math.atan2(self._tcp_matrix[3], self._tcp_matrix[0])
        self._arrive()

    def _arrive(self) -> None:
        """The targets stand still, and the gripper's too."""
        self.data.ctrl[:] = 0.0
        self._push[:] = 0.0
        self._ramp_steps = 0

    def advance(self, substeps: int) -> None:
        """Let time pass; raise DeviceFault where the physics becomes unstable."""
        moving = min(substeps, self._ramp_steps)
        if moving:
            mujoco.mj_step(self.model, self.data, moving)
            self._ramp_steps -= moving
            if not self._ramp_steps:
                self._act[:] = self.targets
                self._arrive()
        if substeps > moving:
            mujoco.mj_step(self.model, self.data, substeps - moving)
        if not self._canary[0]:  # the simulator begins anew where numbers are not finite
            raise DeviceFault(
                f"simulation of {self.arm.name}/{self.task.name}",
                got="motion that is not finite",
                expected="stable physics",
                hint="Use more substeps for a control period",
            )
        self._measure()

    # -- measuring -------------------------------------------------------------------------

    def _measure(self) -> None:
        """Bring what is derived from positions up to date; ``mj_step`` leaves it a step behind.

        The force sensor is between flange and hand: what holds the hand up, against gravity
        and surroundings; without the weight it is the force of the surroundings.
        """
        model, data, weight_n = self.model, self.data, self._tool_weight_n
        mujoco.mj_rnePostConstraint(model, data)
        tx, ty, tz, fx, fy, fz = self._inner_force.tolist()
        cx, cy, cz = self._centre_m.tolist()  # what the torque is about
        mujoco.mj_kinematics(model, data)
        mujoco.mj_comPos(model, data)
        px, py, pz = self.tcp_position.tolist()
        hx, hy, _ = self._hand_centre_m.tolist()
        cx, cy, cz = cx - px, cy - py, cz - pz
        wrench = self._wrench
        wrench[:] = (
            -fx,
            -fy,
            weight_n - fz,
            -tx - (cy * fz - cz * fy) + (hy - py) * weight_n,
            -ty - (cz * fx - cx * fz) - (hx - px) * weight_n,
            -tz - (cx * fy - cy * fx),
        )
        np.minimum(np.maximum(wrench, -WRENCH_RANGE, out=wrench), WRENCH_RANGE, out=wrench)

    def succeeded(self) -> bool:
        """Whether the task is solved now."""
        return self.task.succeeded(self.tcp_position, self.tcp_rotation)

    def state(self) -> SceneState:
        """Measure everything."""
        data, jacobian = self.data, self._jacobian
        w, x, y, z = _quaternion(self._tcp_matrix)
        sign = 1.0 if x >= 0 else -1.0  # of the two, the one near "tool down"
        mujoco.mj_jacSite(self.model, data, jacobian[:3], jacobian[3:], self._tcp)
        return SceneState(
            joint_position=self._qpos.copy(),
            joint_velocity=self._qvel.copy(),
            tcp_pose=np.array((*self.tcp_position, sign * x, sign * y, sign * z, sign * w)),
            tcp_velocity=jacobian @ data.qvel,
            wrench=self._wrench.copy(),
            gripper=self.opening(),
            features=self.task.features(self.tcp_position, self.tcp_rotation),
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
    root = scene_mjcf(arm_named(arm), timestep_s, drive=drive, movable_fingers=task.moves_gripper)
    task.extend(root)
    ET.indent(root)
    return ET.tostring(root, encoding="unicode")


def _quaternion(matrix: Array) -> list[float]:
    """Quaternion w x y z of a rotation matrix (9,)."""
    quaternion = np.empty(4)
    mujoco.mju_mat2Quat(quaternion, matrix)
    return list(quaternion.tolist())


POSE_NAMES = ("x", "y", "z", "qx", "qy", "qz", "qw")
TWIST_NAMES = ("vx", "vy", "vz", "wx", "wy", "wz")
WRENCH_NAMES = ("fx", "fy", "fz", "tx", "ty", "tz")


def observation_specs(
    scene: Scene, cameras: tuple[str, ...] = (), image_hw: tuple[int, int] = (128, 128)
) -> dict[str, ArraySpec]:
    """Specs of all arrays, those of the task and the images included."""
    kinematics, base, n = scene.kinematics, scene.arm.base.name, (scene.joint_count,)
    joints = scene.arm.joint_names
    speed = kinematics.velocity_rad_s
    specs = {
        "joint_position": ArraySpec(
            n,
            low=tuple(kinematics.lower_rad.tolist()),
            high=tuple(kinematics.upper_rad.tolist()),
            unit="rad",
            names=joints,
        ),
        "joint_velocity": ArraySpec(
            n, low=tuple((-speed).tolist()), high=tuple(speed.tolist()), unit="rad/s", names=joints
        ),
        "tcp_pose": ArraySpec((7,), low=-1.0, high=1.0, unit="m", frame=base, names=POSE_NAMES),
        "tcp_velocity": ArraySpec(
            (6,), low=-1.0, high=1.0, unit="m/s", frame=base, names=TWIST_NAMES
        ),
        "wrench": ArraySpec(
            (6,),
            low=tuple((-WRENCH_RANGE).tolist()),
            high=tuple(WRENCH_RANGE.tolist()),
            unit="N",
            frame=base,
            names=WRENCH_NAMES,
        ),
    }
    if scene.has_gripper:
        specs["gripper"] = ArraySpec((1,), low=0.0, high=1.0, names=("gripper",))
    specs.update(scene.task.feature_specs(base))
    for camera in cameras:
        specs[f"image_{camera}"] = ArraySpec((*image_hw, 3), "uint8", frame=optical_frame(camera))
    return specs


def observation_arrays(state: SceneState, *, gripper: bool) -> dict[str, Array]:
    """The arrays of :func:`observation_specs`, images apart. Each is a new array."""
    arrays = {
        "joint_position": state.joint_position.astype(np.float32),
        "joint_velocity": state.joint_velocity.astype(np.float32),
        "tcp_pose": state.tcp_pose.astype(np.float32),
        "tcp_velocity": state.tcp_velocity.astype(np.float32),
        "wrench": state.wrench.astype(np.float32),
    }
    if gripper:
        arrays["gripper"] = np.array([state.gripper], dtype=np.float32)
    arrays.update(state.features)
    return arrays
