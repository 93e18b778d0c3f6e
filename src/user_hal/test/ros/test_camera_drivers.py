"""The ready camera entries, and what else cameras send, over real DDS.

A stand-in publishes what each driver's sources say it does: name of the topic, encoding, sizes.
"""

from __future__ import annotations

import itertools
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import imageio.v3 as imageio
import numpy as np
import pytest
import rclpy
import yaml
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import CompressedImage, Image

from user_comm.topic_io import RosTopicIo
from user_core.config import from_mapping
from user_core.conformance import check_camera
from user_core.errors import DeviceFault
from user_core.specs import check_arrays
from user_hal.cameras.ros_topic import RosTopicCamera, RosTopicCameraConfig
from user_hal.cameras.with_cameras import CamerasConfig, FrameAligner, build_cameras

READY = Path(__file__).parents[3] / "user_bringup/config/cameras"
RGB = np.full((48, 64, 3), (200, 100, 40), np.uint8)
DEPTH_MM = np.full((48, 64), 700, np.uint16)
DEPTH_MM[:, :32] = 0  # a hole on the left


def raw(encoding: str, pixels: Any) -> Image:
    message = Image(height=48, width=64, encoding=encoding, step=pixels.strides[0])
    message.data.frombytes(np.ascontiguousarray(pixels).tobytes())
    return message


def compressed(form: str, data: bytes) -> CompressedImage:
    message = CompressedImage(format=form)
    message.data.frombytes(data)
    return message


METRES = np.where(DEPTH_MM == 0, np.nan, DEPTH_MM / 1000).astype(np.float32)
BGRA = cv2.cvtColor(RGB, cv2.COLOR_RGB2BGRA)
#: What each driver publishes for colour and depth.
DRIVERS = {
    "realsense": (raw("rgb8", RGB), raw("16UC1", DEPTH_MM)),
    "orbbec": (raw("rgb8", RGB), raw("16UC1", DEPTH_MM)),
    "zed": (raw("bgra8", BGRA), raw("32FC1", METRES)),
    "oak": (raw("bgr8", np.ascontiguousarray(RGB[:, :, ::-1])), raw("16UC1", DEPTH_MM)),
}


_NUMBERS = itertools.count()


class Driver:
    """Publishes one message again and again, as a camera's driver does."""

    def __init__(self, node: Any, topic: str, message: Any) -> None:
        self._node, self._message = node, message
        self._publisher = node.create_publisher(type(message), topic, qos_profile_sensor_data)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._ended.wait(0.02):
            self._message.header.stamp = self._node.get_clock().now().to_msg()
            self._publisher.publish(self._message)

    def close(self) -> None:
        self._ended.set()
        self._thread.join()
        self._node.destroy_publisher(self._publisher)


@pytest.fixture(scope="module")
def nodes() -> Iterator[tuple[Any, RosTopicIo]]:
    # Two participants, as a driver and its reader are two processes.
    contexts = [rclpy.Context(), rclpy.Context()]
    for context in contexts:
        rclpy.init(context=context)
    driver_node = rclpy.create_node("camera_driver", context=contexts[0])
    node = rclpy.create_node("camera_reader", context=contexts[1])
    io = RosTopicIo(node)
    yield driver_node, io
    io.close()
    node.destroy_node()
    driver_node.destroy_node()
    for context in contexts:
        rclpy.shutdown(context=context)


@pytest.mark.parametrize("name", sorted(path.stem for path in READY.glob("*.yaml")))
def test_the_ready_entries(nodes: tuple[Any, RosTopicIo], name: str) -> None:
    driver_node, io = nodes
    document = yaml.safe_load((READY / f"{name}.yaml").read_text(encoding="utf-8"))
    config = from_mapping(CamerasConfig, document["cameras"])
    cameras = build_cameras(config)
    drivers = []
    aligner = FrameAligner(cameras, max_skew_s=1.0)
    try:
        for (key, choice), message in zip(config.devices.items(), DRIVERS[name], strict=True):
            drivers.append(Driver(driver_node, choice.params["topic"], message))
            camera: Any = cameras[key]
            camera.attach(io)
        aligner.connect()
        arrays = aligner.at(min(camera.read().stamp_ns for camera in cameras.values()))
        check_arrays(arrays, aligner.specs)
        (colour,) = (value for key, value in arrays.items() if key.startswith("image_"))
        (depth,) = (value for key, value in arrays.items() if key.startswith("depth_"))
        np.testing.assert_array_equal(colour[5, 5], RGB[0, 0])
        assert depth[10, 10, 0] == 0.0
        assert depth[10, -10, 0] == pytest.approx(0.7)
    finally:
        aligner.close()
        for driver in drivers:
            driver.close()


def jpeg() -> bytes:
    return bytes(imageio.imwrite("<bytes>", RGB, extension=".jpg", quality=95))


def png(pixels: Any) -> bytes:
    return bytes(imageio.imwrite("<bytes>", pixels, extension=".png"))


@pytest.mark.parametrize(
    ("message", "kind", "expected"),
    [
        (compressed("16UC1; compressedDepth png", bytes(12) + png(DEPTH_MM)), "depth", 0.7),
        (compressed("16UC1; png compressed ", png(DEPTH_MM)), "depth", 0.7),
        (
            compressed(
                "32FC1; compressedDepth",
                struct.pack("<iff", 1, 10100.0, -1009.0)
                + png(np.nan_to_num(10100.0 / METRES - 1009.0, nan=0.0).astype(np.uint16)),
            ),
            "depth",
            0.7,
        ),
        (compressed("bgr8; jpeg compressed bgr8", jpeg()), "colour", 200),
        (raw("bayer_rggb8", np.tile(np.array([[200, 100], [100, 40]], np.uint8), (24, 32))),
         "colour", 200),
        (raw("16UC1", DEPTH_MM), "colour", "kind: depth"),
        (raw("mono16", DEPTH_MM), "colour", "kind: depth"),
        (compressed("16UC1; png compressed ", png(DEPTH_MM)), "colour", "kind: depth"),
        (raw("rgb8", RGB), "depth", "kind: colour"),
    ],
)  # fmt: skip
def test_what_cameras_send(
    nodes: tuple[Any, RosTopicIo], message: Any, kind: str, expected: Any
) -> None:
    driver_node, io = nodes
    # The name says nothing of what it carries, and is another one in each test.
    topic = f"/camera_{next(_NUMBERS)}"
    config = {"topic": topic, "kind": kind, "width": 64, "height": 48, "max_age_s": 5.0}
    camera = RosTopicCamera(from_mapping(RosTopicCameraConfig, config))
    camera.attach(io)
    driver = Driver(driver_node, topic, message)
    try:
        if isinstance(expected, str):
            with pytest.raises(DeviceFault, match=expected):
                camera.connect()
            return
        camera.connect()
        assert float(camera.read().image_hwc[10, -10, 0]) == pytest.approx(expected, rel=0.01)
    finally:
        camera.close()
        driver.close()


def test_a_depth_topic_keeps_the_promises_of_a_camera(nodes: tuple[Any, RosTopicIo]) -> None:
    driver_node, io = nodes
    config = {"topic": "/depth", "kind": "depth", "width": 32, "height": 24}
    camera = RosTopicCamera(from_mapping(RosTopicCameraConfig, config))
    camera.attach(io)
    driver = Driver(driver_node, "/depth", raw("16UC1", DEPTH_MM))
    try:
        report = check_camera(camera)
        assert report.passed, str(report)
    finally:
        driver.close()
