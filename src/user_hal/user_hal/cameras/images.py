"""Images of cameras: from ROS messages to RGB, cropping and scaling, and the newest few by stamp.

Encodings are those of ``sensor_msgs/image_encodings.hpp``. What numpy cannot turn into RGB by
itself (Bayer patterns, YUV) goes through cv_bridge where that is installed.
"""

from __future__ import annotations

import importlib
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

from user_core.config import Config, setting
from user_core.errors import DeviceFault, DeviceNotConnected, DeviceTimeout, PluginError
from user_core.interfaces import Frame
from user_core.specs import Array, ArraySpec


class Region(Config):
    """A rectangle of an image."""

    left: int = setting(doc="First column.", unit="px", ge=0)
    top: int = setting(doc="First row.", unit="px", ge=0)
    width: int = setting(doc="Number of columns.", unit="px", ge=1)
    height: int = setting(doc="Number of rows.", unit="px", ge=1)


class ImageConfig(Config):
    """What every camera here can be told about its images."""

    width: int = setting(doc="Width of an image in the observation.", unit="px", ge=1, le=8192)
    height: int = setting(doc="Height of an image in the observation.", unit="px", ge=1, le=8192)
    crop: Region | Literal["none", "centre"] = setting(
        "none",
        doc="Part that is kept before scaling: all, the largest central part of the right "
        "proportions, or a rectangle of the source.",
    )
    frame: str = setting(
        "camera_optical", doc="Optical frame (REP-103: z forward, x right, y down)."
    )
    max_age_s: float = setting(
        0.5, doc="A newest image older than this means that the camera stalled.", unit="s", gt=0
    )

    @property
    def spec(self) -> ArraySpec:
        """Spec of the images."""
        return ArraySpec((self.height, self.width, 3), "uint8", frame=self.frame)


def fit(image_hwc: Array, config: ImageConfig, name: str) -> Array:
    """Crop and scale to the configured size; an image that has it already is not copied.

    Args:
        image_hwc: (height, width, 3) uint8.
        config: What is wanted.
        name: Of the camera, for errors.

    Raises:
        DeviceFault: The source is smaller than the rectangle to be cropped.
        PluginError: Scaling is needed and OpenCV is not installed.
    """
    image_hwc = _crop(image_hwc, config, name)
    height, width = image_hwc.shape[:2]
    if (height, width) == (config.height, config.width):
        return image_hwc
    try:
        import cv2
    except ImportError as error:
        raise PluginError(
            f"camera {name!r} gives {width}x{height} and must be scaled",
            got=str(error),
            expected=f"{config.width}x{config.height}",
            hint="Install opencv-python-headless, or configure the size that the camera has",
        ) from error
    shrinks = config.height < height or config.width < width
    scaled: Array = cv2.resize(
        image_hwc,
        (config.width, config.height),
        interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR,
    )
    return scaled


def _crop(image_hwc: Array, config: ImageConfig, name: str) -> Array:
    height, width = image_hwc.shape[:2]
    if isinstance(config.crop, Region):
        region = config.crop
        if region.left + region.width > width or region.top + region.height > height:
            raise DeviceFault(
                f"camera {name!r}: rectangle to be cropped",
                got=f"an image of {width}x{height}",
                expected=f"at least {region.left + region.width}x{region.top + region.height}",
            )
        return image_hwc[
            region.top : region.top + region.height, region.left : region.left + region.width
        ]
    if config.crop == "centre":
        kept_height = min(height, max(1, round(width * config.height / config.width)))
        kept_width = min(width, max(1, round(height * config.width / config.height)))
        top, left = (height - kept_height) // 2, (width - kept_width) // 2
        return image_hwc[top : top + kept_height, left : left + kept_width]
    return image_hwc


def own(image_hwc: Array) -> Array:
    """The image as an array of its own, contiguous and read-only."""
    if image_hwc.dtype != np.uint8 or image_hwc.ndim != 3 or image_hwc.shape[2] != 3:
        raise DeviceFault(
            "image of a camera",
            got=f"{image_hwc.dtype}{list(image_hwc.shape)}",
            expected="uint8 [height, width, 3]",
        )
    result = np.array(image_hwc, order="C")
    result.flags.writeable = False
    return result


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
        DeviceFault: The encoding is not an image's, or sizes contradict each other.
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


#: Stamps that jump back by more than this come from a clock that was set.
_CLOCK_STEP_NS = 1_000_000_000


@runtime_checkable
class RemembersFrames(Protocol):
    """A camera that can also give the image nearest to a moment."""

    def nearest(self, stamp_ns: int) -> Frame:
        """The remembered image whose stamp is nearest; raises like ``Camera.read``."""


@dataclass(frozen=True)
class _Entry:
    payload: Any
    stamp_ns: int
    sequence: int
    arrival_s: float  # monotonic


class FrameRing:
    """Takes what a camera's thread delivers, gives frames to the control loop.

    What is put in may be anything (a message, still compressed); it becomes an image only when
    it is asked for, so that images that are not used cost nothing.

    Args:
        name: Of the camera, for errors: a topic or a device.
        develop: Makes the image, (height, width, 3) uint8, of what was put in.
        max_age_s: Age of the newest at which the camera counts as stalled, seconds.
        capacity: How many are remembered.
        now_ns: Clock of the stamps.
    """

    def __init__(
        self,
        name: str,
        develop: Callable[[Any], Array],
        max_age_s: float,
        capacity: int = 8,
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self.name = name
        self._develop, self._max_age_s, self._now_ns = develop, max_age_s, now_ns
        self._entries: deque[_Entry] = deque(maxlen=capacity)
        self._developed: tuple[int, Frame] | None = None
        self._changed = threading.Condition()
        self._sequence = 0
        self._open = False
        self.reason = ""  # why nothing comes, as far as the camera knows

    def open(self) -> None:
        """Start to take images; earlier ones are forgotten."""
        with self._changed:
            self._entries.clear()
            self._developed = None
            self._open, self.reason = True, ""

    def close(self) -> None:
        """From now on there is nothing to read."""
        with self._changed:
            self._open = False
            self._entries.clear()
            self._developed = None
            self._changed.notify_all()

    def put(self, payload: Any, stamp_ns: int) -> None:
        """Take an image. One that is older than the newest is dropped, unless by so much that
        the clock must have been set."""
        with self._changed:
            if not self._open:
                return
            behind_ns = self._entries[-1].stamp_ns - stamp_ns if self._entries else 0
            if behind_ns > _CLOCK_STEP_NS:
                self._entries.clear()
            elif behind_ns > 0:
                return
            self._sequence += 1
            self._entries.append(_Entry(payload, stamp_ns, self._sequence, time.monotonic()))
            self.reason = ""
            self._changed.notify_all()

    def wait_for_first(self, timeout_s: float) -> bool:
        """Wait until there is an image; tell whether there is."""
        with self._changed:
            return self._changed.wait_for(lambda: bool(self._entries), timeout_s)

    def newest(self) -> Frame:
        """The newest image.

        Raises:
            DeviceNotConnected: The camera is not open.
            DeviceTimeout: There is none, or it is too old by its stamp or by its arrival.
        """
        return self._frame(self._newest_entry())

    def nearest(self, stamp_ns: int) -> Frame:
        """The image nearest to a moment; raises like :meth:`newest` when the camera stalled."""
        self._newest_entry()
        with self._changed:
            entries = list(self._entries)
        if not entries:
            raise DeviceNotConnected(f"camera {self.name!r}", hint="Call connect()")
        return self._frame(min(entries, key=lambda entry: abs(entry.stamp_ns - stamp_ns)))

    def _newest_entry(self) -> _Entry:
        with self._changed:
            if not self._open:
                raise DeviceNotConnected(f"camera {self.name!r}", hint="Call connect()")
            entry = self._entries[-1] if self._entries else None
        because = f" ({self.reason})" if self.reason else ""
        if entry is None:
            raise DeviceTimeout(f"camera {self.name!r}", got=f"no image yet{because}")
        age_s = max((self._now_ns() - entry.stamp_ns) / 1e9, time.monotonic() - entry.arrival_s)
        if age_s > self._max_age_s:
            raise DeviceTimeout(
                f"camera {self.name!r} stalled",
                got=f"a newest image {age_s:.3f} s old{because}",
                expected=f"at most {self._max_age_s:g} s",
            )
        return entry

    def _frame(self, entry: _Entry) -> Frame:
        developed = self._developed
        if developed is not None and developed[0] == entry.sequence:
            return developed[1]
        frame = Frame(self._develop(entry.payload), entry.stamp_ns, entry.sequence)
        self._developed = (entry.sequence, frame)
        return frame
