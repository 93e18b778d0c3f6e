"""Episodes of a store for people: a list that can be filtered, and one episode by column."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from user_core.errors import StoreError
from user_core.specs import Array
from user_core.types import EpisodeKey, Outcome
from user_learner.edits.entries import Edit
from user_learner.edits.log import EditLog
from user_learner.edits.state import NO_EDITS, EditState, EpisodeEdits
from user_learner.replay.reader import EpisodeInfo, StoreReader

#: Episodes whose rows are kept in memory.
_KEPT, _KEPT_BYTES = 4, 256 * 2**20


def key_text(key: EpisodeKey) -> str:
    """An episode's identity as one word, for addresses."""
    return f"{key.producer}~{key.incarnation}~{key.number}"


@dataclass(frozen=True)
class Filter:
    """Which episodes to show; empty texts mean any.

    Attributes:
        outcome: Word of an outcome, ``success`` or ``timeout``.
        source: Word of a source, ``online`` or ``evaluation``.
        robot: Its name.
        intervened: Only those in which a person acted.
        excluded: Only those that edits exclude; else all the others.
        tag: Only those with this tag.
        longer_than: Only those of more steps.
        text: Part of key, task or reason.
    """

    outcome: str = ""
    source: str = ""
    robot: str = ""
    intervened: bool = False
    excluded: bool = False
    tag: str = ""
    longer_than: int = 0
    text: str = ""

    def takes(self, episode: EpisodeInfo, edits: EpisodeEdits = NO_EDITS) -> bool:
        """Whether it is shown."""
        result = episode.result
        if self.excluded != edits.excluded or (self.tag and self.tag not in edits.tags):
            return False
        if self.outcome and _outcome(episode, edits) != self.outcome:
            return False
        if self.source and episode.source.name.lower() != self.source:
            return False
        if self.robot and episode.robot != self.robot:
            return False
        if self.intervened and not (result and result.interventions):
            return False
        if self.longer_than and episode.rows - 1 <= self.longer_than:
            return False
        text = self.text.lower()
        return not text or text in (
            f"{key_text(episode.key)} {episode.task} {result.reason if result else ''}".lower()
        )


class EpisodeList:
    """The episodes of a store that another process may be writing. Any thread, one at a time.

    Args:
        path: Folder of the store; it need not be there yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.RLock()
        self._reader: StoreReader | None = None
        self._log: EditLog | None = None
        self._edits = EditState()
        self._episodes: dict[str, EpisodeInfo] = {}
        self._rows: OrderedDict[str, tuple[int, dict[str, Array]]] = OrderedDict()

    @contextmanager
    def _open(self) -> Iterator[StoreReader]:
        """The store, as it is now. Raises StoreError where there is none."""
        with self._lock:
            if self._reader is None:
                self._reader = StoreReader(self.path)
            changed = self._reader.refresh()
            if changed or not self._episodes:
                self._episodes = {key_text(e.key): e for e in self._reader.episodes()}
            if self._log is None:
                self._log = EditLog(self.path)
                self._edits = EditState.of(self._log.edits)
            elif self._log.refresh():
                self._edits = EditState.of(self._log.edits)
            yield self._reader

    def find(self, wanted: Filter, most: int = 500) -> tuple[list[EpisodeInfo], int, int]:
        """Those that a filter takes, the newest first and ``most`` of them; how many it takes, and how many there
        are. Raises StoreError where there is no store."""
        with self._open():
            edits = self._edits
            found = [e for e in self._episodes.values() if wanted.takes(e, edits.of_episode(e.key))]
            return found[::-1][:most], len(found), len(self._episodes)

    def edits_of(self, key: EpisodeKey) -> EpisodeEdits:
        """What people and models said of an episode later."""
        with self._lock:
            return self._edits.of_episode(key)

    def edit(self, edit: Edit) -> Edit:
        """Write something beside the data. Raises SuiteError, and then nothing is written."""
        with self._open():
            assert self._log is not None
            done = self._log.append(edit)
            self._edits = EditState.of(self._log.edits)
            return done

    def history(self, key: EpisodeKey) -> list[Edit]:
        """The entries about an episode that count, the newest first."""
        with self._open():
            log = self._log.edits if self._log is not None else ()
            return [
                e for e in log[::-1] if key in e.episodes and e.number not in self._edits.undone
            ]

    def robots(self) -> list[str]:
        """Names of the robots that made episodes."""
        with self._lock:
            return sorted({e.robot for e in self._episodes.values()})

    def episode(self, key: str) -> tuple[EpisodeInfo, dict[str, Array]]:
        """An episode with its rows, by column. Raises StoreError for one that is not there, and StoreCorrupt where
        its rows are damaged."""
        with self._open() as reader:
            info = self._episodes.get(key)
            if info is None:
                raise StoreError(f"episode {key}", got="none", expected="one of the store")
            kept = self._rows.get(key)
            if kept is None or kept[0] != info.rows:
                columns = reader.read_episode(info)
                self._rows[key] = (info.rows, columns)
            self._rows.move_to_end(key)
            while len(self._rows) > 1 and (len(self._rows) > _KEPT or self._bytes() > _KEPT_BYTES):
                self._rows.popitem(last=False)
            return info, self._rows[key][1]

    def close(self) -> None:
        """Close the store."""
        with self._lock:
            if self._reader is not None:
                self._reader.close()
                self._reader = None

    def _bytes(self) -> int:
        return sum(a.nbytes for _, columns in self._rows.values() for a in columns.values())


def _outcome(episode: EpisodeInfo, edits: EpisodeEdits = NO_EDITS) -> str:
    if edits.outcome is not None:
        return edits.outcome.name.lower()
    return (episode.result.outcome if episode.result else Outcome.UNFINISHED).name.lower()


def row_of(episode: EpisodeInfo, edits: EpisodeEdits = NO_EDITS) -> dict[str, Any]:
    """An episode as a row of a table."""
    result = episode.result
    return {
        "id": key_text(episode.key),
        "number": episode.key.number,
        "start": result.start_ns if result else 0,
        "robot": episode.robot,
        "task": episode.task,
        "source": episode.source.name.lower(),
        "outcome": _outcome(episode, edits),
        "tags": ", ".join(edits.tags),
        "steps": max(episode.rows - 1, 0),
        "return": round(result.episode_return, 3) if result else None,
        "interventions": result.interventions if result else 0,
        "version": result.last_version if result else 0,
        "reason": result.reason if result else "",
        "gaps": episode.gaps,
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
    """Spans of rows, first and last: in which a person acted, and in which the safety gate changed the action that
    was wanted."""
    found = {}
    acted = np.asarray(columns.get("acted_by", np.zeros(0)))
    if len(acted):
        found["person"] = _spans(acted[:-1] == 1)
        found["script"] = _spans(acted[:-1] == 2)
    if "action" in columns and "proposed_action" in columns:
        action, proposed = columns["action"][:-1], columns["proposed_action"][:-1]
        differs = np.abs(action - proposed).reshape(len(action), -1).max(1, initial=0) > 1e-5
        found["changed by the gate"] = _spans(differs & (acted[:-1] == 0))
    return found


def _spans(where: Array) -> list[tuple[int, int]]:
    edges = np.diff(np.concatenate([[0], where.astype(np.int8), [0]]))
    starts, ends = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1) - 1
    return [(int(a), int(b)) for a, b in zip(starts, ends, strict=True)]
