"""Teleop ``spacemouse``: a 3Dconnexion SpaceMouse, read directly over USB."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, ClassVar

from user_core.config import Config, setting
from user_core.errors import DeviceError, DeviceTimeout, PluginError
from user_core.interfaces import Discovered, TeleopCommand
from user_core.types import Observation
from user_hal.teleops.hand_device import Buttons, ButtonsConfig, HandConfig, HandTeleop

_HINT = (
    "pip install 'pyspacemouse>=2.1', and let users read the device "
    '(udev: SUBSYSTEM=="hidraw", ATTRS{idVendor}=="256f", MODE="0666")'
)

#: Twice as often as the device reports.
_POLL_S = 0.002


class SpaceMouseConfig(HandConfig):
    """Which SpaceMouse, and its buttons."""

    device: str = setting("", doc="Kind of device as pyspacemouse names it; empty: the first.")
    buttons: ButtonsConfig = setting(ButtonsConfig(open=0, close=1), doc="Which button does what.")


class SpaceMouseTeleop(HandTeleop):
    """Needs the Python package ``pyspacemouse`` (MIT), an optional extra.

    Its axes are those of REP-103: pushing the cap away from you is x, to the left is y, up is
    z. It takes over by deflection alone unless a button is the dead-man switch.
    """

    Config: ClassVar[type[Config]] = SpaceMouseConfig

    def __init__(self, config: SpaceMouseConfig, **options: Any) -> None:
        super().__init__(config, **options)
        self.config = config
        self._buttons = Buttons(config.buttons, self)
        self._end = threading.Event()
        self._thread: threading.Thread | None = None
        self._trouble: BaseException | None = None
        self._device: Any = None

    @classmethod
    def discover(cls) -> Sequence[Discovered]:
        """The devices that are plugged in; none where pyspacemouse is not installed."""
        try:
            names = _library().get_connected_devices()
        except (PluginError, OSError, RuntimeError):
            return ()
        return tuple(Discovered(name, {"device": name}, "SpaceMouse on USB") for name in names)

    def open(self) -> None:
        """Open the device and listen. Raises PluginError when pyspacemouse is not installed."""
        if self._thread is not None:
            return
        library = _library()
        try:
            self._device = library.open(
                device=self.config.device or None, axis_convention=library.AxisConvention.ROS
            )
        except Exception as error:  # pyspacemouse and hidapi raise what they like
            raise DeviceError("teleop 'spacemouse'", got=str(error), hint=_HINT) from error
        self._trouble = None
        self._end.clear()
        self._thread = threading.Thread(target=self._listen, name="spacemouse", daemon=True)
        self._thread.start()

    def read(self, observation: Observation) -> TeleopCommand:
        """What the person wants now. Raises DeviceTimeout when the device was unplugged."""
        if self._trouble is not None:
            raise DeviceTimeout("teleop 'spacemouse'", got=f"{self._trouble}", hint="Plug it in")
        return super().read(observation)

    def close(self) -> None:
        """Let go of the device."""
        self._end.set()
        if self._thread is not None:
            self._thread.join(1.0)
            self._thread = None
        if self._device is not None:
            self._device.close()
            self._device = None
        super().close()

    def _listen(self) -> None:
        while not self._end.is_set():
            try:
                state = self._device.read()  # one report; at rest there are none
            except Exception as error:  # unplugged
                self._trouble = error
                return
            self._buttons.take(state.buttons)
            axes = (state.x, state.y, state.z, state.roll, state.pitch, state.yaw)
            self.moved(axes, self._buttons.held)
            self._end.wait(_POLL_S)


def _library() -> Any:
    try:
        import pyspacemouse
    except ImportError as error:
        raise PluginError(
            "teleop 'spacemouse' needs the Python package pyspacemouse", got=str(error), hint=_HINT
        ) from error
    return pyspacemouse
