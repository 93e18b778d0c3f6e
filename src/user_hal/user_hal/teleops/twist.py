"""Teleop ``twist``: whatever publishes ``geometry_msgs/TwistStamped``, a SpaceMouse for instance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from user_core.config import Config, setting
from user_hal.teleops.buttons import Buttons, ButtonsConfig
from user_hal.teleops.hand_device import HandConfig
from user_hal.teleops.topic_device import TopicTeleop
from user_hal.topic_io import TopicIo, TopicSubscription

#: The two buttons of a SpaceMouse.
_TWO_BUTTONS = ButtonsConfig(open=0, close=1)


@dataclass(frozen=True)
class TwistConfig(HandConfig):
    """Where the twist comes from, and what full deflection is."""

    topic: str = setting("twist", doc="Topic of geometry_msgs/TwistStamped.", min_length=1)
    full_linear_m_s: float = setting(
        1.0, doc="Linear velocity that counts as full deflection.", unit="m/s", gt=0
    )
    full_angular_rad_s: float = setting(
        1.0, doc="Angular velocity that counts as full deflection.", unit="rad/s", gt=0
    )
    buttons_topic: str = setting(
        "", doc="Topic of sensor_msgs/Joy with the buttons of the same device; empty: none."
    )
    buttons: ButtonsConfig = setting(_TWO_BUTTONS, doc="Which button does what.")


class TwistTeleop(TopicTeleop):
    """A device with six axes as a velocity of the tool, and buttons beside it.

    Without a dead-man button it takes over by deflection alone, see the settings of
    ``engagement``.
    """

    Config: ClassVar[type[Config]] = TwistConfig

    def __init__(self, config: TwistConfig, **options: Any) -> None:
        super().__init__(config, **options)
        self.config = config
        self._buttons = Buttons(config.buttons, self)

    def subscribe(self, io: TopicIo) -> list[TopicSubscription]:
        """Listen to the device, and to its buttons."""
        config = self.config
        subscriptions = [io.subscribe(config.topic, "geometry_msgs/msg/TwistStamped", self.take)]
        if config.buttons_topic:
            subscriptions.append(
                io.subscribe(config.buttons_topic, "sensor_msgs/msg/Joy", self.take_buttons)
            )
        return subscriptions

    def take(self, message: Any) -> None:
        """Take one twist."""
        full = self.config.full_linear_m_s, self.config.full_angular_rad_s
        axes = [
            getattr(vector, axis) / most
            for vector, most in zip((message.twist.linear, message.twist.angular), full)
            for axis in "xyz"
        ]
        self.moved([max(min(axis, 1.0), -1.0) for axis in axes], self._buttons.held)

    def take_buttons(self, message: Any) -> None:
        """Take the buttons."""
        self._buttons.take(message.buttons)
