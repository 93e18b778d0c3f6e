"""One space for robots with different bodies: what a policy of several robots sees and does.

A robot's driver has a space of its own: as many joints as it has, in radians, and actions as its controller
takes them. With ``embodiment: {space: tool_delta}`` in its file the robot is shown, and driven, in a space that
others can share (after Open X-Embodiment, 2023, and CrossFormer, Doshi et al. 2024, which learn one policy of many
arms):

* **Actions** are changes of the tool's pose in one period: ``dx dy dz`` (m), ``rx ry rz`` (rotation vector, rad), and
  the opening of the gripper. They are in the base frame, or in the frame of the tool. An element that a robot
  lacks is ignored, and reported as 0 among the applied actions.
* **Joints** are shown by ``joints``, the position of each within its own range, and ``joint_speeds``, shares of
  its own highest speed, -1 to 1; both are padded to a common number, and ``joint_mask`` says which there are.
* **Who it is** is shown by ``embodiment``: one of n, or numbers that describe the arm.
* **Everything else** is as the driver shows it; what robots of a kind usually have (tool pose, its velocity, wrench,
  gripper) may be asked for by name: a robot without it shows zeros, and 0 in ``present``.

Nothing of this reaches the safety gate: it works on the robot's own numbers, with the robot's own limits, below
this translation. Robots whose files ask for the same space have the same spec except for their names, so a
store, a policy and a learner take data of all of them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal, Protocol

import numpy as np

from user_core.body.action_groups import measured_opening
from user_core.config import Config, setting
from user_core.errors import ConfigError, SpecError
from user_core.specs import ActionKind, Array, Arrays, ArraySpec, RobotSpec
from user_core.types import ActionChunk, Observation

#: Elements of an action, in their order.
ELEMENTS = ("dx", "dy", "dz", "rx", "ry", "rz", "gripper")
#: How drivers name them, beside these names.
_ALIASES = {
    "vx": "dx", "vy": "dy", "vz": "dz", "wx": "rx", "wy": "ry", "wz": "rz",
    "drx": "rx", "dry": "ry", "drz": "rz",
}  # fmt: skip
BASE, TOOL = "base", "tool"
#: What can be shown by zeros where a robot lacks it: its spec is always the same.
STANDARD = {
    "tcp_pose": ArraySpec((7,), low=-1.0, high=1.0, unit="m", frame=BASE,
                          names=("x", "y", "z", "qx", "qy", "qz", "qw")),
    "tcp_velocity": ArraySpec((6,), low=-1.0, high=1.0, unit="m/s", frame=BASE,
                              names=("vx", "vy", "vz", "wx", "wy", "wz")),
    "wrench": ArraySpec((6,), low=(-200.0,) * 3 + (-20.0,) * 3, high=(200.0,) * 3 + (20.0,) * 3, unit="N",
                        frame=BASE, names=("fx", "fy", "fz", "tx", "ty", "tz")),
    "gripper": ArraySpec((1,), low=0.0, high=1.0, names=("gripper",)),
}  # fmt: skip
#: What takes the place of these, whatever else is shown.
_OF_JOINTS = ("joint_position", "joint_velocity", "joint_effort")
_NO_BOUND = 1e6


class EmbodimentConfig(Config):
    """In which space a robot is shown and driven."""

    space: Literal["own", "tool_delta"] = setting(
        "own",
        doc="own: as its driver says. tool_delta: a space that robots with different joints share, in which an "
        "action changes the pose of the tool.",
    )
    id: int = setting(0, doc="Number of this kind of robot among those that share the space.", ge=0)
    kinds: int = setting(4, doc="Kinds of robots that there may be: size of the id.", ge=1, le=64)
    describe: Literal["id", "joints", "none"] = setting(
        "id",
        doc="What the observation `embodiment` shows: id, one of `kinds`; joints, how many joints there are and how "
        "far each turns, so that kinds that nobody numbered can join; none: there is no such observation.",
    )
    joints: int = setting(
        8, doc="Number to which joints are padded; 0 shows no joints.", ge=0, le=64
    )
    frame: Literal["base", "tool"] = setting(
        "base", doc="Frame of actions: the base of the robot, x to the front and z up, or its tool."
    )
    elements: tuple[Literal["dx", "dy", "dz", "rx", "ry", "rz", "gripper"], ...] = setting(
        (),
        doc="Elements of an action; empty: those that this robot has. Name them where robots differ in that.",
    )
    linear_m: float = setting(
        0.0,
        doc="Longest step along each axis; 0: this robot's. Give it where robots differ in that.",
        unit="m",
        ge=0,
        le=1,
    )
    angular_rad: float = setting(
        0.0, doc="Likewise the largest turn about each axis.", unit="rad", ge=0, le=3.2
    )
    observations: tuple[str, ...] = setting(
        (),
        doc="Observations to show besides those of the embodiment; empty: all that this robot has. Of "
        f"{', '.join(STANDARD)} a robot may lack some.",
    )

    def validate(self) -> None:
        if self.describe == "id" and self.id >= self.kinds:
            raise ConfigError("id", got=self.id, expected=f"less than kinds, {self.kinds}")
        if len(set(self.elements)) < len(self.elements):
            raise ConfigError("elements", got=list(self.elements), expected="each once")
        if not self.joints and self.describe == "joints":
            raise ConfigError("describe", got="joints, of 0 joints", expected="joints above 0")


class Space(Protocol):
    """Between what drives a robot and its safety gate."""

    @property
    def spec(self) -> RobotSpec:
        """What the robot shows and takes, for those who drive it."""

    def shown(self, observation: Observation) -> Observation:
        """An observation of the driver, as it is shown."""

    def commanded(self, chunk: ActionChunk) -> ActionChunk:
        """A chunk of actions, as the driver takes them."""


class OwnSpace:
    """The driver's own space: nothing is translated."""

    def __init__(self, spec: RobotSpec) -> None:
        self.spec = spec

    def shown(self, observation: Observation) -> Observation:
        """As it is."""
        return observation

    def commanded(self, chunk: ActionChunk) -> ActionChunk:
        """As it is."""
        return chunk


def space_of(config: EmbodimentConfig, spec: RobotSpec, scale: Sequence[float] = ()) -> Space:
    """The space that a robot's file asks for.

    Args:
        config: What it says.
        spec: The driver's.
        scale: What one unit of each element of the driver's actions moves, in m and rad, as its safety
            configuration says (``action_scale``): one for all, or (A,); empty: SI units.

    Raises:
        ConfigError: The robot cannot be shown or driven so.
    """
    return OwnSpace(spec) if config.space == "own" else ToolDeltaSpace(config, spec, scale)


class ToolDeltaSpace:
    """See the module. May be used from two threads: one that shows, and one that commands.

    Args:
        config: What is asked for.
        driver: The robot's own spec.
        scale: See :func:`space_of`.

    Raises:
        ConfigError: The robot's actions do not move its tool, or it lacks what is asked for.

    Attributes:
        spec: The common spec.
    """

    def __init__(
        self, config: EmbodimentConfig, driver: RobotSpec, scale: Sequence[float] = ()
    ) -> None:
        self.config, self._driver = config, driver
        if (
            driver.action_kind not in (ActionKind.EE_DELTA, ActionKind.EE_TWIST)
            or driver.action_groups
            or driver.action.low is None
            or driver.action.high is None
            or len(driver.grippers) > 1
        ):
            raise ConfigError(
                "embodiment.space",
                got=f"tool_delta, for actions of {driver.robot!r}: {driver.action_kind.value}"
                + (f" of {len(driver.action_groups)} groups" if driver.action_groups else "")
                + (f" with {len(driver.grippers)} grippers" if len(driver.grippers) > 1 else "")
                + ("" if driver.action.high is not None else " without bounds"),
                expected="ee_delta or ee_twist of one arm, with bounds, and one gripper at most",
                hint="Choose a controller that moves the tool (mujoco: control: ee_delta; ROS 2: action kind "
                "ee_delta or ee_twist, as in ur_servo)",
            )
        self._places = _places(driver)
        self._si = _si(driver, scale)
        own = tuple(e for e in ELEMENTS if e in self._places)
        self.elements: tuple[str, ...] = config.elements or own
        self._low, self._high = (
            np.asarray(b, float) for b in (driver.action.low_array, driver.action.high_array)
        )
        self._grip = self._gripper()
        if config.frame == TOOL and "tcp_pose" not in driver.observation:
            raise ConfigError(
                "embodiment.frame",
                got=f"tool, and {driver.robot!r} shows no tcp_pose",
                expected="a robot that shows the pose of its tool, or base",
            )
        self._joints = _Joints(config.joints, driver)
        self._fixed = self._fixed_arrays()
        self._passed, self._padded = self._choose_observations()
        self.spec = self._make_spec()
        self._allowed = 1.01 * np.maximum(
            abs(self.spec.action.low_array), self.spec.action.high_array
        )
        self._seen: Arrays = {}
        self._turn: Array | None = None  # of the tool when it was commanded last

    # --- actions -----------------------------------------------------------------------------

    def commanded(self, chunk: ActionChunk) -> ActionChunk:
        """A chunk for the driver. Steps within the common bounds that are longer than its actions can be
        are shortened; what is out of the common bounds is left to the gate.

        Raises:
            SpecError: It is of another shape or type than the common action.
        """
        wanted, rows = self.spec.action, chunk.actions_ta
        if rows.shape[1:] != wanted.shape or rows.dtype != wanted.dtype:
            raise SpecError(
                "action chunk",
                got=f"{rows.dtype}{list(rows.shape)}",
                expected=f"{wanted.dtype}[T, {wanted.size}]",
            )
        if self.config.frame == TOOL:
            self._turn = _rotation(self._seen.get("tcp_pose"))
        made = np.zeros((len(rows), self._driver.action.size))
        if self._grip is None and self._driver.grippers:  # nobody commands it: it stays as it is
            made[:, self._driver.grippers[0]] = self._opening()
        for row, action in zip(made, rows.astype(float), strict=True):
            motion = self._turned(self._motion(action), forward=True)
            for name, place in self._places.items():
                if name != "gripper":
                    row[place] = motion[ELEMENTS.index(name)] / self._si[place]
            if bool((np.abs(action) <= self._allowed).all()):
                self._shorten(row)
            if self._grip is not None:
                element, place, low, high = self._grip
                row[place] = action[element] * (high - low) + low
        return dataclasses.replace(chunk, actions_ta=made.astype(self._driver.action.dtype))

    def applied(self, action: Array) -> Array:
        """An action of the driver, (A,), in the common space."""
        motion: Array = np.zeros(6)
        for name, place in self._places.items():
            if name != "gripper":
                motion[ELEMENTS.index(name)] = float(action[place]) * self._si[place]
        motion = self._turned(motion, forward=False)
        made = np.zeros(len(self.elements))
        for element, name in enumerate(self.elements):
            if name in self._places and name != "gripper":
                made[element] = motion[ELEMENTS.index(name)]
        if self._grip is not None:
            element, place, low, high = self._grip
            made[element] = (float(action[place]) - low) / (high - low)
        return made.astype(self.spec.action.dtype)

    def _motion(self, action: Array) -> Array:
        """Shift and rotation vector, (6,), of a common action."""
        motion = np.zeros(6)
        for element, name in enumerate(self.elements):
            if name != "gripper":
                motion[ELEMENTS.index(name)] = action[element]
        return motion

    def _turned(self, motion: Array, *, forward: bool) -> Array:
        """From the frame of actions to the base (``forward``), or back."""
        if self._turn is None:
            return motion
        turn = self._turn if forward else self._turn.T
        return np.concatenate([turn @ motion[:3], turn @ motion[3:]])

    def _shorten(self, row: Array) -> None:
        """Keep to the bounds of the driver, and to the direction."""
        for names in (ELEMENTS[:3], ELEMENTS[3:6]):
            places = [self._places[n] for n in names if n in self._places]
            factor = 1.0
            for place in places:
                bound = self._high[place] if row[place] > 0 else self._low[place]
                if abs(row[place]) > abs(bound):
                    factor = min(factor, abs(bound) / abs(row[place]))
            row[places] *= factor

    def _gripper(self) -> tuple[int, int, float, float] | None:
        """Element here, element there, and the driver's numbers for closed and open."""
        if "gripper" not in self.elements or "gripper" not in self._places:
            return None
        element, place = self.elements.index("gripper"), self._places["gripper"]
        if place in self._driver.action.categorical:
            return element, place, 0.0, 1.0  # choices stay choices
        return element, place, float(self._low[place]), float(self._high[place])

    def _opening(self) -> float:
        place = self._driver.grippers[0]
        if place in self._driver.action.categorical:
            held = dict(zip(self._driver.action.categorical, self._driver.hold_choices))
            return float(held.get(place, self._low[place]))
        opening = min(max(measured_opening(self._driver, 0, self._seen), 0.0), 1.0)
        return float(self._low[place] + opening * (self._high[place] - self._low[place]))

    # --- observations --------------------------------------------------------------------------

    def shown(self, observation: Observation) -> Observation:
        """An observation in the common space."""
        seen = self._seen = observation.arrays
        arrays = {name: seen[name] for name in self._passed}
        arrays.update(self._padded)
        arrays.update(self._fixed)
        arrays.update(self._joints.shown(seen))
        applied = observation.applied
        if applied is not None:
            applied = dataclasses.replace(applied, action=self.applied(applied.action))
        return dataclasses.replace(observation, arrays=arrays, applied=applied)

    def _choose_observations(self) -> tuple[list[str], dict[str, Array]]:
        """Arrays that are passed on, and those that are shown without being there."""
        driver, wanted = self._driver.observation, self.config.observations
        mine = [name for name in driver if name not in _OF_JOINTS]
        if not wanted:
            return mine, {}
        unknown = [n for n in wanted if n not in mine and n not in STANDARD]
        if unknown:
            raise ConfigError(
                "embodiment.observations",
                got=unknown,
                expected=f"some of {sorted({*mine, *STANDARD})}",
                hint="joint_position and joint_velocity are shown as `joints` and `joint_speeds`",
            )
        absent = [name for name in STANDARD if name in wanted and name not in driver]
        padded = {name: STANDARD[name].zeros() for name in absent}
        present = [float(name in driver) for name in STANDARD if name in wanted]
        if present:
            padded["present"] = np.array(present, np.float32)
        return [name for name in mine if name in wanted], padded

    def _fixed_arrays(self) -> dict[str, Array]:
        """What is the same in every observation."""
        config, found = self.config, dict[str, Array]()
        if config.joints:
            found["joint_mask"] = self._joints.mask
        if config.describe == "id":
            found["embodiment"] = np.eye(config.kinds, dtype=np.float32)[config.id]
        elif config.describe == "joints":
            found["embodiment"] = self._joints.description
        return found

    # --- the spec ------------------------------------------------------------------------------

    def _make_spec(self) -> RobotSpec:
        driver, config = self._driver, self.config
        base = {driver.action.frame}
        if "tcp_pose" in driver.observation:
            base.add(driver.observation["tcp_pose"].frame)
        observation: dict[str, ArraySpec] = {}
        for name in self._passed:
            item = driver.observation[name]
            if name in STANDARD and item.shape == STANDARD[name].shape:
                item = dataclasses.replace(STANDARD[name], dtype=item.dtype)
            elif item.frame in base and item.frame:
                item = dataclasses.replace(item, frame=BASE)
            observation[name] = item
        for name in self._padded:
            if name in STANDARD:
                observation[name] = STANDARD[name]
        if "present" in self._padded:
            names = tuple(name for name in STANDARD if name in config.observations)
            observation["present"] = ArraySpec((len(names),), low=0.0, high=1.0, names=names)
        if config.joints:
            size = (config.joints,)
            observation["joints"] = ArraySpec(size, low=-1.0, high=1.0)
            observation["joint_speeds"] = ArraySpec(size, low=-1.0, high=1.0)
            observation["joint_mask"] = ArraySpec(size, low=0.0, high=1.0)
        if "embodiment" in self._fixed:
            shape = self._fixed["embodiment"].shape
            observation["embodiment"] = ArraySpec(shape, low=0.0, high=1.0)
        action, choices = self._action_spec()
        held = dict(zip(driver.action.categorical, driver.hold_choices))
        hold = (held[driver.grippers[0]],) if choices and driver.grippers[0] in held else ()
        return RobotSpec(
            robot=driver.robot,
            observation=dict(sorted(observation.items())),
            action=action,
            action_kind=ActionKind.EE_DELTA,
            period_s=driver.period_s,
            lockstep=driver.lockstep,
            task_reward=driver.task_reward,
            grippers=tuple(i for i, name in enumerate(self.elements) if name == "gripper"),
            hold_choices=hold,
        )

    def _action_spec(self) -> tuple[ArraySpec, tuple[int, ...]]:
        low, high, choices = list[float](), list[float](), list[int]()
        for element, name in enumerate(self.elements):
            if name == "gripper":
                place = self._places.get(name)
                if place is not None and place in self._driver.action.categorical:
                    low.append(float(self._low[place]))
                    high.append(float(self._high[place]))
                    choices.append(element)
                else:
                    low.append(0.0)
                    high.append(1.0)
                continue
            bound = self._bound(name)
            low.append(-bound)
            high.append(bound)
        spec = ArraySpec(
            (len(self.elements),),
            low=tuple(low),
            high=tuple(high),
            unit="m",
            frame=self.config.frame,
            names=self.elements,
            categorical=tuple(choices),
        )
        return spec, tuple(choices)

    def _bound(self, name: str) -> float:
        """The largest step of an element, m or rad."""
        linear = name in ELEMENTS[:3]
        said = self.config.linear_m if linear else self.config.angular_rad
        if said:
            return said
        place = self._places.get(name)
        if place is None:
            word = "linear_m" if linear else "angular_rad"
            raise ConfigError(
                f"embodiment.{word}",
                got=f"none, and {self._driver.robot!r} has no {name}",
                expected="the largest step, which robots that have it can do",
            )
        reach = max(abs(self._low[place]), abs(self._high[place])) * abs(self._si[place])
        return float(f"{reach:.6g}")


class _Joints:
    """Joints within their own limits, padded."""

    def __init__(self, size: int, driver: RobotSpec) -> None:
        self._size = size
        position, velocity = (
            driver.observation.get(name) for name in ("joint_position", "joint_velocity")
        )
        count = (
            position.size if position is not None else velocity.size if velocity is not None else 0
        )
        if size and count > size:
            raise ConfigError(
                "embodiment.joints", got=size, expected=f"at least {count}, as {driver.robot!r} has"
            )
        self._middle, self._half = _range(position, math.pi)
        _, self._fastest = _range(velocity, math.pi)
        self._has = (position is not None, velocity is not None)
        self.mask: Array = np.zeros(size, np.float32)
        self.mask[:count] = 1.0

    @property
    def description(self) -> Array:
        """How many there are, and how far each turns, (1 + J,), between 0 and 1."""
        found = np.zeros(1 + self._size, np.float32)
        found[0] = self.mask.sum() / self._size
        found[1 : 1 + len(self._half)] = np.minimum(self._half / (2 * math.pi), 1.0)
        return found

    def shown(self, seen: Arrays) -> dict[str, Array]:
        """``joints`` and ``joint_speeds``, (J,) each, -1 to 1."""
        if not self._size:
            return {}
        joints, speeds = np.zeros(self._size, np.float32), np.zeros(self._size, np.float32)
        if self._has[0]:
            share = (seen["joint_position"].ravel() - self._middle) / self._half
            joints[: share.size] = np.clip(share, -1.0, 1.0)
        if self._has[1]:
            share = seen["joint_velocity"].ravel() / self._fastest
            speeds[: share.size] = np.clip(share, -1.0, 1.0)
        return {"joints": joints, "joint_speeds": speeds}


def _range(spec: ArraySpec | None, unbounded: float) -> tuple[Array, Array]:
    """Middle and half width of what an array may be; of one without bounds, of what is usual."""
    if spec is None:
        return np.zeros(0), np.ones(0)
    low, high = (np.asarray(b, float).ravel() for b in (spec.low_array, spec.high_array))
    known = (np.abs(low) < _NO_BOUND) & (np.abs(high) < _NO_BOUND) & (high > low)
    half = np.where(known, (high - low) / 2, unbounded)
    return np.where(known, (low + high) / 2, 0.0), half


def _places(driver: RobotSpec) -> dict[str, int]:
    """Elements of the driver's actions, by their common names."""
    size, names = driver.action.size, driver.action.names
    moving = [i for i in range(size) if i not in driver.grippers]
    if names:
        found = {_ALIASES.get(names[i], names[i]): i for i in moving}
        found = {name: i for name, i in found.items() if name in ELEMENTS[:6]}
    else:
        found = dict(zip(ELEMENTS[: 6 if len(moving) >= 6 else 3], moving))
    if driver.grippers:
        found["gripper"] = driver.grippers[0]
    if not {"dx", "dy", "dz"} & found.keys():
        raise ConfigError(
            "embodiment.space",
            got=f"actions of {driver.robot!r} with elements {list(names)}",
            expected=f"some of {list(ELEMENTS)}",
        )
    return {name: found[name] for name in ELEMENTS if name in found}


def _si(driver: RobotSpec, scale: Sequence[float]) -> Array:
    """What one unit of each element of the driver's action moves in one period, m or rad, (A,)."""
    size = driver.action.size
    if len(scale) > 1 and len(scale) != size:
        raise ConfigError("action_scale", got=f"{len(scale)} values", expected=f"one, or {size}")
    si: Array = (
        np.full(size, 1.0) if not len(scale) else np.broadcast_to(np.asarray(scale, float), size)
    )
    return si * driver.period_s if driver.action_kind is ActionKind.EE_TWIST else si.copy()


def _rotation(pose: Array | None) -> Array | None:
    """The rotation matrix of a measured pose, (3, 3); None where there is none."""
    if pose is None or pose.size < 7:
        return None
    x, y, z, w = (float(v) for v in pose.ravel()[3:7])
    norm = math.sqrt(x * x + y * y + z * z + w * w)
    if norm < 1e-6:
        return None
    x, y, z, w = x / norm, y / norm, z / norm, w / norm
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )
