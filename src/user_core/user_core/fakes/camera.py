"""A camera that shows a moving bar."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from user_core.config import Config, setting
from user_core.errors import DeviceNotConnected
from user_core.interfaces import Camera, Frame
from user_core.specs import ArraySpec


class FakeCameraConfig(Config):
    """Parameters of :class:`FakeCamera`."""

    width: int = setting(64, doc="Width of a picture.", unit="px", ge=1)
    height: int = setting(48, doc="Height of a picture.", unit="px", ge=1)


class FakeCamera(Camera):
    """Makes a new picture at every read; the bar moves one column to the right each time."""

    Config = FakeCameraConfig

    def __init__(
        self, config: FakeCameraConfig, clock_ns: Callable[[], int] = time.time_ns
    ) -> None:
        self.config = config
        self._clock_ns = clock_ns
        self._sequence = 0
        self._connected = False

    @property
    def spec(self) -> ArraySpec:
        return ArraySpec((self.config.height, self.config.width, 3), "uint8", frame="fake_optical")

    def connect(self) -> None:
        self._connected = True

    def read(self) -> Frame:
        if not self._connected:
            raise DeviceNotConnected(
                "fake camera", got="no connection", hint="Call connect() first"
            )
        image_hwc = np.zeros(self.spec.shape, np.uint8)
        image_hwc[:, self._sequence % self.config.width] = 255
        self._sequence += 1
        return Frame(image_hwc, self._clock_ns(), self._sequence)

    def close(self) -> None:
        self._connected = False
