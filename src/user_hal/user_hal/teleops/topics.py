"""Teleops ``joy`` and ``twist``: devices whose data come on ROS topics."""

from __future__ import annotations

import logging
import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from user_core.config import Config, setting
from user_core.errors import ConfigError, DeviceNotConnected, TransportError
from user_core.interfaces import TeleopCommand
from user_core.reasons import DEVICE_MISFITS, DEVICE_SILENT, NO_REASON, Reason
from user_core.types import Observation
from user_hal.teleops.hand_device import (
    AXES,
    NONE,
    AxisButtonsConfig,
    Buttons,
    ButtonsConfig,
    HandConfig,
    HandTeleop,
)
from user_hal.topic_io import Ours, TopicIo, TopicSubscription, misfits

_log = logging.getLogger(__name__)
JOY = "sensor_msgs/msg/Joy"
TWIST = "geometry_msgs/msg/Twist"
TWIST_STAMPED = "geometry_msgs/msg/TwistStamped"


class TopicTeleop(HandTeleop):
    """A device whose data come on topics; :meth:`attach` gives it the topics."""

    def __init__(self, config: HandConfig, **options: Any) -> None:
        super().__init__(config, **options)
        self._io: TopicIo | None = None
        self._subscriptions: list[TopicSubscription] = []
        self._type = ""
        self._warned = False

    def attach(self, io: TopicIo) -> None:
        """Take the topics to live on."""
        self._io = io

    @abstractmethod
    def subscribe(self, io: TopicIo) -> list[TopicSubscription]:
        """Subscribe to what the device publishes; its axes come by the first."""

    def open(self) -> None:
        """Subscribe anew. Raises DeviceNotConnected when there are no topics to live on."""
        if self._io is None:
            raise DeviceNotConnected(
                type(self).__name__, got="no topics", hint="Call attach(io) before connect()"
            )
        self._end()
        self._subscriptions = self.subscribe(self._io)

    def trouble(self) -> Reason:
        """Why nothing is heard of the device, and what it lacks."""
        if self._io is None or not self._subscriptions:
            return NO_REASON
        subscription, state = self._subscriptions[0], self.state
        if state is None:
            return Reason(DEVICE_SILENT, _why_unheard(self._io, subscription, self._type))
        age_s = self._clock_s() - state.stamp_s
        if not self._counts(age_s):
            return Reason(DEVICE_SILENT, self._why_silent(subscription, age_s))
        self._warned = False
        if not self._is_finite:
            text = f"{subscription.topic} sends numbers that are not finite: nobody drives"
            return Reason(DEVICE_MISFITS, text)
        return self._misfits()

    def read(self, observation: Observation) -> TeleopCommand:
        """What the person wants now; that the device fell silent is logged once."""
        engaged_before = self._engagement.engaged
        command = super().read(observation)
        if engaged_before and not command.engaged and not self._warned:
            reason = self.trouble()
            if reason.code == DEVICE_SILENT:
                self._warned = True
                _log.warning("The person lets go: %s", reason)
        return command

    def close(self) -> None:
        """Stop listening."""
        self._end()
        super().close()

    def _misfits(self) -> Reason:
        """What the device lacks."""
        return NO_REASON

    def _buttons_misfit(self, buttons: Buttons, topic: str) -> Reason:
        """What is wrong with buttons that come by the second topic."""
        if len(self._subscriptions) > 1 and self._io is not None and not buttons.heard:
            return Reason(DEVICE_SILENT, _why_unheard(self._io, self._subscriptions[1], JOY))
        return _missing(topic, buttons.missing)

    def _why_silent(self, subscription: TopicSubscription, age_s: float) -> str:
        topic = subscription.topic
        if not subscription.publishers:
            return f"nobody publishes {topic} any more, for {age_s:.1f} s"
        return (
            f"{topic} has said nothing for {age_s:.1f} s, although its publisher lives. Let its "
            "driver repeat (autorepeat_rate of joy_node, 20 Hz), or set repeats: false"
        )

    def _end(self) -> None:
        for subscription in self._subscriptions:
            subscription.close()
        self._subscriptions = []


def _why_unheard(io: TopicIo, subscription: TopicSubscription, type_name: str) -> str:
    topic = subscription.topic
    others = [name for name in io.topics().get(topic, ()) if name != type_name]
    if others:
        return f"{topic} carries {', '.join(others)}, not {type_name}"
    if not subscription.publishers:
        if unfit := misfits(io, topic, Ours(type_name, "best_effort"), publishes=False):
            return f"quality of service of {topic} does not fit: {'; '.join(unfit)}"
        return f"nobody publishes {topic} ({type_name})"
    return f"{topic} is published, but no message came yet"


#: Common gamepads under Linux: right shoulder; west, south; north, east; back.
_GAMEPAD = ButtonsConfig(deadman=5, open=2, close=0, success=3, failure=1, abort=6)


@dataclass(frozen=True)
class PadLayout:
    """How a kind of pad counts its axes and buttons, under its driver.

    Attributes:
        axes: For x, y, z, rx, ry, rz.
        rest: Value at rest of each axis.
        buttons: Right shoulder; west, south; north, east; back.
    """

    axes: tuple[int, ...]
    rest: tuple[float, ...]
    buttons: ButtonsConfig


#: xpad and hid-playstation under joy_node, which counts as the kernel does; game_controller_node counts
#: all pads alike (README of the ROS package joy).
PAD_LAYOUTS = {
    "xbox": PadLayout((1, 0, 4, NONE, NONE, 3), (), _GAMEPAD),
    "playstation": PadLayout(
        (1, 0, 4, NONE, NONE, 3),
        (0.0, 0.0, 1.0, 0.0, 0.0, 1.0),
        ButtonsConfig(deadman=5, open=3, close=0, success=2, failure=1, abort=8),
    ),
    "game_controller": PadLayout(
        (1, 0, 3, NONE, NONE, 2),
        (),
        ButtonsConfig(deadman=10, open=2, close=0, success=3, failure=1, abort=4),
    ),
}
#: No axis of a driver that keeps to -1 to 1 goes further.
_BEYOND = 1.1
#: A twist of this many times the full deflection is in another unit.
_FAR = 3.0
#: What an axis must move by to have left its first value.
_MOVED = 0.01


class JoyConfig(HandConfig):
    """Which axis and button does what."""

    topic: str = setting("joy", doc="Topic of sensor_msgs/Joy.", min_length=1)
    layout: Literal["xbox", "playstation", "game_controller"] = setting(
        "xbox",
        doc="How the pad counts, where axes, rest and buttons are not given: an Xbox or a "
        "PlayStation pad under joy_node, or any pad under game_controller_node.",
    )
    axes: tuple[int, ...] = setting(
        (1, 0, 4, NONE, NONE, 3),
        doc="Number of the axis for x, y, z, rx, ry, rz; -1: there is none.",
        ge=NONE,
        max_length=6,
    )
    minus_axes: tuple[int, ...] = setting(
        (),
        doc="Number of a second axis for each of these, which counts the other way: two triggers "
        "as one axis. -1: there is none.",
        ge=NONE,
        max_length=6,
    )
    rest: tuple[float, ...] = setting(
        (),
        doc="Value at rest of each axis of the device, by its number; 0 beyond the end. Triggers "
        "often rest at 1.",
        max_length=64,
    )
    full: tuple[float, ...] = setting(
        (),
        doc="Value at full deflection, likewise; where nothing is said, 1, or -1 for an axis that "
        "rests above 0.",
        max_length=64,
    )
    buttons: ButtonsConfig = setting(_GAMEPAD, doc="Which button does what.")
    axis_buttons: AxisButtonsConfig = setting(
        factory=AxisButtonsConfig, doc="Which axis does what a button would."
    )
    gripper_axis: int = setting(
        NONE,
        doc="Number of an axis that closes the gripper as far as it is deflected; -1: none.",
        ge=NONE,
    )
    repeats: bool = setting(
        True,
        doc="The driver repeats what it said while nothing changes; then silence is a failure, and "
        "nobody drives. false: silence means that nothing changed, while the publisher lives.",
    )

    def validate(self) -> None:
        for number in range(max(len(self.rest), len(self.full))):
            rest, full = self.range_of(number)
            if rest == full:
                raise ConfigError(
                    f"full of axis {number}", got=full, expected=f"not the value at rest, {rest}"
                )

    def laid_out(self) -> JoyConfig:
        """With axes, values at rest and buttons of its layout, where these were not given."""
        layout, usual = PAD_LAYOUTS[self.layout], PAD_LAYOUTS["xbox"]
        names = ("axes", "rest", "buttons")
        left = [name for name in names if getattr(self, name) == getattr(usual, name)]
        return self.replace(**{name: getattr(layout, name) for name in left})

    def range_of(self, number: int) -> tuple[float, float]:
        """Value at rest and at full deflection of an axis of the device."""
        rest = self.rest[number] if number < len(self.rest) else 0.0
        default = -1.0 if rest > 0 else 1.0
        return rest, self.full[number] if number < len(self.full) else default


class JoyTeleop(TopicTeleop):
    """Any device with a ROS driver that publishes ``sensor_msgs/Joy``.

    Buttons count when they go down. An axis or button that the device does not have rests. An
    axis counts only when it has left the value that it had first, or was at rest then: drivers
    show 0 for a trigger that was never touched, wherever it rests.
    """

    Config: ClassVar[type[Config]] = JoyConfig

    def __init__(self, config: JoyConfig, **options: Any) -> None:
        config = config.laid_out()
        super().__init__(config, **options)
        self.config = config
        self._buttons = Buttons(config.buttons, self, config.axis_buttons)
        self._raw: Sequence[float] = ()
        self._first: list[float] = []
        self._live: set[int] = set()
        self._gripper_at: float | None = None
        self._beyond: dict[int, float] = {}  # axes that went further than any can

    def subscribe(self, io: TopicIo) -> list[TopicSubscription]:
        """Listen to the device."""
        self._first, self._live, self._gripper_at = [], set(), None
        self._beyond.clear()
        self._type = JOY
        return [io.subscribe(self.config.topic, JOY, self.take)]

    def take(self, message: Any) -> None:
        """Take one message."""
        self._raw = message.axes
        for number, value in enumerate(self._raw):
            if _BEYOND < abs(value) < math.inf:
                self._beyond[number] = value
        self._wake()
        self._buttons.take(message.buttons, self.deflection)
        axes, minus = self.config.axes, self.config.minus_axes
        deflections = [self.deflection(axis) for axis in axes]
        for place, axis in enumerate(minus[: len(axes)]):
            deflections[place] -= self.deflection(axis)
        self._grip_by_axis()
        self.moved(deflections, self._buttons.held)

    def inputs(self) -> Sequence[tuple[str, float, str]]:
        """Axes and buttons of the device, by their numbers."""
        config, raw = self.config, self._raw
        rows = []
        for number in range(len(raw)):
            does = [name for name, axis in zip(AXES, config.axes) if axis == number]
            does += [f"-{name}" for name, axis in zip(AXES, config.minus_axes) if axis == number]
            does += ["gripper"] if number == config.gripper_axis else []
            does += self._buttons.purposes(number)
            if number not in self._live:
                does.append(f"at {raw[number]:+.2f} since the beginning: counts once it moved")
            rows.append((f"axis {number}", self.deflection(number), ", ".join(does)))
        return rows + self._buttons.inputs()

    def deflection(self, number: int) -> float:
        """How far an axis of the device is deflected, -1 to 1; 0 where it does not count."""
        if number not in self._live or number >= len(self._raw):
            return 0.0
        return self._share(number) if math.isfinite(self._raw[number]) else math.nan

    def _share(self, number: int) -> float:
        rest, full = self.config.range_of(number)
        return min(max((float(self._raw[number]) - rest) / (full - rest), -1.0), 1.0)

    def _wake(self) -> None:
        """Find the axes that count from now on."""
        self._first += self._raw[len(self._first) :]
        for number, value in enumerate(self._raw):
            if number not in self._live and (
                abs(value - self._first[number]) > _MOVED or abs(self._share(number)) <= _MOVED
            ):
                self._live.add(number)

    def _grip_by_axis(self) -> None:
        number = self.config.gripper_axis
        if number not in self._live:
            return
        share = abs(self.deflection(number))
        if self._gripper_at is None:
            self._gripper_at = share if share <= _MOVED else 0.0
        if abs(share - self._gripper_at) > _MOVED:  # buttons may move it as well
            self._gripper_at = share
            self.grip(1.0 - share)

    def _counts(self, age_s: float) -> bool:
        if super()._counts(age_s):
            return True
        return not self.config.repeats and any(s.publishers for s in self._subscriptions)

    def _misfits(self) -> Reason:
        config, count = self.config, len(self._raw)
        missing = [
            f"{name} is axis {axis} of {count}"
            for names, axes in ((AXES, config.axes), (AXES, config.minus_axes))
            for name, axis in zip(names, axes)
            if axis >= count
        ]
        numbers = {config.gripper_axis, *self._buttons.axes}
        missing += [f"axis {axis} of {count}" for axis in sorted(numbers) if axis >= count]
        found = _missing(self.config.topic, [*self._buttons.missing, *missing])
        if found or not self._beyond or config.full:
            return found
        far = ", ".join(f"axis {number}: {value:g}" for number, value in self._beyond.items())
        return Reason(
            DEVICE_MISFITS,
            f"{config.topic} goes beyond -1 to 1 ({far}): say what full deflection is, by full",
        )


def _missing(topic: str, missing: Sequence[str]) -> Reason:
    if not missing:
        return NO_REASON
    text = f"{topic}: the device has not what is asked for, numbers begin at 0: "
    return Reason(DEVICE_MISFITS, text + ", ".join(missing))


#: The two buttons of a SpaceMouse.
_TWO_BUTTONS = ButtonsConfig(open=0, close=1)
#: How long nothing is heard before the other type of the topic is tried.
_OTHER_TYPE_S = 1.0
_RETRY_S = 0.05


class TwistConfig(HandConfig):
    """Where the twist comes from, and what full deflection is."""

    topic: str = setting("twist", doc="Topic of geometry_msgs/Twist or TwistStamped.", min_length=1)
    type: Literal["auto", "Twist", "TwistStamped"] = setting(
        "auto", doc="Its type; auto: the one that the topic carries."
    )
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
        self._looked_s = 0.0
        self._switching = False
        self._most = [0.0, 0.0]  # farthest that it has said, linear and angular

    def subscribe(self, io: TopicIo) -> list[TopicSubscription]:
        """Listen to the device, and to its buttons."""
        config = self.config
        self._looked_s = self._clock_s()
        self._type, self._switching, self._most = self._guess(io), False, [0.0, 0.0]
        subscriptions = [io.subscribe(config.topic, self._type, self.take)]
        if config.buttons_topic:
            subscriptions.append(io.subscribe(config.buttons_topic, JOY, self.take_buttons))
        return subscriptions

    def read(self, observation: Observation) -> TeleopCommand:
        """What the person wants now; looks for the other type while nothing is heard."""
        if self.config.type == "auto" and self.state is None:
            self._look()
        return super().read(observation)

    def take(self, message: Any) -> None:
        """Take one twist, stamped or not."""
        twist = getattr(message, "twist", message)
        full = self.config.full_linear_m_s, self.config.full_angular_rad_s
        sizes = [max(abs(v.x), abs(v.y), abs(v.z)) for v in (twist.linear, twist.angular)]
        self._most = [max(pair) for pair in zip(self._most, sizes)]
        axes = [
            getattr(vector, axis) / most
            for vector, most in zip((twist.linear, twist.angular), full)
            for axis in "xyz"
        ]
        clipped = [max(min(a, 1.0), -1.0) if math.isfinite(a) else math.nan for a in axes]
        self.moved(clipped, self._buttons.held)

    def take_buttons(self, message: Any) -> None:
        """Take the buttons."""
        self._buttons.take(message.buttons)

    def inputs(self) -> Sequence[tuple[str, float, str]]:
        """Axes, and the buttons beside them."""
        return [*super().inputs(), *self._buttons.inputs()]

    def _misfits(self) -> Reason:
        found = self._buttons_misfit(self._buttons, self.config.buttons_topic)
        config, (linear, angular) = self.config, self._most
        if found or not (
            linear > _FAR * config.full_linear_m_s or angular > _FAR * config.full_angular_rad_s
        ):
            return found
        return Reason(
            DEVICE_MISFITS,
            f"{config.topic} goes up to {linear:g} and {angular:g}, full deflection is "
            f"{config.full_linear_m_s:g} and {config.full_angular_rad_s:g}: a touch is full speed. "
            "Correct full_linear_m_s and full_angular_rad_s",
        )

    def _look(self) -> None:
        """While nothing is heard: listen to the other type, where the topic carries it.

        A node of DDS cannot listen to two types of one topic, and an ended subscription may last
        a little while: then it is tried again.
        """
        now_s, io = self._clock_s(), self._io
        wait_s = _RETRY_S if self._switching else _OTHER_TYPE_S
        if io is None or not self._subscriptions or now_s - self._looked_s < wait_s:
            return
        self._looked_s, old = now_s, self._subscriptions[0]
        if not self._switching:
            if _other(self._type) not in io.topics().get(old.topic, ()):
                return
            old.close()
            self._type, self._switching = _other(self._type), True
        try:
            self._subscriptions[0] = io.subscribe(self.config.topic, self._type, self.take)
        except TransportError as error:
            _log.debug("%s: %s", self.config.topic, error)
            return
        self._switching = False

    def _guess(self, io: TopicIo) -> str:
        """The type that the topic carries, as far as the graph tells now."""
        if self.config.type != "auto":
            return TWIST if self.config.type == "Twist" else TWIST_STAMPED
        end = "/" + self.config.topic.lstrip("/")
        types = {t for name, ts in io.topics().items() if f"/{name}".endswith(end) for t in ts}
        return TWIST if TWIST in types and TWIST_STAMPED not in types else TWIST_STAMPED


def _other(type_name: str) -> str:
    return TWIST if type_name == TWIST_STAMPED else TWIST_STAMPED
