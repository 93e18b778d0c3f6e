"""Specs: what an array, an observation and an action look like, and how to check one.

Specs are plain data. They travel (as JSON), are hashed into the schema of a replay store,
and are what policies and algorithms are built from.

Standard observation names, used by every driver that has the quantity, so that gates,
rewards and converters need no per-robot code:

=====================  =======  ==========================================================
name                   unit     content
=====================  =======  ==========================================================
``joint_position``     rad      one per joint, in the robot's joint order (m if prismatic)
``joint_velocity``     rad/s    likewise
``joint_effort``       N m      likewise
``tcp_pose``           m, -     x y z qx qy qz qw of the tool centre point in the base frame
``tcp_velocity``       m/s      vx vy vz wx wy wz in the base frame (angular part in rad/s)
``wrench``             N        fx fy fz tx ty tz at the tool centre point (torque in N m)
``gripper``            -        opening, 0 closed to 1 open
``image_<camera>``     -        height x width x 3, uint8, RGB
``depth_<camera>``     m        height x width x 1, distance along the optical axis
=====================  =======  ==========================================================

A robot whose actions move several things, each in its own way, has *action groups* (two arms,
an arm and a base). A quantity of one group is named ``<group>.joint_position``,
``<group>.tcp_pose`` and so on; where ``joint_position`` is there without a group, it holds the
joints of all groups, in the order of the groups. :mod:`user_core.body.action_groups` shows one group
as if it were a robot of its own.

Units and axes follow REP-103, frames REP-105; quaternions are x y z w as in ROS messages.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from user_core.errors import SpecError

Array = npt.NDArray[Any]
Arrays = Mapping[str, Array]

#: dtypes that may appear in a spec, a message or a store. Objects and strings never do.
DTYPES: tuple[str, ...] = (
    "bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64",
    "float16", "float32", "float64",
)  # fmt: skip
MAX_DIMENSIONS = 8
#: Choices of one categorical element: more is rather a number than a choice.
MOST_CHOICES = 1024


class ActionKind(str, Enum):
    """What the numbers of an action mean to the robot."""

    JOINT_POSITION = "joint_position"
    """Absolute joint targets, rad."""
    JOINT_DELTA = "joint_delta"
    """Change of the joint targets in one control period, rad."""
    JOINT_VELOCITY = "joint_velocity"
    """Joint velocities, rad/s."""
    EE_DELTA = "ee_delta"
    """Change of the tool pose in one period: dx dy dz (m), rotation vector (rad), base frame."""
    EE_TWIST = "ee_twist"
    """Tool velocity: vx vy vz (m/s), wx wy wz (rad/s), base frame."""
    EE_POSE = "ee_pose"
    """Absolute tool pose: x y z (m), qx qy qz qw, base frame."""
    BASE_TWIST = "base_twist"
    """Velocity of a planar base in its own frame: vx (m/s), vy unless it cannot go sideways, wz
    (rad/s)."""
    DISCRETE = "discrete"
    """Choices: every element is categorical (:attr:`ArraySpec.categorical`)."""
    GENERIC = "generic"
    """Anything else, for instance a Gymnasium environment's action."""
    MIXED = "mixed"
    """Action groups of several kinds: each group has its own."""


@dataclass(frozen=True)
class ActionGroup:
    """Consecutive elements of an action that move one thing: an arm, a lift, a base.

    Attributes:
        name: Name of the group; observations of it are named ``<name>.joint_position`` and so on.
        kind: What its numbers mean; not ``mixed``.
        size: Number of its elements, grippers included.
    """

    name: str
    kind: ActionKind
    size: int

    def __post_init__(self) -> None:
        if not self.name or "." in self.name:
            raise SpecError("name of an action group", got=self.name, expected="a name, no dots")
        if self.kind is ActionKind.MIXED or self.size < 1:
            raise SpecError(
                f"action group {self.name!r}",
                got=f"{self.kind.value}, {self.size} elements",
                expected="one kind, and at least one element",
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON or YAML."""
        return {"name": self.name, "kind": self.kind.value, "size": self.size}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ActionGroup:
        """Build a group from plain data that may come from anybody."""
        return cls(str(data["name"]), ActionKind(data["kind"]), int(data["size"]))


def common_kind(groups: Sequence[ActionGroup]) -> ActionKind:
    """The kind that all groups have, or ``mixed``."""
    kinds = {group.kind for group in groups}
    return kinds.pop() if len(kinds) == 1 else ActionKind.MIXED


#: Up to this many numbers, plain Python is quicker than numpy.
_FEW = 64


@dataclass(frozen=True)
class ArraySpec:
    """Shape, dtype, bounds, unit and frame of one named array.

    Attributes:
        shape: Sizes of the dimensions; empty for a scalar.
        dtype: One of :data:`DTYPES`.
        low: Smallest allowed value: one for all elements, or one per element. None: no limit.
        high: Largest allowed value, likewise.
        unit: SI unit symbol (REP-103), empty when dimensionless.
        frame: REP-105 frame that the numbers are expressed in, empty where none applies.
        names: Names of the elements of a vector, for instance joint names.
        categorical: Elements of a vector that are choices: whole numbers from ``low`` to ``high``, which have
            no order, and nothing in between.
    """

    shape: tuple[int, ...]
    dtype: str = "float32"
    low: float | tuple[float, ...] | None = None
    high: float | tuple[float, ...] | None = None
    unit: str = ""
    frame: str = ""
    names: tuple[str, ...] = ()
    categorical: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise SpecError("dtype of an array spec", got=self.dtype, expected=f"one of {DTYPES}")
        if len(self.shape) > MAX_DIMENSIONS or any(
            not isinstance(n, int) or isinstance(n, bool) or n < 0 for n in self.shape
        ):
            raise SpecError(
                "shape of an array spec",
                got=self.shape,
                expected=f"at most {MAX_DIMENSIONS} non-negative integers",
            )
        for side, bound in (("low", self.low), ("high", self.high)):
            if isinstance(bound, tuple) and len(bound) != self.size:
                raise SpecError(
                    f"{side} of an array spec with shape {self.shape}",
                    got=f"{len(bound)} values",
                    expected=f"one number, or {self.size}",
                )
        if self.low is not None and self.high is not None:
            low, high = np.broadcast_arrays(np.asarray(self.low), np.asarray(self.high))
            if not bool(np.all(low <= high)):
                raise SpecError("low of an array spec", got=self.low, expected=f"<= {self.high}")
        if self.names and (len(self.shape) != 1 or len(self.names) != self.shape[0]):
            raise SpecError(
                "names of an array spec",
                got=f"{len(self.names)} names",
                expected=f"one per element of shape {self.shape}",
            )
        if self.categorical:
            self._check_categorical()

    def _check_categorical(self) -> None:
        chosen = self.categorical
        if len(self.shape) != 1 or list(chosen) != sorted(set(chosen) & set(range(self.size))):
            raise SpecError(
                f"categorical elements of an array spec with shape {self.shape}",
                got=chosen,
                expected="elements of a vector, in their order, each once",
            )
        sides = [
            np.broadcast_to(np.asarray(b), self.shape)
            for b in (self.low, self.high)
            if b is not None
        ]
        for element in chosen:
            bounds = [float(side[element]) for side in sides]
            if len(bounds) < 2 or any(
                not b.is_integer() or abs(b) > MOST_CHOICES * 1e3 for b in bounds
            ):
                raise SpecError(
                    f"bounds of the categorical element {element}",
                    got=bounds or None,
                    expected="whole numbers, its first and its last choice",
                )
            if bounds[1] - bounds[0] >= MOST_CHOICES:
                raise SpecError(
                    f"choices of the categorical element {element}",
                    got=int(bounds[1] - bounds[0]) + 1,
                    expected=f"at most {MOST_CHOICES}",
                )

    @property
    def counts(self) -> tuple[int, ...]:
        """How many choices each categorical element has, in their order."""
        if not self.categorical:
            return ()
        counts = (self.high_array - self.low_array)[list(self.categorical)]
        return tuple(int(n) + 1 for n in counts)

    def wrong_choice(self, values: Sequence[float]) -> int | None:
        """The first categorical element of a vector that is none of its choices; None: all are."""
        for element, low, high in self._choices:
            value = values[element]
            if not low <= value <= high or value != int(value):
                return element
        return None

    @cached_property
    def _choices(self) -> tuple[tuple[int, int, int], ...]:
        """Categorical elements, each with its first and its last choice."""
        low, high = self.low_array, self.high_array
        return tuple((i, int(low[i]), int(high[i])) for i in self.categorical)

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Number of bytes of one such array."""
        return self.size * np.dtype(self.dtype).itemsize

    @property
    def low_array(self) -> Array:
        """Lower bounds in the shape of the array; the dtype's smallest value where none is set."""
        return self._bound(self.low, lowest=True)

    @property
    def high_array(self) -> Array:
        """Upper bounds in the shape of the array; the dtype's largest value where none is set."""
        return self._bound(self.high, lowest=False)

    def zeros(self) -> Array:
        """An array of zeros that has this shape and dtype."""
        return np.zeros(self.shape, dtype=self.dtype)

    def sample(self, rng: np.random.Generator) -> Array:
        """A random array within the bounds (standard normal where a float has none); choices
        uniformly."""
        drawn = np.asarray(self._draw(rng), self.dtype)
        for element, low, high in self._choices if self.categorical else ():
            drawn[element] = rng.integers(low, high, endpoint=True)
        return drawn

    def fits(self, array: Array) -> bool:
        """Whether ``array`` has this shape and dtype, and is finite; :meth:`check` says why not."""
        return (
            isinstance(array, np.ndarray)
            and array.dtype == self._dtype
            and array.shape == self.shape
            and (self._dtype.kind != "f" or _all_finite(array))
            and (not self.categorical or self.wrong_choice(array.tolist()) is None)
        )

    @cached_property
    def _dtype(self) -> np.dtype[Any]:
        return np.dtype(self.dtype)

    def check(self, array: Array, name: str = "array") -> None:
        """Raise :class:`SpecError` unless ``array`` has this shape and dtype, and is finite."""
        if not isinstance(array, np.ndarray):
            raise SpecError(name, got=type(array).__name__, expected="a numpy array")
        if array.dtype != self.dtype or array.shape != self.shape:
            raise SpecError(
                name,
                got=f"{array.dtype}{list(array.shape)}",
                expected=f"{self.dtype}{list(self.shape)}",
            )
        if array.dtype.kind == "f" and not _all_finite(array):
            bad = np.flatnonzero(~np.isfinite(array.ravel()))
            label = self.names[bad[0]] if self.names else f"element {bad[0]}"
            raise SpecError(
                f"{name}: {len(bad)} of {array.size} values are not finite, first {label}",
                got=array.ravel()[bad[0]],
                expected="finite numbers",
            )
        if self.categorical and (wrong := self.wrong_choice(array.tolist())) is not None:
            low, high = int(self.low_array[wrong]), int(self.high_array[wrong])
            raise SpecError(
                f"{name}: {self.names[wrong] if self.names else f'element {wrong}'}",
                got=array[wrong],
                expected=f"one of its choices, {low} to {high}",
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON or YAML; :meth:`from_dict` is its inverse."""
        data: dict[str, Any] = {"shape": list(self.shape), "dtype": self.dtype}
        for side in ("low", "high"):
            bound = getattr(self, side)
            if bound is not None:
                # -1 and -1.0 are one bound, and must give one digest.
                data[side] = [float(v) for v in bound] if isinstance(bound, tuple) else float(bound)
        if self.unit:
            data["unit"] = self.unit
        if self.frame:
            data["frame"] = self.frame
        if self.names:
            data["names"] = list(self.names)
        if self.categorical:  # specs without one stay as they were written before
            data["categorical"] = list(self.categorical)
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], where: str = "array spec") -> ArraySpec:
        """Build a spec from plain data that may come from anybody."""
        known = ("shape", "dtype", "low", "high", "unit", "frame", "names", "categorical")
        unknown = sorted(set(data) - set(known))
        if unknown or "shape" not in data:
            raise SpecError(
                where, got=f"keys {sorted(data)}", expected=f"shape, and any of {known}"
            )
        try:
            low, high = (
                tuple(float(v) for v in b) if isinstance(b, (list, tuple)) else b
                for b in (data.get("low"), data.get("high"))
            )
            return cls(
                shape=tuple(int(n) for n in data["shape"]),
                dtype=str(data.get("dtype", "float32")),
                low=None if low is None else (low if isinstance(low, tuple) else float(low)),
                high=None if high is None else (high if isinstance(high, tuple) else float(high)),
                unit=str(data.get("unit", "")),
                frame=str(data.get("frame", "")),
                names=tuple(str(n) for n in data.get("names", ())),
                categorical=tuple(int(i) for i in data.get("categorical", ())),
            )
        except (TypeError, ValueError, OverflowError) as error:
            raise SpecError(where, got=dict(data), expected=f"valid values ({error})") from error

    def _draw(self, rng: np.random.Generator) -> Any:
        kind = np.dtype(self.dtype).kind
        if kind == "b":
            return rng.integers(0, 2, self.shape)
        low, high = self.low_array, self.high_array
        if kind != "f":
            return rng.integers(low, high, self.shape, dtype=self.dtype, endpoint=True)
        if self.low is not None and self.high is not None:
            return np.clip(np.asarray(rng.uniform(low, high), self.dtype), low, high)
        return np.clip(rng.standard_normal(self.shape), low, high)

    def _bound(self, bound: float | tuple[float, ...] | None, *, lowest: bool) -> Array:
        dtype = np.dtype(self.dtype)
        value: Any = bound
        if bound is None:
            if dtype.kind == "b":
                value = not lowest
            else:
                info = np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype)
                value = info.min if lowest else info.max
        return np.broadcast_to(
            np.asarray(value, dtype=dtype).reshape(self.shape if isinstance(bound, tuple) else ()),
            self.shape,
        )


@dataclass(frozen=True)
class RobotSpec:
    """What a robot shows and takes: everything that a policy needs to be built.

    Attributes:
        robot: Name of the kind of robot, for instance ``panda``.
        observation: Spec of each named array of an observation.
        action: Spec of one action, a vector; ``names`` say what each element moves.
        action_kind: What the numbers of an action mean.
        period_s: Control period that the robot is meant to be driven at, seconds.
        lockstep: True where time passes only by commands (a simulator that runs as fast as
            it goes, a Gymnasium environment): one command, one observation. False where time
            passes by itself, as with every real robot.
        task_reward: Whether the robot itself reports reward and success of its task.
        grippers: Elements of an action that are the opening of a gripper, low closed and high
            open. A name says nothing of the kind: a joint may be called ``gripper``.
        action_groups: What the parts of an action move, in the order of its elements. Empty for
            the usual robot, whose whole action is of one kind. With groups ``action_kind`` is
            their common kind, or ``mixed``.
        hold_choices: The choice of each categorical element of an action that changes nothing (of a
            gripper that is closed, held or opened: hold), in the order of
            ``action.categorical``. Empty where none is known, as of most environments.
    """

    robot: str
    observation: Mapping[str, ArraySpec]
    action: ArraySpec
    action_kind: ActionKind = ActionKind.GENERIC
    period_s: float = 0.1
    lockstep: bool = False
    task_reward: bool = False
    grippers: tuple[int, ...] = ()
    action_groups: tuple[ActionGroup, ...] = ()
    hold_choices: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not self.observation:
            raise SpecError(
                f"observation of {self.robot!r}", got="no arrays", expected="at least one"
            )
        if len(self.action.shape) != 1:
            raise SpecError(
                f"action of {self.robot!r}",
                got=f"shape {self.action.shape}",
                expected="a vector (a discrete action is a vector of one categorical element)",
            )
        if not (math.isfinite(self.period_s) and self.period_s > 0):
            raise SpecError(
                f"period_s of {self.robot!r}", got=self.period_s, expected="> 0 seconds"
            )
        known = range(self.action.size)
        if len(set(self.grippers)) < len(self.grippers) or any(
            i not in known for i in self.grippers
        ):
            raise SpecError(
                f"grippers of {self.robot!r}",
                got=self.grippers,
                expected=f"elements of the action, 0 to {self.action.size - 1}, each once",
            )
        self._check_groups()
        self._check_choices()

    def _check_choices(self) -> None:
        action, start = self.action, 0
        parts = [(group.kind, group.size) for group in self.action_groups]
        for kind, size in parts or [(self.action_kind, action.size)]:
            elements = set(range(start, start + size))
            if kind is ActionKind.DISCRETE and not elements <= set(action.categorical):
                raise SpecError(
                    f"action of {self.robot!r}, of kind 'discrete'",
                    got=f"categorical elements {list(action.categorical)}",
                    expected=f"all of {sorted(elements)}",
                )
            start += size
        if not self.hold_choices:
            return
        held = action.zeros()
        if len(self.hold_choices) == len(action.categorical):
            held[list(action.categorical)] = self.hold_choices
            if action.wrong_choice(held.tolist()) is None:
                return
        raise SpecError(
            f"hold_choices of {self.robot!r}",
            got=self.hold_choices,
            expected=f"a choice of each of the categorical elements {list(action.categorical)}",
        )

    def _check_groups(self) -> None:
        groups, where = self.action_groups, f"action groups of {self.robot!r}"
        if not groups:
            if self.action_kind is ActionKind.MIXED:
                raise SpecError(where, got="none", expected="groups, as the kind is 'mixed'")
            return
        names = [group.name for group in groups]
        if len(set(names)) < len(names):
            raise SpecError(where, got=names, expected="each name once")
        if sum(group.size for group in groups) != self.action.size:
            raise SpecError(
                where,
                got=f"{[group.size for group in groups]} elements",
                expected=f"{self.action.size} together, as the action has",
            )
        if self.action_kind is not common_kind(groups):
            raise SpecError(
                f"action_kind of {self.robot!r}",
                got=self.action_kind.value,
                expected=f"{common_kind(groups).value!r}, what its groups have in common",
            )

    def sample_observation(self, rng: np.random.Generator, history: int = 1) -> dict[str, Array]:
        """A random observation; of several (:attr:`~user_core.interfaces.Policy.observation_history`) each array
        is (N, ...)."""
        if history == 1:
            return {name: spec.sample(rng) for name, spec in self.observation.items()}
        several = [self.sample_observation(rng) for _ in range(history)]
        return {name: np.stack([one[name] for one in several]) for name in self.observation}

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON or YAML."""
        data: dict[str, Any] = {
            "robot": self.robot,
            "observation": {k: v.to_dict() for k, v in self.observation.items()},
            "action": self.action.to_dict(),
            "action_kind": self.action_kind.value,
            "period_s": self.period_s,
            "lockstep": self.lockstep,
            "task_reward": self.task_reward,
        }
        if self.grippers:  # specs without one stay as they were written before
            data["grippers"] = list(self.grippers)
        if self.action_groups:
            data["action_groups"] = [group.to_dict() for group in self.action_groups]
        if self.hold_choices:
            data["hold_choices"] = list(self.hold_choices)
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> RobotSpec:
        """Build a robot spec from plain data that may come from anybody."""
        try:
            return cls(
                robot=str(data["robot"]),
                observation={
                    str(k): ArraySpec.from_dict(v, f"observation.{k}")
                    for k, v in data["observation"].items()
                },
                action=ArraySpec.from_dict(data["action"], "action"),
                action_kind=ActionKind(data.get("action_kind", ActionKind.GENERIC.value)),
                period_s=float(data.get("period_s", 0.1)),
                lockstep=bool(data.get("lockstep", False)),
                task_reward=bool(data.get("task_reward", False)),
                grippers=tuple(int(i) for i in data.get("grippers", ())),
                action_groups=tuple(
                    ActionGroup.from_dict(g) for g in data.get("action_groups", ())
                ),
                hold_choices=tuple(int(i) for i in data.get("hold_choices", ())),
            )
        except SpecError:
            raise
        except (KeyError, AttributeError, TypeError, ValueError) as error:
            raise SpecError(
                "robot spec", got=f"{error!r}", expected="the fields of RobotSpec"
            ) from error


def _all_finite(array: Array) -> bool:
    """Whether there is neither NaN nor infinity in an array of floats."""
    # a third of numpy's time for what a step has; a sum of finite numbers may overflow: look closer
    if array.size <= _FEW and math.isfinite(sum(array.ravel().tolist())):
        return True
    return bool(np.isfinite(array).all())


def check_arrays(
    arrays: Arrays, specs: Mapping[str, ArraySpec], where: str = "observation"
) -> None:
    """Raise :class:`SpecError` unless ``arrays`` has exactly the named arrays of ``specs``."""
    if arrays.keys() != specs.keys():
        missing, extra = sorted(specs.keys() - arrays.keys()), sorted(arrays.keys() - specs.keys())
        raise SpecError(
            f"names of the arrays in {where}",
            got=f"missing {missing}, unknown {extra}",
            expected=sorted(specs),
        )
    for name, spec in specs.items():
        array = arrays[name]
        if not spec.fits(array):
            spec.check(array, f"{where}.{name}")  # says what is wrong


def digest(data: Any) -> str:
    """SHA-256 over canonical JSON: equal data gives equal hashes on every machine."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def difference(
    old: Any, new: Any, path: str = "", sides: tuple[str, str] | None = None
) -> list[str]:
    """Spell out how two pieces of plain data differ, one line a difference, with its path.

    Args:
        old: The first.
        new: The second.
        path: Where they stand; empty: at the top.
        sides: Where the first and the second were found, in words; None: the second came after the first.
    """
    here = path or "(top)"
    first, second = sides or ("in the first", "in the second")

    def differ(one: Any, other: Any) -> str:
        return f"{one} {first}, {other} {second}" if sides else f"{one} became {other}"

    if isinstance(old, Mapping) and isinstance(new, Mapping):
        lines = []
        for key in sorted(old.keys() | new.keys(), key=str):
            below = f"{path}.{key}" if path else str(key)
            if key not in new:
                lines.append(f"{below}: only {first} ({old[key]!r})")
            elif key not in old:
                lines.append(f"{below}: only {second} ({new[key]!r})")
            else:
                lines += difference(old[key], new[key], below, sides)
        return lines
    if _is_list(old) and _is_list(new):
        return [] if list(old) == list(new) else [f"{here}: {differ(list(old), list(new))}"]
    return [] if old == new else [f"{here}: {differ(repr(old), repr(new))}"]


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))
