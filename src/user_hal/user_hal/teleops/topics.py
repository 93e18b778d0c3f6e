"""Teleops ``joy`` and ``twist``: devices whose data come on ROS topics."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from user_core.config import Config, setting
from user_core.errors import DeviceNotConnected
from user_hal.teleops.hand_device import NONE, Buttons, ButtonsConfig, HandConfig, HandTeleop
from user_hal.topic_io import TopicIo, TopicSubscription


class TopicTeleop(HandTeleop):
    """A device whose data come on topics; :meth:`attach` gives it the topics."""

    def __init__(self, config: HandConfig, **options: Any) -> None:
        super().__init__(config, **options)
        self._io: TopicIo | None = None
        self._subscriptions: list[TopicSubscription] = []

    def attach(self, io: TopicIo) -> None:
        """Take the topics to live on."""
        self._io = io

    @abstractmethod
    def subscribe(self, io: TopicIo) -> list[TopicSubscription]:
        """Subscribe to what the device publishes."""

    def open(self) -> None:
        """Subscribe anew. Raises DeviceNotConnected when there are no topics to live on."""
        if self._io is None:
            raise DeviceNotConnected(
                type(self).__name__, got="no topics", hint="Call attach(io) before connect()"
            )
        self._end()
        self._subscriptions = self.subscribe(self._io)

    def close(self) -> None:
        """Stop listening."""
        self._end()
        super().close()

    def _end(self) -> None:
        for subscription in self._subscriptions:
            subscription.close()
        self._subscriptions = []


#: Common gamepads under Linux: right shoulder; west, south; north, east; back.
_GAMEPAD = ButtonsConfig(deadman=5, open=2, close=0, success=3, failure=1, abort=6)


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


#: The two buttons of a SpaceMouse.
_TWO_BUTTONS = ButtonsConfig(open=0, close=1)


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
