"""What a robot shows and takes, to and from messages: specs, observations, actions,
interventions and leases.
"""

from __future__ import annotations

import array
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from user_msgs.msg import ActionChunk as ActionChunkMessage
from user_msgs.msg import ActionGroup as ActionGroupMessage
from user_msgs.msg import ArraySpec as ArraySpecMessage
from user_msgs.msg import Intervention as InterventionMessage
from user_msgs.msg import Lease as LeaseMessage
from user_msgs.msg import Observation as ObservationMessage
from user_msgs.msg import RobotSpec as RobotSpecMessage

from user_comm.converters import checks
from user_comm.converters.fields import (
    aligned_from_message,
    optional_from_messages,
    set_stamp,
    stamp_ns,
    tensor_to_message,
    tensors_from_messages,
    tensors_to_messages,
    vector,
)
from user_core.codecs import DEFAULT_LIMITS, DTYPE_CODES, Limits
from user_core.errors import CodecError, SpecError
from user_core.interfaces import TeleopCommand
from user_core.specs import (
    MAX_DIMENSIONS,
    ActionGroup,
    ActionKind,
    ArraySpec,
    RobotSpec,
    digest,
)
from user_core.types import (
    ActedBy,
    ActionChunk,
    AppliedAction,
    Label,
    Lease,
    Observation,
    TaskFeedback,
)

#: An action is a few numbers: what is larger than this is no action chunk.
ACTION_LIMITS = Limits(tensors=1, tensor_bytes=2**20, total_bytes=2**20)


def action_chunk_to_message(
    chunk: ActionChunk, *, stamp_ns: int | None = None, frame_id: str = ""
) -> Any:
    """Encode; ``stamp_ns`` says when it was decided (now, if not given)."""
    message = ActionChunkMessage()
    set_stamp(message.header.stamp, time.time_ns() if stamp_ns is None else stamp_ns)
    message.header.frame_id = frame_id
    message.sequence = int(chunk.sequence)
    message.lease_token = int(chunk.lease_token)
    message.start_ns = int(chunk.start_ns)
    message.period_ns = int(chunk.period_ns)
    message.acted_by = int(chunk.acted_by)
    message.policy_version = int(chunk.policy_version)
    message.actions = tensor_to_message("actions", chunk.actions_ta)
    return message


def action_chunk_from_message(message: Any, *, limits: Limits = ACTION_LIMITS) -> ActionChunk:
    """Decode. That the numbers are finite and allowed is for the safety gate to say.

    Raises CodecError: a field is out of its range, or the actions are no (T, A) array with at
    least one row.
    """
    actions_ta = aligned_from_message(message.actions, limits, "action chunk")
    if actions_ta.ndim != 2 or 0 in actions_ta.shape:
        raise CodecError(
            "action chunk: shape of the actions",
            got=actions_ta.shape,
            expected="(rows, size of an action), neither of them 0",
        )
    return ActionChunk(
        actions_ta=actions_ta,
        period_ns=checks.integer(message.period_ns, "action chunk: period_ns", 1),
        start_ns=checks.integer(message.start_ns, "action chunk: start_ns", 0),
        sequence=message.sequence,
        lease_token=message.lease_token,
        acted_by=checks.enum(ActedBy, message.acted_by, "action chunk: acted_by"),
        policy_version=checks.integer(message.policy_version, "action chunk: policy_version", 0),
    )


# --- specs ---

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
    message.categorical = list(spec.categorical)
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
        ("categorical", MAX_ELEMENTS),
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
        categorical=tuple(int(i) for i in message.categorical),
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
    message.action_groups = [_group_to_message(group) for group in spec.action_groups]
    message.grippers = list(spec.grippers)
    message.hold_choices = list(spec.hold_choices)
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
    checks.at_most(message.grippers, max(action.size, 1), "robot spec.grippers")
    checks.at_most(message.hold_choices, max(action.size, 1), "robot spec.hold_choices")
    checks.at_most(message.action_groups, max(action.size, 1), "robot spec.action_groups")
    description = RobotDescription(
        spec=RobotSpec(
            robot=checks.name(message.robot, "robot spec.robot"),
            observation=observation,
            action=action,
            action_kind=_kind(message.action_kind, "robot spec.action_kind"),
            period_s=checks.number(message.period_s, "robot spec.period_s", 0.0),
            lockstep=message.lockstep,
            task_reward=message.task_reward,
            grippers=tuple(int(i) for i in message.grippers),
            action_groups=tuple(_group_from_message(group) for group in message.action_groups),
            hold_choices=tuple(int(i) for i in message.hold_choices),
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


def _kind(text: str, where: str) -> ActionKind:
    try:
        return ActionKind(text)
    except ValueError:
        kinds = [member.value for member in ActionKind]
        raise CodecError(where, got=repr(text)[:80], expected=kinds) from None


def _group_to_message(group: ActionGroup) -> Any:
    return ActionGroupMessage(name=group.name, kind=group.kind.value, size=group.size)


def _group_from_message(message: Any) -> ActionGroup:
    where = "robot spec.action_groups"
    name = checks.name(message.name, f"{where}: name")
    return ActionGroup(name, _kind(message.kind, f"{where}: kind"), int(message.size))


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


# --- observations ---

_WHERE = "observation"
_SUCCESS_CODES: Mapping[bool | None, int] = {
    None: ObservationMessage.SUCCESS_UNKNOWN,
    False: ObservationMessage.SUCCESS_NO,
    True: ObservationMessage.SUCCESS_YES,
}
_SUCCESSES = {code: success for success, code in _SUCCESS_CODES.items()}


def observation_to_message(observation: Observation, frame_id: str = "") -> Any:
    """Encode; ``frame_id`` is the robot's base frame. The arrays are copied once."""
    message = ObservationMessage()
    set_stamp(message.header.stamp, observation.stamp_ns)
    message.header.frame_id = frame_id
    message.sequence = int(observation.sequence)
    message.episode = int(observation.episode)
    message.tensors = tensors_to_messages(observation.arrays)
    task = observation.task
    message.reward = float(task.reward)
    message.terminated = bool(task.terminated)
    message.truncated = bool(task.truncated)
    message.success = _SUCCESS_CODES[None if task.success is None else bool(task.success)]
    applied = observation.applied
    if applied is not None:
        message.applied_action = [tensor_to_message("action", applied.action)]
        message.applied_sequence = int(applied.sequence)
        message.applied_row = int(applied.row)
        message.applied_changed = bool(applied.changed)
        message.applied_stamp_ns = int(applied.stamp_ns)
    return message


def observation_from_message(
    message: Any,
    *,
    limits: Limits = DEFAULT_LIMITS,
    specs: Mapping[str, ArraySpec] | None = None,
) -> Observation:
    """Decode; the arrays are read-only views of the message.

    Args:
        message: A ``user_msgs/Observation``; not trusted.
        limits: What is accepted at most.
        specs: If given, the arrays must have exactly these names, shapes and dtypes.

    Raises:
        CodecError: A field is out of its range, or a tensor does not hold together.
        SpecError: The arrays do not fit ``specs``.
    """
    if message.success not in _SUCCESSES:
        raise CodecError(
            "observation.success",
            got=message.success,
            expected=f"one of {list(_SUCCESSES)}",
        )
    action = optional_from_messages(message.applied_action, limits, "observation.applied_action")
    applied = None
    if action is not None:
        applied = AppliedAction(
            action=vector(action, "observation.applied_action"),
            sequence=message.applied_sequence,
            row=message.applied_row,
            changed=message.applied_changed,
            stamp_ns=checks.integer(message.applied_stamp_ns, "observation.applied_stamp_ns", 0),
        )
    return Observation(
        arrays=tensors_from_messages(message.tensors, limits, specs, _WHERE),
        stamp_ns=stamp_ns(message.header.stamp, "observation.header.stamp"),
        sequence=message.sequence,
        episode=message.episode,
        task=TaskFeedback(
            reward=checks.number(message.reward, "observation.reward", nan=True),
            terminated=message.terminated,
            truncated=message.truncated,
            success=_SUCCESSES[message.success],
        ),
        applied=applied,
    )


# --- interventions: what a person wants ---

_NO_ACTION = np.zeros(0, np.float32)


@dataclass(frozen=True)
class Intervention:
    """A teleop command, and where it comes from: the content of ``intervention``.

    Attributes:
        command: What the person wants.
        device: Name of the teleoperation device.
        scripted: A program stands in for the person.
        observation_sequence: Sequence number of the observation it answers; 0: none.
        frame_id: Frame of the action.
    """

    command: TeleopCommand
    device: str
    scripted: bool = False
    observation_sequence: int = 0
    frame_id: str = ""


def label_of(command: TeleopCommand) -> Label:
    """The one label of a command. Of several the gravest counts: abort, failure, success."""
    if command.abort:
        return Label.ABORT
    if command.failure:
        return Label.FAILURE
    return Label.SUCCESS if command.success else Label.NONE


def intervention_to_message(intervention: Intervention) -> Any:
    """Encode; the action travels only while the person is engaged."""
    command = intervention.command
    message = InterventionMessage()
    set_stamp(message.header.stamp, command.stamp_ns)
    message.header.frame_id = intervention.frame_id
    message.device = intervention.device
    message.engaged = bool(command.engaged)
    message.scripted = bool(intervention.scripted)
    if command.engaged:
        message.action = [tensor_to_message("action", command.action)]
    message.label = int(label_of(command))
    message.observation_sequence = int(intervention.observation_sequence)
    return message


def intervention_from_message(message: Any, *, limits: Limits = ACTION_LIMITS) -> Intervention:
    """Decode; without engagement the action is an empty vector.

    Raises CodecError: a field is out of its range, or somebody is engaged without an action.
    """
    label = checks.enum(Label, message.label, "intervention.label")
    action = optional_from_messages(message.action, limits, "intervention.action")
    if message.engaged and action is None:
        raise CodecError(
            "intervention.action", got="none", expected="an action, because it is engaged"
        )
    if not message.engaged or action is None:
        action = _NO_ACTION
    return Intervention(
        command=TeleopCommand(
            engaged=message.engaged,
            action=vector(action, "intervention.action"),
            stamp_ns=stamp_ns(message.header.stamp, "intervention.header.stamp"),
            success=label is Label.SUCCESS,
            failure=label is Label.FAILURE,
            abort=label is Label.ABORT,
        ),
        device=checks.name(message.device, "intervention.device", empty=True),
        scripted=message.scripted,
        observation_sequence=message.observation_sequence,
        frame_id=checks.name(message.header.frame_id, "intervention.frame_id", empty=True),
    )


# --- leases ---

#: Longest lease that is believed, seconds (a year).
MAX_DURATION_S = 366 * 86400.0


def lease_to_message(lease: Lease, left_s: float) -> Any:
    """Encode a lease, and how much of it is left."""
    message = LeaseMessage()
    message.resource = lease.resource
    message.holder = lease.holder
    message.token = int(lease.token)
    message.duration_s = float(lease.duration_s)
    message.left_s = float(left_s)
    return message


def lease_from_message(message: Any) -> tuple[Lease, float]:
    """Decode a lease, and how much of it was left when it was sent, seconds.

    Raises CodecError.
    """
    lease = Lease(
        resource=checks.name(message.resource, "lease.resource"),
        holder=checks.name(message.holder, "lease.holder"),
        token=checks.integer(message.token, "lease.token", 1),
        duration_s=checks.number(message.duration_s, "lease.duration_s", 0.0, MAX_DURATION_S),
    )
    return lease, checks.number(message.left_s, "lease.left_s", 0.0, MAX_DURATION_S)
