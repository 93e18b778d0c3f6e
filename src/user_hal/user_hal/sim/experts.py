"""Scripted experts: one plan for each simulated task; also the simulated human teleoperator."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto

import numpy as np

from user_core.errors import SpecError
from user_core.specs import ActionKind, Array, Arrays, RobotSpec
from user_hal.sim.arms import arm_named
from user_hal.sim.kinematics import Kinematics, damped_step, rotation_matrix, rotation_vector
from user_hal.sim.tasks import PegInsertion, PickPlace, Reach


@dataclass(frozen=True)
class Wish:
    """A motion of the tool within one control period.

    Attributes:
        move_m: How far the tool should move from where it is, (3,), base frame.
        turn_rad: How far it should turn about the vertical.
        gripper: Opening of the gripper, 0 to 1.
    """

    move_m: Array
    turn_rad: float = 0.0
    gripper: float = 1.0


#: Share of the way that is asked for in one period.
_GAIN = 0.8


class Plan(ABC):
    """The way to solve one task: a function of the observation and of a phase.

    Args:
        step_m: Largest move in one period.
    """

    def __init__(self, step_m: float) -> None:
        self.step_m = step_m
        self.reset()

    @abstractmethod
    def reset(self) -> None:
        """Begin an episode."""

    @abstractmethod
    def wish(self, arrays: Arrays) -> Wish:
        """What to do now."""

    @property
    def steadiness(self) -> float:
        """Share of the hand's noise that is left now: in contact a person moves with care."""
        return 1.0

    def towards(self, way_m: Array) -> Array:
        """A move along ``way_m`` (3,), as long as one period allows."""
        move_m = _GAIN * np.asarray(way_m, dtype=float)
        length_m = float(np.linalg.norm(move_m))
        return move_m * min(1.0, self.step_m / max(length_m, 1e-9))


class ReachPlan(Plan):
    """Straight to the goal."""

    def reset(self) -> None:
        pass

    def wish(self, arrays: Arrays) -> Wish:
        return Wish(self.towards(arrays["tool_to_goal"]))


class _Phase(Enum):
    APPROACH = auto()
    DESCEND = auto()
    CLOSE = auto()
    CARRY = auto()


class PickPlacePlan(Plan):
    """Above the cube, down, close, up and to the goal; from the start where it was dropped."""

    above_m = 0.07
    aligned_m = 0.006
    aligned_rad = 0.06
    lifted_m = PickPlace.half_m + 0.01

    def reset(self) -> None:
        self._phase = _Phase.APPROACH
        self._opening = 1.0
        self._closing = 0

    def wish(self, arrays: Arrays) -> Wish:
        way_m = arrays["tool_to_object"].astype(float)
        turn_rad = yaw_error_rad(arrays["tcp_pose"], arrays["object_pose"])
        opening = float(arrays["gripper"][0])
        aside_m = float(np.hypot(way_m[0], way_m[1]))
        self._follow(way_m, turn_rad, opening, float(arrays["object_pose"][2]))
        if self._phase is _Phase.APPROACH:
            if aside_m < self.aligned_m and abs(turn_rad) < self.aligned_rad and opening > 0.95:
                self._phase = _Phase.DESCEND
            else:
                low = aside_m > 0.03 and -way_m[2] < 0.5 * self.above_m
                over_m = way_m * (0.0, 0.0, 1.0) if low else way_m.copy()
                over_m[2] += self.above_m
                return Wish(self.towards(over_m), turn_rad)
        if self._phase is _Phase.DESCEND:
            if abs(way_m[2]) < 0.006:
                self._phase, self._closing = _Phase.CLOSE, 0
            else:
                return Wish(self.towards(way_m), turn_rad)
        if self._phase is _Phase.CLOSE:
            self._closing += 1
            still = abs(opening - self._opening) < 0.01 and self._closing > 3
            self._opening = opening
            if not still:
                return Wish(np.zeros(3), gripper=0.0)
            self._phase = _Phase.CARRY
        if np.linalg.norm(way_m) > 0.03:  # dropped, or not got
            self.reset()
            return Wish(np.zeros(3))
        goal_m = arrays["object_to_goal"].astype(float)
        if arrays["object_pose"][2] < 0.04:
            goal_m[:2] = 0.0
        return Wish(self.towards(goal_m), gripper=0.0)

    def _follow(self, way_m: Array, turn_rad: float, opening: float, height_m: float) -> None:
        """Where somebody else drove, go on from where he has got: it need not have been reached in this way."""
        between = float(np.linalg.norm(way_m)) < 0.02 and opening < 0.9
        if between and height_m > self.lifted_m:
            self._phase = _Phase.CARRY
        elif self._phase is _Phase.APPROACH or (between and self._phase is _Phase.DESCEND):
            aside_m, low = float(np.hypot(way_m[0], way_m[1])), -way_m[2] < 0.7 * self.above_m
            if between:
                self._phase, self._closing, self._opening = _Phase.CLOSE, 0, opening
            elif low and aside_m < 2 * self.aligned_m and abs(turn_rad) < 3 * self.aligned_rad:
                self._phase = _Phase.DESCEND


def yaw_error_rad(tool_pose: np.ndarray, object_pose: np.ndarray) -> float:
    """How far a tool that points down must turn to be square to a cube: -45 to 45 degrees."""
    tool_rad = 2.0 * np.arctan2(tool_pose[4], tool_pose[3])
    object_rad = 2.0 * np.arctan2(object_pose[5], object_pose[6])
    quarter = np.pi / 2
    return float((object_rad - tool_rad + quarter / 2) % quarter - quarter / 2)


class InsertionPlan(Plan):
    """Above the hole, then down with corrections; search in a spiral where it does not go in.

    The hole's position is known with an error. Where the peg stands on the rim, pressing
    lightly while moving in a growing spiral finds the hole (blind search, as fitters do).
    """

    above_m = 0.010
    aligned_m = 0.0015
    #: With a third of a noise of 0.3, 59 of 60 insertions stay below 60 N; with 8 mm and the whole noise, 12 of 40 did.
    push_m = 0.006

    def reset(self) -> None:
        self._inserting = False
        self._stuck = 0
        self._lowest_m = np.inf

    @property
    def steadiness(self) -> float:
        return 1 / 3 if self._inserting else 1.0

    def wish(self, arrays: Arrays) -> Wish:
        hole_m = arrays["peg_to_hole"].astype(float)
        aside_m = float(np.hypot(hole_m[0], hole_m[1]))
        if not self._inserting:
            self._inserting = aside_m < self.aligned_m and -hole_m[2] < 2 * self.above_m
            low = aside_m > 0.01 and -hole_m[2] < self.above_m
            over_m = hole_m.copy()
            over_m[2] += self.above_m
            if low:  # first up, or the peg would scrape over the block
                over_m[:2] = 0.0
            return Wish(self.towards(over_m))
        return Wish(self._push(hole_m))

    def _push(self, hole_m: np.ndarray) -> np.ndarray:
        tip_m = -hole_m[2]
        if tip_m < self._lowest_m - 0.0005:
            self._lowest_m, self._stuck = tip_m, 0
        else:
            self._stuck += 1
        push_m = min(self.push_m, self.step_m)
        if self._stuck < 3 or tip_m < -0.004:
            return np.array([0.5 * hole_m[0], 0.5 * hole_m[1], -push_m])
        turn_rad = 1.3 * self._stuck
        radius_m = 0.0004 * (self._stuck - 2)
        if radius_m > 0.005:  # lost: begin again
            self.reset()
        spiral_m = radius_m * np.array([np.cos(turn_rad), np.sin(turn_rad)])
        return np.array([hole_m[0] + spiral_m[0], hole_m[1] + spiral_m[1], -push_m])


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
            the range of that action (the gripper apart); people are not exact either. A third of it where
            the expert inserts: whole, it would press against the rim beyond limits of force.
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
            spread = (
                self._noise * self._plan.steadiness * (self._high[:size] - self._low[:size]) / 2
            )
            action[:size] += spread * self._random.standard_normal(size)
        for element in self._spec.action.categorical:  # a gripper: the choice next to its opening
            low, high = self._low[element], self._high[element]
            action[element] = round(low + float(action[element]) * (high - low))
        clipped: Array = np.clip(action, self._low, self._high).astype(np.float32)
        return clipped

    def _cartesian(self, wish: Wish) -> Array:
        by_name = dict(zip(("dx", "dy", "dz"), wish.move_m.tolist()))
        by_name |= {"rz": wish.turn_rad, "gripper": wish.gripper}
        return np.array([by_name.get(name, 0.0) for name in self._names])

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
