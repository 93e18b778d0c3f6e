"""What is seen while episodes run: how many, how they ended, and what the safety gate does."""

from __future__ import annotations

import time
from types import TracebackType

from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from user_core.types import EpisodeResult, Outcome
from user_hal.local import LocalHal

_REFRESH_S = 0.2


class EpisodeDisplay:
    """A bar of episodes with the counts of the safety gate beside; a line for each that failed.

    Args:
        title: What the episodes are for.
        total: How many are wanted.
        hal: The robot's.
    """

    def __init__(self, title: str, total: int, hal: LocalHal) -> None:
        self._title, self._hal = title, hal
        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
        )
        self._bar = self._progress.add_task(title, total=total)
        self._succeeded = 0
        self._due_s = 0.0

    def __enter__(self) -> EpisodeDisplay:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._show()
        self._progress.stop()

    def ended(self, result: EpisodeResult | None, *, counts: bool = True) -> None:
        """An episode ended; ``counts``: it is one of the total."""
        outcome = Outcome.ABORTED if result is None else result.outcome
        self._succeeded += outcome is Outcome.SUCCESS
        if counts:
            self._progress.advance(self._bar)
        if outcome is Outcome.ABORTED:
            why = "it had no step" if result is None else result.reason
            self._progress.console.print(f"[yellow]aborted:[/] {escape(why)}", highlight=False)
        self._show()

    def refresh(self) -> None:
        """A step was made."""
        now_s = time.monotonic()
        if now_s >= self._due_s:
            self._due_s = now_s + _REFRESH_S
            self._show()

    def _show(self) -> None:
        status = self._hal.status()
        text = f"{self._title}, {self._succeeded} succeeded"
        if status.limited or status.refused:
            text += f"; gate: {status.refused} refused, {status.limited} changed"
        self._progress.update(self._bar, description=text)
