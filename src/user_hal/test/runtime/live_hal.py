"""A mock robot in a loop that really runs, in its own threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from user_core.config import from_mapping
from user_core.interfaces import Robot
from user_core.types import ActionChunk, Observation
from user_hal.runtime.control_loop import HalLoop
from user_hal.runtime.lease_book import LeaseConfig
from user_hal.runtime.loop_config import LoopConfig
from user_hal.runtime.status import HalStatus
from user_hal.safety import Refused, SafetyConfig
from user_hal.safety.supervisor import SafetyState

PERIOD_NS = 20_000_000


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

    def wait_for(self, what: Callable[[], bool], timeout_s: float = 10.0) -> float:
        """Wait until something is true; return how long that took, seconds."""
        began_s = time.monotonic()
        while not what():
            waited_s = time.monotonic() - began_s
            assert waited_s < timeout_s, f"still not so; status {self.loop.status()}"
            time.sleep(0.002)
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
