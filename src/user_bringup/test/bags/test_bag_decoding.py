"""Messages of bags are read as the package ``rosbags`` writes and reads them, and damaged ones are refused."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest

from user_bringup.bags.decoding import Decoders, NotSupported

typesys = pytest.importorskip("rosbags.typesys")

_TEXTS = ("", "a", "joint_1", "gripper/left", "grün", "a rather long name of a frame")


class Random:
    """Makes messages of any type."""

    def __init__(self, store: Any, seed: int) -> None:
        self._store, self._rng = store, np.random.default_rng(seed)

    def message(self, name: str) -> Any:
        from rosbags.typesys.base import normalize_fieldname

        values = {
            normalize_fieldname(field): self._value(node)
            for field, node in self._store.fielddefs[name][1]
        }
        return self._store.types[name](**values)

    def _value(self, node: Any) -> Any:
        kind, detail = node
        if kind.name == "NAME":
            return self.message(detail)
        if kind.name == "BASE":
            return self._one(detail[0])
        (inner_kind, inner), count = detail
        if kind.name == "SEQUENCE":
            count = int(self._rng.integers(0, 4))
        if inner_kind.name == "NAME":
            return [self.message(inner) for _ in range(count)]
        if inner[0] == "string":
            return [self._one("string") for _ in range(count)]
        dtype = np.dtype({"bool": "bool", "byte": "int8", "char": "uint8"}.get(inner[0], inner[0]))
        return np.array([self._one(inner[0]) for _ in range(count)], dtype)

    def _one(self, kind: str) -> Any:
        if kind == "string":
            return str(self._rng.choice(_TEXTS))
        if kind == "bool":
            return bool(self._rng.integers(2))
        if kind.startswith("float"):
            return float(np.dtype(kind).type(self._rng.normal()))
        info = np.iinfo({"byte": "int8", "char": "uint8"}.get(kind, kind))
        return int(self._rng.integers(info.min, info.max, dtype=info.dtype))


def same(ours: Any, theirs: Any) -> bool:
    """Whether two messages say the same, with values of the same types."""
    if isinstance(theirs, np.ndarray):
        return (
            isinstance(ours, np.ndarray) and ours.dtype == theirs.dtype
            and ours.shape == theirs.shape and ours.tobytes() == theirs.tobytes()
        )  # fmt: skip
    if isinstance(theirs, list):
        return len(ours) == len(theirs) and all(map(same, ours, theirs))
    if hasattr(theirs, "__dataclass_fields__"):
        names = [n for n, f in theirs.__dataclass_fields__.items() if n != "__msgtype__"]
        return type(ours) is type(theirs) and all(
            same(getattr(ours, n), getattr(theirs, n)) for n in names
        )
    return type(ours) is type(theirs) and repr(ours) == repr(theirs)  # NaN is NaN


def test_every_type_of_ros_is_read_as_rosbags_reads_it() -> None:
    store = typesys.get_typestore(typesys.Stores.ROS2_JAZZY)
    decoders, made, other = Decoders(store), Random(store, 0), []
    for name in store.fielddefs:
        if "/msg/" not in name:
            continue
        try:
            decode = decoders.of(name)
        except NotSupported:
            other.append(name)
            continue
        for little in (True, False):
            data = bytes(store.serialize_cdr(made.message(name), name, little_endian=little))
            theirs = store.deserialize_cdr(data, name)
            assert same(decode(data), theirs), (name, little)
            assert same(decode(memoryview(data)), theirs), (name, little)
    assert not other


def test_a_list_of_names_that_changes_is_read_anew() -> None:
    store = typesys.get_typestore(typesys.Stores.ROS2_JAZZY)
    kind = "sensor_msgs/msg/JointState"
    decode, made = Decoders(store).of(kind), Random(store, 1)
    for names in (["a", "b"], ["a", "b"], ["a", "c"], ["a"], [], ["a", "b"], ["b", "a"]):
        message = made.message(kind)
        message.name = names
        assert list(decode(bytes(store.serialize_cdr(message, kind))).name) == names


def test_pixels_are_a_view_of_the_message() -> None:
    store = typesys.get_typestore(typesys.Stores.ROS2_JAZZY)
    kind = "sensor_msgs/msg/Image"
    image = Random(store, 2).message(kind)
    image.data = np.arange(200, dtype=np.uint8)
    data = bytes(store.serialize_cdr(image, kind))
    pixels = Decoders(store).of(kind)(memoryview(data)).data
    assert np.shares_memory(pixels, np.frombuffer(data, np.uint8))


@pytest.mark.parametrize(
    "kind",
    ["sensor_msgs/msg/JointState", "sensor_msgs/msg/Image", "std_msgs/msg/Float64MultiArray"],
)
def test_damaged_bytes_are_refused_or_read_as_others_do(kind: str) -> None:
    """Whatever rosbags refuses is refused; what it takes means the same."""
    store = typesys.get_typestore(typesys.Stores.ROS2_JAZZY)
    decode, made, rng = Decoders(store).of(kind), Random(store, 3), np.random.default_rng(4)
    refused = 0
    for _ in range(400):
        data = bytearray(store.serialize_cdr(made.message(kind), kind))
        if rng.integers(2):
            del data[int(rng.integers(0, len(data))) :]
        else:
            data[int(rng.integers(0, len(data)))] = int(rng.integers(0, 256))
        try:
            theirs = store.deserialize_cdr(bytes(data), kind)
        except Exception as error:
            if "size mismatch" in str(error):  # of what is behind a message, see below
                decode(bytes(data))
                continue
            with pytest.raises((ValueError, struct.error)):
                decode(bytes(data))
            refused += 1
        else:
            assert same(decode(bytes(data)), theirs)
    assert refused > 100


@pytest.mark.parametrize("kind", ["wstring", "Other", "Other[]"])
def test_what_has_no_definition_is_left_to_rosbags(kind: str) -> None:
    """It says what it lacks, message by message."""
    store = typesys.get_typestore(typesys.Stores.EMPTY)
    store.register(typesys.get_types_from_msg(f"{kind} a", "some/msg/Kind"))
    with pytest.raises(NotSupported):
        Decoders(store).of("some/msg/Kind")


def test_what_is_behind_a_message_is_passed_over_as_ros_does() -> None:
    """What rclpy.serialization writes of a JointState without velocity and effort is 8 bytes longer than the
    message."""
    store = typesys.get_typestore(typesys.Stores.ROS2_JAZZY)
    kind = "sensor_msgs/msg/JointState"
    data = bytes(store.serialize_cdr(Random(store, 5).message(kind), kind))
    behind = bytes.fromhex("5a7f00003009ed62")
    assert same(Decoders(store).of(kind)(data + behind), store.deserialize_cdr(data, kind))
