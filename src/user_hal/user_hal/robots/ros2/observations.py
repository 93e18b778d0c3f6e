"""Observations from topics: one source for each array, all taken together at one moment.

Each :class:`Source` keeps the messages of its topic by their stamps in a :class:`StampedBuffer`;
the :class:`Observer` finds the newest moment for which all of them have spoken, and resamples.
"""

from __future__ import annotations

import difflib
import threading
import time
from bisect import bisect_left
from collections import deque
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from user_core.errors import DeviceError, DeviceFault, DeviceTimeout, ImplausibleReading
from user_core.specs import Array, ArraySpec
from user_hal.robots.ros2.contract import Ros2Config, element_count
from user_hal.robots.ros2.frames import Transform, plain
from user_hal.robots.ros2.joints import JumpCheck, Turns
from user_hal.robots.ros2.messages import LAYOUTS, Extractor, FieldPath, unit_named
from user_hal.topic_io import Reliability, TopicIo, TopicSubscription

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


#: No clock that was ever set is before 2001.
_FIRST_REAL_NS = 1_000_000_000_000_000_000


class Source:
    """Collects one array of the observation from its topic.

    Args:
        name: Of the observation.
        contract: Says where it comes from.
    """

    def __init__(self, name: str, contract: Ros2Config) -> None:
        self.name, self.config = name, contract.observation[name]
        self._timing = contract.timing
        self._layout = contract.layout(name)
        self._frames = contract.frames()
        self._message_frame = contract.message_frame(name)
        self._observed_frame = contract.observed_frame(name)
        self._ways: dict[str, Transform | None] = {}  # from frames of messages; None: stay there
        layout = LAYOUTS[self._layout]
        self._names = contract.elements(name)
        self._field = FieldPath(self.config.field)
        self._names_field = FieldPath(self.config.names_field) if self._names else None
        self._extract = Extractor(
            self._field,
            layout,
            element_count(contract, name),
            self._names,
            self._names_field,
            self.config.indices,
            *(numbers.tolist() for numbers in contract.scaling(name)),
        )
        by_joints = self._names == contract.joints and bool(self._names)
        turns = Turns(self._names, contract.continuous) if by_joints else Turns()
        self.buffer = StampedBuffer(
            contract.timing.history,
            layout.rotation,
            turns if name == "joint_position" else None,
        )
        self._jumps = _jump_check(contract, turns) if name == "joint_position" else None
        self._io: TopicIo | None = None
        self.subscription: TopicSubscription | None = None  # may be shared with others
        self._fault: DeviceFault | None = None
        self._other_names: set[str] = set()  # elements that messages about others have
        self._messages = 0

    @property
    def max_age_s(self) -> float:
        """Age at which the topic counts as silent."""
        return self.config.max_age_s or self._timing.max_age_s

    def prepare(self, io: TopicIo) -> None:
        """Forget everything; check that the topic's messages can have what is asked for.

        Raises:
            ConfigError: The message type has no such field.
            TransportError: The message type is not installed.
        """
        message_class = io.message_class(self.config.type)
        self._field.check(message_class, self.config.type)
        if self._names_field is not None:
            self._names_field.check(message_class, self.config.type)
        self.buffer.clear()
        self._fault, self._messages, self._io, self.subscription = None, 0, io, None
        self._other_names.clear()
        if self._jumps is not None:
            self._jumps.forget()

    def newest(self, now_ns: int) -> Sample:
        """The newest sample, which is neither old nor from the future.

        Args:
            now_ns: The clock of the stamps.

        Raises:
            DeviceFault: The newest message had not got what was promised, or its stamp is ahead
                of this machine's clock.
            DeviceTimeout: Nothing (new) comes; names the topic.
        """
        if self._fault is not None:
            raise self._fault
        sample = self.buffer.newest()
        if sample is None:
            raise DeviceTimeout(self._what, got="no message yet")
        stamp_age_s = (now_ns - sample.stamp_ns) / 1e9
        if stamp_age_s < -self._timing.max_ahead_s:
            raise DeviceFault(
                self._what,
                got=f"stamps {-stamp_age_s:.3f} s ahead of this machine's clock",
                expected=f"at most {self._timing.max_ahead_s:g} s",
                hint="Synchronise the clocks (chrony, PTP), or set stamp: arrival",
            )
        age_s = max(stamp_age_s, (time.monotonic_ns() - sample.arrival_ns) / 1e9)
        if age_s > self.max_age_s:
            publishers = self.subscription.publishers if self.subscription is not None else 0
            raise DeviceTimeout(
                self._what,
                got=f"a newest message {age_s:.3f} s old, {publishers} publishers",
                expected=f"at most {self.max_age_s:g} s",
                hint=_hint(sample, publishers),
            )
        return sample

    def silence(self, waited_s: float) -> DeviceError:
        """Why there is nothing in the buffer: the error to raise, with what there is instead."""
        if self._fault is not None:
            return self._fault
        within = f" within {waited_s:g} s" if waited_s else ""
        if self.subscription is None or self._io is None:
            return DeviceTimeout(self._what, got="not subscribed")
        if self._messages:
            return self._missing_elements()
        topic, wanted = self.subscription.topic, self.config.type
        graph = self._io.topics()
        foreign = [name for name in graph.get(topic, ()) if name != wanted]
        if foreign and not self.subscription.publishers:
            got = f"it carries {foreign[0]}"
        elif self.subscription.publishers:
            got = f"it is published, but no message came{within}"
        else:
            got = f"nobody publishes it{within}"
        others = sorted(other for other, types in graph.items() if wanted in types)
        others = [other for other in others if other != topic]
        near = difflib.get_close_matches(topic, others or list(graph), n=1)
        hint = f"; did you mean {near[0]!r}?" if near and near[0] != topic else ""
        return DeviceTimeout(
            self._what, got=got, expected=f"{wanted}; topics of this type: {others}{hint}"
        )

    @property
    def _what(self) -> str:
        return f"topic {self.config.topic!r} (observation {self.name!r})"

    def receive(self, message: Any) -> None:
        """Take one message of the topic."""
        self._messages += 1
        try:
            values = self._extract(message)
            if values is None:
                self._remember_names(message)
                return
            way = self._way(message)
            if way is not None:
                values = way.apply(self._layout, values)
            stamp_ns, arrival_ns = self._stamp_ns(message), time.monotonic_ns()
            if self._jumps is not None:
                self._jumps.check(values, stamp_ns, arrival_ns)
        except DeviceFault as error:
            if isinstance(error, ImplausibleReading):
                self.buffer.clear()  # nothing is interpolated across a jump
            self._fault = type(error)(
                f"{self._what}: {error.what}",
                got=error.got,
                expected=error.expected,
                hint=error.hint,
            )
            return
        self.buffer.put(Sample(stamp_ns, values, arrival_ns))
        self._fault = None

    def _stamp_ns(self, message: Any) -> int:
        header = getattr(message, "header", None)
        if self.config.stamp != "arrival" and header is not None:
            stamp_ns = int(header.stamp.sec) * 1_000_000_000 + int(header.stamp.nanosec)
            if stamp_ns or self.config.stamp == "header":
                return stamp_ns
        assert self._io is not None  # noqa: S101 - prepare() came before
        return self._io.now_ns()

    def _way(self, message: Any) -> Transform | None:
        """From the frame of a message to that of the observation; None: they are the same."""
        header = getattr(message, "header", None)
        frame = plain(header.frame_id) if header is not None else ""
        if frame not in self._ways:
            self._ways[frame] = self._find_way(frame)
        return self._ways[frame]

    def _find_way(self, frame: str) -> Transform | None:
        expected, observed = plain(self._message_frame), plain(self._observed_frame)
        frame = frame or expected
        if not expected or frame == observed:
            return None
        way = self._frames.between(frame, observed)
        if way is None or not way.can(self._layout):
            raise DeviceFault(
                "header.frame_id",
                got=repr(frame),
                expected=expected,
                hint=f"Correct the entry's frame, or say in transforms where {frame!r} is",
            )
        return way

    def _remember_names(self, message: Any) -> None:
        if self._names_field is not None:
            self._other_names.update(list(self._names_field.get(message))[:256])

    def _missing_elements(self) -> DeviceFault:
        known = sorted(self._other_names)
        missing = [name for name in self._names if name not in self._other_names]
        near = difflib.get_close_matches(missing[0], known, n=1) if missing else []
        return DeviceFault(
            self._what,
            got=f"{self._messages} messages, none with {missing or list(self._names)} "
            f"in {self.config.names_field!r}",
            expected=f"names that are there: {known}"
            + (f"; did you mean {near[0]!r}?" if near else ""),
        )


def _jump_check(contract: Ros2Config, turns: Turns) -> JumpCheck | None:
    limits = contract.joint_velocity_limits
    if limits is None or contract.elements("joint_position") != contract.joints:
        return None
    return JumpCheck(
        contract.joints,
        np.broadcast_to(np.asarray(limits, float), (len(contract.joints),)),
        turns,
        contract.timing.jump_margin,
        contract.timing.settled_readings,
    )


def _hint(sample: Sample, publishers: int) -> str:
    if sample.stamp_ns < _FIRST_REAL_NS:
        return "It is stamped with simulated time (use_sim_time): set stamp: arrival"
    return "" if publishers else "Start the node that publishes it"


class Observer:
    """Reads every source at the common moment: the newest for which all of them have a message.

    Sources that are resampled as ``latest`` take no part in finding it.
    """

    def __init__(self, contract: Ros2Config) -> None:
        self._contract = contract
        self.sources = {name: Source(name, contract) for name in contract.observation}
        self.specs = {name: _spec(contract, name) for name in contract.observation}
        self._subscriptions: list[TopicSubscription] = []
        self._io: TopicIo | None = None

    def open(self, io: TopicIo) -> None:
        """Subscribe to everything and wait until there is a first whole observation.

        Raises:
            ConfigError, TransportError: The contract names a field or type that is not there.
            DeviceError: A topic stays silent, lacks elements, or does not fit in time.
        """
        self._io = io
        timeout_s = self._contract.timing.connect_timeout_s
        deadline_s = time.monotonic() + timeout_s
        for source in self.sources.values():
            source.prepare(io)
        for topic, sources in self._by_topic().items():
            self._subscriptions.append(_subscribe(io, *topic, sources))
        while True:
            try:
                self.read()
                return
            except DeviceError as error:
                if time.monotonic() > deadline_s:
                    raise self._cause(error, timeout_s) from error
            time.sleep(0.005)

    def close(self) -> None:
        """Unsubscribe from everything."""
        subscriptions, self._subscriptions = self._subscriptions, []
        for subscription in subscriptions:
            subscription.close()

    def read(self) -> tuple[dict[str, Array], int]:
        """The arrays of the observation, and their common moment, nanoseconds.

        Raises:
            DeviceTimeout: A topic is silent, or has no message near the common moment.
            DeviceFault: A topic's newest message is not what the contract promises.
        """
        assert self._io is not None  # noqa: S101 - open() came before
        now_ns = self._io.now_ns()
        newest = {name: source.newest(now_ns) for name, source in self.sources.items()}
        moment_ns = min(
            sample.stamp_ns
            for name, sample in newest.items()
            if self.sources[name].config.resample != "latest"
        )
        return {name: self._at(name, moment_ns) for name in self.sources}, moment_ns

    def measured(self, name: str) -> Array:
        """The newest numbers of one source, (n,) float64; raises like :meth:`read`."""
        assert self._io is not None  # noqa: S101 - open() came before
        return self.sources[name].newest(self._io.now_ns()).values

    def _by_topic(self) -> dict[tuple[str, str, Reliability], list[Source]]:
        """Sources of the same topic share a subscription: every message is received once."""
        groups: dict[tuple[str, str, Reliability], list[Source]] = {}
        for source in self.sources.values():
            config = source.config
            groups.setdefault((config.topic, config.type, config.reliability), []).append(source)
        return groups

    def _cause(self, error: DeviceError, waited_s: float) -> DeviceError:
        """A topic that never came explains more than what followed from it."""
        for source in self.sources.values():
            if source.buffer.newest() is None:
                return source.silence(waited_s)
        return error

    def _at(self, name: str, moment_ns: int) -> Array:
        source = self.sources[name]
        found = source.buffer.at(moment_ns, source.config.resample)
        if found is None:  # a clock that was set has just emptied it
            raise source.silence(0.0)
        values, skew_ns = found
        limit_s = self._contract.timing.max_skew_s
        if source.config.resample != "latest" and skew_ns > limit_s * 1e9:
            raise DeviceTimeout(
                f"topic {source.config.topic!r} (observation {name!r})",
                got=f"no message nearer than {skew_ns / 1e9:.3f} s to the other topics",
                expected=f"at most {limit_s:g} s",
                hint="Raise timing.max_skew_s, or set resample: latest for slow topics",
            )
        array: Array = values.astype(source.config.dtype)
        array.flags.writeable = False
        return array


def _subscribe(
    io: TopicIo, topic: str, type_name: str, reliability: Reliability, sources: list[Source]
) -> TopicSubscription:
    def receive(message: Any) -> None:
        for source in sources:
            source.receive(message)

    subscription = io.subscribe(topic, type_name, receive, depth=32, reliability=reliability)
    for source in sources:
        source.subscription = subscription
    return subscription


def _spec(contract: Ros2Config, name: str) -> ArraySpec:
    source, layout = contract.observation[name], contract.layout(name)
    names = contract.elements(name) or (LAYOUTS[layout].names if layout != "scalar" else ())
    return ArraySpec(
        (element_count(contract, name),),
        source.dtype,
        source.low,
        source.high,
        source.unit or unit_named(name, layout),
        contract.observed_frame(name),
        names,
    )
