"""What the loop needs of the world. Fakes for tests, drivers in one process, or ROS."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass
from typing import Protocol

from user_actor.loop.observations import ObservationBox
from user_core.interfaces import TransitionSink
from user_core.specs import Array, RobotSpec
from user_core.types import ActionChunk, EpisodeKey, EpisodeSource, Label, Observation


class RobotPort(Protocol):
    """A robot, somewhere. No call but ``send`` in one process waits for it."""

    @property
    def spec(self) -> RobotSpec:
        """What it shows and takes."""

    @property
    def observations(self) -> ObservationBox:
        """Where its observations arrive."""

    def send(self, chunk: ActionChunk) -> None:
        """Send actions; the lease token is the port's to fill in."""

    def reset(self, seed: int | None) -> Future[Observation]:
        """Have it brought to the start of an episode; the future gives the first observation."""

    def trouble(self) -> str:
        """Why it must not be driven on within an episode, for people; empty if it may."""

    def unready(self) -> str:
        """Why no episode can begin now, for people; empty if one can."""


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

    def why_paused(self) -> str:
        """Why collecting must pause, for people; empty while it may go on."""

    @property
    def total_steps(self) -> int:
        """Steps it was ever given, earlier processes included."""
