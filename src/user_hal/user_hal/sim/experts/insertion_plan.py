"""How the expert puts a peg into a hole."""

from __future__ import annotations

import numpy as np

from user_core.specs import Arrays
from user_hal.sim.experts.plan import Plan, Wish


class InsertionPlan(Plan):
    """Above the hole, then down with corrections; search in a spiral where it does not go in.

    The hole's position is known with an error. Where the peg stands on the rim, pressing
    lightly while moving in a growing spiral finds the hole (blind search, as fitters do).
    """

    above_m = 0.010
    aligned_m = 0.0015
    push_m = 0.008

    def reset(self) -> None:
        self._inserting = False
        self._stuck = 0
        self._lowest_m = np.inf

    def wish(self, arrays: Arrays) -> Wish:
        hole_m = arrays["peg_to_hole"].astype(float)
        aside_m = float(np.hypot(hole_m[0], hole_m[1]))
        if not self._inserting:
            self._inserting = aside_m < self.aligned_m and -hole_m[2] < 2 * self.above_m
            low = aside_m > 0.01 and -hole_m[2] < self.above_m
            over_m = hole_m.copy()
            over_m[2] += self.above_m
            if low:  # first up, or the peg would scrape over the block
                over_m[:2] = 0.0
            return Wish(self.towards(over_m))
        return Wish(self._push(hole_m))

    def _push(self, hole_m: np.ndarray) -> np.ndarray:
        tip_m = -hole_m[2]
        if tip_m < self._lowest_m - 0.0005:
            self._lowest_m, self._stuck = tip_m, 0
        else:
            self._stuck += 1
        push_m = min(self.push_m, self.step_m)
        if self._stuck < 3 or tip_m < -0.004:
            return np.array([0.5 * hole_m[0], 0.5 * hole_m[1], -push_m])
        turn_rad = 1.3 * self._stuck
        radius_m = 0.0004 * (self._stuck - 2)
        if radius_m > 0.005:  # lost: begin again
            self.reset()
        spiral_m = radius_m * np.array([np.cos(turn_rad), np.sin(turn_rad)])
        return np.array([hole_m[0] + spiral_m[0], hole_m[1] + spiral_m[1], -push_m])
