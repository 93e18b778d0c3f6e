"""Streams of a camera: broken images in between, clocks that are wrong, depth, video."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from user_core.config import from_mapping
from user_core.conformance import check_camera
from user_core.errors import ConfigError, DeviceFault, DeviceTimeout, PluginError
from user_core.specs import check_arrays
from user_hal.cameras.ros_topic import RosTopicCamera, RosTopicCameraConfig
from user_hal.cameras.video import VideoDecoder
from user_hal.cameras.with_cameras import FrameAligner
from user_hal.clock_faults import clock_fault
from user_hal.fakes import LocalTopics, local_topics
from user_hal.fakes.local_topics import CompressedImage, Header, Image, Time

NOW_NS = 1_700_000_000_000_000_000
DEPTH_MM = np.array([[0, 300], [1000, 20000]], np.uint16)


def make(io: LocalTopics, **params: Any) -> RosTopicCamera:
    params = {"topic": "/cam/image", "width": 2, "height": 2, "connect_timeout_s": 0.3, **params}
    camera = RosTopicCamera(from_mapping(RosTopicCameraConfig, params))
    camera.attach(io)
    return camera


class Source:
    """Publishes by a clock of its own."""

    def __init__(self, io: LocalTopics, topic: str = "/cam/image") -> None:
        self.io, self.topic = io, topic
        self.raw = io.publisher(topic, "sensor_msgs/msg/Image")
        self.value = 0

    def publish(
        self, stamp_ns: int | None = None, broken: bool = False, depth: bool = False
    ) -> None:
        self.value += 1
        stamp_ns = self.io.now_ns() if stamp_ns is None else stamp_ns
        header = Header(Time(stamp_ns // 10**9, stamp_ns % 10**9), "cam_optical")
        if depth:
            self.raw.publish(Image(header, 2, 2, "16UC1", 0, 4, DEPTH_MM.tobytes()))
            return
        data = bytes([self.value] * (12 if not broken else 7))
        self.raw.publish(Image(header, 2, 2, "rgb8", 0, 6, data))

    def after_subscription(self, *calls: Callable[[], None]) -> None:
        """Publish from another thread, as soon as there is somebody to hear it."""

        def run() -> None:
            while not self.raw.subscribers:
                pass
            for call in calls:
                call()

        threading.Thread(target=run).start()


@pytest.fixture
def now() -> list[int]:
    return [NOW_NS]


@pytest.fixture
def source(now: list[int]) -> Source:
    return Source(LocalTopics(lambda: now[0]))


def test_broken_images_are_dropped_and_counted_while_a_good_one_is_young(
    source: Source, now: list[int]
) -> None:
    camera = make(source.io, max_age_s=0.5)
    source.after_subscription(lambda: source.publish(broken=True), source.publish)
    camera.connect()
    assert camera.read().image_hwc[0, 0, 0] == 2
    for _ in range(3):
        now[0] += 33_000_000
        source.publish(broken=True)
        assert camera.read().image_hwc[0, 0, 0] == 2
        assert camera.nearest(now[0]).image_hwc[0, 0, 0] == 2
    assert camera.dropped >= 3
    now[0] += 33_000_000
    source.publish()
    assert camera.read().image_hwc[0, 0, 0] == source.value
    now[0] += 600_000_000
    source.publish(broken=True)
    with pytest.raises(DeviceTimeout, match="stalled.*images were dropped; the last.*7 bytes"):
        camera.read()
    camera.close()


def test_a_camera_of_which_nothing_is_an_image_is_a_fault(source: Source) -> None:
    camera = make(source.io)
    source.after_subscription(*[lambda: source.publish(broken=True)] * 8)
    with pytest.raises(DeviceFault, match="7 bytes for 2x2"):
        camera.connect()


@pytest.mark.parametrize(
    ("stamp_ns", "text", "cure"),
    [
        (5_000_000_000_000, "switched on .5000.0 s", "stamp: arrival"),
        (NOW_NS - 3_000_000_000, "3.000 s after their stamps.*behind", "chrony or PTP"),
    ],
)
def test_stamps_that_cannot_be_true_are_explained(
    source: Source, stamp_ns: int, text: str, cure: str
) -> None:
    camera = make(source.io)
    source.after_subscription(lambda: source.publish(stamp_ns))
    with pytest.raises(DeviceTimeout, match=text) as caught:
        camera.connect()
    assert cure in caught.value.hint


def test_a_clock_that_is_ahead_is_explained_where_it_matters(source: Source) -> None:
    """A robot whose clock is ahead as well is no fault: only the difference counts."""
    camera = make(source.io)
    source.after_subscription(lambda: source.publish(NOW_NS + 2_000_000_000))
    aligner = FrameAligner({"wrist": camera}, max_skew_s=0.1)
    aligner.connect()
    aligner.at(NOW_NS + 2_000_000_000)
    with pytest.raises(DeviceTimeout, match=r"clock is ahead.*2\.000 s before") as caught:
        aligner.at(NOW_NS)
    assert "chrony" in caught.value.hint
    aligner.close()


def test_stamps_that_stand_still_are_explained(source: Source, now: list[int]) -> None:
    camera = make(source.io, max_age_s=0.2)
    source.after_subscription(source.publish)
    camera.connect()
    for _ in range(3):
        now[0] += 100_000_000
        source.publish(NOW_NS)
    with pytest.raises(DeviceTimeout, match=r"stand still: the last 4 have the same, 0\.300 s ago"):
        camera.read()
    camera.close()


def test_clock_faults_are_told_apart() -> None:
    assert not clock_fault(NOW_NS - 40_000_000, NOW_NS)
    assert "simulated" in clock_fault(NOW_NS, 12_000_000_000).text
    assert not clock_fault(12_000_000_000, 12_010_000_000)  # both simulated


@pytest.mark.parametrize(
    ("depth", "expected"),
    [
        ({}, [[0.0, 0.3], [1.0, 0.0]]),
        ({"near_m": 0.5, "far_m": 30.0, "hole_m": 30.0}, [[30.0, 30.0], [1.0, 20.0]]),
        ({"dtype": "uint16", "step_m": 0.01}, [[0, 30], [100, 0]]),
        ({"unit_m": 0.0001}, [[0.0, 0.03], [0.1, 2.0]]),
    ],
)
def test_depth_is_an_observation_of_its_own(
    source: Source, depth: dict[str, Any], expected: Any
) -> None:
    camera = make(source.io, kind="depth", depth=depth)
    source.after_subscription(lambda: source.publish(depth=True))
    aligner = FrameAligner({"wrist": camera}, max_skew_s=0.1)
    aligner.connect()
    arrays = aligner.at(NOW_NS)
    check_arrays(arrays, aligner.specs)
    np.testing.assert_allclose(arrays["depth_wrist"][:, :, 0], expected, rtol=1e-5)
    aligner.close()


def test_a_depth_camera_keeps_the_promises_of_a_camera() -> None:
    source = Source(LocalTopics())
    ended = threading.Event()

    def run() -> None:
        while not ended.wait(0.01):
            source.publish(depth=True)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        report = check_camera(make(source.io, kind="depth", connect_timeout_s=60))
        assert report.passed, str(report)
    finally:
        ended.set()
        thread.join()


def test_depth_that_cannot_be_is_refused_before_anything_starts() -> None:
    io = LocalTopics()
    with pytest.raises(ConfigError, match="near_m below far_m"):
        make(io, kind="depth", depth={"near_m": 3.0, "far_m": 1.0})
    with pytest.raises(ConfigError, match="at most 65535"):
        make(io, kind="depth", depth={"dtype": "uint16", "step_m": 0.0001})
    with pytest.raises(ConfigError, match="video"):
        make(io, kind="depth", transport="video")


def test_a_depth_topic_is_refused_as_colour_with_the_cure(source: Source) -> None:
    source.after_subscription(*[lambda: source.publish(depth=True)] * 8)
    with pytest.raises(DeviceFault, match="16UC1.*kind: depth"):
        make(source.io).connect()


def test_depth_that_is_measured_and_never_in_range_is_told(source: Source) -> None:
    camera = make(source.io, kind="depth", depth={"unit_m": 1.0})  # steps are millimetres
    source.after_subscription(lambda: source.publish(depth=True))
    camera.connect()
    notes = " ".join(camera.notes())
    assert "measures nothing from 0 to 10 m, and 1000 m in the median" in notes
    camera.close()


@pytest.mark.parametrize("crop", ["none", {"left": 0, "top": 0, "width": 2, "height": 2}])
def test_a_camera_that_comes_back_with_another_size(source: Source, crop: Any) -> None:
    camera = make(source.io, crop=crop)
    source.after_subscription(source.publish)
    camera.connect()
    assert camera.notes() == camera.notes() and "at first" not in " ".join(camera.notes())

    def publish(height: int, width: int) -> None:
        data = bytes(height * width * 3)
        source.raw.publish(Image(Header(), height, width, "rgb8", 0, 3 * width, data))

    publish(4, 4)
    if crop == "none":
        assert camera.read().image_hwc.shape == (2, 2, 3)
        assert "gives images of 4x4; they were 2x2 at first" in " ".join(camera.notes())
    else:  # the rectangle would show something else
        before = camera.read()  # the image that was good is still young enough
        assert before.image_hwc[0, 0, 0] == 1 and camera.dropped == 1
        publish(4, 4)
        publish(2, 2)
        assert camera.read().image_hwc[0, 0, 0] == 0
    camera.close()


@pytest.mark.parametrize("topic", ["/cam/compressed", "/cam/image"])
def test_what_a_topic_carries_is_what_its_publisher_says(topic: str) -> None:
    """Not what its name ends with."""
    import cv2

    io = LocalTopics(lambda: NOW_NS)
    ended = threading.Event()
    if topic == "/cam/compressed":
        publisher = io.publisher(topic, "sensor_msgs/msg/Image")
        message: Any = Image(Header(), 2, 2, "rgb8", 0, 6, bytes([9] * 12))
    else:
        publisher = io.publisher(topic, "sensor_msgs/msg/CompressedImage")
        data = cv2.imencode(".png", np.full((2, 2, 3), 9, np.uint8))[1].tobytes()
        message = CompressedImage(Header(), "png", data)

    def run() -> None:
        while not ended.wait(0.01):
            publisher.publish(message)

    thread = threading.Thread(target=run)
    thread.start()
    camera = make(io, topic=topic, connect_timeout_s=60)
    try:
        camera.connect()
        assert (camera.read().image_hwc == 9).all()
    finally:
        ended.set()
        thread.join()
        camera.close()


@dataclass
class CompressedVideo:
    """foxglove_msgs/msg/CompressedVideo."""

    timestamp: Time = field(default_factory=Time)
    frame_id: str = ""
    data: bytes = b""
    format: str = "h264"


@dataclass
class FFMPEGPacket:
    """ffmpeg_image_transport_msgs/msg/FFMPEGPacket."""

    header: Header = field(default_factory=Header)
    data: bytes = b""
    encoding: str = "h264"


def a_stream(count: int) -> list[bytes]:
    """H.264 as a camera's driver sends it: a packet for each image, key frames now and then."""
    av = pytest.importorskip("av", reason="the optional package av decodes video")
    try:
        codec = av.CodecContext.create("libx264", "w")
    except Exception:  # noqa: BLE001 - a build of av without an encoder
        pytest.skip("this av has no encoder for H.264")
    codec.width, codec.height, codec.pix_fmt = 64, 48, "yuv420p"
    codec.framerate, codec.time_base, codec.gop_size = Fraction(30), Fraction(1, 30), 5
    codec.options = {"tune": "zerolatency", "preset": "ultrafast"}
    packets = []
    for index in range(count):
        image = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 20 * index, np.uint8), "rgb24")
        image.pts = index
        packets += [bytes(packet) for packet in codec.encode(image.reformat(format="yuv420p"))]
    assert len(packets) == count
    return packets


@pytest.mark.parametrize(
    ("make_message", "type_name"),
    [
        (lambda data: CompressedVideo(data=data), "foxglove_msgs/msg/CompressedVideo"),
        (
            lambda data: FFMPEGPacket(data=data, encoding="h264;yuv420p;bgr8;bgr8"),
            "ffmpeg_image_transport_msgs/msg/FFMPEGPacket",
        ),
    ],
)
def test_video_streams(make_message: Any, type_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(local_topics.MESSAGES, type_name, type(make_message(b"")))
    packets = a_stream(10)
    io = LocalTopics(lambda: NOW_NS)
    publisher = io.publisher("/cam/video", type_name)
    camera = make(io, topic="/cam/video", transport="auto", width=64, height=48,
                  connect_timeout_s=60)  # fmt: skip

    def run() -> None:
        while not publisher.subscribers:
            pass
        publisher.publish(make_message(packets[0]))

    thread = threading.Thread(target=run)
    thread.start()
    camera.connect()
    thread.join()
    for index, data in enumerate(packets[1:], 1):
        publisher.publish(make_message(data))
        np.testing.assert_allclose(camera.read().image_hwc.astype(int), 20 * index, atol=6)
    camera.close()


def test_a_stream_that_is_joined_in_the_middle_begins_at_its_next_key_frame() -> None:
    packets = a_stream(10)
    decoder = VideoDecoder("/cam/video")
    images = [decoder.decode(CompressedVideo(data=data)) for data in packets[2:]]
    first = next(index for index, image in enumerate(images) if image is not None)
    assert first == 3  # packet 5 is a key frame
    np.testing.assert_allclose(np.asarray(images[first]).astype(int), 100, atol=6)
    with pytest.raises(DeviceFault, match="format 'mjpeg2000'"):
        decoder.decode(CompressedVideo(data=packets[0], format="mjpeg2000"))


def test_without_a_decoder_the_optional_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(PluginError, match="pip install av"):
        VideoDecoder("/cam/video")
