"""A pose of the observation that is looked up on /tf."""

from __future__ import annotations

import numpy as np

from user_core.errors import DeviceError, DeviceFault, DeviceTimeout, ImplausibleReading
from user_core.specs import Array
from user_hal.clock_faults import ROBOT, clock_fault
from user_hal.robots.ros2.buffer import Resample, Sample
from user_hal.robots.ros2.contract.parts import Part
from user_hal.robots.ros2.reading.plausibility import ReadingCheck
from user_hal.robots.ros2.reading.streams import Stream
from user_hal.robots.ros2.tf_tree import TfListener, pose_of
from user_hal.topic_io import TopicIo, TopicSubscription, arrival_clock_ns


class TfPart:
    """Looks the pose of a frame up on /tf.

    Args:
        what: The array, for errors.
        part: Which frame, and where its pose goes.
        target: Frame to see it in.
        listener: Knows the frames.
        max_age_s: Oldest that the messages of a frame on the way may be.
        jumps: Watches over jumps; None: nobody does.
    """

    def __init__(
        self,
        what: str,
        part: Part,
        target: str,
        listener: TfListener,
        max_age_s: float,
        jumps: ReadingCheck | None = None,
    ) -> None:
        self.config, self.names = part.config, ()
        self.part, self.columns = self, part.columns
        self.max_age_s, self._jumps = max_age_s, jumps
        self.label = f"frame {part.config.tf!r} in {target!r} on {listener.topic} ({what})"
        self.streams = {(): self}
        self.subscription: TopicSubscription | None = None
        self._target, self._source, self._listener = target, part.config.tf, listener
        self._io: TopicIo | None = None
        self._error: DeviceError | None = None
        self._sign: Array | None = None
        self._jump: DeviceError | None = None
        self._judged: tuple[int, int] = (0, 0)  # stamp and arrival of the pose judged last

    @property
    def fault(self) -> DeviceError | None:
        """Why the newest pose cannot be true; None where nothing is known against it."""
        if self._jumps is not None and self._io is not None:
            self.newest()
        return self._jump

    @property
    def resample(self) -> Resample:
        """How the values at a moment are found."""
        return self.config.resample

    def prepare(self, io: TopicIo) -> None:
        """Forget everything."""
        self._io, self._error, self._sign, self._jump = io, None, None, None
        self._judged = (0, 0)
        if self._jumps is not None:
            self._jumps.forget()

    def newest(self) -> Sample | None:
        """The newest pose; its stamp is that of the frame on the way that was sent longest ago."""
        assert self._io is not None  # noqa: S101 - prepare() came before
        tree = self._listener.tree
        try:
            newest = tree.newest(self._target, self._source)
            found = tree.lookup(self._target, self._source, newest[0] if newest else None)
        except DeviceFault as error:
            self._error = self._named(error)
            return None
        stamp_ns, arrival_ns = newest or (self._io.now_ns(), arrival_clock_ns(self._io))
        pose = self._steady(pose_of(found.transform))
        if newest is not None and newest != self._judged:
            self._judged = newest
            self._judge(pose, stamp_ns, arrival_ns)
        return Sample(stamp_ns, pose, arrival_ns)

    def _judge(self, pose: Array, stamp_ns: int, arrival_ns: int) -> None:
        """Every pose that is looked at is compared with the one before it."""
        if self._jumps is None:
            return
        try:
            self._jumps.check(pose, stamp_ns, arrival_ns)
            self._jump = None
        except ImplausibleReading as error:
            self._jump = self._named(error)

    def _named(self, error: DeviceError) -> DeviceError:
        return type(error)(
            f"{self.label}: {error.what}", got=error.got, expected=error.expected, hint=error.hint
        )

    def at(self, stamp_ns: int, how: Resample) -> tuple[Array, int] | None:
        """The pose at a moment, and how far the nearest message of a frame on the way is."""
        try:
            tree = self._listener.tree
            found = tree.lookup(self._target, self._source, None if how == "latest" else stamp_ns)
        except DeviceFault:
            return None
        return self._steady(pose_of(found.transform)), found.skew_ns

    def silence(self, waited_s: float) -> DeviceError:
        """Why there is no pose."""
        if not self._listener.messages:
            within = f" within {waited_s:g} s" if waited_s else ""
            return DeviceTimeout(
                self.label,
                got=f"no message on {self._listener.topic} or {self._listener.topic}_static{within}",
                hint="Start what publishes the frames (robot_state_publisher)",
            )
        return self._error or DeviceTimeout(self.label, got="no transform yet")

    def late(
        self, stream: Stream, sample: Sample, now_ns: int, max_ahead_s: float
    ) -> DeviceError | None:
        """Why a pose is too old, or from the future; None where it is neither."""
        stamp_age_s = (now_ns - sample.stamp_ns) / 1e9
        silent_ns = arrival_clock_ns(self._io) - sample.arrival_ns
        if stamp_age_s < -max_ahead_s or (stamp_age_s > self.max_age_s >= silent_ns / 1e9):
            simulated = self._io is not None and "/clock" in self._io.topics()
            fault = clock_fault(
                sample.stamp_ns, now_ns - silent_ns, 0, ROBOT, simulated, tolerance_ns=0
            )
            return DeviceFault(
                self.label,
                got=f"stamps {stamp_age_s:.3f} s old: {fault.text}",
                expected=f"-{max_ahead_s:g} to {self.max_age_s:g} s",
                hint=fault.cure.replace("set stamp: arrival", "repair the stamps of its publisher"),
            )
        if silent_ns / 1e9 > self.max_age_s:
            return DeviceTimeout(
                self.label,
                got=f"a newest message {silent_ns / 1e9:.3f} s old",
                expected=f"at most {self.max_age_s:g} s",
            )
        return None

    def label_of(self, stream: Stream) -> str:
        """The frame."""
        return self.label

    def notes(self) -> list[str]:
        """Nothing."""
        return []

    def _steady(self, pose: Array) -> Array:
        """q and -q are the same rotation: stay with the sign of before."""
        if self._sign is not None and float(pose[3:] @ self._sign) < 0:
            pose[3:] *= -1
        self._sign = np.array(pose[3:])
        return pose
