"""Our reader of serialised messages agrees with the middleware, and is the stricter of the two."""

from __future__ import annotations

import array
import random
import struct
from typing import Any

import pytest
from rclpy.serialization import deserialize_message, serialize_message
from rosidl_parser.definition import (
    AbstractSequence,
    AbstractString,
    Array,
    BasicType,
    NamespacedType,
)
from user_msgs.msg import Observation, Tensor

from user_comm.cdr import CdrLimits, read_cdr, write_cdr
from user_comm.topics import SERVICES, TOPICS, interface_class
from user_core.errors import CodecError, TransportError

LIMITS = CdrLimits()
_CODES = {"uint8": "B", "int8": "b", "uint16": "H", "int16": "h", "uint32": "I", "int32": "i",
          "uint64": "Q", "int64": "q", "float": "f", "double": "d"}  # fmt: skip


def filled(cls: type[Any], rng: random.Random) -> Any:
    """A message with random content in every field."""
    message = cls()
    for name, slot in zip(cls.get_fields_and_field_types(), cls.SLOT_TYPES, strict=True):
        setattr(message, name, content(slot, rng))
    return message


def content(slot: Any, rng: random.Random) -> Any:
    if isinstance(slot, NamespacedType):
        return filled(interface_class("/".join((*slot.namespaces, slot.name))), rng)
    if isinstance(slot, AbstractString):
        return "x" * rng.randrange(9)
    if isinstance(slot, BasicType):
        return number(slot.typename, rng)
    size = slot.size if isinstance(slot, Array) else None
    if isinstance(slot, AbstractSequence):
        size = rng.randint(0, min(3, getattr(slot, "maximum_size", 3)))
    values = [content(slot.value_type, rng) for _ in range(size or 0)]
    code = _CODES.get(getattr(slot.value_type, "typename", ""))
    if isinstance(slot, Array):
        return values
    return array.array(code, values) if code else values


def number(kind: str, rng: random.Random) -> Any:
    if kind == "boolean":
        return rng.random() < 0.5
    if kind == "octet":
        return bytes([rng.randrange(256)])
    return float(rng.randrange(99)) if kind in ("float", "double") else rng.randrange(99)


def published(message: Any) -> bytes:
    """As a publisher sends it: ``serialize_message`` leaves room behind the content."""
    data = serialize_message(message)
    for size in range(4, len(data) + 1):
        try:
            read_cdr(data[:size], type(message), LIMITS)
        except CodecError:
            continue
        return data[:size]
    raise AssertionError("refused as a whole")


def assert_same(fields: Any, message: Any) -> None:
    """The fields are those of the message."""
    if isinstance(fields, (list, memoryview, array.array)):
        assert len(fields) == len(message)
        values = message.tolist() if hasattr(message, "tolist") else message
        for mine, other in zip(fields, values, strict=True):
            assert_same(mine, other)
    elif hasattr(type(message), "SLOT_TYPES"):
        for name in type(message).get_fields_and_field_types():
            assert_same(getattr(fields, name), getattr(message, name))
    else:
        assert fields == message and type(fields) is type(message)


@pytest.mark.parametrize("name", sorted({topic.type for topic in TOPICS}))
def test_whole_messages_are_read_as_the_middleware_reads_them_and_cut_ones_refused(
    name: str,
) -> None:
    cls = interface_class(name)
    rng = random.Random(1)
    for _ in range(5):
        message = filled(cls, rng)
        data = published(message)
        assert deserialize_message(data, cls) == message, "nothing that belongs to it is cut off"
        assert_same(read_cdr(data, cls, LIMITS), message)
        for size in range(len(data)):
            with pytest.raises(CodecError):
                read_cdr(data[:size], cls, LIMITS)


@pytest.mark.parametrize("name", sorted({service.type for service in SERVICES}))
def test_every_service_of_the_table_exists(name: str) -> None:
    assert hasattr(interface_class(name), "Request")


@pytest.mark.parametrize("name", ["nonsense", "a/b/c", "user_msgs/msg/Nothing", "no_such/msg/X"])
def test_types_that_do_not_exist_are_named(name: str) -> None:
    with pytest.raises(TransportError, match=name):
        interface_class(name)


@pytest.mark.parametrize("options", [1, 2, 3])
def test_a_header_that_announces_more_padding_than_there_is_never_gets_further(
    options: int,
) -> None:
    with pytest.raises(CodecError, match="cut off"):
        read_cdr(bytes([0, 1, 0, options]), Observation, LIMITS)
    with pytest.raises(CodecError, match="cut off"):
        read_cdr(bytes([0, 1, 0, options, 0, 0, 0][: 4 + options]), Observation, LIMITS)


@pytest.mark.parametrize("padding", [1, 2, 3])
def test_what_is_padding_is_no_content(padding: int) -> None:
    data = bytearray(published(Tensor(name="abc", data=array.array("B", [7] * 5))))
    data[3] = padding
    with pytest.raises(CodecError):
        read_cdr(bytes(data), Tensor, LIMITS)
    fields = read_cdr(bytes(data) + bytes(padding), Tensor, LIMITS)
    assert list(fields.data) == [7] * 5
    assert_same(fields, deserialize_message(bytes(data) + bytes(padding), Tensor))


@pytest.mark.parametrize("header", ["0002", "0003", "0006", "0007", "0100", "ffff"])
def test_other_representations_are_refused(header: str) -> None:
    data = bytes.fromhex(header) + serialize_message(Tensor())[2:]
    with pytest.raises(CodecError, match="representation"):
        read_cdr(data, Tensor, LIMITS)


def test_what_is_claimed_is_refused_before_room_is_made_for_it() -> None:
    """A hundred thousand tensors in 1.6 MB would cost some 60 MB and half a second; the walk
    ends at the claim, before the first of them (all of which are cut off here)."""
    head = struct.pack("<iIIxxxxQII", 0, 0, 1, 0, 0, 100_000)
    data = bytes([0, 1, 0, 0]) + head
    with pytest.raises(CodecError, match="too many elements"):
        read_cdr(data, Observation, LIMITS)


def test_limits_hold() -> None:
    message = Tensor(name="x" * 100, data=array.array("B", bytes(1000)))
    data = serialize_message(message)
    read_cdr(data, Tensor, CdrLimits(message_bytes=2000, string_bytes=101))
    with pytest.raises(CodecError, match="size of a message"):
        read_cdr(data, Tensor, CdrLimits(message_bytes=1000))
    with pytest.raises(CodecError, match="string"):
        read_cdr(data, Tensor, CdrLimits(string_bytes=100))


def test_big_endian_messages_are_understood() -> None:
    data = bytes([0, 0, 0, 0]) + struct.pack(">I4sB3xIII2s", 4, b"abc\0", 1, 1, 7, 2, b"\1\2")
    assert_same(read_cdr(data, Tensor, LIMITS), deserialize_message(data, Tensor))
    assert list(read_cdr(data, Tensor, LIMITS).shape) == [7]
    with pytest.raises(CodecError):
        read_cdr(bytes([0, 1]) + data[2:], Tensor, LIMITS)


@pytest.mark.parametrize("text", [b"ab\0\0", b"abcd", b"a\0c\0", b"\xff\xfe\xff\0"])
def test_strings_that_are_none_are_refused(text: bytes) -> None:
    data = bytes([0, 1, 0, 0]) + struct.pack("<I4sB3xII", 4, text, 1, 0, 0)
    with pytest.raises(CodecError, match="string"):
        read_cdr(data, Tensor, LIMITS)


def test_a_truth_value_is_0_or_1() -> None:
    data = bytearray(published(Observation(terminated=True)))
    read_cdr(bytes(data), Observation, LIMITS)
    at = data.index(1, 24)
    data[at] = 2
    with pytest.raises(CodecError, match="terminated"):
        read_cdr(bytes(data), Observation, LIMITS)


def test_bytes_are_views_and_numbers_as_rclpy_has_them() -> None:
    data = serialize_message(
        Tensor(shape=array.array("I", [3, 5]), data=array.array("B", bytes(15)))
    )
    fields = read_cdr(data, Tensor, LIMITS)
    assert isinstance(fields.data, memoryview) and fields.data.readonly
    assert fields.data.obj is data, "of the bytes themselves"
    assert fields.shape == array.array("I", [3, 5])


@pytest.mark.parametrize("name", sorted({topic.type for topic in TOPICS}))
def test_messages_are_written_as_the_middleware_writes_them(name: str) -> None:
    rng = random.Random(name)
    for _ in range(20):
        message = filled(interface_class(name), rng)
        data = write_cdr(message, type(message))
        assert len(data) == len(published(message))  # what pads there is not always zero
        assert deserialize_message(data, type(message)) == message
        assert_same(read_cdr(data, type(message), LIMITS), message)
