"""A camera that publishes on a ROS topic, raw or compressed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Literal

from user_core.config import setting
from user_core.errors import DeviceNotConnected, DeviceTimeout
from user_core.interfaces import Camera, Discovered, Frame
from user_core.specs import Array, ArraySpec
from user_hal.cameras import images
from user_hal.cameras.images import FrameRing, ImageConfig, fit, own
from user_hal.topic_io import Reliability, TopicIo, TopicSubscription

RAW, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"


class RosTopicCameraConfig(ImageConfig):
    """Which topic, and how it is read."""

    topic: str = setting("", doc="Image topic, for instance /wrist/color/image_raw.", min_length=1)
    transport: Literal["auto", "raw", "compressed"] = setting(
        "auto", doc="What the topic carries; auto: compressed where its name ends so."
    )
    stamp: Literal["header", "arrival"] = setting(
        "header",
        doc="When an image was taken: as its header says, or (clocks not synchronised) when it "
        "came, less latency_s.",
    )
    latency_s: float = setting(
        0.0, doc="Known time from exposure to the stamp used; subtracted.", unit="s", ge=0
    )
    reliability: Reliability = setting("best_effort", doc="Quality of service of the subscription.")
    connect_timeout_s: float = setting(
        5.0, doc="How long to wait for the first image.", unit="s", gt=0
    )
    history: int = setting(8, doc="Images remembered for alignment in time.", ge=1, le=256)

    @property
    def compressed(self) -> bool:
        """Whether the topic carries CompressedImage."""
        named_so = self.topic.rstrip("/").endswith("/compressed")
        return self.transport == "compressed" or (self.transport == "auto" and named_so)


class RosTopicCamera(Camera):
    """Keeps the newest messages of an image topic; decodes those that are asked for.

    Needs :meth:`attach` before :meth:`connect`.
    """

    Config = RosTopicCameraConfig

    def __init__(self, config: RosTopicCameraConfig) -> None:
        self._config = config
        self._io: TopicIo | None = None
        self._subscription: TopicSubscription | None = None
        self._ring = FrameRing(
            config.topic, self._develop, config.max_age_s, config.history, self._now_ns
        )

    def attach(self, io: TopicIo) -> None:
        """Take the topics to live on."""
        self._io = io

    @property
    def spec(self) -> ArraySpec:
        """Spec of the images after cropping and scaling."""
        return self._config.spec

    def connect(self) -> None:
        """Subscribe and wait for the first image.

        Raises:
            DeviceTimeout: None came; the message tells a topic that nobody publishes from one
                that is silent, and lists the image topics that there are.
            DeviceFault: The first one cannot be turned into an image.
        """
        if self._io is None:
            raise DeviceNotConnected(
                f"camera {self._config.topic!r}", got="no topics", hint="Call attach(io) first"
            )
        self.close()
        self._ring.open()
        type_name = COMPRESSED if self._config.compressed else RAW
        self._subscription = self._io.subscribe(
            self._config.topic,
            type_name,
            self._receive,
            depth=2,
            reliability=self._config.reliability,
        )
        try:
            if not self._ring.wait_for_first(self._config.connect_timeout_s):
                raise self._silence(type_name)
            self._ring.newest()
        except BaseException:
            self.close()
            raise

    def read(self) -> Frame:
        """The newest image; raises DeviceTimeout with the topic's name when it stalled."""
        return self._ring.newest()

    def nearest(self, stamp_ns: int) -> Frame:
        """The remembered image nearest to a moment."""
        return self._ring.nearest(stamp_ns)

    def close(self) -> None:
        """Unsubscribe."""
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            subscription.close()
        self._ring.close()

    @classmethod
    def discover_on(cls, io: TopicIo) -> Sequence[Discovered]:
        """The image topics that are in the graph."""
        return [
            Discovered(topic, {"topic": topic}, types[0])
            for topic, types in sorted(io.topics().items())
            if RAW in types or COMPRESSED in types
        ]

    def _receive(self, message: Any) -> None:
        stamp_ns = self._now_ns()
        header = message.header.stamp
        if self._config.stamp == "header" and (header.sec or header.nanosec):
            stamp_ns = header.sec * 1_000_000_000 + header.nanosec
        self._ring.put(message, stamp_ns - round(self._config.latency_s * 1e9))

    def _develop(self, message: Any) -> Array:
        decode = images.from_compressed if self._config.compressed else images.from_raw
        image_hwc = decode(message, self._config.topic)
        return own(fit(image_hwc, self._config, self._config.topic))

    def _now_ns(self) -> int:
        return time.time_ns() if self._io is None else self._io.now_ns()

    def _silence(self, type_name: str) -> DeviceTimeout:
        assert self._io is not None and self._subscription is not None  # noqa: S101 - in connect
        wait_s, own_name = self._config.connect_timeout_s, self._subscription.topic
        types = [name for name in self._io.topics().get(own_name, ()) if name != type_name]
        others = [item.name for item in self.discover_on(self._io) if item.name != own_name]
        if types:
            got = f"the topic carries {types[0]}, not {type_name}"
        elif self._subscription.publishers == 0:
            got = f"nobody published it within {wait_s:g} s"
        else:
            got = f"published, but no image came within {wait_s:g} s"
        return DeviceTimeout(
            f"camera {own_name!r}", got=got, expected=f"{type_name}; image topics: {others}"
        )
