"""Episodes of a store for people: a list that can be filtered, and one episode by column."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from user_bringup.console.pages.quality_watch import Quality, QualityWatch
from user_core.errors import StoreCorrupt, StoreError, SuiteError
from user_core.specs import Array
from user_core.types import ActedBy, EpisodeKey
from user_learner.edits.entries import Edit
from user_learner.edits.listing import EpisodeFilter, Listed, list_all, select
from user_learner.edits.view import EditedEpisode, EditedEpisodes
from user_learner.quality.statistics import changed_by_gate

#: Episodes whose rows are kept in memory.
_KEPT, _KEPT_BYTES = 4, 256 * 2**20


def key_text(key: EpisodeKey) -> str:
    """An episode's identity as one word, for addresses."""
    return f"{key.producer}~{key.incarnation}~{key.number}"


class EpisodeList:
    """The episodes of a store that another process may be writing, as its edits say. Any thread, one at a time.

    Args:
        path: Folder of the store; it need not be there yet.
        busy: Whether somebody drives: nothing is measured then.

    Attributes:
        quality: Measures episodes for the filters that need it.
    """

    def __init__(self, path: Path, busy: Callable[[], bool] = lambda: False) -> None:
        self.path = path
        self.quality = QualityWatch(path, busy)
        self._lock = threading.RLock()
        self._view: EditedEpisodes | None = None
        self._reads_ahead = False
        self._listed: dict[str, Listed] = {}
        self._rows: OrderedDict[str, tuple[int, dict[str, Array]]] = OrderedDict()

    @contextmanager
    def _open(self) -> Iterator[EditedEpisodes]:
        """The store, as it is now. Raises StoreError where there is none."""
        with self._lock:
            if self._view is None:
                self._view = EditedEpisodes(self.path)
            if self._view.refresh() or not self._listed:
                self._list(self._view)
            yield self._view

    def _list(self, view: EditedEpisodes) -> None:
        self._listed = {key_text(item.episode.key): item for item in list_all(view)}

    def read_ahead(self) -> None:
        """List a store for the first time before anybody asks for it; a large one takes a second. Returns at once. One
        that is not there yet, or could not be read, is tried again by the next call."""
        if not self._reads_ahead and not self._listed:
            self._reads_ahead = True
            threading.Thread(target=self._read, name="episodes", daemon=True).start()

    def _read(self) -> None:
        try:
            with contextlib.suppress(SuiteError, OSError, sqlite3.Error), self._open():
                pass  # whoever asks for it is told what went wrong
        finally:
            self._reads_ahead = False

    def find(self, wanted: EpisodeFilter, most: int = 500) -> Found:
        """Those that a filter takes, the newest first and ``most`` of them. Raises StoreError where there is no
        store."""
        quality = self.quality.look() if wanted.needs_statistics else self.quality.quality
        with self._open():
            listed = list(self._listed.values())
            taken = select(listed, wanted, quality.gate_changed, quality.anomalous)
            return Found(
                [item.episode for item in taken[::-1][:most]], len(taken), len(listed), quality
            )

    def edit(self, edit: Edit) -> Edit:
        """Write something beside the data. Raises SuiteError, and then nothing is written."""
        with self._open() as view:
            done = view.append(edit)
            self._list(view)
            return done

    def history(self, key: EpisodeKey) -> list[Edit]:
        """The entries about an episode that count, the newest first."""
        with self._open() as view:
            return [
                e for e in view.log.edits[::-1]
                if key in e.episodes and e.number not in view.state.undone
            ]  # fmt: skip

    def robots(self) -> list[str]:
        """Names of the robots that made episodes."""
        with self._lock:
            return sorted({item.episode.info.robot for item in self._listed.values()})

    def episode(self, key: str) -> tuple[EditedEpisode, dict[str, Array]]:
        """An episode with all rows that were recorded, by column. Raises StoreError for one that is not there, and
        StoreCorrupt where its rows are damaged."""
        with self._open() as view:
            item = self._listed.get(key)
            if item is None:
                raise StoreError(f"episode {key}", got="none", expected="one of the store")
            info = item.episode.info
            kept = self._rows.get(key)
            if kept is None or kept[0] != info.rows:
                try:
                    self._rows[key] = (info.rows, view.reader.read_episode(info))
                except OSError as error:
                    raise StoreCorrupt(
                        f"rows of episode {key}", got=f"{error.filename}: {error.strerror}",
                        expected="the files of its segments",
                    ) from error  # fmt: skip
            self._rows.move_to_end(key)
            while len(self._rows) > 1 and (len(self._rows) > _KEPT or self._bytes() > _KEPT_BYTES):
                self._rows.popitem(last=False)
            return item.episode, self._rows[key][1]

    def damages(self, episode: EditedEpisode) -> list[str]:
        """What the store has set aside of where an episode lies, for people: learners do not draw it."""
        segments = {extent[1] for extent in episode.info.extents}
        with self._open() as view:
            return [
                f"segment {one.segment}: {one.reason}"
                for one in view.reader.tables.damages
                if one.segment in segments
            ]

    def close(self) -> None:
        """Close the store."""
        self.quality.close()
        with self._lock:
            if self._view is not None:
                self._view.close()
                self._view = None

    def _bytes(self) -> int:
        return sum(a.nbytes for _, columns in self._rows.values() for a in columns.values())


@dataclass(frozen=True)
class Found:
    """What a filter found.

    Attributes:
        episodes: The newest of them, the newest first.
        matching: How many it takes.
        total: How many there are.
        quality: What was measured so far.
    """

    episodes: list[EditedEpisode]
    matching: int
    total: int
    quality: Quality


def row_of(episode: EditedEpisode, quality: Quality | None = None) -> dict[str, Any]:
    """An episode as a row of a table; of one that was cut, the steps that are kept."""
    info, result = episode.info, episode.info.result
    found = quality.findings.get(episode.key, ()) if quality is not None else ()
    return {
        "id": key_text(info.key),
        "number": info.key.number,
        "start": result.start_ns if result else 0,
        "robot": info.robot,
        "task": info.task,
        "source": info.source.name.lower(),
        "outcome": episode.outcome.name.lower(),
        "tags": ", ".join(episode.edits.tags),
        "steps": episode.steps,
        "return": round(result.episode_return, 3) if result else None,
        "interventions": result.interventions if result else 0,
        "version": result.last_version if result else 0,
        "reason": result.reason if result else "",
        "gaps": info.gaps,
        "findings": ", ".join(dict.fromkeys(finding.kind for finding in found)),
    }


def image_columns(columns: Mapping[str, Array]) -> list[str]:
    """The columns that hold pictures, (rows, height, width, 1 or 3) uint8."""
    return [
        n
        for n, c in columns.items()
        if c.ndim == 4 and c.dtype == np.uint8 and c.shape[3] in (1, 3)
    ]


def picture(columns: Mapping[str, Array], name: str, row: int, quality: int = 85) -> bytes | None:
    """One picture as JPEG; None where there is none."""
    if name not in image_columns(columns) or not 0 <= row < len(columns[name]):
        return None
    image = columns[name][row]
    image = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if image.shape[2] == 3 else image
    done, coded = cv2.imencode(".jpg", image, (cv2.IMWRITE_JPEG_QUALITY, quality))
    return coded.tobytes() if done else None


def traces(columns: Mapping[str, Array]) -> dict[str, list[list[float | None]]]:
    """What is plotted over the rows of an episode: reward, and action as executed and as proposed, each a list of
    lines; values that are not finite are left out."""
    found: dict[str, list[list[float | None]]] = {}
    for name in ("reward", "action", "proposed_action"):
        if name not in columns:
            continue
        values = np.asarray(columns[name], np.float64).reshape(len(columns[name]), -1)
        found[name] = [
            [round(float(v), 4) if np.isfinite(v) else None for v in line] for line in values.T
        ]
    return found


def marks(columns: Mapping[str, Array]) -> dict[str, list[tuple[int, int]]]:
    """Spans of rows, first and last: in which a person, a script or the fallback acted, and in which another action
    was executed than was wanted, because the safety gate changed it or it came too late."""
    found = {}
    acted = np.asarray(columns.get("acted_by", np.zeros(0)))
    if len(acted):
        found["person"] = _spans(acted[:-1] == 1)
        found["script"] = _spans(acted[:-1] == 2)
        if fallback := _spans(acted[:-1] == ActedBy.FALLBACK):
            found["fallback"] = fallback
    if {"action", "proposed_action"} <= columns.keys() and len(acted):
        found["changed by the gate, or too late"] = _spans(changed_by_gate(columns)[:-1])
    return found


def _spans(where: Array) -> list[tuple[int, int]]:
    edges = np.diff(np.concatenate([[0], where.astype(np.int8), [0]]))
    starts, ends = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1) - 1
    return [(int(a), int(b)) for a, b in zip(starts, ends, strict=True)]
