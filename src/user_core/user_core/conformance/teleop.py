"""The promises of a teleoperation device."""

from __future__ import annotations

import time

from user_core.conformance.report import Report, expect
from user_core.interfaces import Teleop
from user_core.specs import RobotSpec
from user_core.types import Observation


def check_teleop(teleop: Teleop, spec: RobotSpec, observation: Observation) -> Report:
    """Try a device that is not connected yet; nobody needs to touch it.

    Args:
        teleop: The device.
        spec: Of the robot that it would drive.
        observation: Any observation of that robot.
    """
    report = Report(f"teleop {type(teleop).__module__}.{type(teleop).__qualname__}")
    try:
        with report.promise("connect opens the device"):
            teleop.connect(spec)
        with report.promise("commands fit the robot's action spec, within its bounds"):
            command = teleop.read(observation)
            spec.action.check(command.action, "action")
            expect(bool((command.action >= spec.action.low_array).all()), "below the bounds")
            expect(bool((command.action <= spec.action.high_array).all()), "above the bounds")
        with report.promise("read does not block the control loop") as seen:
            times_s = []
            for _ in range(20):
                start_s = time.perf_counter()
                teleop.read(observation)
                times_s.append(time.perf_counter() - start_s)
            median_ms = sorted(times_s)[10] * 1e3
            seen.append(f"median {median_ms:.2f} ms")
            expect(median_ms < 10, f"median {median_ms:.1f} ms a read")
    finally:
        with report.promise("close may be called twice"):
            teleop.close()
            teleop.close()
    return report
