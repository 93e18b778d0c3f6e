"""Specs to and from ``user_msgs/ArraySpec`` and ``RobotSpec``."""

from __future__ import annotations

import array
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from user_msgs.msg import ArraySpec as ArraySpecMessage
from user_msgs.msg import RobotSpec as RobotSpecMessage

from user_comm.converters import checks
from user_comm.converters.action import ACTION_LIMITS
from user_comm.converters.stamps import set_stamp, stamp_ns
from user_core.codecs import DEFAULT_LIMITS, DTYPE_CODES, Limits
from user_core.errors import CodecError, SpecError
from user_core.specs import MAX_DIMENSIONS, ActionKind, ArraySpec, RobotSpec, digest

_DTYPES = {code: name for name, code in DTYPE_CODES.items()}
#: Most bounds or element names of one array that are accepted.
MAX_ELEMENTS = 65536


@dataclass(frozen=True)
class RobotDescription:
    """A robot's spec and what it is set up for: the content of ``robot_spec``.

    Attributes:
        spec: What it shows and takes.
        task: Task it is set up for, empty without one.
        base_frame: REP-105 base frame of the robot.
        stamp_ns: When this was said, nanoseconds since the epoch.
    """

    spec: RobotSpec
    task: str = ""
    base_frame: str = ""
    stamp_ns: int = 0

    @property
    def spec_hash(self) -> str:
        """SHA-256 over spec and task, hexadecimal; equal on both sides of the wire."""
        data = self.spec.to_dict()
        data["observation"] = {k: _wire_form(v) for k, v in self.spec.observation.items()}
        data["action"] = _wire_form(self.spec.action)
        return digest({**data, "period_s": float(self.spec.period_s), "task": self.task})


def array_spec_to_message(name: str, spec: ArraySpec) -> Any:
    """Encode the spec of one array. Raises SpecError for a bound that is not finite."""
    message = ArraySpecMessage()
    message.name = name
    message.dtype = DTYPE_CODES[spec.dtype]
    message.shape = array.array("I", spec.shape)
    message.low = array.array("d", _bound_values(spec.low, f"low of {name!r}"))
    message.high = array.array("d", _bound_values(spec.high, f"high of {name!r}"))
    message.unit = spec.unit
    message.frame = spec.frame
    message.names = list(spec.names)
    return message


def array_spec_from_message(message: Any, where: str = "array spec") -> tuple[str, ArraySpec]:
    """Decode the name and spec of one array. Raises CodecError, or SpecError where the
    fields contradict each other."""
    name = checks.name(message.name, f"{where}: name")
    where = f"{where} {name!r}"
    if message.dtype not in _DTYPES:
        raise CodecError(f"{where}: dtype", got=message.dtype, expected=f"one of {_DTYPES}")
    for field, limit in (
        ("shape", MAX_DIMENSIONS),
        ("low", MAX_ELEMENTS),
        ("high", MAX_ELEMENTS),
        ("names", MAX_ELEMENTS),
    ):
        checks.at_most(getattr(message, field), limit, f"{where}: {field}")
    return name, ArraySpec(
        shape=tuple(message.shape),
        dtype=_DTYPES[message.dtype],
        low=_bound(message.low, f"{where}: low"),
        high=_bound(message.high, f"{where}: high"),
        unit=checks.name(message.unit, f"{where}: unit", empty=True),
        frame=checks.name(message.frame, f"{where}: frame", empty=True),
        names=tuple(checks.name(n, f"{where}: names", empty=True) for n in message.names),
    )


def robot_description_to_message(description: RobotDescription) -> Any:
    """Encode what a robot shows and takes."""
    spec = description.spec
    message = RobotSpecMessage()
    set_stamp(message.header.stamp, description.stamp_ns)
    message.header.frame_id = description.base_frame
    message.robot = spec.robot
    message.task = description.task
    message.observation = [array_spec_to_message(k, v) for k, v in spec.observation.items()]
    message.action = array_spec_to_message("action", spec.action)
    message.action_kind = spec.action_kind.value
    message.period_s = float(spec.period_s)
    message.lockstep = bool(spec.lockstep)
    message.task_reward = bool(spec.task_reward)
    message.spec_hash = description.spec_hash
    return message


def robot_description_from_message(
    message: Any, *, limits: Limits = DEFAULT_LIMITS
) -> RobotDescription:
    """Decode what a robot shows and takes.

    Raises CodecError or SpecError: a field is out of its range, fields contradict each other,
    a name is there twice, an array would exceed ``limits``, or the hash is not that of the
    content.
    """
    checks.at_most(message.observation, limits.tensors, "robot spec.observation")
    observation: dict[str, ArraySpec] = {}
    for item in message.observation:
        name, spec = array_spec_from_message(item, "robot spec.observation")
        if name in observation:
            raise CodecError(f"robot spec: {name!r} occurs twice", expected="unique names")
        if spec.nbytes > limits.tensor_bytes:
            raise CodecError(
                f"robot spec: size of {name!r}",
                got=f"{spec.nbytes} bytes",
                expected=f"at most {limits.tensor_bytes}",
            )
        observation[name] = spec
    action = array_spec_from_message(message.action, "robot spec.action")[1]
    if action.nbytes > ACTION_LIMITS.tensor_bytes:
        raise CodecError(
            "robot spec: size of an action",
            got=f"{action.nbytes} bytes",
            expected=f"at most {ACTION_LIMITS.tensor_bytes}",
        )
    try:
        kind = ActionKind(message.action_kind)
    except ValueError:
        kinds = [member.value for member in ActionKind]
        raise CodecError(
            "robot spec.action_kind",
            got=repr(message.action_kind)[:80],
            expected=kinds,
        ) from None
    description = RobotDescription(
        spec=RobotSpec(
            robot=checks.name(message.robot, "robot spec.robot"),
            observation=observation,
            action=action,
            action_kind=kind,
            period_s=checks.number(message.period_s, "robot spec.period_s", 0.0),
            lockstep=message.lockstep,
            task_reward=message.task_reward,
        ),
        task=checks.name(message.task, "robot spec.task", empty=True),
        base_frame=checks.name(message.header.frame_id, "robot spec.frame_id", empty=True),
        stamp_ns=stamp_ns(message.header.stamp, "robot spec.header.stamp"),
    )
    if message.spec_hash != description.spec_hash:
        raise CodecError(
            "robot spec.spec_hash",
            got=repr(message.spec_hash)[:80],
            expected=f"{description.spec_hash}, the hash of its content",
        )
    return description


def _wire_form(spec: ArraySpec) -> dict[str, Any]:
    """Plain data in which bounds look as they do after a journey: -1, -1.0 and (-1.0,) of a
    vector of one element say the same, and travel as the same bytes."""
    data = spec.to_dict()
    for side in ("low", "high"):
        values = _bound_values(getattr(spec, side), f"{side} of an array spec")
        data[side] = values[0] if len(values) == 1 else values
    return data


def _bound_values(bound: float | tuple[float, ...] | None, where: str) -> list[float]:
    if bound is None:
        return []
    values = [float(v) for v in (bound if isinstance(bound, tuple) else (bound,))]
    if not all(math.isfinite(v) for v in values):
        raise SpecError(where, got=values, expected="finite numbers, or None for no limit")
    return values


def _bound(values: Sequence[float], where: str) -> float | tuple[float, ...] | None:
    if not len(values):
        return None
    checked = tuple(checks.number(float(v), where) for v in values)
    return checked[0] if len(checked) == 1 else checked
