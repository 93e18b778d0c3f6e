"""Observations from topics: one source for each array, all taken together at one moment.

The numbers of a :class:`Source` come from one or several parts, each of which keeps its messages
by their stamps; the :class:`Observer` finds the newest moment for which all of them have spoken,
and resamples.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from user_core.errors import DeviceError, DeviceNotConnected, DeviceTimeout
from user_core.specs import Array, ArraySpec
from user_hal.robots.ros2.buffer import Sample
from user_hal.robots.ros2.contract import Ros2Config
from user_hal.robots.ros2.joints import Turns
from user_hal.robots.ros2.messages import LAYOUTS, layout_named, unit_named
from user_hal.robots.ros2.reading.plausibility import ReadingCheck, check_for
from user_hal.robots.ros2.reading.streams import SourcePart, Stream
from user_hal.robots.ros2.reading.tf_part import TfPart
from user_hal.robots.ros2.reading.topic_parts import TopicPart
from user_hal.robots.ros2.tf_tree import FrameWays, TfListener
from user_hal.topic_io import Reliability, TopicIo, TopicSubscription, arrival_clock_ns

#: How often connecting looks whether a silent topic wants to be subscribed to otherwise.
_SETTLE_S = 0.1

#: What one subscription is for: topic, type, reliability, whether kept messages are asked for.
_Request = tuple[str, str, Reliability, bool]


class Source:
    """Collects one array of the observation.

    Args:
        name: Of the observation.
        contract: Says where it comes from.
        listeners: Of /tf, by topic; made as they are needed.
    """

    def __init__(
        self, name: str, contract: Ros2Config, listeners: dict[str, TfListener] | None = None
    ) -> None:
        self.name, self.config = name, contract.observation[name]
        self._contract, self._timing = contract, contract.timing
        self._io: TopicIo | None = None
        plan = contract.plan(name)
        self.size, self._names = plan.size, plan.names
        self._is_position = name.rpartition(".")[2] == "joint_position"
        self._known = plan.names == contract.joints_of(name) and bool(plan.names)
        listeners = {} if listeners is None else listeners
        frames, history = contract.frames(), contract.timing.history
        observed_frame = contract.observed_frame(name)

        def listener(topic: str) -> TfListener:
            if topic not in listeners:
                listeners[topic] = TfListener(topic, frames.fixed(), history)
            return listeners[topic]

        self.parts: list[SourcePart] = []
        for part in plan.parts:
            what, frame = f"observation {name!r}", contract.frame_of(part, name)
            max_age_s = part.config.max_age_s or self._timing.max_age_s
            if part.config.tf:
                tf = listener(part.config.topic or "/tf")
                jumps = check_for(contract, name, (), Turns())
                self.parts.append(TfPart(what, part, observed_frame or frame, tf, max_age_s, jumps))
                continue
            self.parts.append(
                TopicPart(
                    what,
                    part,
                    frame,
                    observed_frame or frame,
                    FrameWays(frames, listener("/tf") if contract.use_tf else None, max_age_s),
                    self._turns_of,
                    self._jump_check_of,
                    history,
                    max_age_s,
                )
            )

    @property
    def subscriptions(self) -> list[TopicSubscription]:
        """Those that it reads, each once."""
        found: list[TopicSubscription] = []
        for part in self.parts:
            if part.subscription is not None and part.subscription not in found:
                found.append(part.subscription)
        return found

    def prepare(self, io: TopicIo) -> None:
        """Forget everything; check that the topics' messages can have what is asked for.

        Raises:
            ConfigError: A message type has no such field.
            TransportError: A message type is not installed.
        """
        self._io = io
        for part in self.parts:
            part.prepare(io)

    def newest(self, now_ns: int) -> list[tuple[Stream, list[int], Sample]]:
        """The newest samples, which are neither old nor from the future.

        Args:
            now_ns: The clock of the stamps.

        Returns:
            Streams that together give all elements; which of its elements are taken from each;
            its newest sample.

        Raises:
            DeviceFault: A newest message had not got what was promised, or its stamp is ahead
                of this machine's clock.
            DeviceTimeout: Nothing (new) comes; names the topic.
        """
        found = []
        for stream, columns in self._cover():
            if stream.fault is not None:
                raise stream.fault
            sample = stream.newest()
            if sample is None:
                raise DeviceTimeout(stream.part.label, got="no message yet")
            if sample.stamp_ns > now_ns and self._io is not None:
                # It may have come since the clock was read: on a busy machine this thread can have waited for long
                # in between, and no clock is wrong then.
                now_ns = max(now_ns, self._io.now_ns())
            late = stream.part.late(stream, sample, now_ns, self._timing.max_ahead_s)
            if late is not None:
                raise late
            found.append((stream, columns, sample))
        return found

    def merged(self, values: Sequence[tuple[list[int], Array]]) -> Array:
        """One array of what several streams give, (n,) float64."""
        if len(values) == 1 and len(values[0][0]) == self.size:
            return values[0][1]
        result: Array = np.empty(self.size)
        for columns, numbers in values:
            result[columns] = numbers
        return result

    def silence(self, waited_s: float) -> DeviceError | None:
        """Why there is nothing of some elements, with what there is instead; None if there is."""
        if not self._missing():
            empty = [stream for stream, _ in self._cover() if stream.newest() is None]
            if not empty:
                return None
            return empty[0].fault or empty[0].part.silence(waited_s)
        return self._blamed().silence(waited_s)

    def heard_since(self, arrival_ns: int) -> bool:
        """Whether everything that has a say in the common moment has come after a moment
        (monotonic)."""
        if self._missing():
            return False
        samples = (s.newest() for s, _ in self._cover() if s.part.resample != "latest")
        return all(sample is not None and sample.arrival_ns > arrival_ns for sample in samples)

    def notes(self) -> list[str]:
        """What is worth knowing about how it is read."""
        return [note for part in self.parts for note in part.notes()]

    def _streams(self) -> list[Stream]:
        found: list[Stream] = []
        for part in self.parts:
            found += list(part.streams.values())  # the subscription's thread may add to it
        return found

    def _missing(self) -> bool:
        columns = {column for stream in self._streams() for column in stream.columns}
        return len(columns) < self.size

    def _cover(self) -> list[tuple[Stream, list[int]]]:
        """Streams that together give all elements, and the elements to take from each, as
        positions in the array: those that go on first, of these the largest.

        Raises:
            DeviceError: Nothing has brought some of the elements.
        """
        streams = self._streams()
        if len(streams) == 1 and len(streams[0].columns) == self.size:
            return [(streams[0], list(streams[0].columns))]
        if self._missing():
            raise self._blamed().silence(0.0)
        streams.sort(key=lambda stream: (not _goes_on(stream, self._io), -len(stream.columns)))
        covered: set[int] = set()
        used = []
        for stream in streams:
            new = [column for column in stream.columns if column not in covered]
            if new:
                used.append((stream, new))
                covered.update(new)
        return used

    def _blamed(self) -> SourcePart:
        """The part to explain why elements are missing: one that never spoke, or the first."""
        found = {column for stream in self._streams() for column in stream.columns}
        for part in self.parts:
            if isinstance(part, TopicPart) and not part.messages:
                return part
        for part in self.parts:
            if not set(part.columns) <= found:
                return part
        return self.parts[0]

    def _turns_of(self, columns: Sequence[int]) -> Turns:
        if not (self._is_position and self._known):
            return Turns()
        return Turns([self._names[column] for column in columns], self._contract.continuous)

    def _jump_check_of(self, columns: Sequence[int]) -> ReadingCheck | None:
        names = [self._names[column] for column in columns] if self._known else []
        if not self._known and len(columns) < self.size:
            return None
        return check_for(self._contract, self.name, names, self._turns_of(columns))


def _goes_on(stream: Stream, io: TopicIo | None) -> bool:
    sample = stream.newest()
    if sample is None:
        return stream.fault is not None
    return (arrival_clock_ns(io) - sample.arrival_ns) / 1e9 <= stream.part.max_age_s


class Observer:
    """Reads every source at the common moment: the newest for which all of them have a message.

    Sources that are resampled as ``latest`` take no part in finding it.
    """

    def __init__(self, contract: Ros2Config) -> None:
        self._contract = contract
        self.listeners: dict[str, TfListener] = {}
        if contract.use_tf:
            self.listeners["/tf"] = TfListener(
                "/tf", contract.frames().fixed(), contract.timing.history
            )
        self.ways = FrameWays(
            contract.frames(), self.listeners.get("/tf"), contract.timing.max_age_s
        )
        self.sources = {
            name: Source(name, contract, self.listeners) for name in contract.observation
        }
        self.specs = {name: _spec(contract, name) for name in contract.observation}
        self._subscriptions: dict[_Request, TopicSubscription] = {}
        self._kept: dict[_Request, bool] = {}  # whether kept messages are asked for now
        self._io: TopicIo | None = None

    def open(self, io: TopicIo) -> None:
        """Subscribe to everything and wait until there is a first whole observation.

        Raises:
            ConfigError, TransportError: The contract names a field or type that is not there.
            DeviceError: A topic stays silent, lacks elements, or does not fit in time.
        """
        timeout_s = self._contract.timing.connect_timeout_s
        deadline_s = time.monotonic() + timeout_s
        self.subscribe(io)
        look_s = time.monotonic() + _SETTLE_S
        while True:
            try:
                self.read()
                return
            except DeviceError as error:
                if time.monotonic() > deadline_s:
                    raise self._cause(error, timeout_s) from error
            if time.monotonic() > look_s:
                self._settle(io)
                look_s = time.monotonic() + _SETTLE_S
            time.sleep(0.005)

    def subscribe(self, io: TopicIo) -> None:
        """Subscribe to everything, without waiting for anything; raises like :meth:`open`."""
        self._io = io
        for source in self.sources.values():
            source.prepare(io)
        for listener in self.listeners.values():
            listener.open(io)
        for request, parts in self._requests().items():
            self._subscribe(io, request, parts, kept=request[3])

    def close(self) -> None:
        """Unsubscribe from everything."""
        subscriptions, self._subscriptions = self._subscriptions, {}
        for subscription in subscriptions.values():
            subscription.close()
        for listener in self.listeners.values():
            listener.close()

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
            for found in newest.values()
            for stream, _, sample in found
            if stream.part.resample != "latest"
        )
        return {name: self._at(name, newest[name], moment_ns) for name in self.sources}, moment_ns

    def measured(self, name: str) -> Array:
        """The newest numbers of one source, (n,) float64; raises like :meth:`read`."""
        if self._io is None:  # connecting failed before the first topic was subscribed to
            raise DeviceNotConnected(f"observation {name!r}", got="no topics yet")
        source = self.sources[name]
        return source.merged(
            [
                (columns, _picked(stream, columns, sample.values))
                for stream, columns, sample in source.newest(self._io.now_ns())
            ]
        )

    def misfits(self) -> list[str]:
        """Publishers that are not heard, each with its topic and the policy that is in the way."""
        parts = [part for source in self.sources.values() for part in source.parts]
        return list(
            dict.fromkeys(
                f"{part.config.topic}: {text}"
                for part in parts
                if isinstance(part, TopicPart)
                for text in part.misfits()
            )
        )

    def notes(self) -> list[str]:
        """What is worth knowing about how the topics are read."""
        return [note for source in self.sources.values() for note in source.notes()]

    def _requests(self) -> dict[_Request, list[TopicPart]]:
        """Parts of the same topic share a subscription: every message is received once."""
        groups: dict[_Request, list[TopicPart]] = {}
        for source in self.sources.values():
            for part in source.parts:
                if isinstance(part, TopicPart):
                    config = part.config
                    reliability: Reliability = "reliable" if config.latched else config.reliability
                    key = (config.topic, config.type, reliability, config.latched)
                    groups.setdefault(key, []).append(part)
        return groups

    def _subscribe(
        self, io: TopicIo, request: _Request, parts: list[TopicPart], *, kept: bool
    ) -> None:
        topic, type_name, reliability, _ = request

        def receive(message: Any) -> None:
            for part in parts:
                part.receive(message)

        old = self._subscriptions.pop(request, None)
        if old is not None:
            old.close()
        self._kept[request] = kept
        self._subscriptions[request] = subscription = io.subscribe(
            topic,
            type_name,
            receive,
            depth=32,
            reliability="reliable" if kept else reliability,
            latched=kept,
        )
        for part in parts:
            part.subscription, part.is_kept = subscription, kept

    def _settle(self, io: TopicIo) -> None:
        """Subscribe anew to silent topics whose publishers keep messages, or do not, other than
        was assumed."""
        for request, parts in self._requests().items():
            if any(part.messages for part in parts):
                continue
            offered = {
                end.durability for end in io.endpoints(request[0])[0] if end.type_name == request[1]
            }
            kept = self._kept[request]
            if kept and offered == {"volatile"}:
                self._subscribe(io, request, parts, kept=False)
            elif not kept and offered == {"transient_local"}:
                self._subscribe(io, request, parts, kept=True)

    def _cause(self, error: DeviceError, waited_s: float) -> DeviceError:
        """A topic that never came explains more than what followed from it."""
        for source in self.sources.values():
            silence = source.silence(waited_s)
            if silence is not None:
                return silence
        return error

    def _at(
        self, name: str, newest: list[tuple[Stream, list[int], Sample]], moment_ns: int
    ) -> Array:
        source, limit_s = self.sources[name], self._contract.timing.max_skew_s
        values = []
        for stream, columns, _ in newest:
            part = stream.part
            found = stream.at(moment_ns, part.resample)
            if found is None:  # a clock that was set has just emptied it
                raise part.silence(0.0)
            numbers, skew_ns = found
            if part.resample != "latest" and skew_ns > limit_s * 1e9:
                raise DeviceTimeout(
                    part.label_of(stream),
                    got=f"no message nearer than {skew_ns / 1e9:.3f} s to the other topics",
                    expected=f"at most {limit_s:g} s",
                    hint="Raise timing.max_skew_s, or set resample: latest for slow topics",
                )
            values.append((columns, _picked(stream, columns, numbers)))
        array: Array = source.merged(values).astype(source.config.dtype)
        array.flags.writeable = False
        return array


def _picked(stream: Stream, columns: list[int], values: Array) -> Array:
    """Those elements of a stream that are wanted."""
    if len(columns) == len(stream.columns):
        return values
    return values[[stream.columns.index(column) for column in columns]]


def _spec(contract: Ros2Config, name: str) -> ArraySpec:
    source, plan = contract.observation[name], contract.plan(name)
    layout = plan.layout
    standard = layout_named(name)
    if plan.layout == "vector" and LAYOUTS[standard].size == plan.size and source.parts:
        layout = standard
    names = plan.names or (LAYOUTS[layout].names if layout != "scalar" else ())
    return ArraySpec(
        (plan.size,),
        source.dtype,
        source.low,
        source.high,
        source.unit or unit_named(name, layout),
        contract.observed_frame(name),
        names,
    )
