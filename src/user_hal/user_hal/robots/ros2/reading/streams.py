"""What an array of the observation is put together from: parts of it, and streams of these.

A part is what one topic gives, or /tf (:mod:`~user_hal.robots.ros2.reading.topic_parts`,
:mod:`~user_hal.robots.ros2.reading.tf_part`). Elements that come together are a stream.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from user_core.errors import DeviceError
from user_core.specs import Array
from user_hal.robots.ros2.buffer import Resample, Sample
from user_hal.robots.ros2.contract.sources import PartConfig
from user_hal.topic_io import TopicIo, TopicSubscription


class SourcePart(Protocol):
    """What one topic, or /tf, gives to an array.

    Attributes:
        config: The keys of the contract.
        columns: Where its elements stand in the array.
        label: What it is called in errors.
        max_age_s: Age at which it counts as silent.
        subscription: To its topic; None: none of its own.
    """

    config: PartConfig
    columns: tuple[int, ...]
    label: str
    max_age_s: float
    subscription: TopicSubscription | None

    @property
    def streams(self) -> Mapping[Any, Stream]:
        """Elements that come together; more may be added while messages come."""

    @property
    def resample(self) -> Resample:
        """How the values at a moment are found."""

    def prepare(self, io: TopicIo) -> None:
        """Forget everything; check what can be checked before any message."""

    def silence(self, waited_s: float) -> DeviceError:
        """Why elements are missing: the error to raise, with what there is instead."""

    def late(
        self, stream: Stream, sample: Sample, now_ns: int, max_ahead_s: float
    ) -> DeviceError | None:
        """Why a sample is too old, or from the future; None where it is neither.

        Args:
            stream: What it is of.
            sample: The newest.
            now_ns: The clock of the stamps.
            max_ahead_s: How far stamps may be ahead of it.
        """

    def label_of(self, stream: Stream) -> str:
        """What a stream is called in errors."""

    def notes(self) -> list[str]:
        """What is worth knowing about how it is read."""


class Stream(Protocol):
    """Elements of an array that come together."""

    @property
    def part(self) -> SourcePart:
        """What they come from."""

    @property
    def columns(self) -> tuple[int, ...]:
        """Where they stand in the array."""

    @property
    def fault(self) -> DeviceError | None:
        """What was wrong with the newest message."""

    def newest(self) -> Sample | None:
        """The newest sample, if any."""

    def at(self, stamp_ns: int, how: Resample) -> tuple[Array, int] | None:
        """Values at a moment, and how far the nearest real sample is from it."""
