"""What one topic gives to an array of the observation: numbers, their frame, stamps and faults.

A :class:`TopicPart` reads the messages of a topic. Elements that come in the same messages are a
:class:`TopicStream`: joint states in halves, on one topic or two, are two of them.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from typing import Any

from user_core.errors import DeviceError, DeviceFault, DeviceTimeout, ImplausibleReading
from user_core.specs import Array
from user_hal.clock_faults import ROBOT, clock_fault
from user_hal.robots.ros2.buffer import Resample, Sample, StampedBuffer
from user_hal.robots.ros2.contract.parts import Part
from user_hal.robots.ros2.field_paths import FieldPath
from user_hal.robots.ros2.frames import FRAMED, Transform, plain
from user_hal.robots.ros2.joints import Turns
from user_hal.robots.ros2.messages import LAYOUTS, Extractor
from user_hal.robots.ros2.reading.plausibility import ReadingCheck
from user_hal.robots.ros2.reading.streams import Stream
from user_hal.robots.ros2.reading.writers import Writers
from user_hal.robots.ros2.tf_tree import FrameWays, MovingWay
from user_hal.topic_io import (
    Ours,
    TopicIo,
    TopicSubscription,
    arrival_clock_ns,
    managed_hint,
    misfits,
)

#: Sets of names in the messages of one topic that are told apart; more are a topic of others.
_MOST_STREAMS = 32
#: Messages in a row with the same stamp that are a clock which stands still.
_FROZEN = 5

#: Makes the watch over jumps for some elements of an array; None where there is none.
JumpChecks = Callable[[Sequence[int]], ReadingCheck | None]


class TopicStream:
    """Elements that come in the same messages of a topic."""

    def __init__(
        self,
        part: TopicPart,
        columns: tuple[int, ...],
        buffer: StampedBuffer,
        jumps: ReadingCheck | None,
    ) -> None:
        self.part, self.columns, self.buffer, self.jumps = part, columns, buffer, jumps
        self.fault: DeviceError | None = None
        self.same_stamps = 0  # messages before the newest that had its stamp
        self._last_stamp_ns = -1

    def take(self, sample: Sample) -> None:
        """Remember a sample."""
        same = sample.stamp_ns == self._last_stamp_ns
        self.same_stamps = self.same_stamps + 1 if same else 0
        self._last_stamp_ns = sample.stamp_ns
        self.buffer.put(sample)
        self.fault = None

    def newest(self) -> Sample | None:
        """The newest sample, if any."""
        return self.buffer.newest()

    def at(self, stamp_ns: int, how: Resample) -> tuple[Array, int] | None:
        """Values at a moment, and how far the nearest real sample is from it."""
        return self.buffer.at(stamp_ns, how)


class TopicPart:
    """Collects what one topic gives to an array.

    Args:
        what: The array, for errors, for instance ``observation 'joint_position'``.
        part: What is taken, and where it goes.
        frame: Frame of the messages; empty: whatever they say.
        observed_frame: Frame of the array.
        ways: Between frames.
        turns: Makes the continuous joints among some elements.
        jumps: Makes the watch over jumps.
        history: Messages remembered.
        max_age_s: Age at which the topic counts as silent.
    """

    def __init__(
        self,
        what: str,
        part: Part,
        frame: str,
        observed_frame: str,
        ways: FrameWays,
        turns: Callable[[Sequence[int]], Turns],
        jumps: JumpChecks,
        history: int,
        max_age_s: float,
    ) -> None:
        self.config, self.names, self._part = part.config, part.names, part
        self.columns = part.columns
        self.streams: dict[tuple[int, ...], TopicStream] = {}  # by positions in the part
        self.subscription: TopicSubscription | None = None  # may be shared with others
        self.is_kept = part.config.latched  # whether kept messages are asked for now
        self.messages = 0
        self.max_age_s = float("inf") if part.config.latched else max_age_s
        self.label = f"topic {self.config.topic!r} ({what})"
        self.writers = Writers(self.label)
        self.frame_note = self._said_frame = ""
        self._frame, self._observed_frame = plain(frame), plain(observed_frame)
        self._between = ways
        self._ways: dict[str, Transform | MovingWay | None] = {}  # by frames of messages
        self._turns, self._jumps, self._history = turns, jumps, history
        self._field = FieldPath(self.config.field)
        self._names_field = FieldPath(self.config.names_field) if part.names else None
        self._extract = self._extractor()
        self._io: TopicIo | None = None
        self._fault: DeviceError | None = None  # of a message that cannot even be told apart
        self._other_names: set[str] = set()  # elements that messages about others have
        self._simulated = False

    def _extractor(self) -> Extractor:
        part = self._part
        return Extractor(
            self._field,
            LAYOUTS[part.layout],
            len(part.columns),
            part.names,
            self._names_field,
            part.config.indices,
            part.scale.tolist(),
            part.offset.tolist(),
            {str(what): number for what, number in part.config.not_finite.items()},
            part.layout,
        )

    @property
    def resample(self) -> Resample:
        """How the values at a moment are found."""
        return "latest" if self.config.latched else self.config.resample

    @property
    def fault(self) -> DeviceError | None:
        """What was wrong with the newest message, where it belongs to no stream."""
        return self._fault

    def prepare(self, io: TopicIo) -> None:
        """Forget everything; check that the topic's messages can have what is asked for.

        Raises:
            ConfigError: The message type has no such field.
            TransportError: The message type is not installed.
        """
        message_class = io.message_class(self.config.type)
        self._field.check(message_class, self.config.type, io.message_class)
        if self._names_field is not None:
            self._names_field.check(message_class, self.config.type, io.message_class)
        self.streams.clear()
        self.writers = Writers(self.label)
        self._fault, self.messages, self._io, self.subscription = None, 0, io, None
        self._other_names.clear()
        self._ways.clear()
        self.frame_note = self._said_frame = ""
        self._extract = self._extractor()

    def receive(self, message: Any) -> None:
        """Take one message of the topic."""
        self.messages += 1
        try:
            present = self._extract.present(message)
        except DeviceFault as error:
            self._fault = self._named(error)
            return
        if len(present) < len(self.names) and not self._extract.left_empty:
            self._remember_names(message)
        writer = getattr(self.subscription, "writer", b"")
        if writer:
            self.writers.note(writer, present, self.subscription)
        if not present:
            return
        stream = self.streams.get(present) or self._new_stream(present)
        if stream is None:
            return
        self._fault = None
        try:
            stamp_ns, arrival_ns = self._stamp_ns(message), arrival_clock_ns(self._io)
            values = self._extract.take(message, present)
            way = self._way(message)
            if isinstance(way, MovingWay):
                way = way.at(stamp_ns)
            if way is not None:
                values = way.apply(self._part.meaning, values, self.config.taken_at)
            if stream.jumps is not None:
                stream.jumps.check(values, stamp_ns, arrival_ns)
        except DeviceError as error:
            if isinstance(error, ImplausibleReading):
                stream.buffer.clear()  # nothing is interpolated across a jump
            stream.fault = self._named(error)
            return
        stream.take(Sample(stamp_ns, values, arrival_ns))

    def silence(self, waited_s: float) -> DeviceError:
        """Why elements are missing: the error to raise, with what there is instead."""
        if self._fault is not None:
            return self._fault
        within = f" within {waited_s:g} s" if waited_s else ""
        if self.subscription is None or self._io is None:
            return DeviceTimeout(self.label, got="not subscribed")
        if self.messages:
            return self._missing_elements()
        topic, wanted = self.subscription.topic, self.config.type
        graph = self._io.topics()
        foreign = [name for name in graph.get(topic, ()) if name != wanted]
        if foreign and not self.subscription.publishers:
            got = f"it carries {foreign[0]}"
        elif self.misfits():
            got = f"nothing comes from {'; '.join(self.misfits())}"
        elif self.subscription.publishers:
            got = f"it is published, but no message came{within}"
        else:
            got = f"nobody publishes it{within}"
        others = sorted(other for other, types in graph.items() if wanted in types)
        others = [other for other in others if other != topic]
        near = difflib.get_close_matches(topic, others or list(graph), n=1)
        hint = f"; did you mean {near[0]!r}?" if near and near[0] != topic else ""
        return DeviceTimeout(
            self.label,
            got=got,
            expected=f"{wanted}; topics of this type: {others}{hint}",
            hint=""
            if foreign
            else managed_hint(
                self._io, self.subscription.publisher_nodes if self.subscription.publishers else ()
            ),
        )

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
        stamp_age_s = (now_ns - sample.stamp_ns) / 1e9
        silent_ns = arrival_clock_ns(self._io) - sample.arrival_ns
        if self.config.latched:
            return None
        if stamp_age_s < -max_ahead_s:
            fault = self._clock_fault(stream, sample, now_ns - silent_ns)
            return DeviceFault(
                self.label,
                got=f"stamps {-stamp_age_s:.3f} s ahead of this machine's clock"
                + (
                    f": {fault.text}" if "simulated" in fault.text or "stands" in fault.text else ""
                ),
                expected=f"at most {max_ahead_s:g} s",
                hint=fault.cure or "Synchronise the clocks (chrony, PTP), or set stamp: arrival",
            )
        # most of the age of a stamp may be silence: no clock is wrong then
        silent_s = silent_ns / 1e9
        if silent_s > self.max_age_s or self.max_age_s < stamp_age_s < 2 * silent_s:
            publishers = self.subscription.publishers if self.subscription is not None else 0
            return DeviceTimeout(
                self.label_of(stream),
                got=f"a newest message {max(silent_s, stamp_age_s):.3f} s old, {publishers} publishers"
                + self._left_out(stream),
                expected=f"at most {self.max_age_s:g} s",
                hint=self._silent_hint(publishers),
            )
        if stamp_age_s > self.max_age_s:
            fault = self._clock_fault(stream, sample, now_ns - silent_ns)
            return DeviceTimeout(
                self.label_of(stream),
                got=f"stamps {stamp_age_s:.3f} s old: {fault.text}",
                expected=f"at most {self.max_age_s:g} s",
                hint=fault.cure,
            )
        return None

    def _left_out(self, stream: Stream) -> str:
        """Which elements of a stream newer messages of the topic lack; empty where none came."""
        now_ns = arrival_clock_ns(self._io)
        there: set[int] = set()
        for other in self.streams.values():
            newest = None if other is stream else other.newest()
            if newest is not None and (now_ns - newest.arrival_ns) / 1e9 <= self.max_age_s:
                there.update(other.columns)
        missing = [column for column in stream.columns if column not in there]
        if not there or not missing or not self.names:
            return ""
        names = [self.names[self._part.columns.index(column)] for column in missing]
        return f"; newer ones come without {', '.join(names)}"

    def label_of(self, stream: Stream) -> str:
        """The topic, and which elements where it has several streams."""
        if len(stream.columns) == len(self._part.columns) or not self.names:
            return self.label
        names = [self.names[self._part.columns.index(column)] for column in stream.columns]
        return f"{self.label[:-1]}: {', '.join(names)})"

    def misfits(self) -> list[str]:
        """Publishers of the topic that are not heard, with the policy that is in the way."""
        if self._io is None:
            return []
        kept = self.is_kept
        reliable = kept or self.config.reliability == "reliable"
        asked = Ours(
            self.config.type,
            "reliable" if reliable else "best_effort",
            "transient_local" if kept else "volatile",
        )
        found = misfits(self._io, self.config.topic, asked, publishes=False)
        return [text for text in found if ": type: " not in text]

    def notes(self) -> list[str]:
        """What is worth knowing about how the topic is read."""
        notes = [self.frame_note] if self.frame_note else []
        if self.config.latched:
            notes.append(f"{self.label} is latched: the latest message counts, however old")
        if len(self.streams) > 1:
            notes.append(f"{self.label} brings its elements in {len(self.streams)} messages")
        return notes

    def _clock_fault(self, stream: Stream, sample: Sample, arrival_ns: int) -> Any:
        if not self._simulated and self._io is not None:
            self._simulated = "/clock" in self._io.topics()
        same = getattr(stream, "same_stamps", 0)
        return clock_fault(
            sample.stamp_ns,
            arrival_ns,
            same if same >= _FROZEN else 0,
            ROBOT,
            self._simulated,
            tolerance_ns=0,
        )

    def _silent_hint(self, publishers: int) -> str:
        if not publishers:
            return "Start the node that publishes it"
        if self._io is None:
            return ""
        kept = {end.durability for end in self._io.endpoints(self.config.topic)[0]}
        if kept == {"transient_local"}:
            return "It is published once and kept (transient local): write latched: true"
        return ""

    def _new_stream(self, present: tuple[int, ...]) -> TopicStream | None:
        if len(self.streams) >= _MOST_STREAMS:
            return None
        whole = not self.names or len(present) == len(self.names)
        columns = self._part.columns if whole else tuple(self._part.columns[i] for i in present)
        buffer = StampedBuffer(
            self._history, LAYOUTS[self._part.layout].rotation, self._turns(columns)
        )
        stream = self.streams[present] = TopicStream(self, columns, buffer, self._jumps(columns))
        return stream

    def _named(self, error: DeviceError) -> DeviceError:
        return type(error)(
            f"{self.label}: {error.what}",
            got=error.got,
            expected=error.expected,
            hint=error.hint,
        )

    def _stamp_ns(self, message: Any) -> int:
        header = getattr(message, "header", None)
        if self.config.stamp != "arrival" and header is not None:
            stamp_ns = int(header.stamp.sec) * 1_000_000_000 + int(header.stamp.nanosec)
            if stamp_ns or self.config.stamp == "header":
                return stamp_ns
        assert self._io is not None  # noqa: S101 - prepare() came before
        return self._io.now_ns()

    def _way(self, message: Any) -> Transform | MovingWay | None:
        """From the frame of a message to that of the observation; None: they are the same."""
        header = getattr(message, "header", None)
        frame = plain(header.frame_id) if header is not None else self._frame
        if self._part.layout == "twist" and hasattr(message, "child_frame_id"):
            frame = plain(message.child_frame_id)  # nav_msgs/Odometry: its twist is the body's
        try:
            return self._ways[frame]
        except KeyError:
            way = self._ways[frame] = self._find_way(frame)
            return way

    def _find_way(self, frame: str) -> Transform | MovingWay | None:
        expected, observed = self._frame, self._observed_frame
        if not expected:
            if frame and self._part.meaning in FRAMED:
                self._note_frame(frame)
            return None
        if not frame:
            if not self.config.frame:
                raise DeviceFault(
                    "header.frame_id",
                    got="an empty name",
                    expected=f"{expected}, or the contract says the frame",
                    hint=f"Write frame: {expected} beside the topic, if that is the frame of its "
                    "messages",
                )
            self.frame_note = f"{self.label}: header.frame_id is empty; taken as {expected!r}, as the contract says"
            frame = expected
        if frame == observed:
            return None
        way = self._between.between(frame, observed)
        layout = self._part.meaning
        fits = way.can(layout) if isinstance(way, Transform) else layout in FRAMED
        if way is not None and fits:
            return way
        raise DeviceFault(
            "header.frame_id",
            got=repr(frame),
            expected=expected,
            hint=f"Correct the entry's frame, or say in transforms where {frame!r} is",
        )

    def _note_frame(self, frame: str) -> None:
        """Of numbers whose frame the contract leaves open: they stay in one."""
        if self._said_frame not in ("", frame):
            raise DeviceFault(
                "header.frame_id",
                got=f"{frame!r}, after {self._said_frame!r}",
                expected="one frame",
                hint="End one of the publishers, or write frame: FRAME and where the other is",
            )
        self._said_frame = frame
        self.frame_note = (
            f"{self.label}: header.frame_id is {frame!r}, and the contract says no frame: "
            f"write frame: {frame}"
        )

    def _remember_names(self, message: Any) -> None:
        if self._names_field is not None:
            self._other_names.update(list(self._names_field.get(message))[:256])

    def _missing_elements(self) -> DeviceFault:
        if self._field.selects:
            return DeviceFault(
                self.label,
                got=f"{self.messages} messages, none with the element of {self.config.field!r}",
                expected="one that has it",
            )
        known = sorted(self._other_names)
        missing = [name for name in self.names if name not in self._other_names]
        if self._extract.left_empty and not known:
            return DeviceFault(
                f"{self.label}: field {self.config.field!r}",
                got=f"{self.messages} messages, the newest with names and no numbers",
                expected=f"numbers of {list(self.names)}",
                hint="The publisher leaves it empty: choose another field or topic",
            )
        near = difflib.get_close_matches(missing[0], known, n=1) if missing else []
        count = len(self.names)
        return DeviceFault(
            self.label,
            got=f"{self.messages} messages, none with {missing or list(self.names)} "
            f"in {self.config.names_field!r}",
            expected=f"names that are there: {known}"
            + (f"; did you mean {near[0]!r}?" if near else ""),
            hint=_prefixed(self.names, known)
            if known
            else f"Messages without names are taken by position: size: {count}, or indices",
        )


def _prefixed(names: Sequence[str], known: Sequence[str]) -> str:
    """The names that are there, where each is one of ours behind a prefix; empty if not so."""
    found = [[there for there in known if there.endswith(name)] for name in names]
    if not all(len(there) == 1 for there in found):
        return ""
    return f"Behind a prefix they are there: names: [{', '.join(there[0] for there in found)}]"
