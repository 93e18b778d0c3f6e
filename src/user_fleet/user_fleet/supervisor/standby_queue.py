"""Which standby is made ready next, and when it has to wait: plain Python, told of what happens.

A standby takes processor time while it imports, and that is worth nothing to a run of which a part
is down. So standbys are made ready one after the other, and only while nothing is being brought up
or restarted; one that has begun waits until that is over. What is restarted never waits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass
class _Entry:
    """What is known of one process. Times are seconds of one monotonic clock."""

    rank: int
    after_s: float
    """Time after its start from which it may have a standby; 0: it gets none."""
    began_s: float | None = None
    """When it was started, or was found dead; None where it is not to run."""
    up: bool = False
    has_standby: bool = False
    gave_up: bool = False
    """Its standby has died: the next is made after its next start."""


class StandbyQueue:
    """Decides whose standby is made ready.

    Args:
        patience_s: Longest time that standbys wait for one process to come up. One that waits for
            something else, a robot that is switched off, does not keep the others without.

    Attributes:
        preparing: Whose standby is being made ready; empty: none is.
    """

    def __init__(self, patience_s: float = 60.0) -> None:
        self.patience_s = patience_s
        self.preparing = ""
        self._entries: dict[str, _Entry] = {}

    def add(self, name: str, after_s: float, rank: int = 0) -> None:
        """There is a process.

        Args:
            name: Its name.
            after_s: Time after each of its starts from which it may have a standby; 0: none.
            rank: Those of the lowest rank get theirs first; equal ones in the order in which they were added.
        """
        self._entries[name] = _Entry(rank, after_s)

    def began(self, name: str, now_s: float) -> None:
        """It is being started, or has died and will be."""
        entry = self._entries[name]
        entry.began_s, entry.up, entry.gave_up = now_s, False, False

    def came_up(self, name: str) -> None:
        """It works."""
        self._entries[name].up = True

    def over(self, name: str) -> None:
        """It is not started any more."""
        self._entries[name].began_s = None
        self.taken(name)

    def ready(self, name: str) -> None:
        """Its standby has imported everything, and waits."""
        self._entries[name].has_standby = True
        self._no_longer(name)

    def taken(self, name: str) -> None:
        """Its standby is none any more: it took over, or was ended."""
        self._entries[name].has_standby = False
        self._no_longer(name)

    def died(self, name: str) -> None:
        """Its standby has ended by itself, or could not be started; so might the next."""
        self._entries[name].gave_up = True
        self.taken(name)

    def coming_up(self, now_s: float) -> list[str]:
        """What is being brought up or restarted now."""
        return [
            name
            for name, entry in self._entries.items()
            if entry.began_s is not None and not entry.up
            if now_s - entry.began_s < self.patience_s
        ]

    def next(self, now_s: float, possible: Callable[[str], bool] = lambda name: True) -> str:
        """Whose standby is to be started now; empty: nobody's. It is :attr:`preparing` then.

        Args:
            now_s: The time.
            possible: Whether a process can have one: it has said what it has imported.
        """
        if self.preparing or self.coming_up(now_s):
            return ""
        due = [
            (entry.rank, name)
            for name, entry in self._entries.items()
            if entry.after_s > 0 and entry.began_s is not None
            if not (entry.has_standby or entry.gave_up)
            if now_s - entry.began_s >= entry.after_s and possible(name)
        ]
        self.preparing = min(due, key=lambda pair: pair[0], default=(0, ""))[1]
        return self.preparing

    def _no_longer(self, name: str) -> None:
        if self.preparing == name:
            self.preparing = ""
