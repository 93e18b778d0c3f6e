"""Observations to and from ``user_msgs/Observation``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from user_msgs.msg import Observation as ObservationMessage

from user_comm.converters import checks
from user_comm.converters.stamps import set_stamp, stamp_ns
from user_comm.converters.tensor import (
    optional_from_messages,
    tensor_to_message,
    tensors_from_messages,
    tensors_to_messages,
    vector,
)
from user_core.codecs import DEFAULT_LIMITS, Limits
from user_core.errors import CodecError
from user_core.specs import ArraySpec
from user_core.types import AppliedAction, Observation, TaskFeedback

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
