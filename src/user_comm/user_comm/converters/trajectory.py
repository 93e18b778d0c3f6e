"""Trajectory chunks and their acks to and from ``user_msgs/TrajectoryChunk``, ``TrajectoryAck``."""

from __future__ import annotations

from typing import Any

from user_msgs.msg import TrajectoryAck as TrajectoryAckMessage
from user_msgs.msg import TrajectoryChunk as TrajectoryChunkMessage

from user_comm.converters import checks
from user_comm.converters.episode import (
    episode_key_from_message,
    episode_key_to_message,
    episode_result_from_message,
    episode_result_to_message,
)
from user_comm.converters.tensor import tensors_from_messages, tensors_to_messages
from user_core.codecs import DEFAULT_LIMITS, Limits
from user_core.codecs.images import decode_columns, encode_columns
from user_core.errors import CodecError
from user_core.types import ChunkId, EpisodeSource, TrajectoryAck, TrajectoryChunk

_WHERE = "trajectory chunk"


def trajectory_chunk_to_message(chunk: TrajectoryChunk) -> Any:
    """Encode; the columns are copied once, those in ``codings`` coded."""
    message = TrajectoryChunkMessage()
    message.producer = chunk.id.producer
    message.incarnation = int(chunk.id.incarnation)
    message.sequence = int(chunk.id.sequence)
    message.episode = episode_key_to_message(chunk.episode)
    message.robot, message.task = chunk.robot, chunk.task
    message.source = int(chunk.source)
    message.first_row = int(chunk.first_row)
    message.schema_hash = chunk.schema_hash
    message.columns = tensors_to_messages(encode_columns(chunk.columns, chunk.codings))
    if chunk.result is not None:
        message.result = [episode_result_to_message(chunk.result, chunk.robot, chunk.task)]
    return message


def trajectory_chunk_from_message(
    message: Any, *, limits: Limits = DEFAULT_LIMITS
) -> TrajectoryChunk:
    """Decode; the columns are read-only views of the message, or decoded pictures.

    Whether they fit the schema of a store is for the store to say; here they only have to be
    whole rows, all of the same number. There may be none: a chunk without rows closes an episode
    that a crash cut off, or answers for the number of a chunk that was refused.

    Raises CodecError: a field is out of its range, or a column does not hold together.
    """
    coded = tensors_from_messages(message.columns, limits, None, _WHERE)
    columns, codings = decode_columns(coded, limits.total_bytes)
    rows = {array.shape[0] if array.ndim else None for array in columns.values()}
    if "reward" not in columns or len(rows) != 1 or None in rows:
        raise CodecError(
            f"{_WHERE}: columns",
            got={name: array.shape for name, array in list(columns.items())[:32]},
            expected="a column 'reward', and as many rows in each",
        )
    if len(message.result) > 1:
        raise CodecError(f"{_WHERE}.result", got=len(message.result), expected="at most one")
    return TrajectoryChunk(
        id=ChunkId(
            producer=checks.name(message.producer, f"{_WHERE}.producer"),
            incarnation=checks.integer(message.incarnation, f"{_WHERE}.incarnation", 0),
            sequence=checks.integer(message.sequence, f"{_WHERE}.sequence", 1),
        ),
        episode=episode_key_from_message(message.episode, f"{_WHERE}.episode"),
        source=checks.enum(EpisodeSource, message.source, f"{_WHERE}.source"),
        first_row=message.first_row,
        columns=columns,
        schema_hash=checks.sha256(message.schema_hash, f"{_WHERE}.schema_hash"),
        result=(
            episode_result_from_message(message.result[0], f"{_WHERE}.result")
            if message.result
            else None
        ),
        robot=checks.name(message.robot, f"{_WHERE}.robot", empty=True),
        task=checks.name(message.task, f"{_WHERE}.task", empty=True),
        codings=codings,
    )


def trajectory_ack_to_message(ack: TrajectoryAck) -> Any:
    """Encode an ack."""
    message = TrajectoryAckMessage()
    message.producer = ack.producer
    message.incarnation = int(ack.incarnation)
    message.sequence = int(ack.sequence)
    message.store = ack.store
    message.refused = int(ack.refused)
    message.error_code = ack.error_code
    message.error = ack.error
    message.arrived_ns = int(ack.arrived_ns)
    message.held_ns = int(ack.held_ns)
    return message


def trajectory_ack_from_message(message: Any) -> TrajectoryAck:
    """Decode an ack; raises CodecError."""
    return TrajectoryAck(
        producer=checks.name(message.producer, "ack.producer"),
        incarnation=checks.integer(message.incarnation, "ack.incarnation", 0),
        sequence=message.sequence,
        store=checks.name(message.store, "ack.store"),
        refused=message.refused,
        error_code=checks.name(message.error_code, "ack.error_code", empty=True),
        error=checks.text(message.error, "ack.error"),
        arrived_ns=checks.integer(message.arrived_ns, "ack.arrived_ns", 0),
        held_ns=checks.integer(message.held_ns, "ack.held_ns", 0),
    )
