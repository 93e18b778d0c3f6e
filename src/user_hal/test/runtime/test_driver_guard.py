"""How a driver that failed is brought back."""

from __future__ import annotations

import numpy as np
import pytest

from user_core.errors import DeviceFault, DeviceTimeout, SuiteError
from user_hal.robots.mock import MockConfig, MockRobot
from user_hal.runtime.driver_guard import DriverGuard, DriverLimits
from user_testing.worlds.robots.hal import MS, FakeTime


class Bench:
    """A guard around a mock robot, and how often it was asked to stop the robot."""

    def __init__(self) -> None:
        self.time = FakeTime()
        self.robot = MockRobot(MockConfig(), self.time.wall_ns)
        self.stops = 0
        self.guard = DriverGuard(self.robot, DriverLimits(), 0.1, self._stop, self.time.clock)
        self.connects = 0
        connect = self.robot.connect

        def counted() -> None:
            self.connects += 1
            connect()

        self.robot.connect = counted  # type: ignore[method-assign]

    def _stop(self) -> None:
        self.stops += 1

    def attempts_until_back(self, most_ms: int = 20_000) -> list[int]:
        """Let time pass; when the driver was tried, in milliseconds from now."""
        start_ns, tried = self.time.now_ns, []
        while not self.guard.healthy and self.time.now_ns < start_ns + most_ms * MS:
            self.time.now_ns = max(self.guard.retry_ns, self.time.now_ns)
            tried.append((self.time.now_ns - start_ns) // MS)
            self.guard.recover()
        return tried


def test_it_is_not_healthy_before_it_was_connected_and_read() -> None:
    bench = Bench()
    assert not bench.guard.healthy
    assert bench.guard.check(0).code == "device_not_connected"
    assert bench.guard.recover() is not None
    assert bench.guard.healthy and not bench.guard.check(0) and bench.connects == 1


def test_it_is_probed_first_and_connected_anew_when_that_does_not_help() -> None:
    bench = Bench()
    bench.guard.recover()
    bench.robot.faults.read = "raise"
    with pytest.raises(DeviceFault):
        bench.guard.read()
    tried = bench.attempts_until_back()
    assert tried[:4] == [50, 150, 350, 750] and bench.connects > 5
    assert np.diff(tried).max() <= 2000
    assert bench.connects == 1 + len(tried) - 3  # three probes without
    bench.robot.faults.read = ""
    assert len(bench.attempts_until_back()) == 1 and bench.guard.healthy


def test_a_driver_that_fails_at_every_command_is_not_retried_ever_faster() -> None:
    bench = Bench()
    bench.guard.recover()
    bench.robot.faults.command = "raise"
    waits = []
    for _ in range(6):
        with pytest.raises(DeviceFault):
            bench.guard.command(bench.robot.spec.action.zeros())
        began_ns = bench.time.now_ns
        bench.attempts_until_back()
        waits.append((bench.time.now_ns - began_ns) // MS)
    assert waits == sorted(waits) and waits[-1] >= 1500


def test_a_call_that_takes_too_long_is_seen_while_it_does_and_counts_as_a_failure() -> None:
    bench = Bench()
    bench.guard.recover()
    seen = []

    def slow() -> None:
        bench.time.now_ns += 150 * MS
        seen.append(bench.guard.check(bench.time.now_ns))

    read = bench.robot.read
    bench.robot.read = lambda: (slow(), read())[1]  # type: ignore[method-assign]
    with pytest.raises(DeviceTimeout):
        bench.guard.read()
    assert seen[0].code == "device_timeout" and "read()" in seen[0].text
    assert bench.stops == 1, "what the call may have done is stopped after it"
    assert not bench.guard.healthy


def test_a_stop_that_falls_into_a_call_is_repeated_after_it() -> None:
    bench = Bench()
    bench.guard.recover()
    command = bench.robot.command

    def stopped_meanwhile(action):
        bench.guard.stop_robot()
        return command(action)  # and moves the robot after the stop

    bench.robot.command = stopped_meanwhile  # type: ignore[method-assign]
    bench.guard.command(bench.robot.spec.action.zeros())
    assert [what for what, _, _ in bench.robot.log.entries] == ["stop", "command"]
    assert bench.stops == 1


def test_whatever_a_driver_raises_is_an_error_of_ours() -> None:
    bench = Bench()
    bench.guard.recover()

    def broken() -> None:
        raise ZeroDivisionError("oops")

    bench.robot.read = broken  # type: ignore[method-assign]
    with pytest.raises(SuiteError, match="ZeroDivisionError: oops"):
        bench.guard.read()
    assert bench.guard.check(0).code == "device_fault"


def test_a_driver_whose_close_fails_is_connected_all_the_same() -> None:
    bench = Bench()
    bench.guard.recover()

    def broken() -> None:
        raise OSError("no such device")

    bench.robot.close = broken  # type: ignore[method-assign]
    bench.robot.faults.read = "refuse"
    with pytest.raises(SuiteError):
        bench.guard.read()
    bench.robot.faults.read = ""
    bench.attempts_until_back()
    assert bench.guard.healthy and bench.connects == 2


class Hardware(RuntimeError):
    pass


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (SystemExit(3), "plugin_fault"),
        (SystemExit(0), "plugin_fault"),
        (GeneratorExit(), "plugin_fault"),
        (TypeError("unsupported"), "plugin_fault"),
        (Hardware("bus"), "device_fault"),
        (ConnectionError("cable"), "device_fault"),
    ],
)
@pytest.mark.parametrize("call", ["read", "command", "reset", "connect"])
def test_whatever_a_driver_raises_is_a_fault_also_sys_exit(call, error, code) -> None:
    bench = Bench()
    if call != "connect":
        bench.guard.recover()

    def broken(*arguments: object) -> None:
        raise error

    setattr(bench.robot, call, broken)
    arguments = {"command": [bench.robot.spec.action.zeros()], "reset": [None]}.get(call, [])
    with pytest.raises(DeviceFault, match=f"{call}.. of the driver raised {type(error).__name__}"):
        getattr(bench.guard, call)(*arguments)
    assert bench.guard.check(0).code == code


def test_ctrl_c_in_the_main_thread_is_a_persons_and_no_fault() -> None:
    bench = Bench()
    bench.guard.recover()

    def interrupted() -> None:
        raise KeyboardInterrupt

    bench.robot.read = interrupted  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        bench.guard.read()
    assert bench.guard.healthy


def fails(bench: Bench, error: BaseException, times: int) -> None:
    def broken() -> None:
        raise error

    bench.robot.read = broken  # type: ignore[method-assign]
    for _ in range(times):
        bench.time.now_ns = max(bench.guard.retry_ns, bench.time.now_ns)
        bench.guard.recover()


def test_a_mistake_that_repeats_is_given_up_and_a_cable_never() -> None:
    bench = Bench()
    bench.guard.recover()
    fails(bench, ConnectionError("cable"), 50)
    assert not bench.guard.given_up
    fails(bench, TypeError("no such joint 3"), 7)
    assert not bench.guard.given_up
    fails(bench, TypeError("no such joint 4"), 1)
    assert (
        bench.guard.given_up.code == "plugin_fault" and "no such joint" in bench.guard.given_up.text
    )


def test_a_call_that_never_returns_is_given_up() -> None:
    bench = Bench()
    bench.guard.recover()
    seen = []

    def hangs() -> None:
        for wait_ms in (1000, 35_000):
            bench.time.now_ns += wait_ms * MS
            seen.append(bench.guard.given_up)
        raise OSError("at last")

    bench.robot.read = hangs  # type: ignore[method-assign]
    with pytest.raises(DeviceFault):
        bench.guard.read()
    assert not seen[0] and seen[1].code == "hangs" and "read()" in seen[1].text
