"""Teleop ``joy``: gamepads and the like, by ``sensor_msgs/Joy``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from user_core.config import Config, setting
from user_hal.teleops.buttons import NONE, Buttons, ButtonsConfig
from user_hal.teleops.hand_device import HandConfig
from user_hal.teleops.topic_device import TopicTeleop
from user_hal.topic_io import TopicIo, TopicSubscription

#: Common gamepads under Linux: right shoulder; west, south; north, east; back.
_GAMEPAD = ButtonsConfig(deadman=5, open=2, close=0, success=3, failure=1, abort=6)


@dataclass(frozen=True)
class JoyConfig(HandConfig):
    """Which axis and button does what."""

    topic: str = setting("joy", doc="Topic of sensor_msgs/Joy.", min_length=1)
    axes: tuple[int, ...] = setting(
        (1, 0, 4, NONE, NONE, 3),
        doc="Number of the axis for x, y, z, rx, ry, rz; -1: there is none.",
        ge=NONE,
        max_length=6,
    )
    signs: tuple[float, ...] = setting(
        (1.0, 1.0, 1.0, 1.0, 1.0, 1.0),
        doc="1 or -1 for each of these axes.",
        ge=-1,
        le=1,
        min_length=6,
        max_length=6,
    )
    buttons: ButtonsConfig = setting(_GAMEPAD, doc="Which button does what.")


class JoyTeleop(TopicTeleop):
    """Any device with a ROS driver that publishes ``sensor_msgs/Joy``.

    Buttons count when they go down. An axis or button that the device does not have rests.
    """

    Config: ClassVar[type[Config]] = JoyConfig

    def __init__(self, config: JoyConfig, **options: Any) -> None:
        super().__init__(config, **options)
        self.config = config
        self._buttons = Buttons(config.buttons, self)

    def subscribe(self, io: TopicIo) -> list[TopicSubscription]:
        """Listen to the device."""
        return [io.subscribe(self.config.topic, "sensor_msgs/msg/Joy", self.take)]

    def take(self, message: Any) -> None:
        """Take one message."""
        self._buttons.take(message.buttons)
        axes, signs = self.config.axes, self.config.signs
        deflections = [sign * _at(message.axes, axis) for axis, sign in zip(axes, signs)]
        self.moved(deflections, self._buttons.held)


def _at(values: Sequence[float], index: int) -> float:
    return float(values[index]) if 0 <= index < len(values) else 0.0
