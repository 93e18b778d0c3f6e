"""Images of cameras: cropping, turning and scaling, and the newest few by stamp."""

from __future__ import annotations

import logging
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
from user_hal.clock_faults import ClockFault, clock_fault


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
    rotate: Literal[0, 90, 180, 270] = setting(
        0,
        doc="Turn clockwise, for a camera that is mounted turned. A rectangle is cropped before; "
        "width, height and frame are those of the turned image.",
        unit="deg",
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


def fit(image_hwc: Array, config: ImageConfig, name: str, *, nearest: bool = False) -> Array:
    """Crop, turn and scale to the configured size; an image that has it already is not copied.

    Args:
        image_hwc: (height, width, channels).
        config: What is wanted.
        name: Of the camera, for errors.
        nearest: Scale by taking pixels instead of mixing them: depth of a thing and of what is
            behind it must not become something in between.

    Raises:
        DeviceFault: The source is smaller than the rectangle to be cropped.
        PluginError: Scaling is needed and OpenCV is not installed.
    """
    image_hwc = _crop(image_hwc, config, name)
    if nearest and image_hwc.shape[:2] != (config.height, config.width):
        rows = _centres(image_hwc.shape[0], config.height)
        return image_hwc[rows[:, None], _centres(image_hwc.shape[1], config.width)]
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


def _centres(there: int, wanted: int) -> Array:
    """The pixels in whose middle those of the scaled image lie."""
    return ((np.arange(wanted) + 0.5) * there / wanted).astype(np.intp)


def _crop(image_hwc: Array, config: ImageConfig, name: str) -> Array:
    """Crop and turn."""
    height, width = image_hwc.shape[:2]
    if isinstance(config.crop, Region):
        region = config.crop
        if region.left + region.width > width or region.top + region.height > height:
            raise DeviceFault(
                f"camera {name!r}: rectangle to be cropped",
                got=f"an image of {width}x{height}",
                expected=f"at least {region.left + region.width}x{region.top + region.height}",
            )
        image_hwc = image_hwc[
            region.top : region.top + region.height, region.left : region.left + region.width
        ]
    if config.rotate:
        image_hwc = np.rot90(image_hwc, -config.rotate // 90)
    height, width = image_hwc.shape[:2]
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


_log = logging.getLogger(__name__)
#: Stamps that jump back by more than this come from a clock that was set.
_CLOCK_STEP_NS = 1_000_000_000
#: A camera of which this many images were not whole has a fault.
_ATTEMPTS = 3


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
    arrival_ns: int  # by the clock of the stamps
    same_stamps: int  # images just before it with the same stamp


class FrameRing:
    """Takes what a camera's thread delivers, gives frames to the control loop.

    What is put in may be anything (a message, still compressed); it becomes an image only when
    it is asked for, so that images that are not used cost nothing. One that turns out to be no
    image is dropped and counted, and another one that is young enough is given in its place.

    Args:
        name: Of the camera, for errors: a topic or a device.
        develop: Makes the image, (height, width, 3) uint8, of what was put in.
        max_age_s: Age of the newest at which the camera counts as stalled, seconds.
        capacity: How many are remembered.
        now_ns: Clock of the stamps.
        arrival_ns: Clock of arrivals, monotonic.
    """

    def __init__(
        self,
        name: str,
        develop: Callable[[Any], Array],
        max_age_s: float,
        capacity: int = 8,
        now_ns: Callable[[], int] = time.time_ns,
        arrival_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.name, self._arrival_ns = name, arrival_ns
        self._develop, self._max_age_s, self._now_ns = develop, max_age_s, now_ns
        self._entries: deque[_Entry] = deque(maxlen=capacity)
        self._developed: tuple[int, Frame] | None = None
        self._changed = threading.Condition()
        self._sequence = 0
        self._open = False
        self._fault: DeviceFault | None = None  # of the image dropped last, until a good one
        self.reason = ""  # why nothing comes, as far as the camera knows
        self.dropped = 0  # images that were none

    def open(self) -> None:
        """Start to take images; earlier ones are forgotten."""
        with self._changed:
            self._entries.clear()
            self._developed = None
            self._open, self.reason = True, ""
            self._fault, self.dropped = None, 0

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
            same = 0
            if self._entries and self._entries[-1].stamp_ns == stamp_ns:
                same = self._entries[-1].same_stamps + 1
            self._entries.append(
                _Entry(
                    payload,
                    stamp_ns,
                    self._sequence,
                    self._arrival_ns() / 1e9,
                    self._now_ns(),
                    same,
                )
            )
            self.reason = ""
            self._changed.notify_all()

    def wait_for_first(self, timeout_s: float) -> bool:
        """Wait until there is an image; tell whether there is."""
        with self._changed:
            return self._changed.wait_for(lambda: bool(self._entries), timeout_s)

    def wait_for_good(self, timeout_s: float) -> bool:
        """Wait until there is a whole image; tell whether there is.

        Raises:
            DeviceFault: The first images were not whole.
            DeviceTimeout: The newest is too old.
        """
        deadline_s = time.monotonic() + timeout_s
        while self.wait_for_first(max(0.0, deadline_s - time.monotonic())):
            try:
                self.newest()
                return True
            except DeviceFault:
                if self.dropped >= _ATTEMPTS:
                    raise
        return False

    def newest(self) -> Frame:
        """The newest image.

        Raises:
            DeviceNotConnected: The camera is not open.
            DeviceTimeout: There is none, or it is too old by its stamp or by its arrival.
            DeviceFault: None of those that are remembered is a whole image.
        """
        while True:
            entry = self._newest_entry()
            try:
                return self._frame(entry)
            except DeviceFault as fault:
                self._drop(entry, fault)

    def nearest(self, stamp_ns: int) -> Frame:
        """The image nearest to a moment; raises like :meth:`newest` when the camera stalled."""
        while True:
            self._newest_entry()
            with self._changed:
                entries = list(self._entries)
            if not entries:
                raise DeviceNotConnected(f"camera {self.name!r}", hint="Call connect()")
            entry = min(entries, key=lambda entry: abs(entry.stamp_ns - stamp_ns))
            try:
                return self._frame(entry)
            except DeviceFault as fault:
                self._drop(entry, fault)

    def clock_fault(self) -> ClockFault:
        """What is wrong with the stamps, as far as the newest image tells."""
        with self._changed:
            entry = self._entries[-1] if self._entries else None
        if entry is None:
            return ClockFault()
        return clock_fault(entry.stamp_ns, entry.arrival_ns, entry.same_stamps)

    @property
    def fault(self) -> DeviceFault | None:
        """What was wrong with the image that was dropped last, until there is a good one."""
        return self._fault

    def count_dropped(self, fault: DeviceFault) -> None:
        """Take note of an image that was none."""
        with self._changed:
            self.dropped += 1
            self._fault = fault
        if self.dropped & (self.dropped - 1) == 0:  # the first, and ever more rarely
            _log.warning(
                "camera %r: %d images dropped; the last: %s", self.name, self.dropped, fault
            )

    def _drop(self, entry: _Entry, fault: DeviceFault) -> None:
        with self._changed:
            if entry not in self._entries:
                return
            self._entries.remove(entry)
        self.count_dropped(fault)

    def _newest_entry(self) -> _Entry:
        with self._changed:
            if not self._open:
                raise DeviceNotConnected(f"camera {self.name!r}", hint="Call connect()")
            entry, fault = self._entries[-1] if self._entries else None, self._fault
        reasons = [self.reason] if self.reason else []
        if entry is None:
            if fault is not None:
                raise fault
            because = f" ({self.reason})" if self.reason else ""
            raise DeviceTimeout(f"camera {self.name!r}", got=f"no image yet{because}")
        silent_s = self._arrival_ns() / 1e9 - entry.arrival_s
        age_s = max((self._now_ns() - entry.stamp_ns) / 1e9, silent_s)
        if age_s > self._max_age_s:
            hint = ""
            if fault is not None:
                reasons.append(f"{self.dropped} images were dropped; the last: {fault}")
            elif silent_s <= self._max_age_s and (clock := self.clock_fault()):
                reasons.append(clock.text)
                hint = clock.cure
            because = f" ({'; '.join(reasons)})" if reasons else ""
            raise DeviceTimeout(
                f"camera {self.name!r} stalled",
                got=f"a newest image {age_s:.3f} s old{because}",
                expected=f"at most {self._max_age_s:g} s",
                hint=hint,
            )
        return entry

    def _frame(self, entry: _Entry) -> Frame:
        developed = self._developed
        if developed is not None and developed[0] == entry.sequence:
            return developed[1]
        frame = Frame(self._develop(entry.payload), entry.stamp_ns, entry.sequence)
        self._developed, self._fault = (entry.sequence, frame), None
        return frame
