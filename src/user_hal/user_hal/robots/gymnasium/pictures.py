"""Images of an environment, in whatever layout it shows them, as height x width x channels.

What is an image is told by type, shape and bounds, or by a setting:

====================  ============================================================================
layout                taken for an image by itself
====================  ============================================================================
``hw``                uint8 of at least 16 x 16
``hwc``               uint8 of at least 16 x 16, with at most 64 channels
``chw``, ``nhw``      uint8 of at least 16 x 16 with at most 64 channels or images in front
``nhwc``, ``nchw``    uint8 of at least 8 x 8 with 1, 3 or 4 channels, n images in front
floats, other ints    likewise with 1, 3 or 4 channels, at least 16 x 16, bounds 0 to 1 or 0 to 255
====================  ============================================================================

Smaller arrays are symbols for the most part (the 7 x 7 x 3 bytes of MiniGrid are kinds, colours and states of
things, of at most 10). As an image, divided by 255 and shifted by 4 pixels, they tell next to nothing.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
from gymnasium import spaces

from user_core.errors import ConfigError, SpecError
from user_core.specs import Array, ArraySpec
from user_hal.cameras.images import ImageConfig, Region, fit
from user_hal.robots.gymnasium.config import Layout, PictureConfig

_CHANNELS = (1, 3, 4)
_MOST_CHANNELS = 64
#: Brightness of red, green and blue (ITU-R BT.601).
_BRIGHTNESS = np.array([0.299, 0.587, 0.114])
_DIMENSIONS = {"hw": 2, "hwc": 3, "chw": 3, "nhw": 3, "nhwc": 4, "nchw": 4}


def layout_of(space: spaces.Space[Any]) -> Layout:
    """How the dimensions of an image space are ordered; ``none`` where it is no image."""
    if not isinstance(space, spaces.Box):
        return "none"
    shape = space.shape
    if space.dtype == np.uint8:
        return _layout_of_bytes(shape)
    low, high = np.unique(space.low), np.unique(space.high)
    if low.tolist() != [0] or high.tolist() not in ([1], [255]):
        return "none"
    if np.issubdtype(space.dtype, np.integer) and high.tolist() == [1]:
        return "none"
    if len(shape) == 3 and shape[2] in _CHANNELS and min(shape[:2]) >= 16:
        return "hwc"
    if len(shape) == 3 and shape[0] in _CHANNELS and min(shape[1:]) >= 16:
        return "chw"
    return _layout_of_stack(shape, 16)


def _layout_of_bytes(shape: tuple[int, ...]) -> Layout:
    if len(shape) == 2 and min(shape) >= 16:
        return "hw"
    if len(shape) == 3:
        if shape[2] in _CHANNELS and min(shape[:2]) >= 16:
            return "hwc"
        if 0 < shape[0] <= min(_MOST_CHANNELS, min(shape[1:]) - 1) and min(shape[1:]) >= 16:
            return "chw"
        if 0 < shape[2] <= min(_MOST_CHANNELS, min(shape[:2]) - 1) and min(shape[:2]) >= 16:
            return "hwc"
    return _layout_of_stack(shape, 8)


def _layout_of_stack(shape: tuple[int, ...], least: int) -> Layout:
    if len(shape) == 4:
        if shape[3] in _CHANNELS and min(shape[1:3]) >= least:
            return "nhwc"
        if shape[1] in _CHANNELS and min(shape[2:]) >= least:
            return "nchw"
    return "none"


class Picture:
    """Makes images (H, W, C) uint8 of the values of one space.

    Args:
        name: Of the observation, for errors.
        space: Of the values.
        config: How they are shown.

    Raises:
        ConfigError: The setting does not fit the space.

    Attributes:
        spec: Of the images that it makes.
    """

    def __init__(self, name: str, space: spaces.Box, config: PictureConfig) -> None:
        self._name, self._space, self._config = name, space, config
        self._layout = layout_of(space) if config.layout == "auto" else config.layout
        dimensions = _DIMENSIONS.get(self._layout)
        if dimensions != len(space.shape):
            raise ConfigError(
                f"images.{name}.layout",
                got=f"{config.layout!r} for an array of shape {list(space.shape)}, {space.dtype}",
                expected=f"one of {list(_DIMENSIONS)} with as many letters as it has dimensions",
            )
        self._range = self._black_and_white()
        self._past: deque[Array] = deque(maxlen=config.stack)
        shown = self._one(np.full(space.shape, self._range[0]))
        shape = (*shown.shape[:2], shown.shape[2] * config.stack)
        low, high = 0.0, 255.0
        if space.dtype == np.uint8 and shape == space.shape:
            low, high = float(space.low.min()), float(space.high.max())
        self.spec = ArraySpec(tuple(int(n) for n in shape), "uint8", low, high)

    def begin(self) -> None:
        """Forget the images of the last episode."""
        self._past.clear()

    def show(self, value: Any) -> Array:
        """The image of a value; read-only, its own.

        Raises:
            SpecError: The value does not fit its space, or is beyond black or white.
        """
        image = self._one(value)
        if self._config.stack > 1:
            self._past.extend([image] * (self._config.stack if not self._past else 1))
            image = np.concatenate(list(self._past), axis=2)
        else:
            image = np.array(image, order="C")
        image.flags.writeable = False
        return image

    def _one(self, value: Any) -> Array:
        array = np.asarray(value)
        if array.shape != self._space.shape or array.dtype.kind not in "biuf":
            raise SpecError(
                f"observation {self._name!r}", got=f"{array.dtype}{list(array.shape)}",
                expected=f"{self._space.dtype}{list(self._space.shape)}",
            )  # fmt: skip
        image = _in_order(self._bytes(array), self._layout)
        if self._config.grey:
            image = self._grey(image)
        return self._fitted(image)

    def _bytes(self, array: Array) -> Array:
        if array.dtype == np.uint8 and self._range == (0.0, 255.0):
            return array
        where = f"observation {self._name!r}"
        hint = f"images.{self._name}.range says what is black and white"
        if np.issubdtype(self._space.dtype, np.integer) and self._config.range is None:
            with np.errstate(invalid="ignore"):
                cast = array.astype(self._space.dtype)
            if not np.array_equal(cast, array):
                wrong = array[cast != array].flat[0]
                raise SpecError(
                    where,
                    got=f"{wrong} ({array.dtype})",
                    expected=f"{self._space.dtype}",
                    hint=hint,
                )
        black, white = self._range
        slack = 1e-6 * (white - black)
        low, high = float(array.min()), float(array.max())
        if not (low >= black - slack and high <= white + slack):  # NaN too
            raise SpecError(
                where,
                got=f"values {low:g} to {high:g}",
                expected=f"{black:g} to {white:g}",
                hint=hint,
            )
        scaled = np.rint((array.astype(np.float64) - black) * (255 / (white - black)))
        shown: Array = np.clip(scaled, 0, 255).astype(np.uint8)
        return shown

    def _black_and_white(self) -> tuple[float, float]:
        if self._config.range is not None:
            return self._config.range
        if self._space.dtype == np.uint8:
            return 0.0, 255.0
        low, high = np.unique(self._space.low), np.unique(self._space.high)
        if low.size == high.size == 1 and np.isfinite([low[0], high[0]]).all() and low[0] < high[0]:
            return float(low[0]), float(high[0])
        raise ConfigError(
            f"images.{self._name}.range", got="none, and its space has no bounds",
            expected="[black, white], for instance [0, 1]",
        )  # fmt: skip

    def _grey(self, image: Array) -> Array:
        channels = image.shape[2]
        alpha = self._layout in ("hwc", "chw") and channels == 4
        if alpha:
            image, channels = image[:, :, :3], 3
        if channels == 1 or self._layout == "nhw":
            return image
        if channels % 3:
            raise ConfigError(
                f"images.{self._name}.grey",
                got=f"{channels} channels",
                expected="colours, 3 channels",
            )
        colours = image.reshape(*image.shape[:2], channels // 3, 3)
        grey: Array = np.rint(colours @ _BRIGHTNESS).astype(np.uint8)
        return grey

    def _fitted(self, image: Array) -> Array:
        config = self._config
        if config.resize is None and config.crop == "none":
            return image
        height, width = config.resize or (
            (config.crop.height, config.crop.width)
            if isinstance(config.crop, Region)
            else (min(image.shape[:2]),) * 2
        )
        size = ImageConfig(width=width, height=height, crop=config.crop)
        parts = [  # OpenCV scales four channels at once, and drops a single one
            fit(np.ascontiguousarray(image[:, :, at : at + 4]), size, self._name)
            for at in range(0, image.shape[2], 4)
        ]
        return np.concatenate([part.reshape(height, width, -1) for part in parts], axis=2)


def _in_order(array: Array, layout: str) -> Array:
    """Height x width x channels; images of a stack one after the other in the channels."""
    if layout == "hw":
        return array[:, :, None]
    if layout in ("chw", "nhw"):
        return array.transpose(1, 2, 0)
    if layout in ("nhwc", "nchw"):
        ordered = array.transpose((1, 2, 0, 3) if layout == "nhwc" else (2, 3, 0, 1))
        return ordered.reshape(*ordered.shape[:2], -1)
    return array
