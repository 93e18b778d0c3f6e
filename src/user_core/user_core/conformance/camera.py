"""The promises of a camera."""

from __future__ import annotations

import time

from user_core.conformance.report import Report, expect
from user_core.errors import DeviceError
from user_core.interfaces import Camera


def check_camera(camera: Camera, *, timeout_s: float = 5.0) -> Report:
    """Try a camera that is not connected yet; it is closed afterwards."""
    report = Report(f"camera {type(camera).__module__}.{type(camera).__qualname__}")
    with report.promise("spec is an uint8 image with an optical frame (REP-103)") as seen:
        spec = camera.spec
        expect(spec.dtype == "uint8" and len(spec.shape) == 3 and spec.shape[2] == 3, str(spec))
        expect("_optical" in spec.frame, f"frame is {spec.frame!r}")
        seen.append(f"{spec.shape[1]}x{spec.shape[0]}")
    with report.promise("read before connect raises DeviceError"):
        _expect_device_error(camera)
    try:
        with report.promise("connect reaches the camera"):
            camera.connect()
        with report.promise("pictures fit the spec, are stamped and counted") as seen:
            first = _wait_for_newer(camera, -1, timeout_s)
            second = _wait_for_newer(camera, first.sequence, timeout_s)
            for frame in (first, second):
                camera.spec.check(frame.image_hwc, "image")
            expect(second.stamp_ns > first.stamp_ns, "a newer picture has no newer stamp")
            age_s = (time.time_ns() - second.stamp_ns) / 1e9
            expect(-0.1 < age_s < 10, f"stamp is {age_s:.1f} s old")
            seen.append(f"age {age_s * 1e3:.0f} ms")
    finally:
        with report.promise("close may be called twice; read afterwards raises DeviceError"):
            camera.close()
            camera.close()
            _expect_device_error(camera)
    return report


def _expect_device_error(camera: Camera) -> None:
    try:
        camera.read()
    except DeviceError:
        return
    expect(False, "read() did not raise")


def _wait_for_newer(camera: Camera, sequence: int, timeout_s: float):  # type: ignore[no-untyped-def]
    deadline_s = time.monotonic() + timeout_s
    while (frame := camera.read()).sequence <= sequence:
        expect(time.monotonic() < deadline_s, f"no new picture within {timeout_s} s")
        time.sleep(0.005)
    return frame
