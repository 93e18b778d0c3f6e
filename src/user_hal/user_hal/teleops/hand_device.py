"""What all devices that a hand moves have in common."""

from __future__ import annotations

import threading
import time
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from user_core.config import Config, setting
from user_core.errors import DeviceNotConnected
from user_core.interfaces import Teleop, TeleopCommand
from user_core.specs import RobotSpec
from user_core.types import Observation
from user_hal.teleops.engagement import Engagement, EngagementConfig
from user_hal.teleops.jog import Jog, JogConfig


@dataclass(frozen=True)
class HandConfig(Config):
    """What every device that a hand moves is configured by."""

    engagement: EngagementConfig = setting(
        factory=EngagementConfig, doc="When the person counts as driving."
    )
    jog: JogConfig = setting(factory=JogConfig, doc="How fast he drives.")
    max_age_s: float = setting(
        0.5, doc="Age at which what the device said is void, and nobody drives.", unit="s", gt=0
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

    @abstractmethod
    def open(self) -> None:
        """Open the device. Raises DeviceError when it is not there."""

    def connect(self, spec: RobotSpec) -> None:
        """Open the device for a robot with this spec."""
        self._jog = Jog(self._hand_config.jog, spec)
        self.open()

    def moved(self, axes: Sequence[float], held: bool | None = None) -> None:
        """The device says where its axes stand and whether the switch is held."""
        with self._lock:
            self._state = HandState(tuple(axes), held, self._clock_s())

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
        if state is None or now_s - state.stamp_s > self._hand_config.max_age_s:
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

    def close(self) -> None:
        """Let go of the device."""
        with self._lock:
            self._state, self._labels = None, set()
        self._jog = None
        self._engagement.release()
