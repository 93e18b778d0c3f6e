"""A robot port around a driver, called directly: for lockstep robots in one process, without a gate."""

from __future__ import annotations

import time
from concurrent.futures import Future
from dataclasses import replace

from user_core.errors import SuiteError
from user_core.interfaces import Robot
from user_core.reasons import NO_REASON, Reason
from user_core.runtime.observation_box import ObservationBox
from user_core.specs import RobotSpec
from user_core.types import (
    ActionChunk,
    AppliedAction,
    Observation,
)


class LocalRobot:
    """RobotPort around a connected driver, for lockstep robots in one process.

    There is no safety gate here; real robots are driven by ``hal_node``.
    """

    def __init__(self, robot: Robot, box: ObservationBox | None = None) -> None:
        self._robot = robot
        self.observations = box or ObservationBox()

    @property
    def spec(self) -> RobotSpec:
        return self._robot.spec

    def send(self, chunk: ActionChunk) -> None:
        executed = self._robot.command(chunk.actions_ta[0])
        applied = AppliedAction(executed, chunk.sequence, stamp_ns=time.time_ns())
        self.observations.put(replace(self._robot.read(), applied=applied))

    def reset(self, seed: int | None) -> Future[Observation]:
        future: Future[Observation] = Future()
        try:
            first = replace(self._robot.reset(seed), applied=None)
        except SuiteError as error:
            future.set_exception(error)
        else:
            self.observations.put(first)
            future.set_result(first)
        return future

    def trouble(self) -> Reason:
        return NO_REASON

    def unready(self) -> Reason:
        return NO_REASON
