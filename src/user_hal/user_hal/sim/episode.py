"""When a simulated episode ends, and how: kept apart, because everybody gets it wrong once."""

from __future__ import annotations

from user_core.types import TaskFeedback

_RUNNING = TaskFeedback(reward=0.0, success=False)


class Episode:
    """Sparse reward of one episode: 1 when the task is solved, 0 before.

    Solving the task terminates the episode; time running out truncates it. Whichever came
    first stays, whatever happens until the next reset. Time runs from the first command, so
    that nobody loses time to his preparations in real time.

    Args:
        horizon_s: Simulated time after which an episode is truncated.
    """

    def __init__(self, horizon_s: float) -> None:
        self.horizon_s = horizon_s
        self.reset()

    def reset(self) -> None:
        """Begin anew."""
        self.elapsed_s = 0.0
        self.running = False
        self.feedback = _RUNNING

    def begin(self) -> None:
        """A command came: from now on time runs."""
        self.running = True

    def advance(self, duration_s: float, succeeded: bool) -> None:
        """Time passed, and the task is solved or not."""
        if not self.running or self.feedback is not _RUNNING:
            return
        self.elapsed_s += duration_s
        if succeeded:
            self.feedback = TaskFeedback(reward=1.0, terminated=True, success=True)
        elif self.elapsed_s > self.horizon_s - 1e-6:
            self.feedback = TaskFeedback(reward=0.0, truncated=True, success=False)
