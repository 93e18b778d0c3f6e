"""Images show the state, from whatever thread they are asked for, and what matters in it."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from user_core.conformance.devices import check_robot
from user_core.errors import DeviceError, DeviceTimeout
from user_hal.robots.mujoco import MujocoConfig, MujocoRobot
from user_hal.sim.arms import ARMS
from user_hal.sim.rendering import Renderer, Snapshot
from user_hal.sim.scene import Scene
from user_hal.sim.tasks import TASKS
from user_testing.rendering import needs_gl

pytestmark = needs_gl

#: Colour of what one must see in an image: channel that dominates the two others.
VISIBLE = {"reach": ("goal", 1), "pick_place": ("cube", 0), "peg_insertion": ("rim", 1)}


def dominated(image: np.ndarray, channel: int) -> int:
    """Number of pixels in which one channel is much stronger than both others."""
    others = [c for c in range(3) if c != channel]
    image = image.astype(int)
    return int((image[..., channel] > 1.4 * image[..., others].max(axis=-1)).sum())


@pytest.mark.parametrize("arm", list(ARMS))
@pytest.mark.parametrize("task", list(TASKS))
def test_images_show_what_the_task_is_about(arm: str, task: str) -> None:
    scene, (what, channel) = Scene(arm, task), VISIBLE[task]
    renderer = Renderer(scene.model, 128, 128)
    seen = []
    for seed in range(8):
        scene.reset(np.random.default_rng(seed))
        front, wrist = renderer.render(Snapshot.of(scene.data), ("front", "wrist"))
        assert front.shape == wrist.shape == (128, 128, 3) and front.dtype == np.uint8
        assert front.std() > 20 and wrist.std() > 5
        seen.append(dominated(front, channel))
    renderer.close()
    assert min(seen) >= 4, f"{what} is not seen in front: {seen} pixels"


def test_an_image_is_of_its_snapshot_and_repeatable_from_any_thread() -> None:
    scene = Scene("panda", "peg_insertion")
    renderer = Renderer(scene.model, 64, 64)
    snapshot = Snapshot.of(scene.data)
    (first,) = renderer.render(snapshot, ("front",))
    scene.reset(np.random.default_rng(9))
    images: list[np.ndarray] = []

    def draw() -> None:
        for _ in range(5):
            images.extend(renderer.render(snapshot, ("front",)))

    threads = [threading.Thread(target=draw) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (other,) = renderer.render(Snapshot.of(scene.data), ("front",))
    renderer.close()
    renderer.close()
    assert len(images) == 15 and all(np.array_equal(image, first) for image in images)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize(
    "params",
    [
        {"cameras": ("front", "wrist"), "image_height": 32, "image_width": 48},
        {"cameras": ("wrist",), "image_height": 32, "image_width": 32, "real_time": True,
         "max_age_s": 5.0},
        {"cameras": ("front",), "image_height": 32, "image_width": 32, "real_time": True,
         "image_rate_hz": 30.0, "max_age_s": 5.0},
    ],
    ids=["lockstep", "real_time", "stream"],
)  # fmt: skip
def test_driver_with_images_keeps_its_promises(params: dict[str, object]) -> None:
    report = check_robot(MujocoRobot(MujocoConfig(**params)), steps=5)  # type: ignore[arg-type]
    assert report.passed, str(report)


def test_a_stream_that_stalls_is_an_error_not_an_old_image() -> None:
    robot = MujocoRobot(
        MujocoConfig(
            cameras=("front",), image_height=16, image_width=16, real_time=True,
            image_rate_hz=20.0, max_age_s=0.3,
        )
    )  # fmt: skip
    robot.connect()
    try:
        assert "image_front" in robot.read().arrays
        robot._images._stream.stop()  # type: ignore[union-attr]
        threading.Event().wait(0.4)
        with pytest.raises(DeviceTimeout, match="image"):
            robot.read()
    finally:
        robot.close()


def test_no_way_to_draw_is_an_error_with_its_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("user_hal.sim.rendering.importlib.import_module", _no_module)
    with pytest.raises(DeviceError, match="libegl1"):
        Renderer(Scene("panda", "reach").model, 16, 16)


def _no_module(name: str) -> None:
    raise ImportError(f"no {name} here")
