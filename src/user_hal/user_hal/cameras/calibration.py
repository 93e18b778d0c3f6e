"""Calibration of a camera (``sensor_msgs/CameraInfo``), for the image that is made of its images."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from user_core.specs import Array
from user_hal.cameras.images import ImageConfig, Region

#: Models whose third and fourth coefficient are tangential, p1 and p2.
_TANGENTIAL = ("plumb_bob", "rational_polynomial")
#: What image_transport appends to the topic of an image.
_TRANSPORTS = ("compressed", "compressedDepth", "theora", "ffmpeg", "foxglove", "zstd")


@dataclass(frozen=True)
class Calibration:
    """How a camera projects, with the meanings and conventions of ``sensor_msgs/CameraInfo``.

    Attributes:
        width: Of the image, pixels.
        height: Of the image, pixels.
        k: Intrinsic matrix, (3, 3), pixels; the centre of the first pixel is (0, 0).
        model: Distortion model, for instance ``plumb_bob``.
        d: Its coefficients.
        r: Rotation into the rectified frame, (3, 3).
        p: Projection of the rectified image, (3, 4).
    """

    width: int
    height: int
    k: Array
    model: str
    d: Array
    r: Array
    p: Array

    @classmethod
    def ideal(cls, width: int, height: int, fovy_deg: float) -> Calibration:
        """That of a pinhole with square pixels and its axis in the middle of the image."""
        focal = height / 2.0 / math.tan(math.radians(fovy_deg) / 2.0)
        k = np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1.0]])
        p = np.hstack([k, np.zeros((3, 1))])
        return cls(width, height, k, "plumb_bob", np.zeros(5), np.eye(3), p)

    @classmethod
    def of(cls, message: Any) -> Calibration | None:
        """From a ``CameraInfo``; None where it says that the camera is not calibrated."""
        k = np.array(message.k, float).reshape(3, 3)
        if not k[0, 0] or not message.width or not message.height:
            return None
        r: Array = np.array(message.r, float).reshape(3, 3)
        p: Array = np.array(message.p, float).reshape(3, 4)
        if not p.any():  # a driver that fills in K only
            p = np.hstack([k, np.zeros((3, 1))])
        return cls(
            int(message.width), int(message.height), k, str(message.distortion_model),
            np.array(message.d, float), r if r.any() else np.eye(3), p,
        )  # fmt: skip

    def fitted(self, config: ImageConfig) -> Calibration:
        """For the image that :func:`user_hal.cameras.images.fit` makes: cropped, turned, scaled."""
        width, height = float(self.width), float(self.height)
        pixels, turn = np.eye(3), np.eye(3)  # from old to new pixels, and from old to new rays
        if isinstance(config.crop, Region):
            pixels = _shift(-config.crop.left, -config.crop.top) @ pixels
            width, height = config.crop.width, config.crop.height
        for _ in range(config.rotate // 90):
            quarter = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
            pixels = _shift(height - 1, 0) @ quarter @ pixels
            turn = quarter @ turn
            width, height = height, width
        if config.crop == "centre":
            kept_height = min(height, max(1, round(width * config.height / config.width)))
            kept_width = min(width, max(1, round(height * config.width / config.height)))
            pixels = _shift(-((width - kept_width) // 2), -((height - kept_height) // 2)) @ pixels
            width, height = kept_width, kept_height
        x, y = config.width / width, config.height / height
        pixels = np.array([[x, 0, (x - 1) / 2], [0, y, (y - 1) / 2], [0, 0, 1.0]]) @ pixels
        back = np.eye(4)
        back[:3, :3] = turn.T
        return Calibration(
            config.width, config.height, pixels @ self.k @ turn.T, self.model,
            self._turned(config.rotate // 90), turn @ self.r @ turn.T, pixels @ self.p @ back,
        )  # fmt: skip

    def fill(self, message: Any) -> None:
        """Write it into a ``CameraInfo``."""
        message.width, message.height = self.width, self.height
        message.distortion_model, message.d = self.model, self.d.tolist()
        message.k, message.r, message.p = (m.ravel().tolist() for m in (self.k, self.r, self.p))

    def _turned(self, quarters: int) -> Array:
        """The coefficients in a frame that is turned clockwise by quarters."""
        d = self.d.copy()
        if self.model in _TANGENTIAL and len(d) >= 4:
            for _ in range(quarters):
                d[2], d[3] = d[3], -d[2]
        return d


@runtime_checkable
class Calibrated(Protocol):
    """A camera that may know how it projects."""

    def calibration(self) -> Calibration | None:
        """Of the images that it gives; None while it is not known."""


def info_topic(image_topic: str) -> str:
    """Where the ``CameraInfo`` of an image topic is, by the rule of image_transport: beside it."""
    parts = image_topic.rstrip("/").split("/")
    if parts[-1] in _TRANSPORTS and len(parts) > 1:
        parts = parts[:-1]
    return "/".join([*parts[:-1], "camera_info"])


def _shift(x: float, y: float) -> Array:
    return np.array([[1.0, 0.0, x], [0.0, 1.0, y], [0.0, 0.0, 1.0]])
