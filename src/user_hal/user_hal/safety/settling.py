"""Whether readings may be believed when a robot starts to move from where they say it is."""

from __future__ import annotations

import math
from collections.abc import Sequence

from user_hal.safety.rotation import Quaternion, conjugate, multiply, to_vector

#: Readings may come, or be stamped, this much closer to each other than they were taken.
_JITTER_S = 0.02
TURN = 2 * math.pi


def short_way(change: float) -> float:
    """The way from one angle to another, rad, the short way round."""
    return change - TURN * round(change / TURN)


class Settling:
    """Doubts readings that are further from the one before than the robot can have gone.

    While readings are in doubt nothing may start from them. They count again when ``settled`` in
    a row fit each other, wherever that is: the robot may have been moved by hand. Two writers
    that disagree never settle.

    Args:
        names: Of the joints, or of the axes of the tool.
        speeds: The fastest that each can move, (P,) per second.
        turning: Which of them turn without an end.
        turn_speed: The fastest that the tool can turn, rad/s.
        settled: See above; the reading that jumped is the first.

    Attributes:
        doubt: What is wrong with the readings, for people; empty: nothing.
    """

    def __init__(
        self,
        names: Sequence[str],
        speeds: Sequence[float],
        turning: Sequence[bool],
        turn_speed: float,
        settled: int,
    ) -> None:
        self._names, self._speeds, self._turning = tuple(names), tuple(speeds), tuple(turning)
        self._turn_speed, self._settled = turn_speed, settled
        self.forget()

    def forget(self) -> None:
        """The next reading is the first, and is believed."""
        self.doubt = ""
        self._before: list[float] = []
        self._before_q: Quaternion | None = None
        self._before_ns, self._awaited = 0, 0

    def look(self, values: Sequence[float], turned: Quaternion | None, stamp_ns: int) -> None:
        """Judge the next reading.

        Args:
            values: Position of joints or tool, (P,).
            turned: Orientation of the tool; None where it does not matter.
            stamp_ns: When it was taken; one that was judged already is not judged again.
        """
        if self._before and stamp_ns == self._before_ns:
            return
        jump = self._jump(values, turned, stamp_ns) if self._before else ""
        if jump:
            self._awaited, self.doubt = self._settled - 1, jump
        elif self._awaited:
            self._awaited -= 1
            if not self._awaited:
                self.doubt = ""
        self._before[:], self._before_q, self._before_ns = values, turned, stamp_ns

    def _jump(self, values: Sequence[float], turned: Quaternion | None, stamp_ns: int) -> str:
        time_s = max(stamp_ns - self._before_ns, 0) * 1e-9 + _JITTER_S
        for i, (now, before) in enumerate(zip(values, self._before)):
            way = short_way(now - before) if self._turning[i] else now - before
            if abs(way) > self._speeds[i] * time_s:
                return self._text(self._names[i], f"{before:.3f} to {now:.3f}", time_s)
        if turned is not None and self._before_q is not None:
            angle = math.hypot(*to_vector(multiply(turned, conjugate(self._before_q))))
            if angle > self._turn_speed * time_s:
                return self._text(
                    "the tool", f"one orientation to another, {angle:.2f} rad", time_s
                )
        return ""

    def _text(self, name: str, jump: str, time_s: float) -> str:
        return (
            f"readings of {name} jumped from {jump}, within {time_s:.3f} s; nothing starts from "
            f"there until {self._settled} readings in a row fit each other"
        )
