"""Off-screen pictures of a scene, drawn by one thread that owns the GL context."""

from __future__ import annotations

import copy
import importlib
import os
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np

from user_core.errors import DeviceError
from user_core.specs import Array


@dataclass(frozen=True)
class Snapshot:
    """All that a picture depends on; copied out of a scene in a microsecond."""

    qpos: Array
    mocap_pos: Array
    mocap_quat: Array

    @classmethod
    def of(cls, data: Any) -> Snapshot:
        """Copy what is needed from ``mujoco.MjData``."""
        return cls(data.qpos.copy(), data.mocap_pos.copy(), data.mocap_quat.copy())


class Renderer:
    """Draws a model. May be called from any thread; drawing happens in its own.

    Args:
        model: ``mujoco.MjModel``.
        height: Of the pictures, pixels.
        width: Of the pictures, pixels.
        fine: With shadows and smoothed edges, for people; fifty times slower in software.

    Raises:
        DeviceError: There is no way to draw off-screen here.
    """

    def __init__(self, model: Any, height: int, width: int, *, fine: bool = False) -> None:
        self._model = copy.copy(model)  # with a quality of its own
        self._height, self._width = height, width
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="mujoco-render")
        try:
            self._thread.submit(self._open, fine).result()
        except BaseException:
            self._thread.shutdown()
            raise

    def render(self, snapshot: Snapshot, cameras: Sequence[str]) -> list[Array]:
        """Draw what the cameras see, each (height, width, 3) uint8; waits for the result."""
        return self.start(snapshot, cameras).result()

    def start(self, snapshot: Snapshot, cameras: Sequence[str]) -> Future[list[Array]]:
        """Begin to draw; the result is the list that :meth:`render` returns."""
        return self._thread.submit(self._draw, snapshot, cameras)

    def close(self) -> None:
        """Free the GL context. Idempotent."""
        try:
            self._thread.submit(self._free).result()
        except RuntimeError:  # the thread has been shut down already
            return
        self._thread.shutdown()

    # What follows runs in the thread that owns the context.

    def _open(self, fine: bool) -> None:
        quality = self._model.vis.quality
        quality.shadowsize, quality.offsamples = (2048, 4) if fine else (0, 0)
        quality.numslices, quality.numstacks = (40, 20) if fine else (12, 4)
        quality.numquads = 4 if fine else 1
        self._context = _make_context(self._width, self._height)
        self._context.make_current()
        self._mjr = mujoco.MjrContext(self._model, mujoco.mjtFontScale.mjFONTSCALE_100.value)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, self._mjr)
        self._scene = mujoco.MjvScene(self._model, maxgeom=500)
        self._scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = fine
        self._scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = False
        self._options = mujoco.MjvOption()
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
        self._data = mujoco.MjData(self._model)
        self._rect = mujoco.MjrRect(0, 0, self._width, self._height)
        self._pixels = np.empty((self._height, self._width, 3), dtype=np.uint8)

    def _draw(self, snapshot: Snapshot, cameras: Sequence[str]) -> list[Array]:
        model, data = self._model, self._data
        data.qpos[:] = snapshot.qpos
        data.mocap_pos[:] = snapshot.mocap_pos
        data.mocap_quat[:] = snapshot.mocap_quat
        mujoco.mj_kinematics(model, data)
        mujoco.mj_camlight(model, data)
        images = []
        for camera in cameras:
            self._camera.fixedcamid = model.camera(camera).id
            mujoco.mjv_updateScene(
                model,
                data,
                self._options,
                None,
                self._camera,
                mujoco.mjtCatBit.mjCAT_ALL.value,
                self._scene,
            )
            mujoco.mjr_render(self._rect, self._scene, self._mjr)
            mujoco.mjr_readPixels(self._pixels, None, self._rect, self._mjr)
            images.append(self._pixels[::-1].copy())  # GL's first row is the lowest
        return images

    def _free(self) -> None:
        self._mjr.free()
        self._context.free()


def _make_context(width: int, height: int) -> Any:
    """A GL context by ``MUJOCO_GL``, or by the first of EGL and OSMesa that works here."""
    chosen = os.environ.get("MUJOCO_GL", "").lower()
    backends = [chosen] if chosen in ("egl", "osmesa", "glfw") else ["egl", "osmesa"]
    failures = []
    for backend in backends:
        try:
            return importlib.import_module(f"mujoco.{backend}").GLContext(width, height)
        except Exception as error:  # each backend fails in its own way
            failures.append(f"{backend}: {error}")
    raise DeviceError(
        "no OpenGL context for off-screen pictures",
        got="; ".join(failures),
        expected="EGL or OSMesa",
        hint="Install libegl1 libgl1-mesa-dri libgles2 libosmesa6, or set MUJOCO_GL",
    )
