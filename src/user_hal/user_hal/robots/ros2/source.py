"""One topic of an observation: subscription, numbers, buffer, and what is wrong with it."""

from __future__ import annotations

import difflib
import time
from typing import Any

from user_core.errors import DeviceError, DeviceFault, DeviceTimeout
from user_hal.robots.ros2.buffer import Sample, StampedBuffer
from user_hal.robots.ros2.consistency import element_count
from user_hal.robots.ros2.contract import Ros2Config
from user_hal.robots.ros2.fields import Extractor, FieldPath
from user_hal.robots.ros2.layouts import LAYOUTS
from user_hal.topic_io import TopicIo, TopicSubscription

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
        layout = LAYOUTS[contract.layout(name)]
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
            self.config.scale,
            self.config.offset,
        )
        self.buffer = StampedBuffer(contract.timing.history, layout.rotation)
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
                hint=_cure(sample, publishers),
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
            came = f"it carries {foreign[0]}"
        elif self.subscription.publishers:
            came = f"it is published, but no message came{within}"
        else:
            came = f"nobody publishes it{within}"
        others = sorted(other for other, types in graph.items() if wanted in types)
        others = [other for other in others if other != topic]
        near = difflib.get_close_matches(topic, others or list(graph), n=1)
        hint = f"; did you mean {near[0]!r}?" if near and near[0] != topic else ""
        return DeviceTimeout(
            self._what, got=came, expected=f"{wanted}; topics of this type: {others}{hint}"
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
            self._check_frame(message)
        except DeviceFault as error:
            self._fault = DeviceFault(
                f"{self._what}: {error.what}",
                got=error.got,
                expected=error.expected,
                hint=error.hint,
            )
            return
        self.buffer.put(Sample(self._stamp_ns(message), values, time.monotonic_ns()))
        self._fault = None

    def _stamp_ns(self, message: Any) -> int:
        header = getattr(message, "header", None)
        if self.config.stamp != "arrival" and header is not None:
            stamp_ns = int(header.stamp.sec) * 1_000_000_000 + int(header.stamp.nanosec)
            if stamp_ns or self.config.stamp == "header":
                return stamp_ns
        assert self._io is not None  # noqa: S101 - prepare() came before
        return self._io.now_ns()

    def _check_frame(self, message: Any) -> None:
        header = getattr(message, "header", None)
        if not self.config.frame or header is None or not header.frame_id:
            return
        if header.frame_id.lstrip("/") != self.config.frame.lstrip("/"):
            raise DeviceFault(
                "header.frame_id", got=repr(header.frame_id), expected=self.config.frame
            )

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


def _cure(sample: Sample, publishers: int) -> str:
    if sample.stamp_ns < _FIRST_REAL_NS:
        return "It is stamped with simulated time (use_sim_time): set stamp: arrival"
    return "" if publishers else "Start the node that publishes it"
