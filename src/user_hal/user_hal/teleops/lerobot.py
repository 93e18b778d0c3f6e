"""Teleop ``lerobot``: any teleoperator of LeRobot: a leader arm that the robot follows, or keys and pads that move its
tool."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from user_core.config import Config, setting
from user_core.errors import ConfigError
from user_core.interfaces import Discovered, Teleop, TeleopCommand
from user_core.reasons import DEVICE_SILENT, NO_REASON, Reason
from user_core.specs import RobotSpec
from user_core.types import Observation
from user_hal.lerobot_devices import (
    connect_device,
    discovered,
    errors_of,
    make_device,
    their_config,
)
from user_hal.teleops.hand_device import HandTeleop
from user_hal.teleops.leader import LeaderConfig, LeaderTeleop

_POSITION = ".pos"
#: Keys of teleoperators that move a tool by differences, and the axes that these are.
_DELTAS = ("delta_x", "delta_y", "delta_z", "delta_rx", "delta_ry", "delta_rz")
#: What LeRobot's grippers mean where they are one of three.
_CLOSE, _OPEN = 0, 2
_LABELS = {
    "success": "success",
    "failure": "failure",
    "terminate_episode": "abort",
    "rerecord_episode": "abort",
}
_PAUSE_S = 0.2


class LeRobotTeleopConfig(LeaderConfig):
    """Which teleoperator of LeRobot. Of a leader arm the settings of ``leader`` count, except its topics; ``scale``
    0.0174533 where it says degrees."""

    device: dict[str, Any] = setting(
        doc="LeRobot's own settings of it, as its commands take them: type, port, id, ..."
    )
    modules: tuple[str, ...] = setting(
        (),
        doc="Modules to import that register teleoperators. Installed packages lerobot_teleoperator_* need not be named.",
    )
    poll_hz: float = setting(60.0, doc="How often it is asked.", unit="Hz", gt=0, le=1000)


class LeRobotTeleop(Teleop):
    """One teleoperator of LeRobot, asked in a thread of its own.

    Raises:
        ConfigError: It gives neither joint positions nor differences of a tool's pose.
    """

    Config: ClassVar[type[Config]] = LeRobotTeleopConfig

    def __init__(self, config: LeRobotTeleopConfig, **options: Any) -> None:
        theirs = their_config("teleoperator", config.device, config.modules)
        self._device = make_device("teleoperator", theirs)
        self.name, self._config = f"LeRobot's {config.device['type']}", config
        with errors_of(self.name):
            features = self._device.action_features
        keys = list(features.get("names", features)) if isinstance(features, Mapping) else []
        self._inner: _Leader | _Hand
        if any(str(key).endswith(_POSITION) for key in keys):
            self._inner = _Leader(config, **options)
        elif any(key in _DELTAS for key in keys):
            self._inner = _Hand(config, **options)
        else:
            raise ConfigError(
                self.name, got=f"actions {keys}",
                expected=f"positions of joints (NAME.pos), or some of {list(_DELTAS)}",
            )  # fmt: skip
        self._thread: threading.Thread | None = None
        self._closing = threading.Event()
        self._fault = ""

    def connect(self, spec: RobotSpec) -> None:
        """Open it for a robot. Raises DeviceError when it is not there, ConfigError when it does not fit."""
        self.close()
        self._inner.connect(spec)
        connect_device(
            "teleoperator",
            str(self._config.device["type"]),
            self._device,
            "Look at cable, power and port, and whether another program has it",
        )
        self._closing = threading.Event()
        self._thread = threading.Thread(
            target=self._run, args=(self._closing,), name=f"teleop {self.name}", daemon=True
        )
        self._thread.start()

    def read(self, observation: Observation) -> TeleopCommand:
        """What the person wants now."""
        return self._inner.read(observation)

    def inputs(self) -> Sequence[tuple[str, float, str]]:
        """What the device says, for people."""
        return self._inner.inputs()

    def trouble(self) -> Reason:
        """Why it does not drive: it says nothing, a joint is missing, or it does not stand as the robot does."""
        if self._fault:
            return Reason(DEVICE_SILENT, f"{self.name}: {self._fault}")
        return self._inner.trouble() if self._thread is not None else NO_REASON

    def close(self) -> None:
        """Let go of it."""
        self._closing.set()
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.join(timeout=5.0)
            with contextlib.suppress(Exception):
                self._device.disconnect()
        self._inner.close()

    @classmethod
    def discover(cls) -> Sequence[Discovered]:
        """Teleoperators that LeRobot has calibrated on this machine."""
        return discovered("teleoperator")

    def _run(self, closing: threading.Event) -> None:
        events = getattr(self._device, "get_teleop_events", None)
        pressed: set[str] = set()
        while not closing.wait(1 / self._config.poll_hz):
            try:
                action = self._device.get_action()
                said = {getattr(k, "value", k): v for k, v in events().items()} if events else {}
                self._inner.said(action, said)
            except (
                Exception
            ) as error:  # the person lets go as what was said grows old; it is tried again
                self._fault = f"{type(error).__name__}: {error}"
                closing.wait(_PAUSE_S)
                continue
            self._fault = ""
            before, pressed = pressed, {name for name in _LABELS if said.get(name) is True}
            for name in pressed - before:  # a button that is still down judges no further episode
                self._inner.label(_LABELS[name])


class _Leader(LeaderTeleop):
    """The robot follows joint positions."""

    def open(self) -> None:
        self._joints, self._following, self._sent = None, False, None

    def said(self, action: Mapping[str, Any], events: Mapping[str, Any]) -> None:
        """Take what the device says."""
        joints = {
            k.removesuffix(_POSITION): float(v) for k, v in action.items() if k.endswith(_POSITION)
        }
        self._take(list(joints), list(joints.values()))

    def trouble(self) -> Reason:
        if self._absent:
            return Reason(DEVICE_SILENT, f"no {', '.join(self._absent)} in what it says")
        return self._unaligned


class _Hand(HandTeleop):
    """Differences of the tool's pose are deflections."""

    def open(self) -> None:
        """Nothing: who owns it asks the device."""

    def said(self, action: Mapping[str, Any], events: Mapping[str, Any]) -> None:
        """Take what the device says."""
        intervenes = events.get("is_intervention")
        self.moved(
            [float(action.get(key, 0.0)) for key in _DELTAS],
            None if intervenes is None else bool(intervenes),
        )
        grip = action.get("gripper")
        if grip is not None and round(float(grip)) in (_CLOSE, _OPEN):
            self.grip(1.0 if round(float(grip)) == _OPEN else 0.0)
