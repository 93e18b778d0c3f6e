"""Cameras that are read in a thread of their own."""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

from user_core.errors import DeviceError
from user_core.interfaces import Camera, Frame
from user_core.specs import Array, ArraySpec
from user_hal.cameras.images import FrameRing, ImageConfig


class ThreadedCamera(Camera):
    """Reads in a thread of its own, so that the newest image is always at hand.

    Args:
        name: Of the camera, for errors.
        config: Of its images.
        history: How many are remembered.
    """

    def __init__(self, name: str, config: ImageConfig, history: int) -> None:
        self._config = config
        self._ring = FrameRing(name, self._develop, config.max_age_s, history)
        self._thread: threading.Thread | None = None
        self._closing = threading.Event()

    @property
    def spec(self) -> ArraySpec:
        """Spec of the images after cropping and scaling."""
        return self._config.spec

    def read(self) -> Frame:
        """The newest image; raises DeviceTimeout with the camera's name when it stalled."""
        return self._ring.newest()

    def nearest(self, stamp_ns: int) -> Frame:
        """The remembered image nearest to a moment."""
        return self._ring.nearest(stamp_ns)

    def close(self) -> None:
        """Stop the thread."""
        self._closing.set()
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.join(timeout=5.0)
        self._ring.close()

    @abstractmethod
    def _develop(self, payload: Any) -> Array:
        """The image, (height, width, 3) uint8, of what the thread has put into the ring."""

    def _start(self, run: Callable[[threading.Event], None], timeout_s: float) -> None:
        """Start the thread and wait for the first image.

        Args:
            run: Puts images into the ring until its argument is set.
            timeout_s: How long to wait.

        Raises:
            DeviceError: None came, or it is none; the camera is closed then.
        """
        self._ring.open()
        self._closing = threading.Event()
        self._thread = threading.Thread(
            target=run, args=(self._closing,), name=f"camera {self._ring.name}", daemon=True
        )
        self._thread.start()
        try:
            if not self._ring.wait_for_first(timeout_s):
                raise DeviceError(f"camera {self._ring.name!r}", got=self._silence(timeout_s))
            self._ring.newest()
        except BaseException:
            self.close()
            raise

    def _silence(self, timeout_s: float) -> str:
        """What is said when no image has come."""
        return f"no image within {timeout_s:g} s"
