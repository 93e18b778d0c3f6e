"""How long to wait before a process is started again, and when to give up."""

from __future__ import annotations

from collections import deque

from user_core.runtime.backoff import Backoff
from user_fleet.deployment.model import RestartPolicy


class Restarts:
    """A restart policy at work: growing waits, and a limit of failures in a window.

    All times are seconds of one monotonic clock.
    """

    def __init__(self, policy: RestartPolicy) -> None:
        self.policy = policy
        self._backoff = Backoff(
            policy.initial_backoff_s, policy.factor, policy.max_backoff_s, policy.healthy_after_s
        )
        self._failures_s: deque[float] = deque()

    def ended(self, now_s: float, uptime_s: float, exit_code: int) -> float | None:
        """A process has ended: the wait before its restart, seconds; None: no restart."""
        policy = self.policy
        if policy.when == "never" or (policy.when == "on_failure" and exit_code == 0):
            return None
        wait_s = self._backoff.failed(uptime_s)
        self._failures_s.append(now_s)
        while self._failures_s[0] < now_s - policy.window_s:
            self._failures_s.popleft()
        if 0 < policy.max_failures <= len(self._failures_s):
            return None
        return wait_s
