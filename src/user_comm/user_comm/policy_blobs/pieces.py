"""Keys, sizes and answers of policy pieces: what server and puller agree on.

Piece ``i`` of a version is the answer to a query for ``<version key>/k/<i>`` (of the keyframe)
or ``<version key>/d/<base>/<i>`` (of the delta from a version that the robot has, named by the
first 16 digits of its content hash). ``<version key>`` is ``<prefix>/<number>/<hash>``; a relay
serves the same below a prefix of its own. Each answer carries the size of the whole.

What a learner's versions are made for (:func:`user_core.policies.policy_made_for`), in JSON, is the answer to a query for
``<prefix>/made_for/<config hash>``: a robot whose policy is another one can say how they differ.
"""

from __future__ import annotations

import struct

from user_core.errors import CodecError

#: Small, so that a control message never waits long behind one: 13 ms at 20 Mbit/s.
PIECE_BYTES = 32 * 1024
#: Hexadecimal digits of a content hash in keys.
NAME_DIGITS = 16

#: Error answers: it is being encoded or fetched; not kept any more; the base is not known; the key
#: is none of ours.
LATER, GONE, NO_BASE, NO_PIECE = b"later", b"gone", b"no base", b"no such piece"

#: Last part of a key, below a prefix, that is answered with nothing.
ALIVE = "alive"

#: Above the hash of a configuration, below a prefix: what it stands for.
MADE_FOR = "made_for"

_NOTE = struct.Struct("<QIQ")


def version_key(prefix: str, number: int, content_hash: str) -> str:
    """Key of a version below a prefix."""
    return f"{prefix}/{number}/{content_hash[:NAME_DIGITS]}"


def made_for_key(version: str, config_hash: str) -> str:
    """Where to ask what versions are made for, beside the key of one of them."""
    return f"{version.rsplit('/', 2)[0]}/{MADE_FOR}/{config_hash[:NAME_DIGITS]}"


def piece_key(version: str, base: str, index: int) -> str:
    """The key of a piece.

    Args:
        version: Key of the version, with its prefix.
        base: Short hash of the base of a delta; empty for the keyframe.
        index: Number of the piece.
    """
    return f"{version}/d/{base}/{index}" if base else f"{version}/k/{index}"


def parse_piece_key(key: str) -> tuple[str, str, int] | None:
    """Version, base and index of a key that was received; None for a key of another form."""
    above, _, index = key.rpartition("/")
    if not index.isdecimal() or len(index) > 9:
        return None
    if above.endswith("/k"):
        return above[:-2], "", int(index)
    above, _, base = above.rpartition("/")
    if not above.endswith("/d") or len(base) != NAME_DIGITS:
        return None
    return above[:-2], base, int(index)


def pack_note(total: int, piece_bytes: int, sent_ns: int) -> bytes:
    """What is attached to a piece.

    Args:
        total: Bytes of the whole.
        piece_bytes: Bytes of one piece; the last may be shorter.
        sent_ns: When it was sent, by the monotonic clock of the server.
    """
    return _NOTE.pack(total, piece_bytes, sent_ns)


def unpack_note(data: bytes, max_bytes: int) -> tuple[int, int, int]:
    """Total, bytes of a piece and time of sending. Raises CodecError for impossible values."""
    try:
        total, piece_bytes, sent_ns = _NOTE.unpack(data)
    except struct.error as error:
        raise CodecError("size of a policy blob", got=repr(data)[:80]) from error
    if not 0 < total <= max_bytes or not 1024 <= piece_bytes <= 2**20:
        raise CodecError(
            "size of a policy blob",
            got=f"{total} bytes in pieces of {piece_bytes}",
            expected=f"at most {max_bytes} bytes, in pieces of 1024 or more",
        )
    return total, piece_bytes, sent_ns
