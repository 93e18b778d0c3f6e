"""Messages of a topic by their stamps, and the values at a moment between them. Pure."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import deque
from dataclasses import dataclass
from typing import Literal

import numpy as np

from user_core.specs import Array
from user_hal.robots.ros2.joints import Turns

Resample = Literal["linear", "nearest", "latest"]

#: Stamps that jump back by more than this come from a clock that was set, or a new publisher.
CLOCK_STEP_NS = 1_000_000_000


@dataclass(frozen=True)
class Sample:
    """Numbers of one message.

    Attributes:
        stamp_ns: When they were measured.
        values: (n,) float64; not to be written to.
        arrival_ns: When they came, monotonic.
    """

    stamp_ns: int
    values: Array
    arrival_ns: int = 0


class StampedBuffer:
    """A ring of samples in the order of their stamps. One thread puts, any may ask.

    Args:
        capacity: How many samples are remembered.
        rotation: Which elements are a unit quaternion x y z w: those are interpolated on the
            great circle, and their sign is kept continuous from sample to sample.
        turns: Which elements are continuous joints, interpolated the short way round.
    """

    def __init__(
        self, capacity: int, rotation: slice | None = None, turns: Turns | None = None
    ) -> None:
        self._turns = turns or Turns()
        self._samples: deque[Sample] = deque(maxlen=capacity)
        self._rotation = rotation
        self._lock = threading.Lock()
        self.dropped = 0  # came later than a newer one

    def put(self, sample: Sample) -> None:
        """Take a sample. One that is older than the newest is dropped and counted; one that is
        older by more than a second starts the buffer anew."""
        with self._lock:
            newest = self._samples[-1] if self._samples else None
            if newest is not None and sample.stamp_ns < newest.stamp_ns:
                if newest.stamp_ns - sample.stamp_ns <= CLOCK_STEP_NS:
                    self.dropped += 1
                    return
                self._samples.clear()
            elif newest is not None:
                if self._rotation is not None:
                    _keep_sign(sample.values[self._rotation], newest.values[self._rotation])
                if sample.stamp_ns == newest.stamp_ns:
                    self._samples.pop()
            self._samples.append(sample)

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._samples.clear()

    def newest(self) -> Sample | None:
        """The newest sample, if any."""
        with self._lock:
            return self._samples[-1] if self._samples else None

    def at(self, stamp_ns: int, how: Resample) -> tuple[Array, int] | None:
        """The values at a moment, and how far the nearest real sample is from it.

        Args:
            stamp_ns: The moment.
            how: ``linear`` interpolates between the neighbours, and outside of what is
                remembered takes the nearest; ``nearest``; ``latest`` ignores the moment.

        Returns:
            The values, (n,) float64, and the distance in nanoseconds; None while empty.
        """
        with self._lock:
            samples = list(self._samples)
        if not samples:
            return None
        if how == "latest":
            return samples[-1].values, abs(samples[-1].stamp_ns - stamp_ns)
        after = bisect_left(samples, stamp_ns, key=lambda sample: sample.stamp_ns)
        near = samples[max(after - 1, 0) : after + 1]
        nearest = min(near, key=lambda sample: abs(sample.stamp_ns - stamp_ns))
        skew_ns = abs(nearest.stamp_ns - stamp_ns)
        if how == "nearest" or len(near) < 2 or skew_ns == 0:
            return nearest.values, skew_ns
        before, behind = near
        share = (stamp_ns - before.stamp_ns) / (behind.stamp_ns - before.stamp_ns)
        return self._between(before.values, behind.values, share), skew_ns

    def _between(self, a: Array, b: Array, share: float) -> Array:
        change = self._turns.way(a, b)
        values: Array = a + change * share if share < 0.5 else b - change * (1 - share)
        if self._rotation is not None:
            values[self._rotation] = slerp(a[self._rotation], b[self._rotation], share)
        return values


def slerp(a: Array, b: Array, share: float) -> Array:
    """The rotation between two unit quaternions, the short way round, at constant speed.

    K. Shoemake, "Animating rotation with quaternion curves", SIGGRAPH 1985.

    Args:
        a: x y z w at ``share`` 0.
        b: x y z w at ``share`` 1.
        share: 0 to 1.
    """
    cosine = float(a @ b)
    if cosine < 0:
        b, cosine = -b, -cosine
    if cosine > 0.9995:  # the sine below would lose its digits
        mixed: Array = a + (b - a) * share
        return mixed / float(np.linalg.norm(mixed))
    angle = np.arccos(cosine)
    result: Array = (np.sin((1 - share) * angle) * a + np.sin(share * angle) * b) / np.sin(angle)
    return result


def _keep_sign(quaternion: Array, reference: Array) -> None:
    """q and -q are the same rotation; take the one that is nearer to ``reference``."""
    if float(quaternion @ reference) < 0:
        quaternion *= -1
