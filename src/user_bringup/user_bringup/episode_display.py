"""What is seen while episodes run: how many, how they ended, and what the safety gate does."""

from __future__ import annotations

import re
import threading
import time
from collections import Counter
from collections.abc import Callable
from types import TracebackType

from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from user_core.reasons import NO_REASON, Reason
from user_core.types import EpisodeResult, Outcome
from user_hal.local import LocalHal

_REFRESH_S = 0.2
#: What is wrong with a device for shorter is not told.
_TROUBLE_S = 1.0


class EpisodeDisplay:
    """A bar of episodes with the counts of the safety gate beside; why one was aborted is told once of each cause,
    and at the end how often.

    Args:
        title: What the episodes are for.
        total: How many are wanted.
        hal: The robot's.
        device: Says why the person's device could not drive now; it is told when it changes.
    """

    def __init__(
        self,
        title: str,
        total: int,
        hal: LocalHal,
        device: Callable[[], Reason] = lambda: NO_REASON,
    ) -> None:
        self._title, self._hal, self._device = title, hal, device
        self._reported = NO_REASON
        self._ended = threading.Event()
        self._watch = threading.Thread(target=self._look, name="device watch", daemon=True)
        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
        )
        self._bar = self._progress.add_task(title, total=total)
        self._succeeded = 0
        self._aborted = Counter[str]()
        self._due_s = 0.0

    def __enter__(self) -> EpisodeDisplay:
        self._progress.start()
        self._watch.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._watch.join(1.0)
        self._show()
        for cause, count in self._aborted.items():
            if count > 1:
                text = f"[yellow]aborted {count} times:[/] {escape(cause)}"
                self._progress.console.print(text, highlight=False)
        self._progress.stop()

    def ended(self, result: EpisodeResult | None, *, counts: bool = True) -> None:
        """An episode ended; ``counts``: it is one of the total."""
        outcome = Outcome.ABORTED if result is None else result.outcome
        self._succeeded += outcome is Outcome.SUCCESS
        if counts:
            self._progress.advance(self._bar)
        if outcome is Outcome.ABORTED:
            why = "it had no step" if result is None else result.reason
            cause = _cause(why)
            self._aborted[cause] += 1
            if self._aborted[cause] == 1:
                self._progress.console.print(f"[yellow]aborted:[/] {escape(why)}", highlight=False)
        self._show()

    def refresh(self) -> None:
        """A step was made."""
        now_s = time.monotonic()
        if now_s >= self._due_s:
            self._due_s = now_s + _REFRESH_S
            self._show()

    def _look(self) -> None:
        """Tell what is wrong with the device, also while no step is made because of it; once, when it
        has been so for a moment."""
        seen, since_s = NO_REASON, time.monotonic()
        while not self._ended.wait(_REFRESH_S):
            now, now_s = self._device(), time.monotonic()
            if now.code != seen.code:
                seen, since_s = now, now_s
            if now.code != self._reported.code and now_s - since_s >= _TROUBLE_S:
                said = f"[yellow]device:[/] {escape(now.text)}" if now else "device: works"
                self._progress.console.print(said, highlight=False)
                self._reported = now

    def _show(self) -> None:
        status = self._hal.status()
        text = f"{self._title}, {self._succeeded} succeeded"
        if self._aborted:
            text += f", {self._aborted.total()} aborted"
        if status.limited or status.refused:
            text += f"; gate: {status.refused} refused, {status.limited} changed"
        self._progress.update(self._bar, description=text)


def _cause(why: str) -> str:
    """What reasons have in common that differ in their figures: ``safety stop: force``."""
    figure = re.search(r"\d", why)
    if figure is None:
        return why
    return why[: figure.start()].rpartition(": ")[0] or re.sub(r"[\d.]+", "…", why)
