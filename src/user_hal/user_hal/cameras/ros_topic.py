"""A camera that publishes on a ROS topic: colour or depth; raw, compressed or a video stream."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from user_core.config import Config, setting
from user_core.errors import ConfigError, DeviceFault, DeviceNotConnected, DeviceTimeout
from user_core.interfaces import Camera, Discovered, Frame
from user_core.specs import Array, ArraySpec
from user_hal.cameras import decoding
from user_hal.cameras.calibration import Calibration, info_topic
from user_hal.cameras.images import FrameRing, ImageConfig, Region, fit, own
from user_hal.cameras.video import VIDEO_TYPES, VideoDecoder
from user_hal.clock_faults import ClockFault
from user_hal.topic_io import (
    Reliability,
    TopicIo,
    TopicSubscription,
    arrival_clock_ns,
    managed_hint,
)

RAW, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
INFO = "sensor_msgs/msg/CameraInfo"
_log = logging.getLogger(__name__)
#: How long a topic of the expected type may be awaited before one of another type is taken.
_LOOK_S = 0.1


class DepthConfig(Config):
    """How depth is read, and what it becomes."""

    unit_m: float = setting(
        0.001, doc="One step of an image of integers (REP-118: a millimetre).", unit="m", gt=0
    )
    float_unit_m: float = setting(
        1.0,
        doc="What 1 is in an image of floating point numbers, raw (REP-118: a metre; 0.001 for a "
        "publisher of millimetres).",
        unit="m",
        gt=0,
    )
    near_m: float = setting(0.0, doc="Nearer is a hole.", unit="m", ge=0)
    far_m: float = setting(10.0, doc="Farther is a hole.", unit="m", gt=0)
    hole_m: float = setting(
        0.0,
        doc="What stands where nothing was measured. Policies and stores take no NaN.",
        unit="m",
        ge=0,
    )
    dtype: Literal["float32", "uint16"] = setting(
        "float32", doc="Metres, or (half the size in the store) steps of step_m."
    )
    step_m: float = setting(0.001, doc="One step of uint16.", unit="m", gt=0)


class RosTopicCameraConfig(ImageConfig):
    """Which topic, and how it is read."""

    topic: str = setting("", doc="Image topic, for instance /wrist/color/image_raw.", min_length=1)
    info_topic: str = setting(
        "",
        doc="Topic of its sensor_msgs/CameraInfo, which is handed on for the image as it is here; "
        "empty: camera_info beside the image; none: there is none.",
    )
    kind: Literal["colour", "depth"] = setting(
        "colour",
        doc="colour: (height, width, 3) uint8, RGB, as image_<name>. depth: (height, width, 1), "
        "metres, as depth_<name>.",
    )
    depth: DepthConfig = setting(factory=DepthConfig, doc="For kind: depth.")
    grey16: bool = setting(
        False, doc="mono16 is grey of 16 bits, not depth (an infrared camera, for instance)."
    )
    transport: Literal["auto", "raw", "compressed", "video"] = setting(
        "auto",
        doc="What the topic carries: Image, CompressedImage, or a video stream (CompressedVideo "
        "or FFMPEGPacket; needs the package av). auto: what its publisher says.",
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
    def types(self) -> tuple[str, ...]:
        """The messages that will do, the likeliest first."""
        by_transport = {"raw": (RAW,), "compressed": (COMPRESSED,), "video": VIDEO_TYPES}
        if self.transport != "auto":
            return by_transport[self.transport]
        # What the topic's name makes likely is tried first; its publisher decides.
        ending = self.topic.rstrip("/").rpartition("/")[2].lower()
        types = (RAW, COMPRESSED)
        if ending in ("compressed", "compresseddepth"):
            types = (COMPRESSED, RAW)
        return types if self.kind == "depth" else (*types, *VIDEO_TYPES)


class RosTopicCamera(Camera):
    """Keeps the newest messages of an image topic; decodes those that are asked for.

    Messages that are no whole image are dropped and counted, while there is a younger good one.
    Of a video stream every packet is decoded.

    Needs :meth:`attach` before :meth:`connect`.
    """

    Config = RosTopicCameraConfig

    def __init__(self, config: RosTopicCameraConfig) -> None:
        if config.kind == "depth":
            _check_depth(config)
        self._config = config
        self._type = config.types[0]
        self._video: VideoDecoder | None = None
        self._frame_id = ""  # of the newest message
        self._size = (0, 0)  # of the images as they come: width, height
        self._size_note = self._depth_note = ""
        self._io: TopicIo | None = None
        self._subscription: TopicSubscription | None = None
        self._info: list[TopicSubscription] = []
        self._calibration: Calibration | None = None
        self._ring = FrameRing(
            config.topic, self._develop, config.max_age_s, config.history, self._now_ns,
            lambda: arrival_clock_ns(self._io),
        )  # fmt: skip

    def attach(self, io: TopicIo) -> None:
        """Take the topics to live on."""
        self._io = io

    @property
    def topics_read(self) -> tuple[str, ...]:
        """The image topic, and that of its calibration."""
        return (self._config.topic, *self._info_topics)

    @property
    def max_age_s(self) -> float:
        """Age of the newest image at which it counts as stalled."""
        return self._config.max_age_s

    @property
    def _info_topics(self) -> tuple[str, ...]:
        topic = self._config.info_topic or info_topic(self._config.topic)
        return () if topic == "none" else (topic,)

    def calibration(self) -> Calibration | None:
        """Of the images that it gives; None while none was heard."""
        return self._calibration

    @property
    def spec(self) -> ArraySpec:
        """Spec of the images after cropping and scaling."""
        config = self._config
        if config.kind == "colour":
            return config.spec
        shape, depth = (config.height, config.width, 1), config.depth
        high = max(depth.far_m, depth.hole_m)
        if depth.dtype == "uint16":
            most = float(round(high / depth.step_m))
            unit = f"{depth.step_m:g} m"
            return ArraySpec(shape, "uint16", low=0.0, high=most, unit=unit, frame=config.frame)
        return ArraySpec(shape, "float32", low=0.0, high=high, unit="m", frame=config.frame)

    @property
    def dropped(self) -> int:
        """Messages since :meth:`connect` that were no whole image."""
        return self._ring.dropped

    def clock_fault(self) -> ClockFault:
        """What is wrong with the stamps of its images, if anything."""
        return self._ring.clock_fault()

    def connect(self) -> None:
        """Subscribe and wait for the first image.

        Raises:
            DeviceTimeout: None came; the message tells a topic that nobody publishes from one
                that is silent, and lists the image topics that there are.
            DeviceFault: The first ones cannot be turned into images.
            PluginError: The topic carries a video stream, and there is no decoder.
        """
        if self._io is None:
            raise DeviceNotConnected(
                f"camera {self._config.topic!r}", got="no topics", hint="Call attach(io) first"
            )
        self.close()
        self._ring.open()
        self._size, self._size_note, self._depth_note = (0, 0), "", ""
        try:
            # Within one DDS participant a topic has one type: what is known already is not tried.
            carried = self._io.topics().get(self._config.topic, ())
            known = [name for name in self._config.types if name in carried]
            self._subscribe(self._io, (known or self._config.types)[0])
            if not self._wait_for_good(self._io):
                raise self._ring.fault or self._silence(self._type)
            self._info = [
                self._io.subscribe(topic, INFO, self._take_info, reliability="best_effort")
                for topic in self._info_topics
            ]
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
        for one in ([subscription] if subscription is not None else []) + self._info:
            one.close()
        self._info = []
        self._ring.close()

    @classmethod
    def discover_on(cls, io: TopicIo) -> Sequence[Discovered]:
        """The image topics that are in the graph."""
        return [
            Discovered(topic, {"topic": topic}, types[0])
            for topic, types in sorted(io.topics().items())
            if not {RAW, COMPRESSED, *VIDEO_TYPES}.isdisjoint(types)
        ]

    def _subscribe(self, io: TopicIo, type_name: str) -> None:
        if self._subscription is not None:
            self._subscription.close()
        self._type = type_name
        is_video = type_name in VIDEO_TYPES
        self._video = VideoDecoder(self._config.topic) if is_video else None
        self._subscription = io.subscribe(
            self._config.topic,
            type_name,
            self._receive,
            depth=32 if is_video else 2,  # a packet that is left out spoils those that follow
            reliability=self._config.reliability,
        )

    def _wait_for_good(self, io: TopicIo) -> bool:
        """Wait for an image; take the type that the topic really carries, if it will do."""
        deadline_s = time.monotonic() + self._config.connect_timeout_s
        while (left_s := deadline_s - time.monotonic()) > 0:
            if self._ring.wait_for_good(min(_LOOK_S, left_s)):
                return True
            assert self._subscription is not None  # noqa: S101 - connect() subscribed
            if self._subscription.publishers:
                continue  # there is one of this type
            carried = io.topics().get(self._subscription.topic, ())
            others = [t for t in self._config.types if t in carried and t != self._type]
            if others:
                self._subscribe(io, others[0])
        return False

    def _take_info(self, message: Any) -> None:
        try:
            found = Calibration.of(message)
        except ValueError:  # matrices of another size
            return
        self._calibration = None if found is None else found.fitted(self._config)

    def notes(self) -> list[str]:
        """What is worth knowing about its images: the frame that they say, if it is another than
        the configured one; another size than at first; depth that is never in range."""
        notes = [note for note in (self._size_note, self._depth_note) if note]
        said = self._frame_id.lstrip("/")
        if not said or said == self._config.frame.lstrip("/"):
            return notes
        return [
            *notes,
            f"camera {self._config.topic!r}: header.frame_id is {said!r}, the configuration says "
            f"{self._config.frame!r}: write frame: {said}, if the images are right",
        ]

    def _receive(self, message: Any) -> None:
        stamp_ns = self._now_ns()
        self._frame_id = str(getattr(getattr(message, "header", message), "frame_id", ""))
        header = message.header.stamp if hasattr(message, "header") else message.timestamp
        if self._config.stamp == "header" and (header.sec or header.nanosec):
            stamp_ns = header.sec * 1_000_000_000 + header.nanosec
        stamp_ns -= round(self._config.latency_s * 1e9)
        if self._video is None:
            self._ring.put(message, stamp_ns)
            return
        try:
            image_hwc = self._video.decode(message)
        except DeviceFault as fault:
            self._ring.count_dropped(fault)
            return
        if image_hwc is not None:
            self._ring.put(image_hwc, stamp_ns)

    def _develop(self, message: Any) -> Array:
        config, topic = self._config, self._config.topic
        if config.kind == "depth":
            unit_m = config.depth.unit_m
            metres = (
                decoding.depth_from_compressed(message, topic, unit_m)
                if self._type == COMPRESSED
                else decoding.depth_from_raw(message, topic, unit_m, config.depth.float_unit_m)
            )
            self._check_size(metres)
            return self._depth(metres)
        if isinstance(message, np.ndarray):  # of a video stream
            image_hwc = message
        else:
            decode = decoding.from_compressed if self._type == COMPRESSED else decoding.from_raw
            image_hwc = decode(message, topic, grey16=config.grey16)
        self._check_size(image_hwc)
        return own(fit(image_hwc, config, topic))

    def _check_size(self, image_hwc: Array) -> None:
        """Take note of an image of another size than the first: its camera was started anew with
        other settings. A rectangle to be cropped would show something else there.

        Raises:
            DeviceFault: The size has changed, and a rectangle is cropped.
        """
        size = (image_hwc.shape[1], image_hwc.shape[0])
        first = self._size
        if first == (0, 0):
            self._size = first = size
        if size == first:
            return
        name, now, before = self._config.topic, "{}x{}".format(*size), "{}x{}".format(*first)
        if isinstance(self._config.crop, Region):
            raise DeviceFault(
                f"camera {name!r}: size of its images, of which a rectangle is cropped",
                got=now,
                expected=before,
                hint="Start the camera with its former settings, or correct the rectangle and "
                "connect anew",
            )
        if not self._size_note:
            self._size_note = f"camera {name!r} gives images of {now}; they were {before} at first"
            _log.warning("%s", self._size_note)

    def _depth(self, metres: Array) -> Array:
        """As the spec says, from metres with NaN in holes."""
        depth = self._config.depth
        self._check_range(metres)
        metres = np.array(fit(metres, self._config, self._config.topic, nearest=True), order="C")
        with np.errstate(invalid="ignore"):
            is_hole = ~((metres >= depth.near_m) & (metres <= depth.far_m))
        metres[is_hole] = depth.hole_m
        if depth.dtype == "uint16":
            metres = np.rint(metres / np.float32(depth.step_m)).astype(np.uint16)
        metres.flags.writeable = False
        return metres

    def _check_range(self, metres: Array) -> None:
        """Take note of an image that is measured, and nowhere within range: its unit is another."""
        depth, measured = self._config.depth, ~np.isnan(metres)
        with np.errstate(invalid="ignore"):
            within = ((metres >= depth.near_m) & (metres <= depth.far_m)).any()
        if within or not measured.any():
            self._depth_note = ""
        elif not self._depth_note:
            middle = float(np.median(metres[measured]))
            self._depth_note = (
                f"camera {self._config.topic!r} measures nothing from {depth.near_m:g} to "
                f"{depth.far_m:g} m, and {middle:g} m in the median: look at near_m, far_m, and at the "
                "unit (unit_m, float_unit_m)"
            )
            _log.warning("%s", self._depth_note)

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
            f"camera {own_name!r}",
            got=got,
            expected=f"{type_name}; image topics: {others}",
            hint=""
            if types
            else managed_hint(
                self._io,
                self._subscription.publisher_nodes if self._subscription.publishers else (),
            ),
        )


def _check_depth(config: RosTopicCameraConfig) -> None:
    depth = config.depth
    if depth.near_m >= depth.far_m:
        raise ConfigError(
            "range of a depth camera", got=f"{depth.near_m:g} to {depth.far_m:g} m",
            expected="near_m below far_m",
        )  # fmt: skip
    steps = max(depth.far_m, depth.hole_m) / depth.step_m
    if depth.dtype == "uint16" and round(steps) > 65535:
        raise ConfigError(
            "range of a depth camera in uint16", got=f"{steps:.0f} steps of {depth.step_m:g} m",
            expected="at most 65535", hint="Raise step_m, or lower far_m",
        )  # fmt: skip
    if config.transport == "video":
        raise ConfigError("transport of a depth camera", got="video", expected="raw or compressed")
