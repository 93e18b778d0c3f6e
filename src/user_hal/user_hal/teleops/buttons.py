"""Buttons of a device: which one does what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from user_core.config import Config, setting
from user_hal.teleops.hand_device import HandTeleop

#: Number of a button or axis that there is not.
NONE = -1


@dataclass(frozen=True)
class ButtonsConfig(Config):
    """Numbers of the buttons; -1: there is none."""

    deadman: int = setting(NONE, doc="Dead-man switch.", ge=NONE)
    open: int = setting(NONE, doc="Opens the gripper.", ge=NONE)
    close: int = setting(NONE, doc="Closes the gripper.", ge=NONE)
    success: int = setting(NONE, doc="The task is solved.", ge=NONE)
    failure: int = setting(NONE, doc="The attempt has failed.", ge=NONE)
    abort: int = setting(NONE, doc="End the episode without a verdict.", ge=NONE)


class Buttons:
    """Remembers which buttons are down, and acts when one goes down."""

    def __init__(self, config: ButtonsConfig, device: HandTeleop) -> None:
        self._config, self._device = config, device
        self._down: frozenset[int] = frozenset()

    def take(self, buttons: Sequence[int]) -> None:
        """Take the state of all buttons, 0 or 1 each."""
        down = frozenset(i for i, pressed in enumerate(buttons) if pressed)
        went_down, self._down = down - self._down, down
        if self._config.open in went_down:
            self._device.grip(1.0)
        if self._config.close in went_down:
            self._device.grip(0.0)
        for name in ("success", "failure", "abort"):
            if getattr(self._config, name) in went_down:
                self._device.label(name)

    @property
    def held(self) -> bool | None:
        """Whether the dead-man switch is held; None where there is none."""
        return None if self._config.deadman == NONE else self._config.deadman in self._down
