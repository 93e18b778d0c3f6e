"""Action chunks to and from ``user_msgs/ActionChunk``."""

from __future__ import annotations

import time
from typing import Any

from user_msgs.msg import ActionChunk as ActionChunkMessage

from user_comm.converters import checks
from user_comm.converters.stamps import set_stamp
from user_comm.converters.tensor import aligned_from_message, tensor_to_message
from user_core.codecs import Limits
from user_core.errors import CodecError
from user_core.types import ActedBy, ActionChunk

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
