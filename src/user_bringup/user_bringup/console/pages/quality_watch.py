"""Measures the episodes of a store in the background, for the filters that need it: gate-limited, anomalous."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from user_bringup.console.precedence import give_way_here
from user_core.errors import SuiteError
from user_core.types import EpisodeKey
from user_learner.edits.view import EditedEpisodes
from user_learner.quality.findings import ANOMALOUS, Finding, judge
from user_learner.quality.statistics import StatisticsCache

_AT_ONCE, _JUDGE_S = 20, 5.0
#: Of the time that measuring takes, as long again is left to those who drive and watch.
_PAUSE_SHARE = 1.0


@dataclass(frozen=True)
class Quality:
    """What was measured so far.

    Attributes:
        done: Episodes that were looked at.
        total: Episodes that there are; None before anybody has looked.
        gate_changed: Share of the policy's actions that the safety gate changed, by episode.
        findings: What a person should look at, by episode.
        trouble: Why some, or all, could not be measured.
    """

    done: int = 0
    total: int | None = None
    gate_changed: Mapping[EpisodeKey, float] = field(default_factory=dict)
    findings: Mapping[EpisodeKey, tuple[Finding, ...]] = field(default_factory=dict)
    trouble: str = ""

    @property
    def is_complete(self) -> bool:
        """Whether all episodes were looked at, be it none."""
        return self.total is not None and self.done >= self.total

    @property
    def anomalous(self) -> set[EpisodeKey]:
        """Episodes that something is odd about, see :data:`user_learner.quality.findings.ANOMALOUS`."""
        return {k for k, found in self.findings.items() if any(f.kind in ANOMALOUS for f in found)}


class QualityWatch:
    """Measures in a thread while somebody asks, half of the time at most, and not while somebody drives. What was
    measured is kept beside the store (:mod:`user_learner.quality.statistics`), so it is done once.

    Args:
        store: Folder of the store.
        busy: Whether somebody drives.
    """

    def __init__(self, store: Path, busy: Callable[[], bool] = lambda: False) -> None:
        self._store, self._busy = store, busy
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._ending = threading.Event()
        self.quality = Quality()

    def look(self) -> Quality:
        """What is known now; what is not is measured from now on."""
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._work, name="quality", daemon=True)
                self._thread.start()
        return self.quality

    def close(self) -> None:
        """End it."""
        self._ending.set()
        if self._thread is not None:
            self._thread.join(5)

    def _work(self) -> None:
        give_way_here()
        try:
            with EditedEpisodes(self._store) as view:
                self._measure(view)
        except (SuiteError, OSError) as error:
            self.quality = Quality(trouble=str(error))

    def _measure(self, view: EditedEpisodes) -> None:
        cache = StatisticsCache(view.reader.path)
        # One that is being recorded would be measured again and again.
        ended = [one for one in view.episodes(excluded=True) if one.info.result is not None]
        waiting = cache.missing([one.info for one in ended])
        trouble: list[str] = []
        judged_s = -_JUDGE_S
        while True:
            if time.monotonic() - judged_s > _JUDGE_S or not waiting:
                there = {one.key: one.outcome for one in ended}
                found = {key: s for key, s in cache.found.items() if key in there}
                findings: dict[EpisodeKey, list[Finding]] = defaultdict(list)
                for finding in judge(found, there):
                    findings[finding.episode].append(finding)
                self.quality = Quality(
                    len(ended) - len(waiting), len(ended),
                    {key: one.gate_changed for key, one in found.items()},
                    {key: tuple(of) for key, of in findings.items()}, "; ".join(trouble[:3]),
                )  # fmt: skip
                judged_s = time.monotonic()
            if not waiting:
                return
            began_s = time.monotonic()
            trouble += cache.update(view.reader, waiting[:_AT_ONCE])
            waiting = waiting[_AT_ONCE:]
            if self._ending.wait(_PAUSE_SHARE * (time.monotonic() - began_s)):
                return
            while self._busy():
                if self._ending.wait(0.5):
                    return
