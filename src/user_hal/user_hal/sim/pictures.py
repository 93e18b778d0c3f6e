"""The pictures of an observation: drawn for it, or taken from a stream."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from user_core.errors import DeviceFault, DeviceTimeout
from user_core.specs import Array
from user_hal.sim.periodic import PeriodicThread
from user_hal.sim.render import Renderer, Snapshot


class Pictures:
    """Pictures of a scene by its cameras.

    Args:
        model: ``mujoco.MjModel``.
        cameras: Names of cameras.
        image_hw: Height and width, pixels.
        rate_hz: 0 to draw when asked; otherwise how often to draw beside.
        take_snapshot: Copies the state of the scene; called from the drawing thread.
        max_age_s: With a rate, age at which the newest picture is refused.
    """

    def __init__(
        self,
        model: Any,
        cameras: tuple[str, ...],
        image_hw: tuple[int, int],
        rate_hz: float,
        take_snapshot: Callable[[], Snapshot],
        max_age_s: float,
    ) -> None:
        self._cameras, self._take_snapshot, self._max_age_s = cameras, take_snapshot, max_age_s
        self._renderer = Renderer(model, *image_hw)
        self._newest: tuple[float, list[Array]] | None = None
        self._first = threading.Event()
        self._stream = (
            PeriodicThread(1.0 / rate_hz, self._draw, "mujoco-pictures") if rate_hz else None
        )
        if self._stream:
            self._stream.start()
            self._first.wait(10.0)

    def _draw(self) -> None:
        taken_s = time.monotonic()
        self._newest = (taken_s, self._renderer.render(self._take_snapshot(), self._cameras))
        self._first.set()

    def of(self, snapshot: Snapshot | None) -> dict[str, Array]:
        """Pictures of a snapshot; the newest ones of the stream where there is one."""
        if self._stream is None:
            if snapshot is None:
                snapshot = self._take_snapshot()
            images = self._renderer.render(snapshot, self._cameras)
        else:
            images = self._fresh()
        return {f"image_{camera}": image for camera, image in zip(self._cameras, images)}

    def _fresh(self) -> list[Array]:
        assert self._stream is not None
        if self._stream.error is not None:
            raise DeviceFault("drawing of simulated pictures", got=repr(self._stream.error))
        newest = self._newest
        age_s = time.monotonic() - newest[0] if newest else float("inf")
        if newest is None or age_s > self._max_age_s:
            raise DeviceTimeout(
                "newest simulated picture",
                got=f"{age_s:.2f} s old",
                expected=f"at most {self._max_age_s:g} s",
                hint="Lower image_rate_hz or the size of the pictures",
            )
        return [image.copy() for image in newest[1]]  # two readings may show the same picture

    def close(self) -> None:
        """Stop drawing and free the GL context. Idempotent."""
        if self._stream:
            self._stream.stop()
        self._renderer.close()
