"""The scripted expert: looks at an observation, and acts within the bounds of a spec."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from user_core.errors import SpecError
from user_core.specs import ActionKind, Array, Arrays, RobotSpec
from user_hal.sim.arms import arm_named
from user_hal.sim.experts.insertion_plan import InsertionPlan
from user_hal.sim.experts.pick_place_plan import PickPlacePlan
from user_hal.sim.experts.plan import Plan, ReachPlan, Wish
from user_hal.sim.kinematics import Kinematics, damped_step, rotation_matrix, rotation_vector
from user_hal.sim.tasks import PegInsertion, PickPlace, Reach

#: By which array of an observation one knows the task, and how it is solved.
_PLANS: Mapping[str, tuple[type[Plan], float]] = {
    "peg_to_hole": (InsertionPlan, PegInsertion.step_m),
    "object_to_goal": (PickPlacePlan, PickPlace.step_m),
    "tool_to_goal": (ReachPlan, Reach.step_m),
}


class ScriptedExpert:
    """Solves the simulated tasks, from nothing but the robot's spec and its observations.

    It needs no access to the simulator, so that it can sit in another process and be the
    person at the teleoperation device. In the joint modes it uses the arm's kinematics.

    Args:
        spec: Spec of the robot, as the driver ``mujoco`` gives it.
        noise: Standard deviation of Gaussian noise on each action, as a fraction of half
            the range of that action (the gripper apart); people are not exact either.
        seed: Of that noise.

    Raises:
        SpecError: The observation belongs to none of the tasks that it knows.
    """

    def __init__(self, spec: RobotSpec, noise: float = 0.0, seed: int = 0) -> None:
        known = [name for name in _PLANS if name in spec.observation]
        if not known or spec.action_kind not in (
            ActionKind.EE_DELTA,
            ActionKind.JOINT_DELTA,
            ActionKind.JOINT_POSITION,
        ):
            raise SpecError(
                "spec of a robot for the scripted expert",
                got=f"{spec.action_kind.value} with arrays {sorted(spec.observation)}",
                expected=f"ee_delta, joint_delta or joint_position with one of {list(_PLANS)}",
                hint="It can drive the simulated tasks only",
            )
        plan, step_m = _PLANS[known[0]]
        self._spec, self._noise = spec, noise
        self._low, self._high = spec.action.low_array, spec.action.high_array
        self._names = spec.action.names
        self._random = np.random.default_rng(seed)
        self._kinematics: Kinematics | None = None
        if spec.action_kind is ActionKind.EE_DELTA:
            step_m = float(self._high[0])
        else:
            self._kinematics = Kinematics(arm_named(spec.robot))
        self._plan = plan(step_m)

    def reset(self) -> None:
        """Begin an episode."""
        self._plan.reset()

    def act(self, arrays: Arrays) -> Array:
        """Return an action (A,) float32 within the bounds of the action spec."""
        wish = self._plan.wish(arrays)
        action = self._cartesian(wish) if self._kinematics is None else self._joints(wish, arrays)
        if self._noise:
            size = len(action) - ("gripper" in self._names)
            spread = self._noise * (self._high[:size] - self._low[:size]) / 2
            action[:size] += spread * self._random.standard_normal(size)
        clipped: Array = np.clip(action, self._low, self._high).astype(np.float32)
        return clipped

    def _cartesian(self, wish: Wish) -> Array:
        values = [*wish.move_m]
        if "rz" in self._names:
            values.append(wish.turn_rad)
        if "gripper" in self._names:
            values.append(wish.gripper)
        return np.array(values)

    def _joints(self, wish: Wish, arrays: Arrays) -> Array:
        assert self._kinematics is not None
        joints = arrays["joint_position"].astype(float)
        error = np.empty(6)
        error[:3] = wish.move_m
        error[3:] = _upright_error(arrays["tcp_pose"].astype(float), wish.turn_rad)
        posture = 0.05 * (self._kinematics.home_rad - joints)
        step = damped_step(self._kinematics.jacobian(joints), error, posture, damping=0.01)
        absolute = self._spec.action_kind is ActionKind.JOINT_POSITION
        action = joints + step if absolute else step
        return np.append(action, wish.gripper) if "gripper" in self._names else action


def _upright_error(tcp_pose: Array, turn_rad: float) -> Array:
    """Rotation vector (3,) to a tool that points down, turned by ``turn_rad`` from its heading."""
    now = rotation_matrix(tcp_pose[3:])
    yaw_rad = np.arctan2(now[1, 0], now[0, 0]) + turn_rad
    cos, sin = np.cos(yaw_rad), np.sin(yaw_rad)
    wanted = np.array([[cos, sin, 0.0], [sin, -cos, 0.0], [0.0, 0.0, -1.0]])
    return rotation_vector(wanted @ now.T)
