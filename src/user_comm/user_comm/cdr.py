"""Look at a serialised message before anything is allocated for it.

The middleware's deserialiser makes room for what a message *claims* to hold, at about a hundred
bytes for every claimed element of a ``Tensor[]``, and only then finds out. Worse, Fast CDR 2.3
reads past the end of a message that is shorter than the padding its header announces: the four
bytes ``00 01 00 03`` on a topic end a process with a segmentation fault or with all memory gone,
or are taken for a message (found by ``message_fuzz.py --unchecked``).

So this walks over the bytes first (plain CDR, OMG DDSI-RTPS 2.3, 10.2; the padding bits are
those of DDS-XTypes 1.3, 7.6.3.1.2), guided by the type's own description, and refuses counts
that exceed a limit or the bytes that are there. It reads lengths only: some 10 us for an
observation, whatever its images weigh. Bytes behind the content are let be: middleware pads
there (rmw_fastrtps by what it thought the message might need).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from struct import Struct
from typing import Any

from rosidl_parser.definition import (
    AbstractSequence,
    AbstractString,
    AbstractWString,
    Array,
    BasicType,
    NamespacedType,
)

from user_comm.message_types import interface_class
from user_core.errors import CodecError

_SIZES = {
    "boolean": 1, "octet": 1, "char": 1, "uint8": 1, "int8": 1, "uint16": 2, "int16": 2,
    "uint32": 4, "int32": 4, "uint64": 8, "int64": 8, "float": 4, "double": 8,
}  # fmt: skip
_LITTLE, _BIG = Struct("<I").unpack_from, Struct(">I").unpack_from
_HEADER_SIZE = 4
_PADDING_BITS = 3


@dataclass(frozen=True)
class CdrLimits:
    """What a serialised message may claim at most.

    Attributes:
        message_bytes: Size of the whole message.
        string_bytes: Size of one string.
        elements: Messages and strings in all sequences of the message together; sequences of
            plain numbers are bounded by the bytes that are there.
    """

    message_bytes: int = 80 * 2**20
    string_bytes: int = 2**20
    elements: int = 16384


class _Walk:
    """The state of one walk: bytes, their end, byte order, and what may still be claimed."""

    __slots__ = ("body", "elements", "end", "string_bytes", "uint32")

    def __init__(self, data: bytes, limits: CdrLimits, uint32: Callable[..., tuple[int, ...]]):
        self.body = memoryview(data)[_HEADER_SIZE:]
        self.end = len(self.body) - (data[3] & _PADDING_BITS)
        self.uint32 = uint32
        self.string_bytes, self.elements = limits.string_bytes, limits.elements

    def count(self, at: int) -> tuple[int, int]:
        """Read a uint32 at the next aligned place; return it and the place behind it."""
        at = (at + 3) & -4
        if at + 4 > self.end:
            raise CodecError("message is cut off", came=f"{self.end} bytes", expected="more")
        return self.uint32(self.body, at)[0], at + 4

    def claim(self, count: int) -> None:
        """Take this many elements from what may be claimed."""
        self.elements -= count
        if self.elements < 0:
            raise CodecError("message claims too many elements", came=count)


_Step = Callable[[_Walk, int], int]
_PLANS: dict[type[Any], _Step] = {}


def check_cdr(data: bytes, message_type: type[Any], limits: CdrLimits) -> None:
    """Raise CodecError unless ``data`` can hold a message of this type within the limits.

    Args:
        data: A serialised message, with its encapsulation header.
        message_type: Its class.
        limits: What it may claim at most.
    """
    if not _HEADER_SIZE <= len(data) <= limits.message_bytes:
        raise CodecError(
            "size of a message",
            came=f"{len(data)} bytes",
            expected=f"{_HEADER_SIZE} to {limits.message_bytes}",
        )
    if data[0] != 0 or data[1] > 1:
        raise CodecError(
            "representation of a message",
            came=data[:2].hex(),
            expected="0000 or 0001 (plain CDR)",
        )
    _plan(message_type)(_Walk(data, limits, _LITTLE if data[1] else _BIG), 0)


def _plan(message_type: type[Any]) -> _Step:
    """How to walk over a message of this type; made once."""
    plan = _PLANS.get(message_type)
    if plan is None:
        plan = _PLANS[message_type] = _make_plan(message_type)
    return plan


def _make_plan(message_type: type[Any]) -> _Step:
    """Fixed fields in one step, the others one by one."""
    steps: list[_Step] = []
    run: list[int] = []
    for slot in message_type.SLOT_TYPES:
        sizes = _fixed_sizes(slot)
        if sizes is not None:
            run += sizes
            continue
        if run:
            steps.append(_fixed(tuple(run)))
            run = []
        steps.append(_step(slot))
    if run:
        steps.append(_fixed(tuple(run)))
    if len(steps) == 1:
        return steps[0]

    def fields(walk: _Walk, at: int) -> int:
        for step in steps:
            at = step(walk, at)
        return at

    return fields


def _fixed_sizes(slot: Any) -> list[int] | None:
    """Sizes of the numbers that a field consists of; None if that depends on its content."""
    if isinstance(slot, BasicType):
        return [_SIZES[slot.typename]]
    if isinstance(slot, Array):
        sizes = _fixed_sizes(slot.value_type)
        return None if sizes is None else sizes * slot.size
    if isinstance(slot, NamespacedType):
        found: list[int] = []
        for inner in _class_of(slot).SLOT_TYPES:
            sizes = _fixed_sizes(inner)
            if sizes is None:
                return None
            found += sizes
        return found
    return None


def _fixed(sizes: tuple[int, ...]) -> _Step:
    """Walk over numbers. How far that is depends on the alignment they start with."""
    lengths = []
    for start in range(8):
        at = start
        for size in sizes:
            at = ((at + size - 1) & -size) + size
        lengths.append(at - start)

    def fixed(walk: _Walk, at: int) -> int:
        at += lengths[at & 7]
        if at > walk.end:
            raise CodecError("message is cut off", came=f"{walk.end} bytes", expected="more")
        return at

    return fixed


def _step(slot: Any) -> _Step:
    if isinstance(slot, AbstractString):
        return _string
    if isinstance(slot, NamespacedType):
        return _plan(_class_of(slot))
    if isinstance(slot, Array):
        return _repeated(_step(slot.value_type), slot.size)
    if isinstance(slot, AbstractSequence):
        most = getattr(slot, "maximum_size", None)
        if isinstance(slot.value_type, BasicType):
            return _numbers(_SIZES[slot.value_type.typename], most)
        return _sequence(_step(slot.value_type), most)
    if isinstance(slot, AbstractWString):
        raise CodecError("wide strings are not supported", expected="string")
    return _fixed(tuple(_fixed_sizes(slot) or ()))


def _string(walk: _Walk, at: int) -> int:
    size, at = walk.count(at)
    if size > walk.string_bytes or at + size > walk.end:
        raise CodecError(
            "size of a string",
            came=f"{size} bytes",
            expected=f"at most {min(walk.string_bytes, walk.end - at)}",
        )
    return at + size


def _numbers(size: int, most: int | None) -> _Step:
    def numbers(walk: _Walk, at: int) -> int:
        count, at = walk.count(at)
        if not count:
            return at
        at = ((at + size - 1) & -size) + count * size
        if at > walk.end or (most is not None and count > most):
            raise CodecError(
                "length of a sequence of numbers",
                came=count,
                expected="no more than there are bytes, or than its type allows",
            )
        return at

    return numbers


def _sequence(element: _Step, most: int | None) -> _Step:
    def sequence(walk: _Walk, at: int) -> int:
        count, at = walk.count(at)
        if most is not None and count > most:
            raise CodecError("length of a sequence", came=count, expected=f"at most {most}")
        walk.claim(count)
        for _ in range(count):
            at = element(walk, at)
        return at

    return sequence


def _repeated(element: _Step, count: int) -> _Step:
    def repeated(walk: _Walk, at: int) -> int:
        for _ in range(count):
            at = element(walk, at)
        return at

    return repeated


def _class_of(slot: NamespacedType) -> type[Any]:
    return interface_class("/".join((*slot.namespaces, slot.name)))
