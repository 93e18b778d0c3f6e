"""Ports for one process: a driver and a teleop device, called directly."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace

from user_actor.loop.observations import ObservationBox
from user_actor.loop.ports import HumanInput
from user_core.errors import SuiteError
from user_core.interfaces import Robot, Teleop
from user_core.specs import RobotSpec
from user_core.types import (
    ActionChunk,
    AppliedAction,
    EpisodeKey,
    EpisodeResult,
    EpisodeSource,
    FinalObservation,
    Label,
    Observation,
    Step,
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

    def trouble(self) -> str:
        return ""

    def unready(self) -> str:
        return ""


class LocalTeleop:
    """TeleopPort around a connected device; its labels count once, when they appear."""

    def __init__(
        self,
        teleop: Teleop,
        scripted: bool = False,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._teleop, self._scripted, self._clock_ns = teleop, scripted, clock_ns
        self._label = Label.NONE

    def read(self, observation: Observation) -> HumanInput:
        command = self._teleop.read(observation)
        label = Label.NONE
        for said, meaning in (
            (command.success, Label.SUCCESS),
            (command.failure, Label.FAILURE),
            (command.abort, Label.ABORT),
        ):
            label = meaning if said else label
        new, self._label = label if label != self._label else Label.NONE, label
        return HumanInput(
            engaged=command.engaged,
            action=command.action if command.engaged else None,
            age_s=max(0.0, (self._clock_ns() - command.stamp_ns) * 1e-9),
            scripted=self._scripted,
            label=new,
        )


class MemorySink:
    """EpisodeSink that keeps rows in memory, or passes them on to another TransitionSink."""

    def __init__(self, producer: str = "local") -> None:
        self._producer = producer
        self._open: EpisodeKey | None = None
        self._number = 0
        self.rows: dict[EpisodeKey, list[Step | FinalObservation]] = {}
        self.results: list[EpisodeResult] = []

    def begin_episode(self, source: EpisodeSource) -> EpisodeKey:
        key = self._open = EpisodeKey(self._producer, 0, self._number)
        self._number += 1
        self.rows[key] = []
        return key

    def append(self, step: Step | FinalObservation) -> None:
        assert self._open is not None, "append() outside an episode"  # noqa: S101
        self.rows[self._open].append(step)

    def end_episode(self, result: EpisodeResult) -> None:
        self._open = None
        self.results.append(result)

    def why_paused(self) -> str:
        return ""

    @property
    def total_steps(self) -> int:
        return sum(isinstance(row, Step) for rows in self.rows.values() for row in rows)
