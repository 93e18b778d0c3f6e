"""Arrays and times as fields of messages."""

from __future__ import annotations

import array
from collections.abc import Mapping, Sequence
from typing import Any

from user_msgs.msg import Tensor

from user_core.codecs import DEFAULT_LIMITS, Limits, decode, decode_one, encode_one
from user_core.errors import CodecError
from user_core.specs import Array, Arrays, ArraySpec


def tensor_to_message(name: str, array_in: Array) -> Any:
    """One array as a ``Tensor``; copies its bytes once.

    rclpy takes ``uint8[]`` as ``array.array('B')`` without looking at the elements; anything
    else it would convert one by one, which is 300 times slower for an image.
    """
    record = encode_one(name, array_in)
    data = array.array("B")
    data.frombytes(record.data)
    message = Tensor()
    message.name = record.name
    message.dtype = record.dtype
    message.shape = array.array("I", record.shape)
    message.data = data
    return message


def tensors_to_messages(arrays: Arrays) -> list[Any]:
    """Named arrays as ``Tensor[]``, in their order."""
    return [tensor_to_message(name, value) for name, value in arrays.items()]


def tensors_from_messages(
    tensors: Sequence[Any],
    limits: Limits = DEFAULT_LIMITS,
    specs: Mapping[str, ArraySpec] | None = None,
    where: str = "message",
) -> dict[str, Array]:
    """Named arrays from ``Tensor[]``: read-only, and views of the message's bytes.

    CDR packs bytes where the last field ends. What lies across the machine's words there is
    copied (images never do), for not every library takes such arrays.

    Raises CodecError or SpecError as :func:`user_core.codecs.decode`.
    """
    arrays = decode(tensors, limits, specs, where)
    for name, value in arrays.items():
        if not value.flags.aligned:
            arrays[name] = _aligned(value)
    return arrays


def optional_from_messages(
    tensors: Sequence[Any], limits: Limits = DEFAULT_LIMITS, where: str = "message"
) -> Array | None:
    """The array of a ``Tensor[<=1]``; None when it is empty."""
    if len(tensors) > 1:
        raise CodecError(where, got=f"{len(tensors)} tensors", expected="at most one")
    for value in tensors_from_messages(tensors, limits, None, where).values():
        return value
    return None


def vector(value: Array, where: str) -> Array:
    """The array itself if it is a vector; CodecError otherwise."""
    if value.ndim != 1:
        raise CodecError(where, got=f"shape {value.shape}", expected="a vector")
    return value


def aligned_from_message(tensor: Any, limits: Limits, where: str) -> Array:
    """The array of one ``Tensor``, read-only; raises CodecError."""
    value = decode_one(tensor, limits, where)
    return value if value.flags.aligned else _aligned(value)


def _aligned(value: Array) -> Array:
    copy = value.copy()
    copy.flags.writeable = False
    return copy


# --- times ---

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
