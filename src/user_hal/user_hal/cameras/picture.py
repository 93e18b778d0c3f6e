"""From the picture that a camera gives to the picture that an observation has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from user_core.config import Config, setting
from user_core.errors import DeviceFault, PluginError
from user_core.specs import Array, ArraySpec


@dataclass(frozen=True)
class Region(Config):
    """A rectangle of a picture."""

    left: int = setting(doc="First column.", unit="px", ge=0)
    top: int = setting(doc="First row.", unit="px", ge=0)
    width: int = setting(doc="Number of columns.", unit="px", ge=1)
    height: int = setting(doc="Number of rows.", unit="px", ge=1)


@dataclass(frozen=True)
class PictureConfig(Config):
    """What every camera here can be told about its pictures."""

    width: int = setting(doc="Width of a picture in the observation.", unit="px", ge=1, le=8192)
    height: int = setting(doc="Height of a picture in the observation.", unit="px", ge=1, le=8192)
    crop: Region | Literal["none", "centre"] = setting(
        "none",
        doc="Part that is kept before scaling: all, the largest central part of the right "
        "proportions, or a rectangle of the source.",
    )
    frame: str = setting(
        "camera_optical", doc="Optical frame (REP-103: z forward, x right, y down)."
    )
    max_age_s: float = setting(
        0.5, doc="A newest picture older than this means that the camera stalled.", unit="s", gt=0
    )

    @property
    def spec(self) -> ArraySpec:
        """Spec of the pictures."""
        return ArraySpec((self.height, self.width, 3), "uint8", frame=self.frame)


def fit(image_hwc: Array, config: PictureConfig, name: str) -> Array:
    """Crop and scale to the configured size; a picture that has it already is not copied.

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


def _crop(image_hwc: Array, config: PictureConfig, name: str) -> Array:
    height, width = image_hwc.shape[:2]
    if isinstance(config.crop, Region):
        region = config.crop
        if region.left + region.width > width or region.top + region.height > height:
            raise DeviceFault(
                f"camera {name!r}: rectangle to be cropped",
                got=f"a picture of {width}x{height}",
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
    """The picture as an array that nobody else writes to, contiguous and read-only."""
    if image_hwc.dtype != np.uint8 or image_hwc.ndim != 3 or image_hwc.shape[2] != 3:
        raise DeviceFault(
            "picture of a camera",
            got=f"{image_hwc.dtype}{list(image_hwc.shape)}",
            expected="uint8 [height, width, 3]",
        )
    result = np.array(image_hwc, order="C")
    result.flags.writeable = False
    return result
