"""Drivers and cameras that block or stop, with real threads."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from user_core.config import Config
from user_core.errors import DeviceTimeout
from user_core.interfaces import Camera, Frame
from user_core.reasons import Reason
from user_core.specs import ArraySpec
from user_hal.cameras.with_cameras import RobotWithCameras
from user_hal.robots.mock import MockConfig, MockRobot
from user_hal.runtime.driver_guard import Stopper
from user_hal.safety.stops import SafetyState
from user_testing.worlds.robots.hal import LiveHal

WATCHDOG_S = 0.3


def mock() -> MockRobot:
    return MockRobot(MockConfig(rate_hz=50.0))


@pytest.mark.parametrize("call", ["read", "command"])
def test_a_driver_that_blocks_is_stopped_from_outside_and_comes_back(call) -> None:
    robot = mock()
    robot.faults.block_s = 1.0
    with LiveHal.running(robot) as hal:
        setattr(robot.faults, call, "block")
        hal.wait_for(lambda: hal.loop._guard.overran)  # the call is stuck now
        setattr(robot.faults, call, "")
        stuck_ns = time.monotonic_ns()
        hal.wait_for(lambda: hal.stopped_for("device_timeout"))
        assert f"{call}() of the driver has not returned" in hal.loop.status().cause.text
        hal.wait_for(lambda: any(w == "stop" for w, t, _ in robot.log.entries))
        assert hal.loop._guard.running, "stopped while the call was still stuck"
        returned_s = hal.wait_for(lambda: not hal.loop._guard.running)
        assert returned_s > 0.3
        last_command = max(t for w, t, _ in robot.log.entries if w == "command")
        hal.wait_for(hal.active)
        stops = [t for w, t, _ in robot.log.entries if w == "stop"]
        # What a stuck command may still have sent was stopped again.
        assert stops[-1] > last_command or max(stops) > stuck_ns + 0.5e9


def test_a_reset_is_stopped_by_the_emergency_stop_while_it_runs() -> None:
    robot = mock()
    robot.faults.block_s = 0.5
    with LiveHal.running(robot) as hal:
        robot.faults.reset = "block"
        done = hal.loop.reset(None)
        hal.wait_for(lambda: hal.loop._guard.running and hal.loop._guard._running.what == "reset")
        before = len([w for w, _, _ in robot.log.entries if w == "stop"])
        hal.loop.path.press_emergency("a test")
        hal.wait_for(lambda: len([w for w, _, _ in robot.log.entries if w == "stop"]) >= before + 2)
        assert not done.done()
        done.result(60)
        reset_ns = max(t for w, t, _ in robot.log.entries if w == "reset")
        hal.wait_for(lambda: max(t for w, t, _ in robot.log.entries if w == "stop") > reset_ns)
        assert hal.loop.status().state is SafetyState.EMERGENCY


def test_a_loop_that_was_closed_can_be_started_again() -> None:
    robot = mock()
    with LiveHal.running(robot) as hal:
        hal.loop.close()
        assert hal.loop.status().state is SafetyState.IDLE
        assert [w for w, _, _ in robot.log.entries][-1] == "close"
        seen = len(hal.seen)
        hal.loop.start()
        hal.wait_for(hal.active)
        assert len(hal.seen) > seen


def test_the_loop_ends_although_the_driver_hangs() -> None:
    robot = mock()
    with LiveHal.running(robot) as hal:
        robot.faults.read = "hang"
        hal.wait_for(lambda: hal.stopped_for("device_timeout"))
        hal.loop.CLOSE_TIMEOUT_S = 0.2
        began_s = time.monotonic()
        hal.loop.close()
        assert time.monotonic() - began_s < 20.0  # it hangs for longer


class StallingCamera(Camera):
    """A camera that stands still when it is told to."""

    Config = Config

    def __init__(self) -> None:
        self.stalled = False

    @property
    def spec(self) -> ArraySpec:
        return ArraySpec((4, 4, 3), "uint8")

    def connect(self) -> None:
        pass

    def read(self) -> Frame:
        if self.stalled:
            raise DeviceTimeout("newest image", got="0.5 s old", expected="at most 0.1 s")
        return Frame(np.zeros((4, 4, 3), np.uint8), time.time_ns())

    def close(self) -> None:
        pass


def test_a_camera_that_stops_stops_the_robot_and_both_come_back() -> None:
    camera, robot = StallingCamera(), mock()
    with LiveHal.running(RobotWithCameras(robot, {"wrist": camera}, 0.1)) as hal:
        assert hal.seen[-1].arrays["image_wrist"].shape == (4, 4, 3)
        camera.stalled = True
        hal.wait_for(lambda: hal.stopped_for("device_timeout"))
        assert "camera 'wrist'" in hal.loop.status().cause.text
        hal.wait_for(lambda: any(w == "stop" for w, _, _ in robot.log.entries))
        hal.wait_for(
            lambda: any(s.cause and "camera 'wrist'" in s.cause.text for s in hal.statuses)
        )
        camera.stalled = False
        hal.wait_for(hal.active)


def test_a_stop_that_fails_is_tried_until_it_succeeds() -> None:
    robot = mock()
    with LiveHal.running(robot) as hal:
        robot.faults.stop = "raise"
        hal.loop.path.halt(Reason("test", "a stop"))
        hal.wait_for(lambda: "asked for" in hal.loop.status().stop_failure.text)
        commands = len([w for w, _, _ in robot.log.entries if w == "command"])
        time.sleep(0.1)  # commands keep coming meanwhile: none may pass
        assert len([w for w, _, _ in robot.log.entries if w == "command"]) == commands
        robot.faults.stop = ""
        hal.wait_for(hal.active)
        assert not hal.loop.status().stop_failure


def test_a_stopper_never_makes_the_asker_wait() -> None:
    goes_on = threading.Event()
    stopper = Stopper(lambda: goes_on.wait(60))
    stopper.start()
    try:
        stopper.request()  # returns before it is done
        assert stopper.pending
        goes_on.set()
        assert stopper.wait(60) and not stopper.pending
    finally:
        goes_on.set()
        stopper.close(1.0)
