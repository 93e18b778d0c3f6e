"""Topics watched for some seconds: rate, age, gaps, clock, and how far apart they are in time.

Subscriptions of its own, of serialised messages: what the driver does with them is another
matter (:mod:`~user_hal.checking.readings`).
"""

from __future__ import annotations

import math
import struct
import threading
import time
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from user_core.errors import SuiteError
from user_hal.clock_faults import CAMERA, ROBOT, clock_fault
from user_hal.topic_io import TopicIo, TopicSubscription

_TRIGGER = "std_srvs/srv/Trigger"
#: This many messages in a row with the same stamp: it stands still.
_FROZEN = 5
#: Keys of a contract below which topics are read, and those below which they are written to; the
#: outermost counts: an observation may be called gripper.
_READ = ("observation", "cameras", "devices", "stop_when")
_WRITTEN = ("action", "command", "home")


@dataclass(frozen=True)
class TopicUse:
    """A topic that a configuration names.

    Attributes:
        path: Where it stands, for instance ``observation.joint_position``.
        topic: Its name there.
        type_name: Its type, as far as the configuration says.
        read: Whether it is read; else it is written to.
        options: The keys beside it.
    """

    path: str
    topic: str
    type_name: str
    read: bool
    options: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Short name for people."""
        return (
            self.path.removeprefix("observation.")
            .removeprefix("cameras.devices.")
            .removesuffix(".params")
        )


def topic_uses(data: Any, path: str = "") -> Iterator[TopicUse]:
    """Every topic that plain data of a configuration names, wherever it stands."""
    if isinstance(data, Mapping):
        topic = data.get("topic")
        if isinstance(topic, str) and topic:
            keys = [part.partition("[")[0] for part in path.split(".")]
            known = [key for key in keys if key in (*_READ, *_WRITTEN)]
            read = not known or known[0] in _READ
            if keys[-1] == "urdf":  # published once, and kept
                data = {"type": "std_msgs/msg/String", "latched": True, **data}
            yield TopicUse(path, topic, str(data.get("type") or ""), read, data)
        for key, value in data.items():
            if key == "parts":  # of an array: what a part does not say, its array does
                common = {k: v for k, v in data.items() if k not in ("parts", "topic")}
                value = [{**common, **part} for part in value]
            yield from topic_uses(value, f"{path}.{key}" if path else str(key))
    elif isinstance(data, (list, tuple)):
        for index, value in enumerate(data):
            yield from topic_uses(value, f"{path}[{index}]")


@dataclass(frozen=True)
class CallUse:
    """A service or action that a configuration calls.

    Attributes:
        path: Where it stands.
        name: Its name there.
        type_name: Its type.
    """

    path: str
    name: str
    type_name: str


def call_uses(data: Any, path: str = "") -> Iterator[CallUse]:
    """Every call that plain data of a configuration names, wherever it stands."""
    if isinstance(data, Mapping):
        for key in ("service", "action"):
            name = data.get(key)
            if isinstance(name, str) and name:
                yield CallUse(path, name, str(data.get("type") or _TRIGGER))
        if "/srv/" in str(data.get("type")) and isinstance(data.get("topic"), str):
            yield CallUse(path, data["topic"], data["type"])  # a gripper by service
        for key, value in data.items():
            if key == "undo" and isinstance(value, Mapping):  # what it leaves out is the other's
                value = {"type": data.get("type"), **value}
            yield from call_uses(value, f"{path}.{key}" if path else str(key))
    elif isinstance(data, (list, tuple)):
        for index, value in enumerate(data):
            yield from call_uses(value, f"{path}[{index}]")


@dataclass
class Stream:
    """One topic over time.

    Attributes:
        names: What the configuration takes from it.
        topic: As it is configured.
        type_name: What it carries.
        leads: Whether it takes part in finding the common moment of an observation.
        by_arrival: Whether its messages count from when they come.
        max_age_s: Age at which it counts as silent; 0: not known.
        latched: Whether it is published once, for those that come later, too.
        camera: Whether it carries images.
        arrivals_ns: When messages came, monotonic.
        stamps_ns: When they were measured.
        clocks_ns: The clock of stamps when they came.
        stamped: Whether they say when they were measured.
    """

    names: tuple[str, ...]
    topic: str
    type_name: str = ""
    leads: bool = True
    by_arrival: bool = False
    max_age_s: float = 0.0
    latched: bool = False
    camera: bool = False
    arrivals_ns: list[int] = field(default_factory=list)
    stamps_ns: list[int] = field(default_factory=list)
    clocks_ns: list[int] = field(default_factory=list)
    stamped: bool = False

    @property
    def count(self) -> int:
        """Messages that came."""
        return len(self.arrivals_ns)

    @property
    def rate_hz(self) -> float:
        """Messages a second; 0 with fewer than two."""
        if self.count < 2:
            return 0.0
        return (self.count - 1) * 1e9 / max(self.arrivals_ns[-1] - self.arrivals_ns[0], 1)

    @property
    def largest_gap_s(self) -> float:
        """Longest time without a message, between two."""
        return max((b - a for a, b in zip(self.arrivals_ns, self.arrivals_ns[1:])), default=0) / 1e9

    @property
    def ages_s(self) -> list[float]:
        """How old each message was when it came; negative: from the future."""
        return [(c - s) / 1e9 for c, s in zip(self.clocks_ns, self.stamps_ns)]

    def take(self, stamp_ns: int, clock_ns: int, arrival_ns: int) -> None:
        """Note a message; a stamp of 0 says nothing, and then it counts from when it came."""
        use = bool(stamp_ns) and not self.by_arrival
        self.stamped = self.stamped or bool(stamp_ns)
        self.arrivals_ns.append(arrival_ns)
        self.clocks_ns.append(clock_ns)
        self.stamps_ns.append(stamp_ns if use else clock_ns)

    def clock_fault(self, *, simulated_clock: bool = False) -> tuple[str, str]:
        """What is wrong with its stamps, and what to do; empty where nothing is.

        Args:
            simulated_clock: Whether somebody publishes /clock.
        """
        if self.by_arrival or not self.stamped or not self.count or self.latched:
            return "", ""
        same = 0
        for stamp_ns in reversed(self.stamps_ns[:-1]):
            if stamp_ns != self.stamps_ns[-1]:
                break
            same += 1
        ages = sorted(self.ages_s)
        typical_ns = int(ages[len(ages) // 2] * 1e9)  # one late message is no clock
        fault = clock_fault(
            self.clocks_ns[-1] - typical_ns,
            self.clocks_ns[-1],
            same if same >= _FROZEN else 0,
            CAMERA if self.camera else ROBOT,
            simulated_clock,
        )
        return fault.text, fault.cure


def streams_of(uses: Sequence[TopicUse]) -> list[Stream]:
    """One stream for each topic that is read, in their order."""
    found: dict[str, Stream] = {}
    for use in uses:
        if not use.read:
            continue
        options = use.options
        camera = "cameras" in use.path.split(".")
        stream = found.setdefault(use.topic, Stream((), use.topic, leads=False, by_arrival=True))
        stream.names = (*stream.names, use.name) if use.name else stream.names
        stream.type_name = stream.type_name or use.type_name
        stream.camera = stream.camera or camera
        leads = not camera and bool(use.path) and options.get("resample", "linear") != "latest"
        stream.leads = stream.leads or leads
        stream.by_arrival = stream.by_arrival and options.get("stamp") == "arrival"
        stream.latched = stream.latched or bool(options.get("latched"))
        ages = [age for age in (stream.max_age_s, options.get("max_age_s")) if age]
        stream.max_age_s = float(min(ages)) if ages else 0.0
    return list(found.values())


@dataclass(frozen=True)
class Skew:
    """How far the readings that belong together are apart.

    Attributes:
        largest_s: The smallest ``max_skew_s`` that would have done all the time.
        topic: Whose messages these are.
        share: Share of the time in which the configured limit was exceeded, 0 to 1.
    """

    largest_s: float
    topic: str
    share: float


def skew_of(streams: Sequence[Stream], limit_s: float, *, cameras: bool = False) -> Skew | None:
    """The skew of an observation, had it been read at any moment of these records.

    As the driver does it: the common moment is the newest for which all have spoken, and each
    has a skew of the distance from there to the nearest message that has come.

    Args:
        streams: The records.
        limit_s: The largest skew that is allowed.
        cameras: Whether the skew of images is looked at, or that of what makes the moment.
    """
    leading = [stream for stream in streams if stream.leads and stream.count]
    judged = [True] * len(leading)
    if cameras:
        images = [stream for stream in streams if stream.camera and stream.count]
        judged = [False] * len(leading) + [True] * len(images)
        leading = leading + images
    if not any(judged) or not any(stream.leads for stream in leading):
        return None
    events = sorted(
        (arrival_ns, index)
        for index, stream in enumerate(leading)
        for arrival_ns in stream.arrivals_ns
    )
    # before its second message, nobody knows what was before a topic's first
    begin_ns = max(stream.arrivals_ns[:2][-1] for stream in leading)
    known: list[list[int]] = [[] for _ in leading]
    worst = leading[judged.index(True)].topic
    largest_ns, exceeded_ns, last_ns, last_skew_ns = 0, 0, 0, 0
    first_ns = 0
    for arrival_ns, index in events:
        stream, mine = leading[index], known[index]
        mine.append(stream.stamps_ns[len(mine)])
        if arrival_ns < begin_ns or not all(known):
            continue
        if last_ns and last_skew_ns > limit_s * 1e9:
            exceeded_ns += arrival_ns - last_ns
        first_ns = first_ns or arrival_ns
        last_ns, last_skew_ns = arrival_ns, 0
        moment_ns = min(stamps[-1] for s, stamps in zip(leading, known) if s.leads)
        for other, stamps, counts in zip(leading, known, judged):
            if not counts:
                continue
            skew_ns = _nearest_ns(stamps, moment_ns)
            if skew_ns > largest_ns:
                largest_ns, worst = skew_ns, other.topic
            last_skew_ns = max(last_skew_ns, skew_ns)
    return Skew(largest_ns / 1e9, worst, exceeded_ns / max(last_ns - first_ns, 1))


def _nearest_ns(stamps: list[int], moment_ns: int) -> int:
    after = bisect_left(stamps, moment_ns)
    return min(abs(stamp_ns - moment_ns) for stamp_ns in stamps[max(after - 1, 0) : after + 1])


def rounded_up(seconds: float) -> float:
    """A limit to write into a file: a millisecond more, and whole milliseconds."""
    return math.ceil(seconds * 1000 + 1) / 1000


class StreamWatch:
    """Records topics until it is closed.

    Args:
        io: Topics.
        streams: What to record; those whose type is not known are looked up in the graph.
    """

    def __init__(self, io: TopicIo, streams: Sequence[Stream]) -> None:
        self.streams = tuple(streams)
        self._io, self._lock = io, threading.Lock()
        self._subscriptions: list[TopicSubscription] = []
        for stream in streams:
            self._open(stream)

    def close(self) -> None:
        """End the subscriptions."""
        for subscription in self._subscriptions:
            subscription.close()

    def __enter__(self) -> StreamWatch:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self, stream: Stream) -> None:
        if not stream.type_name:
            types = self._io.topics().get(stream.topic, ())
            stream.type_name = types[0] if types else ""
        if not stream.type_name:
            return
        try:
            headed = _begins_with_header(self._io.message_class(stream.type_name))
            subscription = self._io.subscribe(
                stream.topic,
                stream.type_name,
                lambda message: self._take(stream, message, headed),
                depth=64,
                reliability="reliable" if stream.latched else "best_effort",
                latched=stream.latched,
                raw=True,
            )
        except SuiteError:
            return  # the driver says what is wrong with it
        self._subscriptions.append(subscription)

    def _take(self, stream: Stream, message: Any, headed: bool) -> None:
        stamp_ns = _stamp_ns(message) if headed else 0
        with self._lock:
            stream.take(stamp_ns, self._io.now_ns(), time.monotonic_ns())


def _begins_with_header(cls: type[Any]) -> bool:
    fields = getattr(cls, "get_fields_and_field_types", None)
    if fields is None:  # a stand-in
        return hasattr(cls(), "header")
    return next(iter(fields().values()), "") == "std_msgs/Header"


def _stamp_ns(message: Any) -> int:
    """Stamp of a message that begins with a header: serialised (CDR) or not; 0: it says none."""
    if isinstance(message, (bytes, bytearray, memoryview)):
        if len(message) < 12:
            return 0
        sec, nanosec = struct.unpack_from("<iI" if message[1] & 1 else ">iI", message, 4)
    else:
        sec, nanosec = message.header.stamp.sec, message.header.stamp.nanosec
    return int(sec) * 1_000_000_000 + int(nanosec)
