"""Images of a scene: drawn off-screen by one thread that owns the GL context.

:class:`Renderer` draws, :class:`SceneImages` gives the images of an observation, and
:class:`Stage` plays episodes of the expert for films.
"""

from __future__ import annotations

import atexit
import contextlib
import copy
import importlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from weakref import WeakSet

import mujoco
import numpy as np

from user_core.errors import DeviceError, DeviceFault, DeviceTimeout
from user_core.specs import Array, RobotSpec
from user_hal.sim.control import CONTROLS
from user_hal.sim.experts import ScriptedExpert
from user_hal.sim.periodic import PeriodicThread
from user_hal.sim.scene import Scene, observation_arrays, observation_specs


@dataclass(frozen=True)
class Snapshot:
    """All that an image depends on; copied out of a scene in a microsecond."""

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
        height: Of the images, pixels.
        width: Of the images, pixels.
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
        except RuntimeError:  # the thread has been shut down already, perhaps with the interpreter
            with contextlib.suppress(Exception):  # each backend fails in its own way
                self._context.free()
            return
        self._thread.shutdown()

    # What follows runs in the thread that owns the context.

    def _open(self, fine: bool) -> None:
        quality = self._model.vis.quality
        quality.shadowsize, quality.offsamples = (2048, 4) if fine else (0, 0)
        quality.numslices, quality.numstacks = (40, 20) if fine else (12, 4)
        quality.numquads = 4 if fine else 1
        self._context = _make_context(self._width, self._height)
        _close_at_exit(self)
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


_open_renderers: WeakSet[Renderer] = WeakSet()


@cache
def _register() -> None:
    @atexit.register
    def close_all() -> None:
        for renderer in list(_open_renderers):
            renderer.close()


def _close_at_exit(renderer: Renderer) -> None:
    """Free its context while OpenGL is still there: mujoco ends that when the interpreter ends, and a
    context that is freed later complains."""
    _open_renderers.add(renderer)
    _register()  # after mujoco has registered its own, so that ours comes first


def _make_context(width: int, height: int) -> Any:
    """A current GL context by ``MUJOCO_GL``, or by the first of EGL and OSMesa that works here."""
    chosen = os.environ.get("MUJOCO_GL", "").lower()
    backends = [chosen] if chosen in ("egl", "osmesa", "glfw") else ["egl", "osmesa"]
    failures = []
    for backend in backends:
        try:
            context = importlib.import_module(f"mujoco.{backend}").GLContext(width, height)
            context.make_current()
            return context
        except Exception as error:  # each backend fails in its own way
            failures.append(f"{backend}: {error}")
    raise DeviceError(
        "no OpenGL context for off-screen images",
        got="; ".join(failures),
        expected="EGL or OSMesa",
        hint="Install libegl1 libgl1-mesa-dri libgles2 libosmesa6, or set MUJOCO_GL",
    )


class SceneImages:
    """Images of a scene by its cameras.

    Args:
        model: ``mujoco.MjModel``.
        cameras: Names of cameras.
        image_hw: Height and width, pixels.
        rate_hz: 0 to draw when asked; otherwise how often to draw beside.
        take_snapshot: Copies the state of the scene; called from the drawing thread.
        max_age_s: With a rate, age at which the newest image is refused.
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
            PeriodicThread(1.0 / rate_hz, self._draw, "mujoco-images") if rate_hz else None
        )
        if self._stream:
            self._stream.start()
            self._first.wait(10.0)

    def _draw(self) -> None:
        taken_s = time.monotonic()
        self._newest = (taken_s, self._renderer.render(self._take_snapshot(), self._cameras))
        self._first.set()

    def of(self, snapshot: Snapshot | None) -> dict[str, Array]:
        """SceneImages of a snapshot; the newest ones of the stream where there is one."""
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
            raise DeviceFault("drawing of simulated images", got=repr(self._stream.error))
        newest = self._newest
        age_s = time.monotonic() - newest[0] if newest else float("inf")
        if newest is None or age_s > self._max_age_s:
            raise DeviceTimeout(
                "newest simulated image",
                got=f"{age_s:.2f} s old",
                expected=f"at most {self._max_age_s:g} s",
                hint="Lower image_rate_hz or the size of the images",
            )
        return [image.copy() for image in newest[1]]  # two readings may show the same image

    def close(self) -> None:
        """Stop drawing and free the GL context. Idempotent."""
        if self._stream:
            self._stream.stop()
        self._renderer.close()


PERIOD_S = 0.1
SUBSTEPS = 20


class Stage:
    """A scene with its expert, advanced in pieces of a frame.

    Args:
        arm: Name of the arm.
        task: Name of the task.
        noise: Of the expert.
        frames_a_period: Frames in one control period of 0.1 s; must divide 20.
    """

    def __init__(
        self, arm: str, task: str, *, noise: float = 0.0, frames_a_period: int = 2
    ) -> None:
        control = CONTROLS["ee_delta"]
        self.scene = Scene(arm, task, PERIOD_S / SUBSTEPS, control.drive)
        self.control = control(self.scene, PERIOD_S)
        spec = RobotSpec(
            arm, observation_specs(self.scene), self.control.spec, self.control.kind, PERIOD_S
        )
        self.expert = ScriptedExpert(spec, noise)
        self.frames_a_period = frames_a_period

    def reset(self, seed: int) -> Snapshot:
        """Begin an episode; return its first moment."""
        self.scene.reset(np.random.default_rng(seed))
        self.expert.reset()
        return Snapshot.of(self.scene.data)

    def act(self) -> None:
        """Let the expert decide, once a control period."""
        arrays = observation_arrays(self.scene.state(), gripper=self.scene.has_gripper)
        self.control.apply(self.expert.act(arrays))

    def episode(self, seed: int, linger: int = 5) -> Iterator[Snapshot]:
        """The moments of an episode of the expert, and ``linger`` periods after its success."""
        yield self.reset(seed)
        left = round(self.scene.task.horizon_s / PERIOD_S)
        while left:
            left -= 1
            self.act()
            for _ in range(self.frames_a_period):
                self.scene.advance(SUBSTEPS // self.frames_a_period)
                yield Snapshot.of(self.scene.data)
            if left > linger and self.scene.succeeded():
                left = linger


def write_images(path: Path, images: Sequence[Array], fps: float) -> None:
    """Write one image as PNG, or several as GIF or MP4, by the ending of the name."""
    import imageio.v2 as imageio

    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".png":
        imageio.imwrite(path, images[0])
    elif path.suffix == ".gif":
        imageio.mimwrite(path, list(images), duration=1000.0 / fps, loop=0)
    else:
        imageio.mimwrite(path, list(images), fps=fps, quality=8, macro_block_size=2)
