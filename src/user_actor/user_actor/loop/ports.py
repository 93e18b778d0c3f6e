"""What the episode loop needs of the world: a robot, a person, a place for experience.

A robot port is in front of a safety gate and holds a lease: behind ROS topics it is
:class:`user_actor.nodes.ports.RosRobot`, in one process ``user_hal.local.LocalHal``.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Protocol

from user_core.interfaces import Teleop, TransitionSink
from user_core.reasons import NO_REASON, Reason
from user_core.runtime.observation_box import ObservationBox
from user_core.specs import Array, RobotSpec
from user_core.types import (
    ActionChunk,
    EpisodeKey,
    EpisodeResult,
    EpisodeSource,
    FinalObservation,
    Label,
    Observation,
    Step,
)


class RobotPort(Protocol):
    """A robot, somewhere. No call but ``send`` in one process waits for it."""

    @property
    def spec(self) -> RobotSpec:
        """What it shows and takes."""

    @property
    def observations(self) -> ObservationBox:
        """Where its observations arrive.

        Each says in ``applied`` which action was in effect when it was taken, with the sequence
        number and row of the chunk. The observation of a lockstep robot is put here before
        ``send`` returns, or soon after.
        """

    def send(self, chunk: ActionChunk) -> None:
        """Send actions; the lease token is the port's to fill in.

        A chunk whose sequence number was seen before is not carried out again.

        Raises:
            DeviceError, LeaseError, TransportError: It cannot be sent, or was refused.
        """

    def reset(self, seed: int | None) -> Future[Observation]:
        """Have it brought to the start of an episode; the future gives the first observation.

        That one, and those after it, carry a new ``episode`` number and no ``applied`` from
        before. The future raises SuiteError when the robot cannot.
        """

    def trouble(self) -> Reason:
        """Why it must not be driven on within an episode; false if it may."""

    def unready(self) -> Reason:
        """Why no episode can begin now; false if one can."""


@dataclass(frozen=True)
class HumanInput:
    """What a person (or a program in his place) wants now.

    Attributes:
        engaged: He holds the dead-man switch and wants to drive.
        action: His action, (A,); None unless engaged.
        age_s: How old this is, seconds.
        scripted: A program stands in for the person.
        label: His verdict since the last time it was asked.
    """

    engaged: bool = False
    action: Array | None = None
    age_s: float = 0.0
    scripted: bool = False
    label: Label = Label.NONE


NOBODY = HumanInput()


class TeleopPort(Protocol):
    """A person beside the robot."""

    def read(self, observation: Observation) -> HumanInput:
        """What he wants now; each label is given once.

        Returns at once; with a lockstep robot it may wait a moment for his answer to this
        observation.
        """


class EpisodeSink(TransitionSink, Protocol):
    """Where experience goes: a durable outbox, or memory."""

    def begin_episode(self, source: EpisodeSource) -> EpisodeKey:
        """Begin an episode; the steps that follow belong to it."""

    def why_paused(self) -> Reason:
        """Why collecting must pause; false while it may go on."""

    @property
    def total_steps(self) -> int:
        """Steps it was ever given, earlier processes included."""


# --- In one process ---


class LocalTeleop:
    """TeleopPort around a connected device; its labels count once, when they appear.

    Args:
        teleop: The device.
        scripted: A program stands in for the person; None: what the device says of itself.
        clock_ns: Time since the epoch, nanoseconds.
    """

    def __init__(
        self,
        teleop: Teleop,
        scripted: bool | None = None,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        said = bool(getattr(teleop, "scripted", False))
        self._scripted = said if scripted is None else scripted
        self._teleop, self._clock_ns = teleop, clock_ns
        self._label = Label.NONE

    def trouble(self) -> Reason:
        """Why the device could not drive now, whatever the person does with it."""
        return self._teleop.trouble()

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
    """EpisodeSink that keeps episodes in memory, or hands their rows on.

    Args:
        producer: Name of the actor in the keys of its episodes.
        to: Gets every row and result; None: they are kept in ``rows`` and ``results``.

    Attributes:
        rows: The rows of each episode.
        results: What came of each.
        total_steps: Steps that it was given.
    """

    def __init__(self, producer: str = "local", to: TransitionSink | None = None) -> None:
        self._producer, self._to = producer, to
        self._open: EpisodeKey | None = None
        self._number = 0
        self.total_steps = 0
        self.rows: dict[EpisodeKey, list[Step | FinalObservation]] = {}
        self.results: list[EpisodeResult] = []

    def begin_episode(self, source: EpisodeSource) -> EpisodeKey:
        key = self._open = EpisodeKey(self._producer, 0, self._number)
        self._number += 1
        return key

    def append(self, step: Step | FinalObservation) -> None:
        assert self._open is not None, "append() outside an episode"  # noqa: S101
        self.total_steps += isinstance(step, Step)
        if self._to is not None:
            self._to.append(step)
        else:
            self.rows.setdefault(self._open, []).append(step)

    def end_episode(self, result: EpisodeResult) -> None:
        self._open = None
        if self._to is not None:
            self._to.end_episode(result)
        else:
            self.results.append(result)

    def why_paused(self) -> Reason:
        return NO_REASON
