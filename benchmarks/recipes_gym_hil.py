"""gym_hil's pick cube from two images of 128 x 128, and a script that shows how it is done. Part of ``recipes_images.py``:

    pip install --no-deps gym-hil      # and mujoco below 3.9
    python benchmarks/recipes_images.py --only gym_hil --demonstrations 20 --updates 4000 --out gym_hil.jsonl

The policy sees both images and the arm (joints, fingers, tool). The cube lies somewhere else in each episode.
"""

from __future__ import annotations

import time
from typing import Any, ClassVar

import gymnasium
import numpy as np

from user_core import plugins
from user_core.interfaces import Teleop, TeleopCommand
from user_core.specs import RobotSpec
from user_core.types import Observation
from user_hal.local import LocalHal

#: The tool is over the cube within so far; it is closed after so many steps at the cube.
_OVER_M, _AT_M, _STEP_M, _CLOSING = 0.015, 0.012, 0.025, 3
_CLOSE, _STAY = 2.0, 1.0


class Reproducible(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Starts that a seed decides, and images that a CPU can draw: the environment draws the cube's place from NumPy's global
    generator, and each image with shadows of a map of 8192 x 8192.

    Args:
        env: The environment.
        shadows: Draw them.

    Attributes:
        newest: The one that was made last, for the script that shows the task.
    """

    newest: ClassVar[Reproducible]

    def __init__(self, env: Any, shadows: bool = False) -> None:
        super().__init__(env)
        if not shadows:
            import mujoco

            flags = env.unwrapped._viewer.scene.flags
            for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
                flags[flag] = 0
        Reproducible.newest = self

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        if seed is not None:
            np.random.seed(seed)
        return self.env.reset(seed=seed, options=options)

    def places(self) -> tuple[Any, Any]:
        """Of the cube and of the tool, m."""
        data = self.unwrapped._data  # type: ignore[attr-defined]
        return data.sensor("block_pos").data.copy(), data.sensor("2f85/pinch_pos").data.copy()


class Person(Teleop):
    """Knows where the cube is: over it, down, close, up; its hand shakes.

    Args:
        noise: Standard deviation of the shaking, in half ranges.
        seed: Of it.
    """

    scripted = True

    def __init__(self, noise: float, seed: int) -> None:
        self._noise, self._rng = noise, np.random.default_rng(seed)
        self._held = 0

    def connect(self, spec: RobotSpec) -> None:
        self._spec = spec

    def read(self, observation: Observation) -> TeleopCommand:
        cube, tool = Reproducible.newest.places()
        if cube[2] < 0.03 and tool[2] > 0.07:  # an episode begins
            self._held = 0
        apart = cube - tool
        close = _STAY
        if np.abs(apart[:2]).max() > _OVER_M and not self._held:
            move = np.array([apart[0], apart[1], 0.0])
        elif apart[2] < -_AT_M and not self._held:
            move = apart
        else:
            self._held += 1
            close = _CLOSE
            move = np.array([0, 0, _STEP_M if self._held > _CLOSING else 0.0])
        action = np.append(np.clip(move / _STEP_M, -1, 1), close)
        action[:3] += self._noise * self._rng.standard_normal(3) * (self._held == 0)
        low, high = self._spec.action.low_array, self._spec.action.high_array
        return TeleopCommand(True, np.clip(action, low, high).astype(np.float32), time.time_ns())

    def close(self) -> None:
        pass


def robot(size: int) -> LocalHal:
    """The environment."""
    made = plugins.build(
        "robots", "gymnasium",
        {
            "env_id": "gym_hil:gym_hil/PandaPickCube-v0", "period_s": 0.1, "max_episode_steps": 100,
            "kwargs": {
                "image_obs": True, "random_block_position": True, "reset_delay_seconds": 0.0,
            },
            "wrappers": [{"target": "recipes_gym_hil:Reproducible"}],
            "images": {
                name: {"resize": [size, size]} for name in ("pixels.front", "pixels.wrist")
            },
        },
    )  # fmt: skip
    return LocalHal(made)
