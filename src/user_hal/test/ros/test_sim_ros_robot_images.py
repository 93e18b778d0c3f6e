"""The simulated ROS robot with cameras: how it says that it cannot draw, and how it ends."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image

from user_testing.rendering import needs_gl
from user_testing.waiting import wait_until
from user_testing.worlds.robots.hal_node import Client
from user_testing.worlds.robots.sim_ros_robot import SimProcess

pytest.importorskip("mujoco", reason="the simulated robot needs MuJoCo")

CAMERAS = {"arm": "panda", "task": "reach", "cameras": "[wrist]"}


@pytest.fixture
def client(ros_domain: int) -> Iterator[Client]:
    client = Client()
    yield client
    client.close()


def test_a_machine_that_cannot_draw_is_told_so_in_one_line(
    ros_domain: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MUJOCO_GL", "egl")
    monkeypatch.setenv("__EGL_VENDOR_LIBRARY_FILENAMES", str(tmp_path / "nothing"))
    monkeypatch.setenv("__EGL_VENDOR_LIBRARY_DIRS", str(tmp_path))
    with SimProcess(tmp_path, CAMERAS) as robot:
        assert robot.wait(40) == 2
        assert "no OpenGL context" in robot.log and "Install libegl1" in robot.log
        assert "Traceback" not in robot.log


@needs_gl
def test_it_ends_without_a_complaint_of_its_images(client: Client, tmp_path: Path) -> None:
    images: list[Image] = []
    client.node.create_subscription(
        Image, "/wrist_camera/image_raw", images.append, qos_profile_sensor_data
    )
    with SimProcess(tmp_path, CAMERAS) as robot:
        wait_until(lambda: images, "an image", 40.0, seen=lambda: robot.log[-2000:])
        assert robot.interrupt() == 0
        assert "Error" not in robot.log, robot.log
