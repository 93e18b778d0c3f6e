"""What all devices that a hand moves have in common.

:class:`Engagement` decides when a person drives, :class:`Jog` turns deflections into actions,
:class:`HandTeleop` is the base class of the devices, and :class:`Buttons` says which button does
what.
"""

from __future__ import annotations

import math
import re
import threading
import time
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from user_core.body.action_groups import JOINT_KINDS, TOOL_KINDS, measured_opening
from user_core.config import Config, setting
from user_core.errors import ConfigError, DeviceNotConnected
from user_core.interfaces import Teleop, TeleopCommand
from user_core.specs import ActionKind, Array, Arrays, RobotSpec
from user_core.types import Observation
from user_hal.safety.rotation import from_vector, multiply
from user_hal.teleops.choice_axes import ChoiceAxes


class EngagementConfig(Config):
    """When a person counts as driving."""

    deadman: bool = setting(
        True, doc="The dead-man switch must be held; only for devices that have one."
    )
    enter: float = setting(
        0.15,
        doc="Deflection at which a person without a held dead-man switch takes over, as a share "
        "of the full one. With a held switch, no deflection is needed.",
        ge=0,
        le=1,
    )
    leave: float = setting(
        0.05, doc="Deflection below which the person lets go, after hold_s.", ge=0, le=1
    )
    hold_s: float = setting(
        0.5,
        doc="How long the person still counts as driving after the deflection fell below leave.",
        unit="s",
        ge=0,
    )

    def validate(self) -> None:
        if self.leave > self.enter:
            raise ConfigError("leave", got=self.leave, expected=f"at most enter, {self.enter}")


class Engagement:
    """Turns switch and deflection into "drives" and "does not drive".

    With a dead-man switch the person drives while it is held, and not a moment longer.
    Without one, a deflection beyond ``enter`` takes over; it ends when the deflection has
    stayed below ``leave`` for ``hold_s``, so that a hand at rest for a moment does not hand
    the robot back.
    """

    def __init__(self, config: EngagementConfig) -> None:
        self._config = config
        self._engaged = False
        self._last_s = 0.0

    def update(self, held: bool | None, deflection: float, now_s: float) -> bool:
        """Whether the person drives now.

        Args:
            held: Whether the dead-man switch is held; None where the device has none.
            deflection: Largest deflection of any axis, 0 to 1.
            now_s: Time of a monotonic clock, seconds.
        """
        if self._config.deadman and held is not None:
            self._engaged = held
            return held
        if deflection >= self._config.enter or (self._engaged and deflection > self._config.leave):
            self._engaged, self._last_s = True, now_s
        elif self._engaged and now_s - self._last_s >= self._config.hold_s:
            self._engaged = False
        return self._engaged

    @property
    def engaged(self) -> bool:
        """Whether the person drives, by the last update."""
        return self._engaged

    def release(self) -> None:
        """The device has gone: no person drives."""
        self._engaged = False


#: Where the six axes of a device stand: translation, then rotation.
AXES = ("x", "y", "z", "rx", "ry", "rz")
_AXIS_OF_NAME = {
    prefix + axis: i
    for i, axis in enumerate(AXES)
    for prefix in (("", "d", "v") if i < 3 else ("", "d"))
} | {"wx": 3, "wy": 4, "wz": 5}
#: How far a target may run ahead of the robot, in steps at full deflection.
_LEAD_STEPS = 5


class JogConfig(Config):
    """How fast a person drives."""

    speed: float = setting(
        1.0, doc="Share of the largest action that full deflection gives.", gt=0, le=1
    )
    linear_speed_m_s: float = setting(
        0.1, doc="Speed at full deflection where actions are poses of the tool.", unit="m/s", gt=0
    )
    angular_speed_rad_s: float = setting(
        0.5, doc="Turning speed at full deflection, likewise.", unit="rad/s", gt=0
    )
    joint_speed_rad_s: float = setting(
        0.3, doc="Speed at full deflection where actions are joint targets.", unit="rad/s", gt=0
    )
    deadband: float = setting(
        0.05, doc="Deflection that counts as none; devices rarely rest at zero.", ge=0, lt=1
    )


class Jog:
    """Makes actions of one robot from six axes, -1 to 1 each, and a gripper opening.

    Choices are made as :mod:`user_hal.teleops.choice_axes` says. Actions that move the tool follow the axes x y z and
    rx ry rz in the base frame, those of a planar base x, y and rz. Actions that move joints, and generic ones, take the
    axes in the order of their elements; what has no axis stands still. Where actions are targets, they are counted from
    the target before while the person drives, so that nothing sags, and from where the robot is when he begins.

    Raises:
        ConfigError: The robot shows nothing that its targets could start from, or six axes
            cannot mean all of its groups.
    """

    def __init__(self, config: JogConfig, spec: RobotSpec) -> None:
        if spec.action_kind is ActionKind.MIXED or (
            len(spec.action_groups) > 1 and spec.action_kind not in JOINT_KINDS
        ):
            raise ConfigError(
                f"teleoperation of {spec.robot!r}",
                got=f"one device for the groups {[group.name for group in spec.action_groups]}",
                expected="a device for each group that shall be driven",
                hint="Take teleop plugin groups: {devices: {<group>: {plugin: ..., params: ...}}}",
            )
        self._config, self._spec = config, spec
        self._low = spec.action.low_array.astype(np.float64)
        self._high = spec.action.high_array.astype(np.float64)
        self._moved = [i for i in range(spec.action.size) if i not in spec.grippers]
        self._axis_of = self._axes()
        self._choices = ChoiceAxes(spec, self._axis_of) if spec.action.categorical else None
        start = {ActionKind.EE_POSE: "tcp_pose", ActionKind.JOINT_POSITION: "joint_position"}
        self._start = start.get(spec.action_kind, "")
        self._target: Array | None = None
        self._target_before: Array | None = None
        if self._start and self._start not in spec.observation:
            raise ConfigError(
                f"teleoperation of {spec.robot!r}",
                got=f"an observation of {list(spec.observation)}",
                expected=f"{self._start!r}, which {spec.action_kind.value} starts from",
            )

    def deflection(self, axes: Sequence[float]) -> float:
        """The largest deflection beyond the deadband, 0 to 1."""
        return max((abs(value) for value in self._shaped(axes)), default=0.0)

    def action(self, axes: Sequence[float], opening: float | None, arrays: Arrays) -> Array:
        """An action, (A,), within the robot's bounds.

        Args:
            axes: Deflection of up to six axes, -1 to 1.
            opening: Wanted opening of the grippers, 0 to 1; None: as they are.
            arrays: The observation that it answers.
        """
        shaped = self._shaped(axes)
        self._target_before = self._target
        kind = self._spec.action_kind
        if kind is ActionKind.EE_POSE:
            values = self._pose(shaped, arrays)
        elif kind is ActionKind.JOINT_POSITION:
            values = self._joint_target(shaped, arrays)
        else:
            values = self._share_of_bounds(shaped)
        for place, element in enumerate(self._spec.grippers):
            values[element] = self._opening(place, opening, arrays)
        if self._choices is not None:
            self._choices.fill(values, shaped, opening)
        clipped: Array = np.clip(values, self._low, self._high).astype(self._spec.action.dtype)
        return clipped

    def rest(self) -> None:
        """The person does not drive: the next target starts from where the robot is."""
        self._target = self._target_before = None

    def again(self) -> None:
        """The next action takes the place of the last: its target starts from where that one did."""
        self._target = self._target_before

    def _shaped(self, axes: Sequence[float]) -> list[float]:
        """Deflections with the deadband taken out, so that they start from zero beside it."""
        band = self._config.deadband
        shaped = []
        for value in axes:
            size = max(min(abs(value), 1.0) - band, 0.0) / (1.0 - band)
            shaped.append(size if value > 0 else -size)
        return shaped

    def _axes(self) -> list[int | None]:
        """Which axis moves each element of the action."""
        names, kind = self._spec.action.names, self._spec.action_kind
        tool = kind in (*TOOL_KINDS, ActionKind.BASE_TWIST)
        if kind is ActionKind.BASE_TWIST and not names:
            names = ("vx", "wz") if self._spec.action.size == 2 else ("vx", "vy", "wz")
        axis_of: list[int | None] = [None] * self._spec.action.size
        for place, element in enumerate(self._moved):
            axis = place if place < len(AXES) else None
            if tool and names:
                axis = _AXIS_OF_NAME.get(names[element])
            axis_of[element] = axis
        return axis_of

    def _deflection_of(self, shaped: Sequence[float], element: int) -> float:
        axis = self._axis_of[element]
        return shaped[axis] if axis is not None and axis < len(shaped) else 0.0

    def _share_of_bounds(self, shaped: Sequence[float]) -> Array:
        """Zero at rest, the bound at full deflection."""
        values = np.zeros(self._spec.action.size)
        for element in range(len(values)):
            share = self._deflection_of(shaped, element) * self._config.speed
            values[element] = share * (self._high if share > 0 else -self._low)[element]
        return values

    def _joint_target(self, shaped: Sequence[float], arrays: Arrays) -> Array:
        measured = arrays["joint_position"].astype(np.float64)
        elements = self._moved[: len(measured)]
        measured = measured[: len(elements)]
        most = self._config.joint_speed_rad_s * self._spec.period_s
        step = [most * self._deflection_of(shaped, element) for element in elements]
        self._target = self._led(measured, np.array(step), most)
        values = np.zeros(self._spec.action.size)
        values[elements] = self._target
        return values

    def _pose(self, shaped: Sequence[float], arrays: Arrays) -> Array:
        pose = arrays["tcp_pose"].astype(np.float64)
        axes = np.array([*shaped, *([0.0] * (6 - len(shaped)))])
        most = self._config.linear_speed_m_s * self._spec.period_s
        before = self._target
        place = self._led(pose[:3], axes[:3] * most, most)
        values = np.zeros(self._spec.action.size)
        values[:3] = place
        if len(values) >= 7:
            turn = axes[3:6] * self._config.angular_speed_rad_s * self._spec.period_s
            start = pose[3:7] if before is None else before[3:7]
            values[3:7] = multiply(from_vector(tuple(turn.tolist())), tuple(start.tolist()))
        self._target = values[:7].copy()
        return values

    def _led(self, measured: Array, step: Array, most: float) -> Array:
        """The target before, moved on by a step, and not too far ahead of the robot."""
        start = measured if self._target is None else self._target[: len(measured)]
        lead = most * _LEAD_STEPS
        led: Array = np.clip(start + step, measured - lead, measured + lead)
        return led

    def _opening(self, place: int, opening: float | None, arrays: Arrays) -> float:
        element = self._spec.grippers[place]
        low, high = self._low[element], self._high[element]
        if opening is None:
            opening = measured_opening(self._spec, place, arrays)
        return float(low + opening * (high - low))


class HandConfig(Config):
    """What every device that a hand moves is configured by."""

    engagement: EngagementConfig = setting(
        factory=EngagementConfig, doc="When the person counts as driving."
    )
    jog: JogConfig = setting(factory=JogConfig, doc="How fast the person drives.")
    max_age_s: float = setting(
        0.5,
        doc="Age from which readings of the device do not count, and no person drives.",
        unit="s",
        gt=0,
    )
    signs: tuple[float, ...] = setting(
        (1.0, 1.0, 1.0, 1.0, 1.0, 1.0),
        doc="1 or -1 for each of the axes x, y, z, rx, ry, rz; between: slower.",
        ge=-1,
        le=1,
        min_length=6,
        max_length=6,
    )
    mounted_rpy_rad: tuple[float, ...] = setting(
        (0.0, 0.0, 0.0),
        doc="How the device is mounted: roll, pitch and yaw that turn the robot's base frame into "
        "the device's. A mouse turned by a quarter to the left: [0, 0, 1.5708].",
        unit="rad",
        min_length=3,
        max_length=3,
    )


def _matrix(rpy_rad: Sequence[float]) -> Array:
    """The rotation of roll, pitch and yaw about fixed axes (REP-103), (3, 3)."""
    (cr, cp, cy), (sr, sp, sy) = np.cos(rpy_rad), np.sin(rpy_rad)
    return np.array(
        [
            [cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr],
            [sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr],
            [-sp, cp * sr, cp * cr],
        ]
    )


@dataclass(frozen=True)
class HandState:
    """What a hand does with a device.

    Attributes:
        axes: Deflections x y z rx ry rz, -1 to 1; fewer where the device has fewer.
        held: Whether the dead-man switch is held; None where there is none.
        stamp_s: When this was so, monotonic seconds.
    """

    axes: Sequence[float] = ()
    held: bool | None = None
    stamp_s: float = 0.0


class HandTeleop(Teleop):
    """Keeps what a device said last, and makes commands of it.

    Subclasses open the device in :meth:`open` and call :meth:`moved`, :meth:`grip` and
    :meth:`label` from whatever thread the device's data come. A label is given once.

    Attributes:
        scripted: Whether a program stands in for the person.
    """

    scripted: ClassVar[bool] = False

    def __init__(
        self,
        config: HandConfig,
        clock_s: Callable[[], float] = time.monotonic,
        stamp_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._hand_config = config
        self._clock_s, self._stamp_ns = clock_s, stamp_ns
        self._engagement = Engagement(config.engagement)
        self._lock = threading.Lock()
        self._state: HandState | None = None
        self._opening: float | None = None
        self._labels: set[str] = set()
        self._jog: Jog | None = None
        self._is_finite = True  # what the device said last
        turned = any(config.mounted_rpy_rad)
        self._mount = _matrix(config.mounted_rpy_rad) if turned else None

    @abstractmethod
    def open(self) -> None:
        """Open the device. Raises DeviceError when it is not there."""

    def connect(self, spec: RobotSpec) -> None:
        """Open the device for a robot with this spec."""
        self._jog = Jog(self._hand_config.jog, spec)
        self.open()

    def moved(self, axes: Sequence[float], held: bool | None = None) -> None:
        """The device says where its axes stand, by its own directions, and whether the switch
        is held. What is not finite is no deflection of anything: the person lets go."""
        self._is_finite = all(map(math.isfinite, axes))
        if not self._is_finite:
            axes, held = [0.0] * len(axes), None if held is None else False
        signed = [sign * axis for sign, axis in zip(self._hand_config.signs, axes)]
        if self._mount is not None:
            both = np.array([*signed, *([0.0] * (6 - len(signed)))]).reshape(2, 3)
            signed = (both @ self._mount.T).reshape(-1).tolist()
        with self._lock:
            self._state = HandState(tuple(signed), held, self._clock_s())

    @property
    def state(self) -> HandState | None:
        """What the device said last; None before it said anything."""
        with self._lock:
            return self._state

    @property
    def opening(self) -> float | None:
        """The opening of the gripper that the person wants; None: as it is."""
        with self._lock:
            return self._opening

    def inputs(self) -> Sequence[tuple[str, float, str]]:
        """Axes and buttons as the device has them, for people: name, value, what it does."""
        state = self.state
        return [(name, axis, "") for name, axis in zip(AXES, state.axes)] if state else []

    def grip(self, opening: float) -> None:
        """The person wants the gripper to open this far, 0 to 1, from now on."""
        with self._lock:
            self._opening = opening

    def toggle_grip(self) -> None:
        """The person wants the gripper the other way."""
        with self._lock:
            self._opening = 1.0 if self._opening == 0.0 else 0.0

    def label(self, name: str) -> None:
        """The person judges the episode: ``success``, ``failure`` or ``abort``."""
        with self._lock:
            self._labels.add(name)

    def read(self, observation: Observation) -> TeleopCommand:
        """What the person wants now."""
        jog = self._jog
        if jog is None:
            raise DeviceNotConnected(
                type(self).__name__, got="no connection", hint="Call connect() first"
            )
        now_s = self._clock_s()
        with self._lock:
            state, opening, labels = self._state, self._opening, self._labels
            self._labels = set()
        if state is None or not self._counts(now_s - state.stamp_s):
            self._engagement.release()
            state, engaged = HandState(), False
        else:
            engaged = self._engagement.update(state.held, jog.deflection(state.axes), now_s)
        if not engaged:
            jog.rest()
        axes = state.axes if engaged else np.zeros(6).tolist()
        return TeleopCommand(
            engaged=engaged,
            action=jog.action(axes, opening, observation.arrays),
            stamp_ns=self._stamp_ns(),
            success="success" in labels,
            failure="failure" in labels,
            abort="abort" in labels,
        )

    def read_again(self, observation: Observation) -> TeleopCommand:
        """As :meth:`read`, for an observation that was answered already: the person has moved since, and this takes the
        place of that answer, so that a target makes one step for each observation."""
        if self._jog is not None:
            self._jog.again()
        return self.read(observation)

    def _counts(self, age_s: float) -> bool:
        """Whether what the device said last still counts."""
        return age_s <= self._hand_config.max_age_s

    def close(self) -> None:
        """Let go of the device."""
        with self._lock:
            self._state, self._labels = None, set()
        self._jog = None
        self._engagement.release()


#: Number of a button or axis that there is not.
NONE = -1


class ButtonsConfig(Config):
    """Numbers of the buttons; -1: there is none."""

    deadman: int = setting(NONE, doc="Dead-man switch.", ge=NONE)
    open: int = setting(NONE, doc="Opens the gripper.", ge=NONE)
    close: int = setting(NONE, doc="Closes the gripper.", ge=NONE)
    toggle: int = setting(NONE, doc="Moves the gripper the other way.", ge=NONE)
    success: int = setting(NONE, doc="The task is solved.", ge=NONE)
    failure: int = setting(NONE, doc="The attempt has failed.", ge=NONE)
    abort: int = setting(NONE, doc="End the episode without a verdict.", ge=NONE)


class AxisButtonsConfig(Config):
    """Axes that act as buttons, a D-pad or a trigger: a direction and the number of the axis, such
    as ``"+7"`` or ``"-6"``; it is down beyond half of its deflection. Empty: there is none."""

    deadman: str = setting("", doc="Dead-man switch.")
    open: str = setting("", doc="Opens the gripper.")
    close: str = setting("", doc="Closes the gripper.")
    toggle: str = setting("", doc="Moves the gripper the other way.")
    success: str = setting("", doc="The task is solved.")
    failure: str = setting("", doc="The attempt has failed.")
    abort: str = setting("", doc="End the episode without a verdict.")

    def validate(self) -> None:
        for name in PURPOSES:
            text = getattr(self, name)
            if text and not re.fullmatch(r"[+-]\d{1,3}", text):
                raise ConfigError(name, got=text, expected='"+" or "-" and the number of an axis')


#: What a button may be for.
PURPOSES = ("deadman", "open", "close", "toggle", "success", "failure", "abort")
_PRESSED = 0.5


class Buttons:
    """Remembers which buttons are down, and acts when one goes down.

    Args:
        config: Numbers of the buttons.
        device: Is told.
        axes: Axes that act as buttons.
    """

    def __init__(
        self, config: ButtonsConfig, device: HandTeleop, axes: AxisButtonsConfig | None = None
    ) -> None:
        self._device = device
        self._numbers = {p: getattr(config, p) for p in PURPOSES if getattr(config, p) != NONE}
        self._axes = {p: getattr(axes, p) for p in PURPOSES if axes and getattr(axes, p)}
        self.down: frozenset[str] = frozenset()
        self._pressed: tuple[bool, ...] = ()
        self.heard = False
        self.missing: tuple[str, ...] = ()

    def inputs(self) -> list[tuple[str, float, str]]:
        """The device's buttons for people: name, 0 or 1, what each does."""
        does = {n: [p for p, number in self._numbers.items() if number == n]
                for n in range(len(self._pressed))}  # fmt: skip
        return [
            (f"button {n}", float(down), ", ".join(does[n])) for n, down in enumerate(self._pressed)
        ]

    def purposes(self, axis: int) -> list[str]:
        """What an axis does as a button, with its direction."""
        return [f"{p} ({t[0]})" for p, t in self._axes.items() if int(t[1:]) == axis]

    @property
    def axes(self) -> frozenset[int]:
        """Numbers of the axes that act as buttons."""
        return frozenset(int(text[1:]) for text in self._axes.values())

    def take(
        self, buttons: Sequence[int], deflection: Callable[[int], float] = lambda axis: 0.0
    ) -> None:
        """Take the state of all buttons, 0 or 1 each, and ask for deflections of axes."""
        count, self.heard = len(buttons), True
        self._pressed = tuple(map(bool, buttons))
        self.missing = tuple(
            f"{purpose} is button {number} of {count}"
            for purpose, number in self._numbers.items()
            if number >= count
        )
        down = {p for p, number in self._numbers.items() if number < count and buttons[number]}
        for purpose, text in self._axes.items():
            if deflection(int(text[1:])) * (1 if text[0] == "+" else -1) >= _PRESSED:
                down.add(purpose)
        went_down, self.down = down - self.down, frozenset(down)
        if "open" in went_down:
            self._device.grip(1.0)
        if "close" in went_down:
            self._device.grip(0.0)
        if "toggle" in went_down:
            self._device.toggle_grip()
        for name in ("success", "failure", "abort"):
            if name in went_down:
                self._device.label(name)

    @property
    def held(self) -> bool | None:
        """Whether the dead-man switch is held; None where there is none."""
        if "deadman" not in self._numbers and "deadman" not in self._axes:
            return None
        return "deadman" in self.down
