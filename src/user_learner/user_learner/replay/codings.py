"""Which rows of a store hold pictures that were coded with loss, in ``codings.jsonl`` beside it.

A line for each change: ``{"producer", "incarnation", "sequence", "column", "coding"}``; from this
chunk on, the column came in this coding (empty: without loss), until a later line says
otherwise. Chunks that are sent again keep the numbers and so the meaning.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from user_core.codecs.images import is_lossy
from user_core.types import TrajectoryChunk

FILE = "codings.jsonl"


class CodingLog:
    """Writes a line, durably, before the first chunk that it is about. One thread.

    Args:
        store: Directory of the store.
    """

    def __init__(self, store: Path) -> None:
        self._path = store / FILE
        self._now: dict[tuple[str, str], str] = {}
        for entry in read_codings(store):
            self._now[entry["producer"], entry["column"]] = entry["coding"]

    def note(self, chunk: TrajectoryChunk) -> None:
        """Take down how a chunk's images came. Raises OSError when the disk does not take it."""
        lossy = {name: c for name, c in chunk.codings.items() if is_lossy(c)}
        producer = chunk.id.producer
        before = {name: c for (who, name), c in self._now.items() if who == producer and c}
        if lossy == before or not len(chunk):
            return
        lines = [
            {
                "producer": producer,
                "incarnation": chunk.id.incarnation,
                "sequence": chunk.id.sequence,
                "column": name,
                "coding": lossy.get(name, ""),
            }
            for name in sorted(lossy.keys() | before)
            if lossy.get(name, "") != before.get(name, "")
        ]
        with self._path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)
            file.flush()
            os.fsync(file.fileno())
        for line in lines:
            self._now[producer, str(line["column"])] = str(line["coding"])


def read_codings(store: Path) -> list[dict[str, str]]:
    """The lines of a store, oldest first; a last one that a crash cut off is left out."""
    path = store / FILE
    if not path.exists():
        return []
    entries = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            entry = json.loads(line)
            entries.append({**entry, "producer": entry["producer"], "coding": entry["coding"]})
        except (ValueError, KeyError, TypeError):
            continue
    return entries
