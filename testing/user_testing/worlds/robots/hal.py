"""A mock robot in a HAL loop: with a clock that tests tell the time, or in threads of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from user_core.config import from_mapping
from user_core.interfaces import Robot
from user_core.reasons import NO_REASON, Reason
from user_core.runtime.clock import Clock
from user_core.types import ActedBy, ActionChunk, Observation
from user_hal.robots.mock import MockConfig, MockRobot
from user_hal.runtime.control_loop import HalLoop, HalStatus, LoopConfig
from user_hal.runtime.driver_guard import Stopper
from user_hal.runtime.leases import LeaseConfig
from user_hal.safety import Refused, SafetyConfig
from user_hal.safety.stops import SafetyState
from user_testing.waiting import wait_until

MS = 1_000_000
PERIOD_NS = 20 * MS
EPOCH_NS = 1_700_000_000_000_000_000


class FakeTime(Clock):
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now_ns = 1_000_000_000
        self.epoch_ns = EPOCH_NS
        self.clock = self

    def monotonic_ns(self) -> int:
        return self.now_ns

    def wall_ns(self) -> int:
        return self.epoch_ns + self.now_ns


class InlineStopper(Stopper):
    """Stops in the thread that asks, so that a test sees it at once."""

    def __init__(self, stop: Callable[[], None]) -> None:
        self._stop_now = stop
        self.requests = 0

    def start(self) -> None:
        pass

    def request(self) -> None:
        self.requests += 1
        self._stop_now()

    def wait(self, timeout_s: float) -> bool:
        return True

    @property
    def pending(self) -> bool:
        return False

    @property
    def failure(self) -> Reason:
        return NO_REASON


class World:
    """A mock robot in a loop, stepped by hand; the sentinel looks before every step."""

    def __init__(
        self,
        safety: dict[str, Any] | None = None,
        lease_required: bool = False,
        loop: dict[str, Any] | None = None,
        **robot: Any,
    ) -> None:
        self.time = FakeTime()
        self.robot = MockRobot(MockConfig(**robot), self.time.wall_ns)
        self.seen: list[Observation] = []
        self.loop = HalLoop(
            self.robot,
            from_mapping(LoopConfig, loop or {}),
            from_mapping(SafetyConfig, {"watchdog_s": 0.2, **(safety or {})}),
            LeaseConfig(required=lease_required),
            resource="mock",
            on_observation=self.seen.append,
            clock=self.time.clock,
            make_stopper=InlineStopper,
        )
        self.sequence = 0

    def run(self, duration_ms: float) -> None:
        """Let time pass: the loop wakes when it wants to, the sentinel every 10 ms."""
        end_ns = self.time.now_ns + int(duration_ms * MS)
        look_ns = self.time.now_ns
        while self.time.now_ns <= end_ns:
            if self.time.now_ns >= look_ns:
                self.loop.look()
                look_ns += 10 * MS
            wake_ns = self.loop.step()
            self.time.now_ns = max(min(wake_ns, look_ns), self.time.now_ns + 1000)
        self.time.now_ns = end_ns

    def chunk(self, *rows: float, sequence: int | None = None, **options: Any) -> ActionChunk:
        """A chunk that moves along x by each of the rows."""
        self.sequence = self.sequence + 1 if sequence is None else sequence
        actions = np.zeros((len(rows), 7), np.float32)
        actions[:, 0] = rows
        options.setdefault("period_ns", 50 * MS)
        return ActionChunk(actions, sequence=self.sequence, acted_by=ActedBy.SCRIPT, **options)

    def command(self, *rows: float, **options: Any) -> None:
        """Submit a chunk."""
        self.loop.submit(self.chunk(*rows, **options))

    def drive(self, duration_ms: float, step: float = 0.001) -> None:
        """Send a command per control period, as an actor does."""
        for _ in range(int(duration_ms / 50)):
            self.command(step)
            self.run(50)

    @property
    def commands(self) -> list[float]:
        """The x of every command that reached the robot."""
        return [
            round(action[0], 6) for what, _, action in self.robot.log.entries if what == "command"
        ]

    @property
    def stops(self) -> int:
        """How often the robot was stopped."""
        return sum(what == "stop" for what, _, _ in self.robot.log.entries)

    @property
    def state(self) -> SafetyState:
        return self.loop.status().state

    @property
    def cause(self) -> str:
        """Code of the cause of the last stop."""
        cause = self.loop.status().cause
        return cause.code if cause else ""


class LiveHal:
    """Runs a robot; a thread commands it all the time, as an actor does."""

    def __init__(self, robot: Robot, safety: dict[str, Any]) -> None:
        self.seen: list[Observation] = []
        self.statuses: list[HalStatus] = []
        self.loop = HalLoop(
            robot,
            LoopConfig(rate_hz=50.0),
            from_mapping(SafetyConfig, safety),
            LeaseConfig(required=False),
            on_observation=self.seen.append,
            on_status=self.statuses.append,
        )
        self._end = threading.Event()
        self._actor = threading.Thread(target=self._act, daemon=True)

    def _act(self) -> None:
        size, sequence = self.loop.spec.action.size, 0
        while not self._end.wait(PERIOD_NS * 1e-9):
            sequence += 1
            try:
                self.loop.submit(
                    ActionChunk(np.zeros((1, size), np.float32), PERIOD_NS, 0, sequence)
                )
            except Refused:
                continue

    def wait_for(self, what: Callable[[], bool]) -> float:
        """Wait until something is true; return how long that took, seconds."""
        began_s = time.monotonic()
        wait_until(what, seen=lambda: f"status: {self.loop.status()}", period_s=0.002)
        return time.monotonic() - began_s

    def active(self) -> bool:
        return self.loop.status().state is SafetyState.ACTIVE

    def stopped_for(self, code: str) -> bool:
        status = self.loop.status()
        return status.state is SafetyState.STOPPED and status.cause.code == code

    @classmethod
    @contextmanager
    def running(cls, robot: Robot, **safety: Any) -> Iterator[LiveHal]:
        """A running loop with an actor; ends both whatever happens."""
        hal = cls(robot, {"watchdog_s": 0.3, **safety})
        hal.loop.start()
        hal._actor.start()
        try:
            hal.wait_for(hal.active)
            yield hal
        finally:
            hal._end.set()
            hal._actor.join()
            hal.loop.close()
