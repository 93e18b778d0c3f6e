"""A film of a simulated robot, taken from outside: the policy need not see pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from user_core.specs import Array
from user_hal.robots.mujoco import MujocoRobot
from user_hal.sim.rendering import Renderer, Snapshot, write_images


class Film:
    """Films the first episodes of a :class:`MujocoRobot`.

    Args:
        robot: Connected.
        episodes: How many episodes to film.
        width: Of the pictures, pixels.
        height: Of the pictures, pixels.
    """

    def __init__(
        self, robot: MujocoRobot, episodes: int = 4, width: int = 240, height: int = 180
    ) -> None:
        self._robot, self._episodes_left = robot, episodes
        self._renderer = Renderer(robot.scene.model, height, width)
        self.images: list[Array] = []

    def begin_episode(self) -> None:
        """Before each episode."""
        self._episodes_left -= 1

    def take(self) -> None:
        """After each step: one picture."""
        if self._episodes_left >= 0:
            moment: Any = Snapshot.of(self._robot.scene.data)
            self.images += self._renderer.render(moment, ["front"])

    def write(self, file: Path, fps: float = 15.0) -> None:
        """Write what was filmed, as GIF or MP4 by the ending of the name."""
        if self.images:
            write_images(file, self.images, fps)

    def close(self) -> None:
        """Let go of the renderer. Idempotent."""
        self._renderer.close()
