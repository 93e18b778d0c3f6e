"""Cameras on topics, their decoding, and their alignment in time."""

from __future__ import annotations

import threading
import time
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from user_core.config import from_mapping
from user_core.conformance import check_camera
from user_core.errors import ConfigError, DeviceFault, DeviceNotConnected, DeviceTimeout
from user_core.fakes import FakeCamera, FakeCameraConfig, FakeRobot, FakeRobotConfig
from user_core.interfaces import Camera, Frame
from user_core.specs import ArraySpec, check_arrays
from user_hal.cameras import decoding
from user_hal.cameras.images import ImageConfig, fit
from user_hal.cameras.ros_topic import RAW, RosTopicCamera, RosTopicCameraConfig
from user_hal.cameras.with_cameras import FrameAligner, RobotWithCameras
from user_hal.fakes import LocalTopics
from user_hal.fakes.local_topics import CameraInfo, CompressedImage, Header, Image, Time


def image(height: int = 6, width: int = 5) -> Any:
    rng = np.random.default_rng(height * 100 + width)
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


def raw(image_hwc: Any, encoding: str = "rgb8", padding: int = 0, big: bool = False) -> Image:
    """A message as a camera driver would fill it."""
    channels = {
        "rgb": image_hwc,
        "bgr": image_hwc[:, :, ::-1],
        "mono": image_hwc[:, :, :1],
        "rgba": np.dstack([image_hwc, np.full(image_hwc.shape[:2], 9, np.uint8)]),
        "bgra": np.dstack([image_hwc[:, :, ::-1], np.full(image_hwc.shape[:2], 9, np.uint8)]),
    }[encoding.rstrip("0123456789")]
    if encoding.endswith("16"):
        channels = (channels.astype(np.uint16) << 8 | 0x5A).astype(">u2" if big else "<u2")
    rows = np.ascontiguousarray(channels).view(np.uint8).reshape(len(image_hwc), -1)
    rows = np.pad(rows, ((0, 0), (0, padding)), constant_values=77)
    height, width = image_hwc.shape[:2]
    return Image(Header(), height, width, encoding, int(big), rows.shape[1], rows.tobytes())


@pytest.mark.parametrize("padding", [0, 3])
@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize(
    "encoding", ["rgb8", "bgr8", "rgba8", "bgra8", "mono8", "rgb16", "bgra16", "mono16"]
)
def test_raw_encodings(encoding: str, big: bool, padding: int) -> None:
    image_hwc = image()
    expected = image_hwc[:, :, [0, 0, 0]] if encoding.startswith("mono") else image_hwc
    decoded = decoding.from_raw(raw(image_hwc, encoding, padding, big), "/camera", grey16=True)
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoding": "32FC1"}, r"encoding of the image on '/camera': got '32FC1'"),
        ({"data": b"short"}, "5 bytes for 5x6 rgb8"),
        ({"step": 14}, "a step of 14, expected a step of at least 15"),
        ({"height": 0}, "for 5x0"),
        ({"height": 2**31, "width": 2**31}, "bytes for"),
    ],
)
def test_raw_images_that_contradict_themselves(change: dict[str, Any], message: str) -> None:
    bad = raw(image())
    for field, value in change.items():
        setattr(bad, field, value)
    with pytest.raises(DeviceFault, match=message):
        decoding.from_raw(bad, "/camera")


@given(
    st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1),
    st.sampled_from(sorted(decoding.PLAIN)), st.binary(max_size=64),
)  # fmt: skip
def test_no_raw_image_does_more_than_raise_a_fault(
    height: int, width: int, step: int, encoding: str, data: bytes
) -> None:
    try:
        decoded = decoding.from_raw(Image(Header(), height, width, encoding, 0, step, data), "x")
    except DeviceFault:
        return
    assert decoded.shape == (height, width, 3)


@pytest.mark.parametrize(("extension", "atol"), [(".png", 0), (".jpg", 12)])
def test_compressed_images(extension: str, atol: int) -> None:
    image_hwc = cv2.resize(image(), (64, 48), interpolation=cv2.INTER_CUBIC)
    parameters = [cv2.IMWRITE_JPEG_QUALITY, 98] if extension == ".jpg" else []
    data = cv2.imencode(extension, image_hwc[:, :, ::-1], parameters)[1].tobytes()
    decoded = decoding.from_compressed(CompressedImage(Header(), "rgb8; jpeg", data), "/c")
    assert np.abs(decoded.astype(int) - image_hwc).mean() <= atol
    with pytest.raises(DeviceFault, match="compressed image on '/c': got 20 bytes"):
        decoding.from_compressed(CompressedImage(Header(), "jpeg", data[:20]), "/c")
    with pytest.raises(DeviceFault, match="expected RGB"):
        decoding.from_compressed(CompressedImage(Header(), "16UC1; compressedDepth", data), "/c")
    with pytest.raises(DeviceFault, match="0 bytes"):
        decoding.from_compressed(CompressedImage(Header(), "png", b""), "/c")


def test_cropping_and_scaling() -> None:
    image_hwc = np.zeros((40, 60, 3), np.uint8)
    image_hwc[:, 20:40] = 200
    centre = fit(image_hwc, ImageConfig(width=20, height=40, crop="centre"), "c")
    assert centre.shape == (40, 20, 3) and (centre == 200).all()
    scaled = fit(image_hwc, ImageConfig(width=6, height=4), "c")
    np.testing.assert_array_equal(scaled[0, :, 0], [0, 0, 200, 200, 0, 0])
    config = from_mapping(
        ImageConfig,
        {"width": 5, "height": 5, "crop": {"left": 20, "top": 0, "width": 20, "height": 20}},
    )
    assert (fit(image_hwc, config, "c") == 200).all()
    with pytest.raises(DeviceFault, match="an image of 30x40, expected at least 40x20"):
        fit(image_hwc[:, :30], config, "c")
    with pytest.raises(ConfigError, match="crop"):
        from_mapping(ImageConfig, {"width": 5, "height": 5, "crop": "middle"})


class RosCameraDriver:
    """Publishes images as an ordinary camera driver does."""

    def __init__(self, io: LocalTopics, topic: str = "/cam/image_raw") -> None:
        self.io, self.publisher = io, io.publisher(topic, "sensor_msgs/msg/Image")
        self.count = 0
        self.alive = threading.Event()

    def publish(self, stamp_ns: int | None = None, image_hwc: Any = None) -> None:
        stamp_ns = self.io.now_ns() if stamp_ns is None else stamp_ns
        if image_hwc is None:
            image_hwc = np.full((6, 5, 3), self.count % 256, np.uint8)
        message = raw(image_hwc)
        message.header = Header(Time(stamp_ns // 10**9, stamp_ns % 10**9), "cam_optical")
        self.publisher.publish(message)
        self.count += 1

    def run(self) -> None:
        while not self.alive.wait(0.01):
            self.publish()


@pytest.fixture
def streaming():  # type: ignore[no-untyped-def]
    driver = RosCameraDriver(LocalTopics())
    thread = threading.Thread(target=driver.run)
    thread.start()
    yield driver
    driver.alive.set()
    thread.join()


def make(io: LocalTopics, **params: Any) -> RosTopicCamera:
    params = {"topic": "/cam/image_raw", "width": 5, "height": 6, **params}
    camera = RosTopicCamera(from_mapping(RosTopicCameraConfig, params))
    camera.attach(io)
    return camera


def test_conformance_of_the_topic_camera(streaming: RosCameraDriver) -> None:
    report = check_camera(make(streaming.io))
    assert report.passed, str(report)


def test_a_stalled_camera_is_an_error_with_its_name_and_recovers(
    streaming: RosCameraDriver,
) -> None:
    camera = make(streaming.io, max_age_s=0.1)
    camera.connect()
    camera.read()
    streaming.alive.set()
    time.sleep(0.15)
    with pytest.raises(DeviceTimeout, match=r"'/cam/image_raw' stalled: got a newest image 0\."):
        camera.read()
    with pytest.raises(DeviceTimeout, match="stalled"):
        camera.nearest(streaming.io.now_ns())
    streaming.publish()
    assert camera.read().image_hwc[0, 0, 0] == (streaming.count - 1) % 256
    camera.close()


def test_a_camera_whose_stamps_are_frozen_is_stalled_too() -> None:
    io = LocalTopics()
    driver, camera = RosCameraDriver(io), make(io, max_age_s=0.2)
    frozen_ns = io.now_ns()
    threading.Timer(0.05, driver.publish, (frozen_ns,)).start()
    camera.connect()
    time.sleep(max(0.0, 0.21 - (io.now_ns() - frozen_ns) / 1e9))
    driver.publish(frozen_ns)  # it has only just come, and shows what was long ago
    with pytest.raises(DeviceTimeout, match="stalled"):
        camera.read()
    camera.close()


def test_missing_and_misnamed_topics_are_told_apart() -> None:
    io = LocalTopics()
    RosCameraDriver(io, "/front/image_raw")
    with pytest.raises(DeviceTimeout, match=r"nobody published it.*\['/front/image_raw'\]"):
        make(io, connect_timeout_s=0.05).connect()
    with pytest.raises(DeviceTimeout, match="published, but no image came"):
        make(io, topic="/front/image_raw", connect_timeout_s=0.05).connect()
    with pytest.raises(DeviceTimeout, match="carries sensor_msgs/msg/Image, not .*Compressed"):
        make(io, topic="/front/image_raw", transport="compressed", connect_timeout_s=0.05).connect()
    with pytest.raises(DeviceNotConnected, match="attach"):
        RosTopicCamera(RosTopicCameraConfig(width=5, height=6, topic="/x")).connect()
    with pytest.raises(ConfigError, match="topic"):
        make(io, topic="")
    assert [item.name for item in RosTopicCamera.discover_on(io)] == ["/front/image_raw"]


@pytest.mark.parametrize(("frame", "told"), [("wrist_optical", False), ("camera_optical", True)])
def test_images_in_another_frame_than_configured_are_told(frame: str, told: bool) -> None:
    io = LocalTopics()
    camera = make(io, frame=frame)
    message = raw(image())
    message.header.frame_id = "/wrist_optical"
    threading.Timer(0.02, io.publisher("/cam/image_raw", RAW).publish, (message,)).start()
    camera.connect()
    notes = camera.notes()
    assert bool(notes) == told
    if told:
        assert "frame_id is 'wrist_optical', the configuration says 'camera_optical'" in notes[0]
    camera.close()


def test_latency_and_arrival_stamps() -> None:
    now = [10**18]
    io = LocalTopics(lambda: now[0])
    driver, camera = RosCameraDriver(io), make(io, stamp="arrival", latency_s=0.03)
    threading.Timer(0.02, driver.publish, (123,)).start()
    camera.connect()
    assert camera.read().stamp_ns == 10**18 - 30_000_000
    camera.close()


def test_the_calibration_beside_the_image_is_handed_on_for_the_image_as_it_is_here(
    streaming: RosCameraDriver,
) -> None:
    camera = make(streaming.io, width=10, height=12)
    whole = RobotWithCameras(FakeRobot(FakeRobotConfig()), {"wrist": camera}, 0.1)
    assert whole.calibrations() == {}
    camera.connect()
    info = streaming.io.publisher("/cam/camera_info", "sensor_msgs/msg/CameraInfo")
    info.publish(CameraInfo(height=6, width=5))
    assert camera.calibration() is None, "a camera that is not calibrated says so by zeros"
    k = [4.0, 0.0, 2.0, 0.0, 4.0, 2.5, 0.0, 0.0, 1.0]
    info.publish(CameraInfo(Header(), 6, 5, "plumb_bob", [0.0] * 5, k))
    found = whole.calibrations()["image_wrist"]
    assert (found.width, found.height) == (10, 12)
    np.testing.assert_allclose(found.k, [[8, 0, 4.5], [0, 8, 5.5], [0, 0, 1]])
    camera.close()
    assert "/cam/camera_info" in camera.topics_read
    assert make(streaming.io, info_topic="none").topics_read == ("/cam/image_raw",)


class Scripted(Camera):
    """A camera without a memory of its own, whose images a test sets."""

    def __init__(self) -> None:
        self.frame: Frame | None = None

    @property
    def spec(self) -> ArraySpec:
        return ArraySpec((1, 1, 3), "uint8", frame="scripted_optical")

    def connect(self) -> None:
        self.show(0, 0)

    def show(self, value: int, stamp_ns: int) -> None:
        self.frame = Frame(np.full((1, 1, 3), value, np.uint8), stamp_ns, value)

    def read(self) -> Frame:
        if self.frame is None:
            raise DeviceTimeout("no image")
        return self.frame

    def close(self) -> None:
        self.frame = None


def test_the_nearest_image_is_taken_and_a_far_one_refused() -> None:
    camera = Scripted()
    aligner = FrameAligner({"wrist": camera}, max_skew_s=0.02)
    aligner.connect()
    for index in range(1, 4):
        camera.show(index, index * 33_000_000)
        aligner.at(index * 33_000_000)
    assert aligner.at(60_000_000)["image_wrist"][0, 0, 0] == 2
    assert aligner.at(99_000_000 + 20_000_000)["image_wrist"][0, 0, 0] == 3
    with pytest.raises(DeviceTimeout, match=r"camera 'wrist'.*0.021 s before the robot's state"):
        aligner.at(99_000_000 + 21_000_000)
    camera.frame = None
    with pytest.raises(DeviceTimeout, match="camera 'wrist': no image"):
        aligner.at(99_000_000)


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=30, unique=True), st.integers(0, 1000))
def test_a_topic_camera_gives_the_nearest_it_remembers(stamps: list[int], asked: int) -> None:
    io = LocalTopics(lambda: 10**9)
    driver, camera = RosCameraDriver(io), make(io, max_age_s=1e6, history=8)
    camera._ring.open()
    camera._subscription = io.subscribe("/cam/image_raw", "sensor_msgs/msg/Image", camera._receive)
    for stamp in sorted(stamps):
        driver.publish(stamp + 1)
    kept = sorted(stamps)[-8:]
    chosen = camera.nearest(asked + 1)
    assert abs(chosen.stamp_ns - 1 - asked) == min(abs(stamp - asked) for stamp in kept)


def test_any_robot_gets_the_images_of_its_moment() -> None:
    robot = RobotWithCameras(
        FakeRobot(FakeRobotConfig()), {"side": FakeCamera(FakeCameraConfig(width=8, height=4))}, 0.1
    )
    assert robot.spec.observation["image_side"].shape == (4, 8, 3)
    robot.connect()
    check_arrays(robot.reset(seed=1).arrays, robot.spec.observation)
    robot.command(np.zeros(2, np.float32))
    check_arrays(robot.read().arrays, robot.spec.observation)
    robot.close()
    camera = FakeCamera(FakeCameraConfig())
    with pytest.raises(ConfigError, match="image_front"):
        RobotWithCameras(FakeRobot(FakeRobotConfig(image_size=8)), {"front": camera}, 0.1)


def test_a_robot_is_closed_again_when_a_camera_is_not_there() -> None:
    robot = FakeRobot(FakeRobotConfig())
    missing = make(LocalTopics(), connect_timeout_s=0.02)
    whole = RobotWithCameras(robot, {"wrist": missing}, 0.1)
    with pytest.raises(DeviceTimeout, match="camera 'wrist': camera '/cam/image_raw'"):
        whole.connect()
    with pytest.raises(DeviceNotConnected):
        robot.read()
