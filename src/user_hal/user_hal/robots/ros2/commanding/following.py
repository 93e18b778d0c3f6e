"""Whether a robot moves when it is told to: a controller may listen, and do nothing. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np

from user_core.specs import Array

#: Commands that are looked at together.
COMMANDS = 15
#: Share of the way at least; what measurements tremble by is far less of the smallest way.
_SHARE = 0.1
#: An arm may stand this many of the smallest ways beside its target, by its weight.
_SAG = 5.0
#: A target that leaves its way by more than this share of it has turned back.
_TURNED = 0.3


class FollowWatch:
    """Compares the way that was commanded with the way that was gone, over some commands.

    Args:
        smallest: Ways that are shorter are not judged, in the unit of the numbers.
        commands: How many commands are looked at together.
        turning: Which elements are continuous joints: their ways are the short ones.
    """

    def __init__(
        self, smallest: float, commands: int = COMMANDS, turning: Sequence[bool] = ()
    ) -> None:
        self._turning = np.array(turning, bool) if any(turning) else None
        self._smallest = smallest
        self._steps: deque[tuple[Array, Array]] = deque(maxlen=commands + 1)
        self._velocities = False
        self.commanded = self.gone = 0.0  # of the last judgement that failed
        self.failed = False

    def note(self, measured: Array, told: Array, *, velocities: bool) -> None:
        """Take a command.

        Args:
            measured: Where the robot was, (n,).
            told: The target, (n,); or the way in one period, for ``velocities``.
            velocities: Which of the two.
        """
        self._velocities = velocities
        self._steps.append((np.array(measured), np.array(told)))
        if len(self._steps) == self._steps.maxlen:
            self._judge()

    def forget(self) -> None:
        """Begin anew: the robot was stopped, or moved by others."""
        self._steps.clear()
        self.failed = False

    def _judge(self) -> None:
        start, end = self._steps[0][0], self._steps[-1][0]
        way = self._commanded(start)
        length = 0.0 if way is None else float(np.linalg.norm(way))
        if way is None or length < self._smallest:
            return
        gone = float(self._way(start, end) @ way) / length
        self.failed = gone < _SHARE * length
        self.commanded, self.gone = length, gone

    def _commanded(self, start: Array) -> Array | None:
        """The way that was commanded; None where there is nothing to judge."""
        told = [told for _, told in self._steps]
        if self._velocities:
            total: Array = np.sum(told[:-1], axis=0)
            return total
        way = self._way(told[0], told[-1])
        length2 = float(way @ way)
        if length2 >= self._smallest**2:  # the target moved: so must the robot, wherever it hangs
            for each in told:
                share = float(self._way(told[0], each) @ way) / length2
                if not -_TURNED < share < 1 + _TURNED:
                    return None  # the target has turned back meanwhile
            return way
        way = self._way(start, told[0])
        return way if float(way @ way) >= (_SAG * self._smallest) ** 2 else None

    def _way(self, start: Array, end: Array) -> Array:
        way: Array = end - start
        if self._turning is not None:
            short = (way + np.pi) % (2 * np.pi) - np.pi
            way = np.where(self._turning, short, way)
        return way
