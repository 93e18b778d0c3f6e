"""Nanoseconds since the epoch to and from ``builtin_interfaces/Time``."""

from __future__ import annotations

from typing import Any

from user_core.errors import CodecError

_SECOND_NS = 1_000_000_000
_MAX_S = 2**31 - 1


def set_stamp(stamp: Any, stamp_ns: int) -> None:
    """Write a time into a ``Time`` message. Raises CodecError beyond the year 2038."""
    seconds, nanoseconds = divmod(int(stamp_ns), _SECOND_NS)
    if not 0 <= seconds <= _MAX_S:
        raise CodecError("stamp", got=f"{stamp_ns} ns", expected=f"0 to {_MAX_S} s")
    stamp.sec, stamp.nanosec = seconds, nanoseconds


def stamp_ns(stamp: Any, where: str) -> int:
    """Read a ``Time`` message, nanoseconds."""
    seconds: int = stamp.sec
    nanoseconds: int = stamp.nanosec
    if seconds < 0 or nanoseconds >= _SECOND_NS:
        raise CodecError(
            where,
            got=f"{seconds} s {nanoseconds} ns",
            expected="sec >= 0, nanosec < 1e9",
        )
    return seconds * _SECOND_NS + nanoseconds
