"""From actions to joint targets: the three ways in which a simulated arm is commanded."""

from __future__ import annotations

from abc import ABC, abstractmethod

import mujoco
import numpy as np
from user_core.errors import ConfigError
from user_core.specs import ActionKind, Array, ArraySpec

from user_hal.sim.kinematics import damped_step
from user_hal.sim.scene import Scene, tool_down

#: How far the commanded tool may be ahead of the real one, m: bounds the force of contact.
LEASH_M = 0.02


class Control(ABC):
    """Turns an action into targets for :meth:`user_hal.sim.scene.Scene.set_targets`.

    Where the task moves the gripper, its opening (0 closed to 1 open) is the last element
    of every action.
    """

    kind: ActionKind
    spec: ArraySpec

    def __init__(self, scene: Scene, period_s: float) -> None:
        self.scene = scene
        self.period_s = period_s

    def reset(self) -> None:
        """Begin an episode; the scene has been reset."""

    @abstractmethod
    def targets(self, action: Array) -> tuple[Array, float | None]:
        """Joint positions (n,) rad, and the gripper's opening where it moves."""

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

    def targets(self, action: Array) -> tuple[Array, float | None]:
        return action[: self.scene.joint_count].astype(float), self._gripper(action)


class JointDelta(Control):
    """Change of the joint targets in one period: up to half of what the arm could do."""

    kind = ActionKind.JOINT_DELTA

    def __init__(self, scene: Scene, period_s: float) -> None:
        super().__init__(scene, period_s)
        step = np.minimum(0.5 * scene.kinematics.velocity_rad_s * period_s, 0.1)
        self.spec = self._vector_spec(
            (-step).tolist(), step.tolist(), "rad", "", list(scene.arm.joint_names)
        )

    def targets(self, action: Array) -> tuple[Array, float | None]:
        goal = self.scene.joint_targets + action[: self.scene.joint_count]
        return goal, self._gripper(action)


class EeDelta(Control):
    """Change of the tool position (and heading, where the task turns the tool) in a period.

    The tool keeps pointing down. One step of damped least squares a period, at the
    *commanded* configuration, whose redundancy is spent on a posture near home; so nothing
    drifts, whatever pulls at the arm. The commanded tool stays within :data:`LEASH_M` of
    the real one, so that pushing against something builds up a bounded force.
    """

    kind = ActionKind.EE_DELTA

    def __init__(self, scene: Scene, period_s: float) -> None:
        super().__init__(scene, period_s)
        task, scale = scene.task, period_s / 0.1
        high, names = [task.step_m * scale] * 3, ["dx", "dy", "dz"]
        if task.turns:
            high, names = [*high, task.step_rad * scale], [*names, "rz"]
        self.turns = task.turns
        self.spec = self._vector_spec([-h for h in high], high, "m", scene.arm.base.name, names)
        self._low_m, self._high_m = np.array(task.workspace_low_m), np.array(task.workspace_high_m)
        self._lower = scene.kinematics.lower_rad
        self._upper = scene.kinematics.upper_rad
        self._commanded = mujoco.MjData(scene.model)
        self._jacobian = np.zeros((6, scene.model.nv))
        self._error = np.zeros(6)
        self._tcp = scene.model.site("tcp").id
        self._yaw_rad = 0.0
        self._point_tool(0.0)

    def reset(self) -> None:
        rotation = self.scene.tcp_rotation
        self._point_tool(float(np.arctan2(rotation[1, 0], rotation[0, 0])))

    def _point_tool(self, yaw_rad: float) -> None:
        self._yaw_rad = min(max(yaw_rad, -1.5), 1.5)
        self._quaternion = np.empty(4)
        mujoco.mju_mat2Quat(self._quaternion, tool_down(np.zeros(3), self._yaw_rad)[:3, :3].ravel())

    def targets(self, action: Array) -> tuple[Array, float | None]:
        scene, commanded, jacobian = self.scene, self._commanded, self._jacobian
        n, joints = scene.joint_count, scene.joint_targets
        if self.turns and action[3]:
            self._point_tool(self._yaw_rad + float(action[3]))
        commanded.qpos[:n] = joints
        mujoco.mj_kinematics(scene.model, commanded)
        mujoco.mj_comPos(scene.model, commanded)
        mujoco.mj_jacSite(scene.model, commanded, jacobian[:3], jacobian[3:], self._tcp)
        tcp_m = commanded.site_xpos[self._tcp]
        goal_m = np.minimum(np.maximum(tcp_m + action[:3], self._low_m), self._high_m)
        real_m = scene.tcp_position
        goal_m = np.minimum(np.maximum(goal_m, real_m - LEASH_M), real_m + LEASH_M)
        self._error[:3] = goal_m - tcp_m
        self._error[3:] = self._turn_left(commanded.site_xmat[self._tcp])
        posture = 0.1 * (scene.kinematics.home_rad - joints)
        step = damped_step(jacobian[:, :n], self._error, posture, damping=0.02)
        goal = np.minimum(np.maximum(joints + step, self._lower), self._upper)
        return goal, self._gripper(action)

    def _turn_left(self, rotation: Array) -> Array:
        """Rotation vector (3,) in the base frame from where the tool points to where it shall."""
        now, turn = np.empty(4), np.empty(3)
        mujoco.mju_mat2Quat(now, rotation)
        mujoco.mju_subQuat(turn, self._quaternion, now)  # in the frame of the tool
        mujoco.mju_rotVecQuat(turn, turn.copy(), now)
        return turn


CONTROLS: dict[str, type[Control]] = {
    control.kind.value: control for control in (EeDelta, JointDelta, JointPosition)
}


def control_named(name: str, scene: Scene, period_s: float) -> Control:
    """Make the control of this name; ConfigError lists those there are."""
    if name not in CONTROLS:
        raise ConfigError("control mode", came=name, expected=f"one of {sorted(CONTROLS)}")
    return CONTROLS[name](scene, period_s)
