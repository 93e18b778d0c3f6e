"""Reads serialised messages that are not to be trusted, and writes ours, without copying what is large.

Why not leave that to the middleware: its deserialiser makes room for what a message *claims* to hold, at about a
hundred bytes for every claimed element of a ``Tensor[]``, and only then finds out. Fast CDR 2.3 even reads past the end
of a message that is shorter than the padding its header announces: the four bytes ``00 01 00 03`` on a topic end a
process with a segmentation fault or with all memory gone, or are taken for a message
(``benchmarks/links/fuzz_messages.py --middleware`` found it). And it copies every image three times on its way to
Python.

This reads plain CDR (OMG DDSI-RTPS 2.3, 10.2; the padding bits of the header are those of
DDS-XTypes 1.3, 7.6.3.1.2), guided by the type's own description. Every length is checked
against the bytes that are there and against limits before anything is made for it. The result
has the fields of the message; ``uint8[]`` are views of the serialised bytes. Bytes behind the
content are ignored: middleware pads there.
"""

from __future__ import annotations

import array
import sys
from collections.abc import Callable
from dataclasses import dataclass
from struct import Struct
from typing import Any

from rosidl_parser.definition import (
    AbstractSequence,
    AbstractString,
    Array,
    BasicType,
    NamespacedType,
)

from user_comm.topics import interface_class
from user_core.errors import CodecError

#: Type codes of ``struct`` and ``array``. A bool is read as a byte, to see whether it is one.
_CODES = {
    "boolean": "B", "octet": "c", "char": "B", "uint8": "B", "int8": "b", "uint16": "H",
    "int16": "h", "uint32": "I", "int32": "i", "uint64": "Q", "int64": "q", "float": "f",
    "double": "d",
}  # fmt: skip
_LITTLE, _BIG = Struct("<I"), Struct(">I")
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


def read_cdr(data: bytes, message_type: type[Any], limits: CdrLimits) -> Any:
    """Read a serialised message.

    Args:
        data: With its encapsulation header; not trusted.
        message_type: The message's class.
        limits: What it may claim at most.

    Returns:
        An object with the fields of the message. Its ``uint8[]`` are memory views of ``data``.

    Raises:
        CodecError: The bytes are no message of this type, or claim more than the limits allow.
    """
    if not _HEADER_SIZE <= len(data) <= limits.message_bytes:
        raise CodecError(
            "size of a message",
            got=f"{len(data)} bytes",
            expected=f"{_HEADER_SIZE} to {limits.message_bytes}",
        )
    if data[0] != 0 or data[1] > 1:
        raise CodecError(
            "representation of a message",
            got=data[:2].hex(),
            expected="0000 or 0001 (plain CDR)",
        )
    return _reader(message_type)(_Cursor(data, limits))


class _Cursor:
    """Where a reading has got to, and what may still be claimed."""

    __slots__ = ("at", "body", "elements", "end", "little", "string_bytes", "uint32")

    def __init__(self, data: bytes, limits: CdrLimits) -> None:
        self.body = memoryview(data)[_HEADER_SIZE:]
        self.at = 0
        self.end = len(self.body) - (data[3] & _PADDING_BITS)
        self.little = data[1] == 1
        self.uint32 = (_LITTLE if self.little else _BIG).unpack_from
        self.string_bytes, self.elements = limits.string_bytes, limits.elements

    def length(self) -> int:
        """Read the length of a string or sequence."""
        at = (self.at + 3) & -4
        if at + 4 > self.end:
            raise _cut_off(self.end)
        self.at = at + 4
        length: int = self.uint32(self.body, at)[0]
        return length

    def claim(self, count: int) -> None:
        """Take this many elements from what may be claimed."""
        self.elements -= count
        if self.elements < 0:
            raise CodecError("message claims too many elements", got=count)


_Read = Callable[[_Cursor], Any]
_READERS: dict[type[Any], _Read] = {}


def _cut_off(end: int) -> CodecError:
    return CodecError("message is cut off", got=f"{end} bytes", expected="more")


def _reader(message_type: type[Any]) -> _Read:
    """What reads messages of this type; made once."""
    found = _READERS.get(message_type)
    if found is None:
        found = _READERS[message_type] = _make_reader(message_type)
    return found


def _make_reader(message_type: type[Any]) -> _Read:
    """Consecutive numbers are read in one step, the other fields one by one."""
    names = tuple(message_type.get_fields_and_field_types())
    record = type(message_type.__name__, (), {"__slots__": names})
    steps: list[Callable[[_Cursor, Any], None]] = []
    run: list[tuple[str, str]] = []
    for name, slot in zip(names, message_type.SLOT_TYPES, strict=True):
        if isinstance(slot, BasicType):
            run.append((name, slot.typename))
            continue
        if run:
            steps.append(_numbers_step(run))
            run = []
        steps.append(_field_step(name, _value_reader(slot)))
    if run:
        steps.append(_numbers_step(run))

    def read(cursor: _Cursor) -> Any:
        message = record()
        for step in steps:
            step(cursor, message)
        return message

    return read


def _field_step(name: str, read: _Read) -> Callable[[_Cursor, Any], None]:
    def step(cursor: _Cursor, message: Any) -> None:
        setattr(message, name, read(cursor))

    return step


def _numbers_step(run: list[tuple[str, str]]) -> Callable[[_Cursor, Any], None]:
    """Consecutive numbers. Where they lie depends on the alignment that they start with."""
    names = [name for name, _ in run]
    flags = [name for name, kind in run if kind == "boolean"]
    little, big = (_layouts([_CODES[kind] for _, kind in run], order) for order in "<>")

    def step(cursor: _Cursor, message: Any) -> None:
        at = cursor.at
        layout = (little if cursor.little else big)[at & 7]
        if at + layout.size > cursor.end:
            raise _cut_off(cursor.end)
        cursor.at = at + layout.size
        for name, value in zip(names, layout.unpack_from(cursor.body, at)):
            setattr(message, name, value)
        for name in flags:
            setattr(message, name, _bool(getattr(message, name), name))

    return step


def _layouts(codes: list[str], order: str) -> list[Struct]:
    """The same numbers for each of the 8 alignments they may start with, padding included."""
    layouts = []
    for start in range(8):
        text, at = order, start
        for code in codes:
            size = Struct(order + code).size
            padding = -at % size
            text += "x" * padding + code
            at += padding + size
        layouts.append(Struct(text))
    return layouts


def _bool(value: int, name: str) -> bool:
    if value > 1:
        raise CodecError(f"{name}, true or false", got=value, expected="0 or 1")
    return value == 1


def _value_reader(slot: Any) -> _Read:
    if isinstance(slot, AbstractString):
        return _string
    if isinstance(slot, NamespacedType):
        return _reader(interface_class("/".join((*slot.namespaces, slot.name))))
    if isinstance(slot, (Array, AbstractSequence)):
        element = slot.value_type
        fixed = slot.size if isinstance(slot, Array) else None
        most = getattr(slot, "maximum_size", None)
        if isinstance(element, BasicType):
            return _numbers(element.typename, fixed, most)
        return _elements(_value_reader(element), fixed, most)
    raise CodecError("type of a field", got=slot, expected="one that ROS messages here have")


def _string(cursor: _Cursor) -> str:
    size = cursor.length()
    at = cursor.at
    cursor.at = end = at + size
    if size > cursor.string_bytes or end > cursor.end:
        raise CodecError(
            "size of a string",
            got=f"{size} bytes",
            expected=f"at most {min(cursor.string_bytes, cursor.end - at)}",
        )
    if not size:
        return ""
    raw = bytes(cursor.body[at:end])
    if raw.find(0) != size - 1:
        raise CodecError("string", got=repr(raw)[:80], expected="one zero, at its end")
    try:
        return raw[:-1].decode()
    except UnicodeDecodeError as error:
        raise CodecError("string", got=repr(raw)[:80], expected="UTF-8") from error


def _numbers(kind: str, fixed: int | None, most: int | None) -> _Read:
    """An array or sequence of numbers: bytes as a view, others as ``array.array``."""
    code = _CODES[kind]
    size = 1 if code == "c" else array.array(code).itemsize

    def read(cursor: _Cursor) -> Any:
        count = cursor.length() if fixed is None else fixed
        at = (cursor.at + size - 1) & -size if count else cursor.at
        end = at + count * size
        if end > cursor.end or (most is not None and count > most):
            raise CodecError(
                "length of a sequence of numbers",
                got=count,
                expected="no more than there are bytes, or than its type allows",
            )
        cursor.at = end
        view = cursor.body[at:end]
        if kind in ("uint8", "char"):
            return view
        if kind == "boolean":
            return [_bool(value, "element") for value in view]
        if kind == "octet":
            return [bytes([value]) for value in view]
        values = array.array(code, bytes(view))
        if cursor.little != (sys.byteorder == "little"):
            values.byteswap()
        return values

    return read


def _elements(element: _Read, fixed: int | None, most: int | None) -> _Read:
    """An array or sequence of messages or strings."""

    def read(cursor: _Cursor) -> list[Any]:
        count = cursor.length() if fixed is None else fixed
        if most is not None and count > most:
            raise CodecError("length of a sequence", got=count, expected=f"at most {most}")
        cursor.claim(count)
        return [element(cursor) for _ in range(count)]

    return read


# --- Writing ---


def write_cdr(message: Any, message_type: type[Any]) -> bytes:
    """Serialise a message as the middleware does, and copy what is large only once.

    rclpy copies each ``uint8[]`` three times on its way out: into an array of Python's, into the
    message in C, and into the serialised bytes. Here they are joined as they are.

    Args:
        message: Has the fields of the message; its ``uint8[]`` may be anything with a buffer.
        message_type: The message's class.

    Returns:
        Plain CDR, little-endian, with its encapsulation header; ready to be published.
    """
    out = _Output()
    _writer(message_type)(out, message)
    return b"".join((_LITTLE_HEADER, *out.parts))


_LITTLE_HEADER = b"\0\1\0\0"


class _Output:
    """Parts of a message, and how long they are together."""

    __slots__ = ("at", "parts")

    def __init__(self) -> None:
        self.parts: list[Any] = []
        self.at = 0

    def put(self, data: Any, size: int, alignment: int) -> None:
        padding = -self.at % alignment
        if padding:
            self.parts.append(bytes(padding))
        self.parts.append(data)
        self.at += padding + size

    def length(self, count: int) -> None:
        self.put(_LITTLE.pack(count), 4, 4)


_Write = Callable[[_Output, Any], None]
_WRITERS: dict[type[Any], _Write] = {}


def _writer(message_type: type[Any]) -> _Write:
    found = _WRITERS.get(message_type)
    if found is None:
        found = _WRITERS[message_type] = _make_writer(message_type)
    return found


def _make_writer(message_type: type[Any]) -> _Write:
    names = tuple(message_type.get_fields_and_field_types())
    fields = [
        (name, _value_writer(slot))
        for name, slot in zip(names, message_type.SLOT_TYPES, strict=True)
    ]

    def write(out: _Output, message: Any) -> None:
        for name, write_value in fields:
            write_value(out, getattr(message, name))

    return write


def _value_writer(slot: Any) -> _Write:
    if isinstance(slot, BasicType):
        layout = Struct("<" + ("?" if slot.typename == "boolean" else _CODES[slot.typename]))
        return lambda out, value: out.put(layout.pack(value), layout.size, layout.size)
    if isinstance(slot, AbstractString):
        return _write_string
    if isinstance(slot, NamespacedType):
        return _writer(interface_class("/".join((*slot.namespaces, slot.name))))
    element, fixed = slot.value_type, isinstance(slot, Array)
    if isinstance(element, BasicType):
        return _numbers_writer(element.typename, fixed)
    write_element = _value_writer(element)

    def write(out: _Output, values: Any) -> None:
        if not fixed:
            out.length(len(values))
        for value in values:
            write_element(out, value)

    return write


def _write_string(out: _Output, value: str) -> None:
    data = value.encode() + b"\0"
    out.length(len(data))
    out.put(data, len(data), 1)


def _numbers_writer(kind: str, fixed: bool) -> _Write:
    code = _CODES[kind]
    size = Struct("<" + code).size

    def write(out: _Output, values: Any) -> None:
        if not fixed:
            out.length(len(values))
        if not len(values):
            return
        if size == 1:
            data = memoryview(values).cast("B") if kind == "uint8" else bytes(values)
        else:
            data = Struct(f"<{len(values)}{code}").pack(*values)
        out.put(data, len(values) * size, size)

    return write
