"""Announcements of policy versions to and from ``user_msgs/PolicyVersion``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from user_msgs.msg import PolicyVersion as PolicyVersionMessage

from user_comm.converters import checks
from user_comm.converters.stamps import set_stamp, stamp_ns
from user_core.errors import CodecError

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
