"""Draw the pictures of the simulated scenes anew: ``tools/run python docs/pictures/make.py``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from user_core.specs import Array
from user_hal.sim.arms import ARMS
from user_hal.sim.rendering import PERIOD_S, Renderer, Snapshot, Stage, write_images
from user_hal.sim.tasks import TASKS

FOLDER = Path(__file__).parent
#: Which start shows the task well, and how far into the episode.
MOMENTS = {"reach": (1, 0.4), "pick_place": (1, 0.82), "peg_insertion": (1, 0.35)}
WIDTH, HEIGHT, SMALL = 400, 310, 200


def panel(arm: str, task: str) -> Array:
    """One scene from outside, and below what its two cameras see, at their own resolution."""
    seed, share = MOMENTS[task]
    stage = Stage(arm, task, frames_a_period=1)
    moments = list(stage.episode(seed, linger=0))
    moment = moments[round(share * (len(moments) - 1))]
    outside = draw(stage, moment, HEIGHT, WIDTH, ("overview",), fine=True)
    seen = draw(stage, moment, 128, 128, ("front", "wrist"), fine=False)
    small = [
        np.asarray(Image.fromarray(image).resize((SMALL, SMALL), Image.Resampling.NEAREST))
        for image in seen
    ]
    return np.vstack([*outside, np.hstack(small)])


def draw(
    stage: Stage, moment: Snapshot, height: int, width: int, cameras: tuple[str, ...], fine: bool
) -> list[Array]:
    """Pictures of one moment."""
    renderer = Renderer(stage.scene.model, height, width, fine=fine)
    try:
        return renderer.render(moment, cameras)
    finally:
        renderer.close()


def scenes() -> None:
    """All six scenes on one sheet."""
    sheet = np.vstack([np.hstack([panel(arm, task) for task in TASKS]) for arm in ARMS])
    Image.fromarray(sheet).save(FOLDER / "scenes.png", optimize=True)


def insertion() -> None:
    """The expert, a little noisy, puts the peg into the hole."""
    stage = Stage("panda", "peg_insertion", noise=0.1, frames_a_period=1)
    outer = Renderer(stage.scene.model, 240, 320, fine=True)
    inner = Renderer(stage.scene.model, 240, 240, fine=True)
    frames = [
        np.hstack([*outer.render(moment, ("overview",)), *inner.render(moment, ("wrist",))])
        for seed in (1, 3, 5)
        for moment in stage.episode(seed, linger=4)
    ]
    outer.close()
    inner.close()
    write_images(FOLDER / "insertion.gif", frames, fps=1 / PERIOD_S)


if __name__ == "__main__":
    scenes()
    insertion()
