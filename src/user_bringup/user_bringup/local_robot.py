"""A robot that is driven from this process: behind its safety gate, under a lease, with its topics.

What ``user demos record`` and ``user evaluate`` have in common. Every driver and every teleop can
be driven so, those that live on ROS topics through a node of their own.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

from user_actor.loop.ports import LocalTeleop
from user_core.config import from_mapping, to_mapping
from user_core.errors import ConfigError, DeviceError, SafetyError, StopAsked
from user_core.interfaces import Robot, Teleop
from user_core.reasons import EMERGENCY_STOP, NO_REASON, Reason
from user_fleet.deployment import parse_overrides
from user_hal.local import LocalHal
from user_hal.robot_file import RobotFile, build_robot
from user_hal.runtime.control_loop import HalStatus
from user_hal.safety.emergency_stop import state_folder
from user_hal.topic_io import attach_topics, wants_topics

#: How long a driver may take to come back between two episodes, seconds.
_RECOVERY_S = 30.0
_LOOK_S = 0.05


@dataclass(frozen=True)
class LocalRobot:
    """A robot that may be driven now.

    Attributes:
        hal: Its safety gate, lease and emergency stop; the episode loop's robot port.
        driver: The driver behind it, for what only looks, such as a film.
        teleop: The person's device; None without one.
        scripted: A program stands in for the person.
    """

    hal: LocalHal
    driver: Robot
    teleop: LocalTeleop | None
    scripted: bool = False

    def device_trouble(self) -> Reason:
        """Why the person's device could not drive now; false where all is well, or there is none."""
        return NO_REASON if self.teleop is None or self.scripted else self.teleop.trouble()

    def await_ready(self) -> None:
        """Wait until an episode can begin.

        Raises:
            SafetyError: The emergency stop is latched.
            DeviceError: The driver does not come back, or somebody else has the lease.
        """
        deadline_s = time.monotonic() + _RECOVERY_S
        while reason := self.hal.unready():
            if reason.code == EMERGENCY_STOP:
                raise SafetyError(
                    "robot",
                    got=reason.text,
                    hint="When it is safe to move, run this with --reset-emergency-stop.",
                )
            if time.monotonic() > deadline_s or self.hal.lost:
                raise DeviceError("robot", got=f"{reason.code}: {reason.text}")
            time.sleep(_LOOK_S)


@contextmanager
def open_robot(
    file: RobotFile,
    teleop: Teleop | None = None,
    *,
    resource: str = "robot0",
    state_dir: str | None = "",
    reset_emergency_stop: bool = False,
    driver: Robot | None = None,
) -> Iterator[LocalRobot]:
    """Connect a robot, and a person's device, until the ``with`` block ends.

    Ctrl-\\ is the emergency stop meanwhile; it stays latched until it is reset. Whatever ends the
    block, Ctrl-C and SIGTERM too, stops the robot.

    Args:
        file: The robot's file.
        teleop: The device, not connected.
        resource: The robot's name as a resource.
        state_dir: Folder of the latch file of the emergency stop; empty: that of ``hal_node``
            for this resource; None: it is not kept.
        reset_emergency_stop: Release a latched emergency stop first.
        driver: The robot, where it has been made already.

    Raises:
        SuiteError: Robot or device cannot be reached.
    """
    robot = build_robot(file) if driver is None else driver
    latch_dir = None if state_dir is None else state_folder(state_dir, resource)
    with ExitStack() as stack:
        stack.callback(robot.close)
        devices = [device for device in (robot, teleop) if device is not None]
        if any(wants_topics(device) for device in devices):
            from user_comm.topic_io import open_topic_io  # needs ROS; other robots do not

            io = stack.enter_context(open_topic_io(f"user_{resource}"))
            for device in devices:
                attach_topics(device, io)
        hal = LocalHal.of(file, robot, resource=resource, holder="user", latch_dir=latch_dir)
        if reset_emergency_stop:
            hal.reset_emergency()
        stack.enter_context(hal)
        stack.enter_context(_signals(hal))
        person = None
        if teleop is not None:
            stack.callback(teleop.close)
            teleop.connect(hal.spec)
            person = LocalTeleop(teleop)
        yield LocalRobot(hal, robot, person, bool(getattr(teleop, "scripted", False)))


def settings(words: Sequence[str], *processes: str) -> dict[str, dict[str, Any]]:
    """``process.path.to.key:=value`` as mappings, one of each process.

    Raises:
        ConfigError: A word is not of this form, or names another process.
    """
    found: dict[str, dict[str, Any]] = {process: {} for process in processes}
    for path, value in parse_overrides(words).items():
        process, _, key = path.partition(".")
        if process not in found or not key:
            raise ConfigError(
                f"argument {path!r}", got="no such process",
                expected=" or ".join(f"{name}.KEY:=value" for name in processes),
            )  # fmt: skip
        *outer, last = key.split(".")
        place = found[process]
        for name in outer:
            place = place.setdefault(name, {})
        place[last] = value
    return found


def overlaid(data: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    """``data`` with what ``top`` says, mappings key by key. Where another plugin is chosen, the parameters of the one
    before go with it."""
    made = dict(data)
    if "plugin" in made and made["plugin"] != top.get("plugin", made["plugin"]):
        made.pop("params", None)
    for key, value in top.items():
        below = made.get(key)
        if isinstance(value, Mapping) and isinstance(below, Mapping):
            value = overlaid(below, value)
        made[key] = value
    return made


def robot_file_with(file: RobotFile, changes: Mapping[str, Any]) -> RobotFile:
    """A robot file with some of its values changed, checked anew."""
    return from_mapping(RobotFile, overlaid(to_mapping(file), changes), "hal")


def in_lockstep(file: RobotFile) -> RobotFile:
    """A robot file whose simulated arm does not wait for the clock; of any other robot as it is."""
    if file.robot.plugin != "mujoco":
        return file
    params = {**file.robot.params, "real_time": False}
    return file.replace(robot=file.robot.replace(params=params))


def gate_summary(status: HalStatus) -> str:
    """What the safety gate did so far, in one line."""
    text = f"{status.passed} passed, {status.limited} changed, {status.refused} refused"
    reasons = ", ".join(f"{code} {count}" for code, count in sorted(status.reasons.items()))
    return f"safety gate: {text}" + (f" ({reasons})" if reasons else "")


@contextmanager
def _signals(hal: LocalHal) -> Iterator[None]:
    """Ctrl-\\ (SIGQUIT) presses the emergency stop; SIGTERM and SIGHUP end the block, as Ctrl-C does.

    Where this is not the main thread, signals are left alone.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def press(number: int, frame: FrameType | None) -> None:
        # in a thread: the interrupted one may be amidst the gate, and must find it as it was
        threading.Thread(target=hal.press_emergency, args=("Ctrl-\\ at a terminal",)).start()

    def end(number: int, frame: FrameType | None) -> None:
        raise StopAsked(128 + number)

    handlers = {signal.SIGQUIT: press, signal.SIGTERM: end, signal.SIGHUP: end}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
