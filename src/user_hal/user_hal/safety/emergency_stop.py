"""The latch file of the emergency stop, by which it outlives the process and the machine."""

from __future__ import annotations

import os
import time
from pathlib import Path

from user_core.errors import SafetyError
from user_core.runtime.files import state_home, sync_directory

NAME = "emergency_stop"


def state_folder(configured: str, resource: str) -> Path:
    """Where a robot's state is kept: as configured, or ``$ROS_HOME/user/<resource>``."""
    return Path(configured).expanduser() if configured else state_home() / resource


class LatchFile:
    """While the file is there, the emergency stop is latched, whatever stands in it.

    Args:
        folder: Folder of the robot's state; made when it is first needed.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME

    @property
    def pressed_by(self) -> str:
        """Who pressed it, and when; empty when it is not latched. One that cannot be read is."""
        try:
            return self.path.read_text(encoding="utf-8").strip() or "somebody"
        except FileNotFoundError:
            return ""
        except (OSError, UnicodeDecodeError) as error:
            return f"somebody ({error})"

    def press(self, who: str) -> None:
        """Latch it, durably. Raises SafetyError when the disk does not take it."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("w", encoding="utf-8") as stream:
                stream.write(f"{who} at {time.strftime('%F %T')}\n")
                stream.flush()
                os.fsync(stream.fileno())
            sync_directory(self.path.parent)
        except OSError as error:
            raise SafetyError(
                f"latch of the emergency stop {self.path}", got=str(error),
                expected="a file that outlives this process",
                hint="The robot is stopped; it would not be any more after a restart of its node",
            ) from error  # fmt: skip

    def release(self) -> None:
        """Release it. Raises SafetyError when it cannot: then it is latched still."""
        try:
            self.path.unlink(missing_ok=True)
            if self.path.parent.exists():
                sync_directory(self.path.parent)
        except OSError as error:
            raise SafetyError(
                f"latch of the emergency stop {self.path}", got=str(error),
                expected="to be removed", hint="Make its folder writable",
            ) from error  # fmt: skip
