"""Columns of episodes as messages of standard types, without ROS.

A column is exact in the type that is chosen for it: images are ``sensor_msgs/Image``, numbers the
``MultiArray`` of their own type. Beside them stand the topics that people's tools know, ``joint_states``
and poses, which say the same again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from user_core.specs import Array, ArraySpec
from user_learner.data.extras import library
from user_learner.data.mcap.bags import Channel

IMAGE = "sensor_msgs/msg/Image"
#: By the type of a column; what has no array of its own travels in the next larger one.
_ARRAYS = {
    "float32": "Float32", "float64": "Float64", "int8": "Int8", "uint8": "UInt8", "bool": "UInt8",
    "int16": "Int16", "uint16": "UInt16", "int32": "Int32", "uint32": "UInt32", "int64": "Int64",
    "uint64": "UInt64", "float16": "Float32",
}  # fmt: skip


class Messages:
    """Makes and reads messages, by the package ``rosbags``."""

    def __init__(self) -> None:
        types = library("rosbags.typesys", "MCAP of standard topics")
        self.store: Any = types.get_typestore(types.Stores.ROS2_JAZZY)

    def channel(self, topic: str, type_name: str, latched: bool = False) -> Channel:
        """A topic with the definition of its type."""
        text, _ = self.store.generate_msgdef(type_name, ros_version=2)
        return Channel(topic, type_name, text, latched)

    def encoded(self, message: Any, type_name: str) -> bytes:
        """A message, CDR."""
        return bytes(self.store.serialize_cdr(message, type_name))

    def decoded(self, data: bytes, type_name: str) -> Any:
        """The inverse; see :func:`deserialized`."""
        return deserialized(self.store, data, type_name)

    def make(self, name: str, *values: Any) -> Any:
        """A message of a type."""
        return self.store.types[name](*values)

    def header(self, stamp_ns: int, frame: str = "") -> Any:
        """A header."""
        time = self.make("builtin_interfaces/msg/Time", *divmod(int(stamp_ns), 1_000_000_000))
        return self.make("std_msgs/msg/Header", time, frame)

    def text(self, text: str) -> Any:
        """A std_msgs/String."""
        return self.make("std_msgs/msg/String", text)

    def array(self, values: Array, name: str) -> Any:
        """A MultiArray with the shape of the values."""
        values = np.ascontiguousarray(values)
        dims, left = [], values.size
        for size in values.shape:
            dims.append(self.make("std_msgs/msg/MultiArrayDimension", "", size, left))
            left //= max(size, 1)
        flat: Array = values.reshape(-1)
        if flat.dtype == bool:
            flat = flat.view(np.uint8)
        layout = self.make("std_msgs/msg/MultiArrayLayout", dims, 0)
        return self.make(name, layout, flat)

    def image(self, image_hwc: Array, stamp_ns: int, frame: str) -> Any:
        """A sensor_msgs/Image, of 1, 3 or 4 channels."""
        height, width, channels = image_hwc.shape
        coding = {1: "mono8", 3: "rgb8", 4: "rgba8"}[channels]
        data = np.ascontiguousarray(image_hwc).reshape(-1)
        return self.make(
            IMAGE, self.header(stamp_ns, frame), height, width, coding, 0, width * channels, data
        )

    def joint_state(self, stamp_ns: int, names: list[str], *columns: Array | None) -> Any:
        """A sensor_msgs/JointState from positions, velocities and efforts."""
        numbers = [
            np.zeros(0) if column is None else np.asarray(column, np.float64) for column in columns
        ]
        return self.make("sensor_msgs/msg/JointState", self.header(stamp_ns), names, *numbers)

    def pose(self, stamp_ns: int, frame: str, values: Array) -> Any:
        """A geometry_msgs/PoseStamped from x y z qx qy qz qw."""
        numbers = [float(v) for v in values]
        pose = self.make(
            "geometry_msgs/msg/Pose", self.make("geometry_msgs/msg/Point", *numbers[:3]),
            self.make("geometry_msgs/msg/Quaternion", *numbers[3:]),
        )  # fmt: skip
        return self.make("geometry_msgs/msg/PoseStamped", self.header(stamp_ns, frame), pose)

    def wrench(self, stamp_ns: int, frame: str, values: Array) -> Any:
        """A geometry_msgs/WrenchStamped from force and torque."""
        numbers = [float(v) for v in values]
        vector = "geometry_msgs/msg/Vector3"
        wrench = self.make(
            "geometry_msgs/msg/Wrench", self.make(vector, *numbers[:3]),
            self.make(vector, *numbers[3:]),
        )  # fmt: skip
        return self.make("geometry_msgs/msg/WrenchStamped", self.header(stamp_ns, frame), wrench)


def deserialized(store: Any, data: bytes | memoryview, type_name: str) -> Any:
    """A message from its CDR. What lies behind it is passed over, as ROS does: ``rclpy`` itself writes some bytes more
    than a message has. ``rosbags`` refuses more than three of them, so its functions of the type are called here.

    Args:
        store: Types, of ``rosbags``.
        data: With the four bytes before a message that tell the order of its bytes.
        type_name: For instance ``sensor_msgs/msg/Image``.

    Raises:
        ValueError, struct.error: It is no such message, or ends too early.
    """
    if len(data) < 4 or data[0] or data[1] > 1:
        raise ValueError("no CDR, or one with options that are not known")
    known = store.get_msgdef(type_name)
    read = known.deserialize_cdr_le if data[1] else known.deserialize_cdr_be
    return read(data[4:], 0, known.cls, store)[0]


def type_of(name: str, spec: ArraySpec) -> str:
    """The type of message in which a column is exact."""
    is_image = len(spec.shape) == 3 and spec.dtype == "uint8" and spec.shape[2] in (1, 3, 4)
    if is_image and name.startswith("observation."):
        return IMAGE
    return f"std_msgs/msg/{_ARRAYS[spec.dtype]}MultiArray"


def encoder(messages: Messages, name: str, spec: ArraySpec) -> Callable[[Array, int], bytes]:
    """Makes the message of one row of a column, from the row and its stamp."""
    kind = type_of(name, spec)
    if kind == IMAGE:
        return lambda row, stamp_ns: messages.encoded(
            messages.image(row, stamp_ns, spec.frame), kind
        )
    return lambda row, _: messages.encoded(messages.array(np.asarray(row), kind), kind)


def decoder(messages: Messages, name: str, spec: ArraySpec) -> Callable[[bytes], Array]:
    """The inverse."""
    kind, dtype = type_of(name, spec), np.dtype(spec.dtype)

    def decode(data: bytes) -> Array:
        found = np.asarray(messages.decoded(data, kind).data)
        if dtype == np.dtype(bool):
            found = found.astype(bool)
        return found.astype(dtype, copy=False).reshape(spec.shape)

    return decode
