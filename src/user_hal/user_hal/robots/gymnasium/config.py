"""What can be said about a Gymnasium environment: how it is made, shown, driven and judged."""

from __future__ import annotations

import math
from typing import Any, Literal

from user_core.config import Config, setting
from user_core.errors import ConfigError
from user_hal.cameras.images import Region

#: Where the dimensions of an image are: height h, width w, channels c, and n images of a stack.
Layout = Literal["auto", "hw", "hwc", "chw", "nhw", "nhwc", "nchw", "none"]


class WrapperConfig(Config):
    """One wrapper around the environment."""

    target: str = setting(
        doc="What to wrap with, package.module:Class; the name alone of one of "
        "gymnasium.wrappers, for instance ResizeObservation."
    )
    kwargs: dict[str, Any] = setting(
        factory=dict,
        doc="Its keyword arguments. Lists become tuples or arrays where it needs these.",
    )


class PictureConfig(Config):
    """How an array of the environment becomes an image, height x width x channels, uint8."""

    layout: Layout = setting(
        "auto",
        doc="Order of its dimensions: h height, w width, c channels, n images of a stack. auto: by its "
        "shape, type and bounds; none: it is no image, but numbers.",
    )
    range: tuple[float, float] | None = setting(
        None,
        doc="Values of black and white. Without it, the bounds of its space: 0 to 1 or 0 to 255.",
    )
    crop: Region | Literal["none", "centre"] = setting(
        "none",
        doc="Part that is kept before scaling: all, the largest central part of the right "
        "proportions, or a rectangle.",
    )
    resize: tuple[int, int] | None = setting(
        None, doc="Height and width to scale to.", unit="px", ge=1, le=8192
    )
    grey: bool = setting(False, doc="Brightness instead of colours: one channel instead of three.")
    stack: int = setting(
        1,
        doc="Show this many images, the newest, side by side as channels, the oldest first; at the start "
        "of an episode the first is repeated.",
        ge=1,
        le=64,
    )

    def validate(self) -> None:
        """Black and white differ."""
        if self.range is not None and not self.range[0] < self.range[1]:
            raise ConfigError("range", got=list(self.range), expected="black below white")


class GymnasiumConfig(Config):
    """Which environment, and how it is shown, driven and judged."""

    env_id: str = setting(
        doc="Registered name, for instance Pendulum-v1; module:Name-v0 imports the module first.",
        min_length=1,
    )
    kwargs: dict[str, Any] = setting(
        factory=dict,
        doc="Keyword arguments of gymnasium.make. Lists become tuples or arrays where it needs these.",
    )
    wrappers: tuple[WrapperConfig, ...] = setting((), doc="Wrappers, the innermost first.")
    float_dtype: Literal["float32", "float64"] = setting(
        "float32", doc="Type of floating-point observations and actions."
    )
    render_image: bool = setting(
        False, doc="Add the rendered image as the observation image_render."
    )
    images: dict[str, PictureConfig] = setting(
        factory=dict,
        doc="Images by the name of their observation (image where the environment shows nothing but "
        "one; image_render), and how they are cropped, scaled, made grey and stacked.",
    )
    ignore: tuple[str, ...] = setting(
        (), doc="Observations to leave out, by name: what cannot be an array (words, graphs), too."
    )
    bounds: tuple[float | tuple[float, ...], float | tuple[float, ...]] | None = setting(
        None,
        doc="Smallest and largest action, each one number or one for each element, for an "
        "environment that has no bounds; where it has, the narrower ones hold.",
    )
    discrete: Literal["choices", "argmax"] = setting(
        "choices",
        doc="Discrete actions as the choices that they are; or argmax: as floats from -1 to 1, one for each "
        "choice, of which the largest is taken, for policies and algorithms that know no choices.",
    )
    success_key: str = setting(
        "",
        doc="Key of info that says whether the task is solved; dots lead into mappings "
        "(episode.solved). Without it: is_success, success, succeed, is_solved.",
    )
    success_reward: float | None = setting(
        None, doc="A step with at least this reward solves the task; an episode without one fails."
    )
    success_return: float | None = setting(
        None,
        doc="An episode whose rewards sum up to at least this is a success, any other a failure.",
    )
    max_episode_steps: int | None = setting(
        None, doc="Steps until truncation, instead of the registered number.", ge=1
    )
    seed: int | None = setting(
        None, doc="Seed of the first start, where whoever resets gives none.", ge=0
    )
    period_s: float = setting(
        0.05,
        doc="Control period that the robot's spec tells; no time really passes.",
        unit="s",
        gt=0,
    )

    def validate(self) -> None:
        """One way to judge by reward, by a number that can be reached."""
        for name in ("success_reward", "success_return"):
            threshold = getattr(self, name)
            if threshold is not None and not math.isfinite(threshold):
                raise ConfigError(name, got=threshold, expected="a finite number")
        if self.success_reward is not None and self.success_return is not None:
            raise ConfigError(
                "success_return", got="beside success_reward", expected="one of the two"
            )
