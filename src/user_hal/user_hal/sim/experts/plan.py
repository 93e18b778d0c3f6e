"""What an expert wants from one moment to the next, whatever the arm is commanded by."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from user_core.specs import Array, Arrays


@dataclass(frozen=True)
class Wish:
    """A motion of the tool within one control period.

    Attributes:
        move_m: Where the tool shall go from where it is, (3,), base frame.
        turn_rad: How far it shall turn about the vertical.
        gripper: Opening of the gripper, 0 to 1.
    """

    move_m: Array
    turn_rad: float = 0.0
    gripper: float = 1.0


class Plan(ABC):
    """The way to solve one task: a function of the observation and of a phase.

    Args:
        step_m: Largest move in one period.
    """

    def __init__(self, step_m: float) -> None:
        self.step_m = step_m
        self.reset()

    @abstractmethod
    def reset(self) -> None:
        """Begin an episode."""

    @abstractmethod
    def wish(self, arrays: Arrays) -> Wish:
        """What to do now."""

    def towards(self, way_m: Array, gain: float = 0.8) -> Array:
        """A move along ``way_m`` (3,), as long as one period allows."""
        move_m = gain * np.asarray(way_m, dtype=float)
        length_m = float(np.linalg.norm(move_m))
        return move_m * min(1.0, self.step_m / max(length_m, 1e-9))


class ReachPlan(Plan):
    """Straight to the goal."""

    def reset(self) -> None:
        pass

    def wish(self, arrays: Arrays) -> Wish:
        return Wish(self.towards(arrays["tool_to_goal"]))
