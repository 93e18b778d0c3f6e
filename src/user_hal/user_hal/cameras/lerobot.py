"""Camera ``lerobot``: any camera of LeRobot, built in or installed by others."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Sequence
from typing import Any, ClassVar

from user_core.config import Config, setting
from user_core.interfaces import Discovered
from user_core.runtime.lerobot import lerobot
from user_core.specs import Array
from user_hal.cameras.images import ImageConfig, fit, own
from user_hal.cameras.threaded import ThreadedCamera
from user_hal.lerobot_devices import errors_of, make_device, their_config

_PAUSE_S = 0.5
#: Built-in cameras that can look for devices: module, class, and what selects one.
_FINDERS = (
    ("cameras.opencv", "OpenCVCamera", "opencv", "index_or_path"),
    ("cameras.realsense", "RealSenseCamera", "intelrealsense", "serial_number_or_name"),
)


class LeRobotCameraConfig(ImageConfig):
    """Which camera of LeRobot."""

    device: dict[str, Any] = setting(
        doc="LeRobot's own settings of it, as its commands take them: type, index_or_path, width, height, fps, ..."
    )
    modules: tuple[str, ...] = setting(
        (),
        doc="Modules to import that register cameras. Installed packages lerobot_camera_* need not be named.",
    )
    latency_s: float = setting(
        0.0, doc="Known time from exposure to delivery; subtracted.", unit="s", ge=0
    )
    connect_timeout_s: float = setting(
        10.0, doc="How long to wait for the first image.", unit="s", gt=0
    )
    history: int = setting(8, doc="Images remembered for alignment in time.", ge=1, le=256)


class LeRobotCamera(ThreadedCamera):
    """LeRobot's cameras give no stamps: an image counts as taken when it came."""

    Config: ClassVar[type[Config]] = LeRobotCameraConfig
    _config: LeRobotCameraConfig

    def __init__(self, config: LeRobotCameraConfig) -> None:
        theirs = their_config("camera", config.device, config.modules)
        self._device = make_device("camera", theirs)
        self.name = f"LeRobot's {theirs.type}"
        super().__init__(self.name, config, config.history)
        self._bgr = getattr(getattr(theirs, "color_mode", None), "value", "rgb") == "bgr"
        self._fps = float(getattr(theirs, "fps", None) or 30)

    def connect(self) -> None:
        """Open the camera and wait for its first image. Raises DeviceError."""
        self.close()
        with errors_of(
            self.name,
            "Look whether another program uses it; lerobot-find-cameras lists what there is",
        ):
            self._device.connect()
        self._start(self._run, self._config.connect_timeout_s)

    def close(self) -> None:
        """Stop the thread and let go of the camera."""
        was_open = self._thread is not None
        super().close()
        if was_open:
            with contextlib.suppress(Exception):
                self._device.disconnect()

    @classmethod
    def discover(cls) -> Sequence[Discovered]:
        """What LeRobot's own cameras find on this machine."""
        found = []
        for module, name, kind, key in _FINDERS:
            try:
                cameras = getattr(lerobot(module), name).find_cameras()
            except Exception:  # noqa: BLE001 - LeRobot is not installed, or no such camera can be here
                continue
            for one in cameras:
                device = {"type": kind, key: one.get("id", one.get("serial_number", ""))}
                profile = one.get("default_stream_profile") or {}
                device |= {k: int(profile[k]) for k in ("width", "height", "fps") if profile.get(k)}
                found.append(
                    Discovered(str(device[key]), {"device": device}, str(one.get("name", kind)))
                )
        return found

    def _silence(self, timeout_s: float) -> str:
        return f"{super()._silence(timeout_s)}: {self._ring.reason}"

    def _run(self, closing: threading.Event) -> None:
        period_s, due_s = 1 / self._fps, time.monotonic()
        while not closing.is_set():
            try:
                image = self._device.async_read()
            except Exception as error:  # it is tried again; read() says why nothing comes
                self._ring.reason = f"{type(error).__name__}: {error}"
                closing.wait(_PAUSE_S)
                continue
            self._ring.put(image, time.time_ns() - round(self._config.latency_s * 1e9))
            due_s = max(due_s + period_s, time.monotonic() - period_s)
            closing.wait(
                max(0.0, due_s - time.monotonic())
            )  # some return at once, with the image before

    def _develop(self, image: Array) -> Array:
        fitted = fit(image, self._config, self.name)
        return own(fitted[:, :, ::-1] if self._bgr else fitted)
