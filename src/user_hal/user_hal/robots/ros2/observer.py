"""All topics of an observation, taken together at one moment."""

from __future__ import annotations

import time
from typing import Any

from user_core.errors import DeviceError, DeviceTimeout
from user_core.specs import Array, ArraySpec
from user_hal.robots.ros2.consistency import element_count
from user_hal.robots.ros2.contract import Ros2Config
from user_hal.robots.ros2.layouts import LAYOUTS, unit_named
from user_hal.robots.ros2.source import Source
from user_hal.topic_io import Reliability, TopicIo, TopicSubscription


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
        source.frame,
        names,
    )
