"""Driver ``mock``: a robot for wiring, with faults on demand."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from user_core.config import Config, setting
from user_core.errors import DeviceFault, DeviceNotConnected
from user_core.interfaces import Discovered, Robot
from user_core.specs import ActionKind, Array, ArraySpec, RobotSpec
from user_core.types import NO_TASK, Observation

_HOME_M = (0.4, 0.0, 0.3)
_JOINTS = tuple(f"joint_{i}" for i in range(1, 7))
_HANG_S = 3600.0

Fault = Literal["", "raise", "block", "hang", "nan", "refuse", "exit", "die"]


class MockConfig(Config):
    """What the mock pretends to be."""

    control: Literal["ee_delta", "ee_twist", "joint_position"] = setting(
        "ee_delta", doc="What the numbers of an action mean."
    )
    rate_hz: float = setting(20.0, doc="Commands a second.", unit="Hz", gt=0)
    lockstep: bool = setting(False, doc="Time passes by commands only.")
    payload_bytes: int = setting(
        0, doc="Size of an extra array in every observation, to give messages a size.", ge=0
    )
    fault_file: str = setting(
        "", doc="JSON file with the faults to show, read at every call; empty: none."
    )
    log_file: str = setting(
        "", doc="File that every command and stop is appended to, as JSON lines; empty: none."
    )


@dataclass
class MockFaults:
    """What goes wrong, call by call, and what the robot feels.

    ``raise``: the call raises DeviceFault; ``block``: it takes ``block_s``; ``hang``: it never
    returns; ``nan``: it returns NaN; ``refuse`` (connect): raises DeviceNotConnected; ``exit``: it
    calls ``sys.exit``; ``die``: it ends the process at once, with exit code 0.
    """

    connect: Fault = ""
    read: Fault = ""
    command: Fault = ""
    reset: Fault = ""
    stop: Fault = ""
    block_s: float = 2.0
    wrench: Sequence[float] = (0.0,) * 6
    tcp: Sequence[float] = ()


@dataclass
class MockLog:
    """What reached the robot: ``(what, monotonic_ns, action)``."""

    file: str = ""
    entries: list[tuple[str, int, list[float]]] = field(default_factory=list)

    def add(self, what: str, action: Array | None = None) -> None:
        """Note that something reached the robot now."""
        entry = (what, time.monotonic_ns(), [] if action is None else action.tolist())
        if not self.file:
            self.entries.append(entry)
            return
        line = json.dumps({"what": what, "monotonic_ns": entry[1], "action": entry[2]})
        with open(self.file, "a", encoding="utf-8") as stream:
            stream.write(line + "\n")


class MockRobot(Robot):
    """A tool point that goes where it is told at once, and joints that are made up.

    Joints 1 to 3 repeat the place of the tool. Everything that reaches the robot is logged;
    everything that it does can be made to fail.

    Attributes:
        faults: What goes wrong; ``fault_file`` replaces it when it changes.
        log: What reached the robot.
    """

    Config: ClassVar[type[Config]] = MockConfig
    simulated: ClassVar[bool] = True

    def __init__(self, config: MockConfig, clock_ns: Callable[[], int] = time.time_ns) -> None:
        self.config = config
        self.faults = MockFaults()
        self.log = MockLog(config.log_file)
        self._clock_ns = clock_ns
        self._lock = threading.Lock()
        self._connected = False
        self._place_m: Array = np.array(_HOME_M)
        self._velocity_m_s: Array = np.zeros(3)
        self._moved_s = time.monotonic()
        self._gripper = 1.0
        self._sequence = self._episode = 0
        self._fault_stamp = 0
        self._spec = _spec(config)

    @property
    def spec(self) -> RobotSpec:
        """What it shows and takes."""
        return self._spec

    @classmethod
    def discover(cls) -> Sequence[Discovered]:
        """It is always there."""
        return (Discovered("mock", {}, "a robot for wiring, with faults on demand"),)

    def connect(self) -> None:
        """Connect, unless a fault says otherwise."""
        self._act("connect")
        self._connected = True

    def read(self) -> Observation:
        """The tool where it was told to be."""
        fault = self._act("read")
        self._require_connection()
        with self._lock:
            self._move()
            self._sequence += 1
            arrays = self._arrays()
        if fault == "nan":
            arrays["tcp_pose"][0] = np.nan
        return Observation(arrays, self._clock_ns(), self._sequence, self._episode, NO_TASK)

    def command(self, action: Array) -> Array:
        """Go there at once (or set out, for a twist)."""
        self._require_connection()
        self._spec.action.check(action, "action")
        fault = self._act("command")
        with self._lock:
            self._move()
            if self.config.control == "ee_twist":
                self._velocity_m_s = action[:3].astype(np.float64)
            elif self.config.control == "joint_position":
                self._place_m = action[:3].astype(np.float64)
            else:
                self._place_m = self._place_m + action[:3]
            self._gripper = float(action[6])
        self.log.add("command", action)
        return np.full_like(action, np.nan) if fault == "nan" else action

    def stop(self) -> None:
        """Stand still."""
        self._act("stop")
        with self._lock:
            self._move()
            self._velocity_m_s = np.zeros(3)
        self.log.add("stop")

    def reset(self, seed: int | None = None) -> Observation:
        """Go home."""
        self._require_connection()
        self._act("reset")
        self.log.add("reset")
        with self._lock:
            rng = np.random.default_rng(seed)
            self._place_m = np.array(_HOME_M) + rng.uniform(-0.01, 0.01, 3)
            self._velocity_m_s = np.zeros(3)
            self._episode += 1
        return self.read()

    def close(self) -> None:
        """Let go."""
        if self._connected:
            self.log.add("close")
        self._connected = False

    def _arrays(self) -> dict[str, Array]:
        place, faults = self._place_m, self.faults
        if len(faults.tcp):
            place = np.asarray(faults.tcp, np.float64)
        arrays = {
            "joint_position": np.concatenate([place, np.zeros(3)]),
            "joint_velocity": np.concatenate([self._velocity_m_s, np.zeros(3)]),
            "tcp_pose": np.concatenate([place, (0.0, 0.0, 0.0, 1.0)]),
            "tcp_velocity": np.concatenate([self._velocity_m_s, np.zeros(3)]),
            "wrench": np.asarray(faults.wrench),
            "gripper": np.array([self._gripper]),
        }
        arrays = {name: array.astype(np.float32) for name, array in arrays.items()}
        if self.config.payload_bytes:
            arrays["payload"] = np.zeros(self.config.payload_bytes, np.uint8)
        return arrays

    def _move(self) -> None:
        now_s = time.monotonic()
        self._place_m = self._place_m + self._velocity_m_s * (now_s - self._moved_s)
        self._moved_s = now_s

    def _act(self, what: str) -> Fault:
        """Show the fault of a call, if it has one."""
        if self.config.fault_file:
            self._read_fault_file()
        fault: Fault = getattr(self.faults, what)
        if fault == "raise":
            raise DeviceFault(f"mock robot: {what}", got="a fault that was asked for")
        if fault == "refuse":
            raise DeviceNotConnected(f"mock robot: {what}", got="a refusal that was asked for")
        if fault == "exit":
            sys.exit(f"mock robot: {what}: an exit that was asked for")
        if fault == "die":
            os._exit(0)
        if fault in ("block", "hang"):
            time.sleep(self.faults.block_s if fault == "block" else _HANG_S)
        return fault

    def _read_fault_file(self) -> None:
        path = Path(self.config.fault_file)
        try:
            stamp = os.stat(path).st_mtime_ns
        except FileNotFoundError:
            self.faults, self._fault_stamp = MockFaults(), 0
            return
        if stamp != self._fault_stamp:
            known = {item.name for item in fields(MockFaults)}
            data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8") or "{}")
            self.faults = MockFaults(**{k: v for k, v in data.items() if k in known})
            self._fault_stamp = stamp

    def _require_connection(self) -> None:
        if not self._connected:
            raise DeviceNotConnected("mock robot", got="no connection", hint="Call connect() first")


def _spec(config: MockConfig) -> RobotSpec:
    kind = ActionKind(config.control)
    tool = ("x", "y", "z", "rx", "ry", "rz")
    step = {"ee_delta": 0.05, "ee_twist": 0.5, "joint_position": 3.0}[config.control]
    observation = {
        "joint_position": ArraySpec((6,), low=-3.0, high=3.0, unit="rad", names=_JOINTS),
        "joint_velocity": ArraySpec((6,), unit="rad/s", names=_JOINTS),
        "tcp_pose": ArraySpec((7,), unit="m", frame="base"),
        "tcp_velocity": ArraySpec((6,), unit="m/s", frame="base"),
        "wrench": ArraySpec((6,), unit="N", frame="tcp"),
        "gripper": ArraySpec((1,), low=0.0, high=1.0),
    }
    if config.payload_bytes:
        observation["payload"] = ArraySpec((config.payload_bytes,), "uint8")
    names = _JOINTS if kind is ActionKind.JOINT_POSITION else tool
    return RobotSpec(
        robot="mock",
        observation=observation,
        action=ArraySpec(
            (7,),
            low=(-step,) * 6 + (0.0,),
            high=(step,) * 6 + (1.0,),
            frame="base",
            names=(*names, "gripper"),
        ),
        action_kind=kind,
        period_s=1.0 / config.rate_hz,
        lockstep=config.lockstep,
        grippers=(6,),
    )
