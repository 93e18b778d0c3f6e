"""A robot's HAL in one process: gate, lease and emergency stop for whoever drives it there."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from user_core.config import from_mapping
from user_core.errors import DeviceError, DeviceTimeout, LeaseError, SafetyError
from user_core.fakes import FakeRobot, FakeRobotConfig
from user_core.plugins import build
from user_core.reasons import EMERGENCY_STOP, NO_LEASE, SAFETY_STOP
from user_core.specs import Array
from user_core.types import ActionChunk, Observation
from user_hal import local
from user_hal.local import LocalHal
from user_hal.robot_file import RobotFile
from user_hal.robots.mock import MockConfig, MockRobot
from user_hal.runtime.command_path import Order
from user_hal.runtime.leases import LeaseConfig
from user_hal.safety import SafetyConfig
from user_testing.waiting import wait_until

PERIOD_NS = 20_000_000


def lockstep(**options: object) -> LocalHal:
    return LocalHal(build("robots", "fake"), **options)


def chunk(hal: LocalHal, value: float, sequence: int, rows: int = 1) -> ActionChunk:
    spec = hal.spec.action
    return ActionChunk(np.full((rows, *spec.shape), value, spec.dtype), PERIOD_NS, 0, sequence)


def test_a_lockstep_robot_answers_before_send_returns() -> None:
    with lockstep() as hal:
        first = hal.reset(3).result(0)
        assert first.applied is None and hal.observations.newest is first
        for sequence in (1, 2, 3):
            hal.send(chunk(hal, 0.01, sequence))
            seen = hal.observations.newest
            assert seen.applied.sequence == sequence and seen.episode == first.episode
        hal.send(chunk(hal, 0.01, 3))
        assert hal.observations.newest is seen, "a chunk that was seen before is not carried out"
        assert hal.status().passed == 3 and not hal.trouble()
        again = hal.reset(3).result(0)
        assert again.episode == first.episode + 1 and again.applied is None
        for name, array in first.arrays.items():
            assert np.array_equal(array, again.arrays[name])


def test_a_refused_command_stops_the_robot_and_is_counted() -> None:
    with lockstep() as hal:
        hal.reset(0).result(0)
        hal.send(chunk(hal, 1e6, 1))
        trouble = hal.trouble()
        assert trouble.code == SAFETY_STOP and "out_of_bounds" in trouble.text
        assert hal.status().reasons == {"out_of_bounds": 1} and hal.status().refused == 1
        assert not hal.unready(), "another episode may begin"
        hal.reset(0).result(0)
        assert not hal.trouble()
        hal.send(chunk(hal, 0.0, 2))
        assert hal.status().passed == 1


def test_a_chunk_that_does_not_fit_is_an_error_of_who_sends_it() -> None:
    with lockstep() as hal:
        hal.reset(0).result(0)
        wrong = ActionChunk(np.zeros((1, 99), np.float32), PERIOD_NS, 0, 1)
        with pytest.raises(SafetyError, match=r"shape.*99"):
            hal.send(wrong)
        assert not hal.trouble() and hal.status().reasons == {"shape": 1}


def test_the_gate_of_the_robot_file_changes_what_reaches_the_driver() -> None:
    file = from_mapping(
        RobotFile,
        {"robot": {"plugin": "fake"}, "safety": {"bounds": {"low": [-0.02], "high": [0.02]}}},
    )
    with LocalHal.of(file) as hal:
        hal.reset(0).result(0)
        hal.send(chunk(hal, 0.021, 1))
        applied = hal.observations.newest.applied
        assert applied.changed and np.allclose(applied.action, 0.02)
        assert hal.status().limited == 1


def test_a_lease_that_is_taken_over_ends_the_driving() -> None:
    with lockstep() as hal:
        hal.reset(0).result(0)
        hal._loop.leases.acquire("somebody else", 30.0, preempt=True)
        assert hal.trouble().code == NO_LEASE and hal.unready().code == NO_LEASE
        with pytest.raises(LeaseError, match="somebody else"):
            hal.send(chunk(hal, 0.0, 1))
        with pytest.raises(LeaseError, match="somebody else"):
            hal.reset(0).result(0)
        assert hal.status().passed == 0


def test_a_lease_that_ran_out_while_nobody_drove_is_taken_again() -> None:
    with lockstep(lease=LeaseConfig(max_duration_s=0.05)) as hal:
        hal.reset(0).result(0)
        wait_until(lambda: hal.status().lease is None)
        hal.send(chunk(hal, 0.0, 1))
        assert hal.status().passed == 1 and not hal.trouble() and not hal.unready()


def test_the_emergency_stop_outlives_the_process(tmp_path: Path) -> None:
    with lockstep(latch_dir=tmp_path) as hal:
        hal.reset(0).result(0)
        hal.press_emergency("a test")
        hal.send(chunk(hal, 0.0, 1))
        assert hal.trouble().code == EMERGENCY_STOP and hal.status().passed == 0
    with lockstep(latch_dir=tmp_path) as hal:
        assert hal.unready().code == EMERGENCY_STOP and "a test" in hal.unready().text
        with pytest.raises(SafetyError, match="emergency"):
            hal.reset(0).result(0)
        hal.reset_emergency()
        assert not hal.unready()
        hal.reset(0).result(0)
    with lockstep(latch_dir=tmp_path) as hal:
        assert not hal.unready()


def test_a_stop_between_the_gate_and_the_driver_is_done_again_after_the_command() -> None:
    events: list[str] = []

    class Recorder(FakeRobot):
        def command(self, action: Array) -> Array:
            events.append("command")
            return super().command(action)

        def stop(self) -> None:
            events.append("stop")
            super().stop()

    with LocalHal(Recorder(FakeRobotConfig())) as hal:
        hal.reset(0).result(0)
        take = hal._loop.path.take

        def take_and_press() -> Order | None:
            order = take()
            hal.press_emergency("a test")
            hal._loop.wait_for_stop()
            return order

        hal._loop.path.take = take_and_press  # type: ignore[method-assign]
        events.clear()
        hal.send(chunk(hal, 0.0, 1))
        hal._loop.wait_for_stop()
        assert "stop" in events[events.index("command") :]


def test_a_robot_that_cannot_be_reached_is_told_at_once() -> None:
    robot = MockRobot(MockConfig())
    robot.faults.connect = "raise"
    with pytest.raises(DeviceError, match="fault that was asked for"), LocalHal(robot):
        pytest.fail("it is not connected")


class Late(MockRobot):
    """Its first readings are late, as on a machine that is busy with other starts."""

    late = 2

    def read(self) -> Observation:
        self.late -= 1
        if self.late >= 0:
            raise DeviceTimeout("topic", got="a newest message 0.6 s old", expected="0.5 s")
        return super().read()


def test_a_first_reading_that_comes_late_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    with LocalHal(Late(MockConfig(rate_hz=50.0))) as hal:
        assert hal.observations.newest is not None
    robot = Late(MockConfig(rate_hz=50.0))
    robot.late = 10**9
    monkeypatch.setattr(local, "_LATE_S", 0.3)
    with pytest.raises(DeviceTimeout, match=r"0\.6 s old"), LocalHal(robot):
        pytest.fail("it was never read")


def test_a_lockstep_robot_is_waited_for_without_a_busy_core(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class LateLockstep(FakeRobot):
        def read(self) -> Observation:
            raise DeviceTimeout("topic", got="a newest message 0.6 s old", expected="0.5 s")

    pauses: list[float] = []
    monkeypatch.setattr(local, "_LATE_S", 0.3)
    sleep = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: pauses.append(seconds) or sleep(seconds))
    with pytest.raises(DeviceTimeout), LocalHal(LateLockstep(FakeRobotConfig())):
        pytest.fail("it was never read")
    assert local._LOOK_S in pauses


def test_a_robot_in_real_time_runs_by_itself_and_comes_back_after_a_fault() -> None:
    robot = MockRobot(MockConfig(rate_hz=50.0))
    with LocalHal(robot, SafetyConfig(watchdog_s=0.3)) as hal:
        first = hal.reset(None).result(60)
        wait_until(lambda: hal.observations.newest.sequence > first.sequence + 3)
        hal.send(chunk(hal, 0.0, 1, rows=5))
        wait_until(
            lambda: (a := hal.observations.newest.applied) is not None and a.row == 4,
            seen=lambda: hal.observations.newest.applied,
        )
        wait_until(lambda: hal.trouble().code == SAFETY_STOP)  # no further command came
        assert "watchdog" in hal.trouble().text and not hal.unready()
        robot.faults.read = "raise"
        wait_until(hal.unready)
        assert hal.unready().code == "device_fault"
        robot.faults.read = ""
        wait_until(lambda: not hal.unready())
        assert not hal.reset(None).result(60).applied and not hal.trouble()
