"""ROS image messages to RGB arrays, without cv_bridge.

Encodings are those of ``sensor_msgs/image_encodings.hpp``. What numpy cannot turn into RGB by
itself (Bayer patterns, YUV) goes through cv_bridge where that is installed.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from user_core.errors import DeviceFault
from user_core.specs import Array

#: encoding: (dtype, channels, order of the channels that makes RGB)
_PLAIN: dict[str, tuple[str, int, tuple[int, ...]]] = {
    "rgb8": ("u1", 3, (0, 1, 2)),
    "bgr8": ("u1", 3, (2, 1, 0)),
    "rgba8": ("u1", 4, (0, 1, 2)),
    "bgra8": ("u1", 4, (2, 1, 0)),
    "mono8": ("u1", 1, (0, 0, 0)),
    "8UC1": ("u1", 1, (0, 0, 0)),
    "8UC3": ("u1", 3, (2, 1, 0)),  # OpenCV's order, which is what such publishers mean
    "rgb16": ("u2", 3, (0, 1, 2)),
    "bgr16": ("u2", 3, (2, 1, 0)),
    "rgba16": ("u2", 4, (0, 1, 2)),
    "bgra16": ("u2", 4, (2, 1, 0)),
    "mono16": ("u2", 1, (0, 0, 0)),
}


def from_raw(message: Any, name: str) -> Array:
    """A ``sensor_msgs/Image`` as (height, width, 3) uint8 RGB; 16 bits are scaled to 8.

    Rows may be padded (``step``) and 16-bit values may be big-endian.

    Raises:
        DeviceFault: The encoding is not a picture's, or sizes contradict each other.
    """
    encoding = message.encoding
    if encoding not in _PLAIN:
        return _by_cv_bridge(message, name)
    kind, channels, order = _PLAIN[encoding]
    dtype = np.dtype(kind).newbyteorder(">" if message.is_bigendian else "<")
    height, width, step = int(message.height), int(message.width), int(message.step)
    row_nbytes = width * channels * dtype.itemsize
    data = np.frombuffer(message.data, np.uint8)
    if height < 1 or width < 1 or step < row_nbytes or data.size < height * step:
        raise DeviceFault(
            f"image on {name!r}",
            got=f"{data.size} bytes for {width}x{height} {encoding} with a step of {step}",
            expected=f"a step of at least {row_nbytes}, and height times step bytes",
        )
    rows = data[: height * step].reshape(height, step)[:, :row_nbytes]
    if dtype.itemsize == 2:
        words = np.ascontiguousarray(rows).view(dtype).reshape(height, width, channels)
        pixels: Array = (words >> 8).astype(np.uint8)
    else:
        pixels = np.ascontiguousarray(rows).reshape(height, width, channels)
    return pixels if order == (0, 1, 2) and channels == 3 else pixels[:, :, list(order)]


def from_compressed(message: Any, name: str) -> Array:
    """A ``sensor_msgs/CompressedImage`` (JPEG, PNG or whatever else OpenCV reads) as RGB.

    Raises:
        DeviceFault: It is a depth image, cannot be decoded, or OpenCV is not installed.
    """
    if "compresseddepth" in message.format.lower():
        raise DeviceFault(f"image on {name!r}", got=f"format {message.format!r}", expected="RGB")
    try:
        import cv2
    except ImportError as error:
        raise DeviceFault(
            f"compressed image on {name!r}",
            got=str(error),
            hint="Install opencv-python-headless, or use the raw topic",
        ) from error
    data = np.frombuffer(message.data, np.uint8)
    image_bgr = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    if image_bgr is None:
        raise DeviceFault(
            f"compressed image on {name!r}",
            got=f"{data.size} bytes of format {message.format!r} that cannot be decoded",
            expected="a whole JPEG or PNG",
        )
    pixels: Array = cv2.cvtColor(image_bgr, cv2.COLOR_BGR2RGB)
    return pixels


def _by_cv_bridge(message: Any, name: str) -> Array:
    try:
        bridge = importlib.import_module("cv_bridge").CvBridge()
    except ImportError as error:
        raise DeviceFault(
            f"encoding of the image on {name!r}",
            got=repr(message.encoding),
            expected=f"one of {sorted(_PLAIN)}, or an installed cv_bridge",
            hint="Let the camera's driver publish rgb8, or use its compressed topic",
        ) from error
    try:
        return np.asarray(bridge.imgmsg_to_cv2(message, "rgb8"))
    except Exception as error:  # cv_bridge raises its own errors and OpenCV's
        raise DeviceFault(
            f"encoding of the image on {name!r}", got=f"{message.encoding!r} ({error})"
        ) from error
