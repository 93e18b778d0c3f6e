"""Episodes as pictures: what ``user sim`` and the documentation show."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from user_core.specs import Array, RobotSpec
from user_hal.sim.control import CONTROLS
from user_hal.sim.experts import ScriptedExpert
from user_hal.sim.observation import observation_arrays, observation_specs
from user_hal.sim.render import Snapshot
from user_hal.sim.scene import Scene

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
    """Write one picture as PNG, or several as GIF or MP4, by the ending of the name."""
    import imageio.v2 as imageio

    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".png":
        imageio.imwrite(path, images[0])
    elif path.suffix == ".gif":
        imageio.mimwrite(path, list(images), duration=1000.0 / fps, loop=0)
    else:
        imageio.mimwrite(path, list(images), fps=fps, quality=8, macro_block_size=2)
