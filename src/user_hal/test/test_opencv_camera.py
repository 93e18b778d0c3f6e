"""The OpenCV camera, on a real video file and on a device that comes and goes."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from user_core.config import from_mapping
from user_core.conformance import check_camera
from user_core.errors import DeviceError, DeviceNotConnected, DeviceTimeout
from user_hal.cameras.opencv import OpenCvCamera, OpenCvCameraConfig
from user_testing.waiting import wait_until


def make(**params: Any) -> OpenCvCamera:
    return OpenCvCamera(from_mapping(OpenCvCameraConfig, {"width": 32, "height": 24, **params}))


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> str:
    """20 images at 50 Hz: red on the left, ever more green on the right."""
    path = str(tmp_path_factory.mktemp("video") / "film.avi")
    writer = cv2.VideoWriter(path, cv2.VideoWriter.fourcc(*"MJPG"), 50.0, (64, 48))
    assert writer.isOpened()
    for index in range(20):
        image_bgr = np.zeros((48, 64, 3), np.uint8)
        image_bgr[:, :32, 2] = 200
        image_bgr[:, 32:, 1] = 10 * index
        writer.write(image_bgr)
    writer.release()
    return path


def test_conformance_with_a_file(video: str) -> None:
    report = check_camera(make(source=video, loop=True))
    assert report.passed, str(report)


def test_images_are_rgb_and_scaled(video: str) -> None:
    camera = make(source=video, loop=True)
    camera.connect()
    image_hwc = camera.read().image_hwc
    camera.close()
    assert image_hwc.shape == (24, 32, 3)
    assert image_hwc[12, 4, 0] > 150 and image_hwc[12, 4, 2] < 60
    with pytest.raises(ValueError, match="read-only"):
        image_hwc[0] = 0


def test_a_file_plays_at_its_own_rate_and_its_end_is_told(video: str) -> None:
    camera = make(source=video, max_age_s=0.1)
    start_s = time.monotonic()
    camera.connect()
    sequences = [camera.read().sequence]

    def is_last() -> bool:
        sequences.append(camera.read().sequence)
        return sequences[-1] == 20

    wait_until(is_last)
    assert time.monotonic() - start_s > 19 / 50
    assert sequences == sorted(sequences)
    time.sleep(0.11)
    with pytest.raises(DeviceTimeout, match=r"film.avi' stalled: .*end of the file"):
        camera.read()
    camera.close()


def test_nothing_there() -> None:
    with pytest.raises(DeviceError, match="/no/such/device.*cannot be opened"):
        make(source="/no/such/device").connect()
    with pytest.raises(DeviceNotConnected):
        make(source="/no/such/device").read()


class Unpluggable:
    """What cv2.VideoCapture is for a camera that can be pulled out."""

    def __init__(self) -> None:
        self.plugged, self.opened, self.settings = True, 0, {}

    def __call__(self, source: int | str) -> Unpluggable:
        self.opened += 1
        return self

    def isOpened(self) -> bool:  # noqa: N802 - OpenCV's name
        return self.plugged

    def set(self, prop: int, value: float) -> bool:
        self.settings[prop] = value
        return True

    def grab(self) -> bool:
        time.sleep(0.005)
        return self.plugged

    def retrieve(self) -> tuple[bool, Any]:
        return True, np.full((24, 32, 3), self.opened, np.uint8)

    def release(self) -> None:
        return


def test_a_device_that_is_pulled_out_is_told_and_comes_back_by_itself() -> None:
    device = Unpluggable()
    config = OpenCvCameraConfig(
        width=32, height=24, source=0, max_age_s=0.1, reopen_s=0.02,
        capture_width=640, fourcc="MJPG",
    )  # fmt: skip
    camera = OpenCvCamera(config, device)
    camera.connect()
    assert camera.read().image_hwc[0, 0, 0] == 1
    assert device.settings[cv2.CAP_PROP_FRAME_WIDTH] == 640
    device.plugged = False

    def stalled() -> str:
        try:
            camera.read()
        except DeviceTimeout as error:
            return str(error)
        return ""

    wait_until(lambda: "camera '0' stalled" in stalled() and "cannot be opened again" in stalled())
    device.plugged = True
    wait_until(lambda: not stalled())
    assert camera.read().image_hwc[0, 0, 0] == device.opened
    camera.close()
    with pytest.raises(DeviceNotConnected):
        camera.read()


def test_discover_reads_sysfs_without_opening_anything() -> None:
    for found in OpenCvCamera.discover():
        assert Path(found.name).exists() and found.params == {"source": found.name}
