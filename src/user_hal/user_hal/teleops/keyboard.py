"""Teleop ``keyboard``: keys in a terminal."""

from __future__ import annotations

import os
import select
import sys
import termios
import threading
import time
import tty
from typing import Any, ClassVar

from user_core.config import Config, setting
from user_core.errors import DeviceError
from user_hal.teleops.hand_device import HandConfig, HandTeleop

#: Key, to the axis it deflects (x y z rx ry rz) and its direction.
KEYS = {
    "w": (0, 1.0), "s": (0, -1.0), "a": (1, 1.0), "d": (1, -1.0), "q": (2, 1.0), "e": (2, -1.0),
    "u": (3, 1.0), "o": (3, -1.0), "i": (4, 1.0), "k": (4, -1.0), "j": (5, 1.0), "l": (5, -1.0),
}  # fmt: skip
LABELS = {"1": "success", "2": "failure", "0": "abort"}
GRIP = " "
HELP = "w/s x, a/d y, q/e z, u/o rx, i/k ry, j/l rz, space gripper, 1 success, 2 failure, 0 abort"
_POLL_S = 0.02


class KeyboardConfig(HandConfig):
    """How keys are read."""

    release_s: float = setting(
        0.3,
        doc="A key counts as released when it was not repeated for this long: a terminal does "
        "not say when a key goes up. Longer than the first repeat of the keyboard is smooth.",
        unit="s",
        gt=0,
    )
    device: str = setting("/dev/tty", doc="Terminal to read from.")


class KeyboardTeleop(HandTeleop):
    """Keys deflect an axis fully while they repeat; see :data:`HELP`.

    There is no dead-man switch beyond the keys themselves: without a held key no person drives.
    The terminal is put into raw mode, and back at the end, whatever happens; Ctrl-C still ends
    the program.
    """

    Config: ClassVar[type[Config]] = KeyboardConfig

    def __init__(self, config: KeyboardConfig, **options: Any) -> None:
        super().__init__(config, **options)
        self.config = config
        self._pressed_s: dict[str, float] = {}
        self._fd = -1
        self._before: list[Any] | None = None
        self._end = threading.Event()
        self._thread: threading.Thread | None = None

    def open(self) -> None:
        """Put the terminal into raw mode and listen."""
        if self._thread is not None:
            return
        try:
            self._fd = os.open(self.config.device, os.O_RDONLY | os.O_NOCTTY)
            self._before = termios.tcgetattr(self._fd)
            tty.setcbreak(self._fd)
        except (OSError, termios.error) as error:
            self._restore()
            raise DeviceError(
                f"teleop 'keyboard': cannot read keys from {self.config.device}",
                got=str(error),
                hint="Start the node in a terminal of its own, not from a launch file.",
            ) from error
        print(HELP, file=sys.stderr)
        self._end.clear()
        self._thread = threading.Thread(target=self._listen, name="keyboard", daemon=True)
        self._thread.start()

    def press(self, key: str) -> None:
        """A key was pressed, or repeats."""
        if key in KEYS:
            self._pressed_s[key] = self._clock_s()
        elif key == GRIP:
            self.toggle_grip()
        elif key in LABELS:
            self.label(LABELS[key])

    def settle(self) -> None:
        """Say where the keys that still count as held put the axes."""
        now_s, axes = self._clock_s(), [0.0] * 6
        for key, pressed_s in self._pressed_s.items():
            axis, direction = KEYS[key]
            if now_s - pressed_s < self.config.release_s:
                axes[axis] += direction
        self.moved(axes)

    def close(self) -> None:
        """Give the terminal back as it was."""
        self._end.set()
        if self._thread is not None:
            self._thread.join(1.0)
            self._thread = None
        self._restore()
        super().close()

    def _listen(self) -> None:
        while not self._end.is_set():
            ready, _, _ = select.select([self._fd], [], [], _POLL_S)
            if ready:
                try:
                    keys = os.read(self._fd, 64)
                except OSError:  # the terminal has gone: nobody presses anything any more
                    return
                if not keys:
                    time.sleep(_POLL_S)
                for key in keys.decode("utf-8", "ignore").lower():
                    self.press(key)
            self.settle()

    def _restore(self) -> None:
        if self._fd < 0:
            return
        try:
            if self._before is not None:
                termios.tcsetattr(self._fd, termios.TCSADRAIN, self._before)
        except termios.error:  # the terminal has gone
            pass
        os.close(self._fd)
        self._fd, self._before = -1, None
