"""A hal node as in production: leased, with a workspace box, and with a camera on a topic."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from sensor_msgs.msg import Image
from std_srvs.srv import Trigger
from user_msgs.msg import SafetyStatus

from user_comm import topics
from user_testing.worlds.robots.hal_node import WATCHDOG_S, Client, HalProcess

STILL = np.zeros((1, 7), np.float32)
CAMERA = {
    "devices": {
        "wrist": {
            "plugin": "ros_topic",
            "params": {"topic": "/wrist/image", "width": 8, "height": 6, "max_age_s": 0.15},
        }
    },
    "max_skew_s": 0.15,
}


class CameraDriver:
    """Publishes images as a camera's ROS driver does, until it is told to stall."""

    def __init__(self, client: Client) -> None:
        self._node = client.node
        self._publisher = client.node.create_publisher(Image, "/wrist/image", 1)
        self._stalled = False
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._end.wait(0.02):
            if not self._stalled:
                message = Image(height=6, width=8, step=24, encoding="rgb8")
                message.data = [7] * (6 * 24)
                message.header.stamp = self._node.get_clock().now().to_msg()
                self._publisher.publish(message)

    @contextmanager
    def stall(self) -> Iterator[int]:
        """Publish nothing within the block, also when it fails; gives the monotonic time, ns."""
        self._stalled = True
        try:
            yield time.monotonic_ns()
        finally:
            self._stalled = False

    def close(self) -> None:
        self._end.set()
        self._thread.join()


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    client = Client()
    yield client
    client.close()


@pytest.fixture(scope="module")
def camera(client: Client) -> Iterator[CameraDriver]:
    camera = CameraDriver(client)
    yield camera
    camera.close()


@pytest.fixture(scope="module")
def hal(client: Client, camera: CameraDriver, tmp_path_factory: Any) -> Iterator[HalProcess]:
    params = {
        "lease": {"required": True},
        "cameras": CAMERA,
        "safety": {
            "watchdog_s": WATCHDOG_S,
            "workspace": {"low": [0.1, -0.5, 0.0], "high": [0.6, 0.5, 0.6]},
            "force": {"stop_n": 30.0},
        },
    }
    with HalProcess(tmp_path_factory.mktemp("hal"), params) as hal:
        client.wait_for(lambda: client.observations, 60.0)
        yield hal


def test_only_the_holder_of_the_newest_lease_drives(hal, client) -> None:
    client.drive(STILL)
    client.wait_for(lambda: "lease" in client.status.reasons)
    assert not hal.reached("command")
    first = client.acquire("first")
    assert first.success and first.lease.holder == "first"
    client.drive(STILL, lease_token=first.lease.token)
    client.wait_active()
    client.wait_for(lambda: client.status.lease_holder == "first")
    refused = client.acquire("second")
    assert not refused.success and refused.error_code == "lease"
    assert refused.lease.holder == "first" and "leased to 'first'" in refused.message
    second = client.acquire("second", preempt=True)
    assert second.success and second.lease.token > first.lease.token
    client.wait_stopped("lease")  # the first goes on sending, and is not obeyed
    sent = len(hal.reached("command"))
    time.sleep(0.2)
    assert len(hal.reached("command")) == sent
    assert not client.reset(token=first.lease.token).success
    assert not client.renew(first.lease.token).success
    client.drive(STILL, lease_token=second.lease.token)
    client.wait_active()
    assert client.renew(second.lease.token).success
    client.stop_driving()
    assert client.release(second.lease.token).success
    client.wait_for(lambda: client.status.lease_holder == "")


def test_a_lease_that_is_not_renewed_runs_out_and_the_robot_stops(hal, client) -> None:
    lease = client.acquire("short", duration_s=1.0).lease
    # One long chunk: the watchdog is content, but the lease runs out.
    client.command(np.zeros((80, 7), np.float32), lease_token=lease.token)
    client.wait_active()
    client.wait_stopped("lease")
    assert "ran out" in client.status.detail


def test_a_camera_that_stalls_stops_the_robot_and_both_come_back(hal, client, camera) -> None:
    lease = client.acquire("actor").lease
    begun_ns = time.monotonic_ns()
    client.drive(STILL, lease_token=lease.token)
    client.wait_active()
    assert client.observations[-1].arrays["image_wrist"].shape == (6, 8, 3)
    with camera.stall() as stalled_ns:
        client.wait_stopped("device_timeout")
        # On a busy machine the images may have been late, and the stop there, before the stall.
        stops = lambda: [  # noqa: E731
            e["monotonic_ns"] for e in hal.reached("stop") if e["monotonic_ns"] > begun_ns
        ]
        client.wait_for(stops)
        assert (stops()[0] - stalled_ns) * 1e-9 < 0.15 + WATCHDOG_S
        client.wait_for(lambda: "camera 'wrist'" in client.diagnostic("safety").message)
        seen = len(client.observations)
        time.sleep(0.1)
        assert len(client.observations) == seen, "an old image is never shown as new"
    client.wait_active()


def test_images_are_shown_to_those_who_listen(hal, client) -> None:
    images: list[Image] = []
    subscription = client.hear(topics.CAMERA_IMAGE.at(camera="wrist"), images.append)
    client.wait_for(lambda: images)
    assert (images[0].width, images[0].height, images[0].encoding) == (8, 6, "rgb8")
    assert bytes(images[0].data) == bytes([7] * 144)
    client.node.destroy_subscription(subscription)


def test_a_push_stops_it_and_the_box_keeps_it(hal, client) -> None:
    lease = client.acquire("actor").lease
    client.drive(STILL, lease_token=lease.token)
    client.wait_active()
    hal.fail(wrench=[0, 0, -35.0, 0, 0, 0])
    client.wait_stopped("force")
    assert "35.0 N" in client.status.detail
    hal.fail()
    client.wait_active()
    outward = STILL.copy()
    outward[0, 0] = 0.04
    client.drive(outward, lease_token=lease.token)
    client.wait_for(lambda: "workspace" in client.status.reasons)
    reached = max(float(o.arrays["tcp_pose"][0]) for o in client.observations)
    assert 0.59 < reached <= 0.6 + 1e-5
    assert client.status.state != SafetyStatus.EMERGENCY


def test_an_orderly_end_stops_the_robot_and_leaves_with_zero(hal, client) -> None:
    lease = client.acquire("actor").lease
    client.drive(STILL, lease_token=lease.token)
    client.wait_active()
    assert client.call("emergency_stop", Trigger).success
    assert client.call("reset_emergency_stop", Trigger).success
    client.wait_active()
    assert hal.interrupt() == 0
    assert [entry["what"] for entry in hal.reached()[-2:]] == ["stop", "close"]
