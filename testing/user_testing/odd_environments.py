"""Gymnasium environments that do what none should; ``env:=user_testing.odd_environments:NAME``.

They say when they did it, in the log of their process: ``odd: nan at 1764000000.123``.
"""

from __future__ import annotations

import ctypes
import os
import sys
import time
from typing import Any

import gymnasium
import numpy as np

#: Step of every episode in which it happens.
BAD_STEP = 3


class OddEnvironment(gymnasium.Env[Any, Any]):
    """A point on a line, until the third step of an episode.

    Args:
        what: What happens then.
    """

    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, what: str) -> None:
        self._what, self._steps = what, 0
        if what == "endless":
            self.action_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode."""
        self._steps = 0
        if self._what == "hang":
            self._say()
            time.sleep(3600)
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Make a step."""
        self._steps += 1
        bad = self._what if self._steps == BAD_STEP else ""
        if bad:
            self._say()
        if bad == "exit":
            sys.exit("the vendor's SDK has had enough")
        if bad == "die":
            os._exit(0)
        if bad == "crash":
            ctypes.string_at(0)
        seen = np.full(2, np.nan if bad == "nan" else 0.1, np.float32)
        reward: Any = {"none": None, "huge": 1e25}.get(bad, 0.5)
        return seen, reward, False, self._steps >= 20, {"success": "yes"} if bad == "word" else {}

    def _say(self) -> None:
        print(f"odd: {self._what} at {time.time():.3f}", flush=True)


for name in ("exit", "die", "nan", "none", "huge", "endless", "hang", "crash", "word"):
    gymnasium.register(
        f"Odd{name.capitalize()}-v0",
        OddEnvironment,
        kwargs={"what": name},
        disable_env_checker=True,
    )
