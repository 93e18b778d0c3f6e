"""Limits on a displacement, a velocity or an acceleration: how they are configured and bound."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from user_core.config import Config, setting
from user_core.errors import ConfigError
from user_hal.safety.layout import MotionLayout

#: Stands for "no limit": finite, so that it may be multiplied by zero.
UNLIMITED = 1e12


@dataclass(frozen=True)
class MotionLimits(Config):
    """Limits of one quantity; what is not given is not limited.

    Units are m and rad for a step, m/s and rad/s for a velocity, m/s^2 and rad/s^2 for an
    acceleration.
    """

    each: tuple[float, ...] = setting(
        (),
        doc="Limit of each element of the motion: one number for all that move tool or joints, "
        "or one per element (.inf: none).",
        gt=0,
    )
    linear: float | None = setting(
        None, doc="Limit of the length of the tool's translation vector.", unit="m", gt=0
    )
    angular: float | None = setting(
        None, doc="Limit of the length of the tool's rotation vector.", unit="rad", gt=0
    )

    @property
    def given(self) -> bool:
        """Whether anything is limited at all."""
        return bool(self.each) or self.linear is not None or self.angular is not None

    def elements(self, layout: MotionLayout, where: str) -> list[float]:
        """One limit per element of a displacement, (D,); empty where none is given.

        Raises:
            ConfigError: The number of limits fits neither one nor all elements.
        """
        if not self.each:
            return []
        if len(self.each) == 1:
            moving = layout.moving.stop
            return [self.each[0]] * moving + [UNLIMITED] * (layout.size - moving)
        if len(self.each) != layout.size:
            raise ConfigError(
                f"{where}.each",
                got=f"{len(self.each)} limits",
                expected=f"one, or {layout.size}: one for each of {list(layout.names)}",
            )
        return [min(limit, UNLIMITED) for limit in self.each]

    def vectors(self, layout: MotionLayout, where: str) -> list[tuple[slice, float]]:
        """The limited vectors: which elements of a displacement, and their longest length.

        Raises:
            ConfigError: The tool is limited, but the actions do not move the tool.
        """
        found = []
        for name, limit in (("linear", self.linear), ("angular", self.angular)):
            part: slice = getattr(layout, name)
            if limit is None:
                continue
            if part.start == part.stop and layout.linear.stop:
                continue  # an action that does not turn the tool needs no limit for turning it
            if part.start == part.stop:
                raise ConfigError(
                    f"{where}.{name}",
                    got=f"a limit on the tool, for actions of kind {layout.kind.value!r}",
                    expected="a limit on what the actions move",
                    hint=f"Remove it, or use {where}.each.",
                )
            found.append((part, min(limit, UNLIMITED)))
        return found


def clip(values: list[float], limits: Sequence[float]) -> bool:
    """Clip each of the first values in place to plus or minus its limit; tell whether any was."""
    clipped = False
    for i, limit in enumerate(limits):
        if values[i] > limit:
            values[i] = limit
            clipped = True
        elif values[i] < -limit:
            values[i] = -limit
            clipped = True
    return clipped


def shorten(values: list[float], part: slice, longest: float) -> bool:
    """Scale part of a list in place so that its length is at most ``longest``; tell whether."""
    length = math.hypot(*values[part])
    if length <= longest:
        return False
    scale = longest / length
    for i in range(part.start, part.stop):
        values[i] *= scale
    return True
