"""A V4L2 camera, a video file or a stream, through OpenCV."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from user_core.config import setting
from user_core.errors import DeviceError
from user_core.interfaces import Discovered
from user_core.specs import Array
from user_hal.cameras.images import ImageConfig, fit, own
from user_hal.cameras.threaded import ThreadedCamera


class OpenCvCameraConfig(ImageConfig):
    """Which device, and how it is set up."""

    source: int | str = setting(
        0, doc="Number of a V4L2 device, its path, a video file, or a URL (rtsp://, http://)."
    )
    capture_width: int | None = setting(None, doc="Width asked of the device.", unit="px", ge=1)
    capture_height: int | None = setting(None, doc="Height asked of the device.", unit="px", ge=1)
    fps: float | None = setting(
        None, doc="Rate asked of the device; of a file, instead of its own.", unit="Hz", gt=0
    )
    fourcc: str = setting(
        "", doc="Pixel format asked of the device, for instance MJPG.", max_length=4
    )
    loop: bool = setting(False, doc="Start a video file again at its end.")
    latency_s: float = setting(
        0.0, doc="Known time from exposure to delivery; subtracted.", unit="s", ge=0
    )
    connect_timeout_s: float = setting(
        5.0, doc="How long to wait for the first image.", unit="s", gt=0
    )
    reopen_s: float = setting(
        1.0, doc="Pause before a device that went away is tried again.", unit="s", gt=0
    )
    history: int = setting(8, doc="Images remembered for alignment in time.", ge=1, le=256)


class OpenCvCamera(ThreadedCamera):
    """Whatever OpenCV opens.

    A device that goes away is tried again until :meth:`close`; meanwhile :meth:`read` raises
    DeviceTimeout with the cause. A video file is played at its own rate.
    """

    Config = OpenCvCameraConfig
    _config: OpenCvCameraConfig

    def __init__(
        self,
        config: OpenCvCameraConfig,
        open_capture: Callable[..., Any] = cv2.VideoCapture,
    ) -> None:
        super().__init__(str(config.source), config, config.history)
        self._open_capture, self._name = open_capture, str(config.source)
        self._is_file = isinstance(config.source, str) and Path(config.source).is_file()

    def connect(self) -> None:
        """Open the device and wait for its first image.

        Raises:
            DeviceError: It cannot be opened, or gives nothing.
        """
        self.close()
        capture = self._open()
        if capture is None:
            raise DeviceError(
                f"camera {self._name!r}",
                got="cannot be opened",
                expected=f"a video device, file or URL; devices: {[d.name for d in self.discover()]}",
                hint="Look whether another program uses it, and at the rights of /dev/video*",
            )
        self._start(lambda closing: self._run(capture, closing), self._config.connect_timeout_s)

    @classmethod
    def discover(cls) -> Sequence[Discovered]:
        """The V4L2 devices of this machine that say they can capture."""
        found = []
        for entry in sorted(Path("/sys/class/video4linux").glob("video*")):
            try:
                label = (entry / "name").read_text(encoding="utf-8", errors="replace").strip()
                index = int((entry / "index").read_text())
            except (OSError, ValueError):
                continue
            if index == 0:  # further nodes of a device carry its metadata
                found.append(
                    Discovered(f"/dev/{entry.name}", {"source": f"/dev/{entry.name}"}, label)
                )
        return found

    def _open(self) -> Any | None:
        config = self._config
        capture = self._open_capture(config.source)
        if not capture.isOpened():
            capture.release()
            return None
        if not self._is_file:
            if config.fourcc:
                code = cv2.VideoWriter.fourcc(*config.fourcc.ljust(4))
                capture.set(cv2.CAP_PROP_FOURCC, code)
            for prop, value in (
                (cv2.CAP_PROP_FRAME_WIDTH, config.capture_width),
                (cv2.CAP_PROP_FRAME_HEIGHT, config.capture_height),
                (cv2.CAP_PROP_FPS, config.fps),
                (cv2.CAP_PROP_BUFFERSIZE, 1),
            ):
                if value is not None:
                    capture.set(prop, value)
        return capture

    def _run(self, capture: Any, closing: threading.Event) -> None:
        while not closing.is_set():
            if capture is not None:
                self._play(capture, closing)
                capture.release()
                capture = None
            if closing.wait(self._config.reopen_s) or self._is_file:
                return
            capture = self._open()
            if capture is None:
                self._ring.reason = "the device cannot be opened again"

    def _play(self, capture: Any, closing: threading.Event) -> None:
        """Deliver images until there are no more."""
        period_s = self._file_period_s(capture)
        due_s = time.monotonic()
        while not closing.is_set():
            if not capture.grab():
                if self._is_file and self._config.loop and capture.set(cv2.CAP_PROP_POS_FRAMES, 0):
                    continue
                self._ring.reason = (
                    "end of the file" if self._is_file else "the device gives nothing"
                )
                return
            stamp_ns = time.time_ns() - round(self._config.latency_s * 1e9)
            is_whole, image_bgr = capture.retrieve()
            if is_whole:
                self._ring.put(image_bgr, stamp_ns)
            if period_s:
                due_s += period_s
                closing.wait(max(0.0, due_s - time.monotonic()))

    def _file_period_s(self, capture: Any) -> float:
        if not self._is_file:
            return 0.0  # the device sets the pace
        fps = self._config.fps or capture.get(cv2.CAP_PROP_FPS)
        return 1.0 / fps if fps and np.isfinite(fps) and fps > 0 else 1.0 / 30.0

    def _develop(self, image_bgr: Array) -> Array:
        fitted = fit(image_bgr, self._config, self._name)
        return own(fitted[:, :, ::-1])
