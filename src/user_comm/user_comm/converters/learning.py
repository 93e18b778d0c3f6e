"""Learning data and results, to and from messages: episodes, trajectory chunks,
their acks, and policy versions.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import IntEnum
from types import SimpleNamespace
from typing import Any

from user_msgs.msg import EpisodeKey as EpisodeKeyMessage
from user_msgs.msg import EpisodeResult as EpisodeResultMessage
from user_msgs.msg import PolicyVersion as PolicyVersionMessage
from user_msgs.msg import TrajectoryAck as TrajectoryAckMessage
from user_msgs.msg import TrajectoryChunk as TrajectoryChunkMessage

from user_comm.cdr import write_cdr
from user_comm.converters import checks
from user_comm.converters.fields import (
    set_stamp,
    stamp_ns,
    tensors_from_messages,
    tensors_to_messages,
)
from user_core.codecs import DEFAULT_LIMITS, Limits, encode
from user_core.codecs.images import decode_columns, encode_columns
from user_core.errors import CodecError
from user_core.types import (
    ChunkId,
    EpisodeKey,
    EpisodeResult,
    EpisodeSource,
    Outcome,
    TrajectoryAck,
    TrajectoryChunk,
)


@dataclass(frozen=True)
class EpisodeReport:
    """An episode's result, and on what it was obtained: the content of ``episode_result``.

    Attributes:
        result: Its outcome.
        robot: Name of the robot.
        task: Name of the task.
    """

    result: EpisodeResult
    robot: str = ""
    task: str = ""


def episode_key_to_message(key: EpisodeKey) -> Any:
    """Encode an episode key."""
    message = EpisodeKeyMessage()
    message.producer = key.producer
    message.incarnation = int(key.incarnation)
    message.number = int(key.number)
    return message


def episode_key_from_message(message: Any, where: str = "episode") -> EpisodeKey:
    """Decode an episode key; raises CodecError."""
    return EpisodeKey(
        producer=checks.name(message.producer, f"{where}.producer"),
        incarnation=checks.integer(message.incarnation, f"{where}.incarnation", 0),
        number=message.number,
    )


def episode_result_to_message(result: EpisodeResult, robot: str = "", task: str = "") -> Any:
    """Encode the result of an episode."""
    message = EpisodeResultMessage()
    message.key = episode_key_to_message(result.key)
    message.robot, message.task = robot, task
    message.source = int(result.source)
    message.outcome = int(result.outcome)
    message.length = int(result.length)
    message.episode_return = float(result.episode_return)
    message.interventions = int(result.interventions)
    message.takeovers = int(result.takeovers)
    message.first_version = int(result.first_version)
    message.last_version = int(result.last_version)
    message.start_ns = int(result.start_ns)
    message.end_ns = int(result.end_ns)
    message.reason_code, message.reason = result.reason_code, result.reason
    return message


def episode_result_from_message(message: Any, where: str = "episode result") -> EpisodeResult:
    """Decode the result of an episode; raises CodecError."""
    return EpisodeResult(
        key=episode_key_from_message(message.key, f"{where}.key"),
        source=checks.enum(EpisodeSource, message.source, f"{where}.source"),
        outcome=checks.enum(Outcome, message.outcome, f"{where}.outcome"),
        length=message.length,
        episode_return=checks.number(message.episode_return, f"{where}.episode_return"),
        interventions=checks.integer(
            message.interventions, f"{where}.interventions", 0, message.length
        ),
        takeovers=checks.integer(message.takeovers, f"{where}.takeovers", 0, message.interventions),
        first_version=checks.integer(message.first_version, f"{where}.first_version", 0),
        last_version=checks.integer(message.last_version, f"{where}.last_version", 0),
        start_ns=checks.integer(message.start_ns, f"{where}.start_ns", 0),
        end_ns=checks.integer(message.end_ns, f"{where}.end_ns", 0),
        reason=checks.text(message.reason, f"{where}.reason"),
        reason_code=checks.name(message.reason_code, f"{where}.reason_code", empty=True),
    )


def episode_report_to_message(report: EpisodeReport) -> Any:
    """Encode an episode report."""
    return episode_result_to_message(report.result, report.robot, report.task)


def episode_report_from_message(message: Any) -> EpisodeReport:
    """Decode an episode report; raises CodecError."""
    return EpisodeReport(
        result=episode_result_from_message(message),
        robot=checks.name(message.robot, "episode result.robot", empty=True),
        task=checks.name(message.task, "episode result.task", empty=True),
    )


# --- trajectory chunks and their acks ---

_WHERE = "trajectory chunk"


def trajectory_chunk_to_message(chunk: TrajectoryChunk) -> Any:
    """Encode; the columns are copied once, those in ``codings`` coded."""
    message = _chunk_without_columns(chunk)
    message.columns = tensors_to_messages(encode_columns(chunk.columns, chunk.codings))
    return message


def trajectory_chunk_to_cdr(chunk: TrajectoryChunk) -> bytes:
    """The same as serialised bytes: a chunk that was read from an outbox is a view of what is
    stored there, and its columns go into the message as they are."""
    whole = _chunk_without_columns(chunk)
    fields = {name: getattr(whole, name) for name in whole.get_fields_and_field_types()}
    fields["columns"] = encode(encode_columns(chunk.columns, chunk.codings))
    return write_cdr(SimpleNamespace(**fields), TrajectoryChunkMessage)


def _chunk_without_columns(chunk: TrajectoryChunk) -> Any:
    message = TrajectoryChunkMessage()
    message.producer = chunk.id.producer
    message.incarnation = int(chunk.id.incarnation)
    message.sequence = int(chunk.id.sequence)
    message.episode = episode_key_to_message(chunk.episode)
    message.robot, message.task = chunk.robot, chunk.task
    message.source = int(chunk.source)
    message.first_row = int(chunk.first_row)
    message.schema_hash = chunk.schema_hash
    if chunk.result is not None:
        message.result = [episode_result_to_message(chunk.result, chunk.robot, chunk.task)]
    return message


def trajectory_chunk_from_message(
    message: Any, *, limits: Limits = DEFAULT_LIMITS
) -> TrajectoryChunk:
    """Decode; the columns are read-only views of the message, or decoded images.

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


# --- announcements of policy versions ---

#: Largest set of weights that a robot will fetch, bytes.
MAX_POLICY_BYTES = 16 * 2**30
# A Zenoh key without wildcards: an announcement must not make a robot ask for other keys.
_KEY = re.compile(r"[^/*$#?\s]+(/[^/*$#?\s]+)*")


class BlobKind(IntEnum):
    """What the bytes of a version are."""

    KEYFRAME = PolicyVersionMessage.KEYFRAME
    DELTA = PolicyVersionMessage.DELTA


@dataclass(frozen=True)
class PolicyAnnouncement:
    """A new policy version, without its bytes: those are pulled.

    Attributes:
        number: Number of the version, from 1.
        content_hash: SHA-256 of the complete version.
        config_hash: SHA-256 of the specs and configuration it was made for.
        key: Zenoh key under which the pieces are served.
        size: Bytes to be pulled.
        piece_size: Bytes of one piece; the last may be shorter.
        kind: Complete, or complete together with ``base``.
        base: Version that a delta builds on; 0 for a keyframe.
        keyframe: Newest version at or before this one that is available as keyframe.
        update: Gradient updates that led to it.
        environment_steps: Steps that were in the store when it was made.
        created_ns: When it was made, nanoseconds since the epoch.
    """

    number: int
    content_hash: str
    config_hash: str
    key: str
    size: int
    piece_size: int
    kind: BlobKind = BlobKind.KEYFRAME
    base: int = 0
    keyframe: int = 0
    update: int = 0
    environment_steps: int = 0
    created_ns: int = 0


def policy_announcement_to_message(announcement: PolicyAnnouncement) -> Any:
    """Encode an announcement."""
    message = PolicyVersionMessage()
    set_stamp(message.header.stamp, announcement.created_ns)
    message.number = int(announcement.number)
    message.kind = int(announcement.kind)
    message.base = int(announcement.base)
    message.keyframe = int(announcement.keyframe)
    message.content_hash = announcement.content_hash
    message.config_hash = announcement.config_hash
    message.key = announcement.key
    message.size = int(announcement.size)
    message.piece_size = int(announcement.piece_size)
    message.update = int(announcement.update)
    message.environment_steps = int(announcement.environment_steps)
    return message


def policy_announcement_from_message(message: Any) -> PolicyAnnouncement:
    """Decode an announcement; raises CodecError where its numbers cannot be true together."""
    number = checks.integer(message.number, "policy version.number", 1)
    kind = checks.enum(BlobKind, message.kind, "policy version.kind")
    if kind is BlobKind.KEYFRAME:
        base = checks.integer(message.base, "policy version.base of a keyframe", 0, 0)
    else:
        base = checks.integer(message.base, "policy version.base of a delta", 1, number - 1)
    if len(message.key) > checks.NAME_LENGTH or not _KEY.fullmatch(message.key):
        raise CodecError(
            "policy version.key",
            got=repr(message.key)[:80],
            expected="a Zenoh key without wildcards",
        )
    return PolicyAnnouncement(
        number=number,
        content_hash=checks.sha256(message.content_hash, "policy version.content_hash"),
        config_hash=checks.sha256(message.config_hash, "policy version.config_hash"),
        key=message.key,
        size=checks.integer(message.size, "policy version.size", 1, MAX_POLICY_BYTES),
        piece_size=checks.integer(message.piece_size, "policy version.piece_size", 1),
        kind=kind,
        base=base,
        keyframe=checks.integer(message.keyframe, "policy version.keyframe", 0, number),
        update=checks.integer(message.update, "policy version.update", 0),
        environment_steps=checks.integer(
            message.environment_steps, "policy version.environment_steps", 0
        ),
        created_ns=stamp_ns(message.header.stamp, "policy version.header.stamp"),
    )
