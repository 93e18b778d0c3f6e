"""How far the learner is behind; what a robot in lockstep is held back by."""

from __future__ import annotations

from user_actor.loop.clock import Clock

#: A learner that has not been heard for this long is away.
_SILENCE_NS = 2_000_000_000


class Backlog:
    """Says whether a robot whose time costs nothing should wait for the learner.

    A simulation in lockstep makes steps as fast as its machine can, and would leave the learner
    behind: the ratio of updates to steps would fall below what was asked for. A robot in real
    time is never asked to wait.

    Args:
        most_steps: Steps that the learner may be behind; 0: it is never waited for.
        clock: Tells the time.
    """

    def __init__(self, most_steps: float, clock: Clock) -> None:
        self._most_steps, self._clock = most_steps, clock
        self._steps = 0.0
        self._since = 0
        self._heard_ns = 0

    def tell(self, steps: float) -> None:
        """The learner says how many environment steps it has not worked through. Any thread."""
        self._steps, self._since, self._heard_ns = steps, 0, self._clock.monotonic_ns()

    def step(self) -> None:
        """A step is made, of which the learner cannot know yet."""
        self._since += 1

    def why_wait(self) -> str:
        """Why no step should be made now, for people; empty if one may be."""
        if not self._most_steps:
            return ""
        if not self._heard_ns or self._clock.monotonic_ns() - self._heard_ns > _SILENCE_NS:
            return "waits for the learner, which is not heard"
        behind = self._steps + self._since
        if behind > self._most_steps:
            return f"waits for the learner, {behind:.0f} steps behind"
        return ""
