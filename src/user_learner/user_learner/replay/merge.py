"""Merging: what another store holds is taken over, chunk by chunk, nothing twice."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from user_core.errors import SuiteError
from user_core.types import ChunkId, EpisodeKey, EpisodeSource, TrajectoryChunk
from user_learner.replay.chunklog import LogEntry
from user_learner.replay.door import require_same_schema
from user_learner.replay.quarantine import WHOLE_SEGMENT
from user_learner.replay.reader import StoreReader
from user_learner.replay.receipt import Receipt
from user_learner.replay.writer import StoreWriter

Progress = Callable[[int, int], None]


@dataclass
class MergeReport:
    """What a merge did.

    Attributes:
        chunks: Chunks that were taken over, imported episodes included.
        rows: Rows in them.
        duplicates: Chunks and imported episodes that were here before.
        skipped: What was not taken over, and why.
    """

    chunks: int = 0
    rows: int = 0
    duplicates: int = 0
    skipped: list[str] = field(default_factory=list)


def merge(source: str | Path, target: StoreWriter, progress: Progress | None = None) -> MergeReport:
    """Take over everything that ``source`` holds and ``target`` does not.

    Chunks keep their identity: one that both stores received is recognised by its number, and
    a producer may go on with the merged store. Interrupted, a merge can simply be started
    again. Rows that are set aside in ``source`` are not taken over.

    Raises:
        SchemaMismatch: The stores have not the same schema; spells out the difference.
        StoreError, StoreFull: As :meth:`StoreWriter.append`.
    """
    reader = StoreReader(source)
    try:
        if reader.schema is None:
            return MergeReport()
        if target.schema is not None:
            require_same_schema(target.schema, reader.schema, str(source))
        return _merge(reader, target, progress or (lambda done, total: None))
    finally:
        reader.close()


def _merge(reader: StoreReader, target: StoreWriter, progress: Progress) -> MergeReport:
    report = MergeReport()
    pieces = _pieces(reader, report)
    for done, key in enumerate(sorted(pieces, key=_order)):
        progress(done, len(pieces))
        if _damaged(reader, pieces[key]):
            report.skipped.append(f"{key}: some of its rows are set aside")
            continue
        chunk = _chunk(reader, key, pieces[key])
        try:
            if isinstance(key, EpisodeKey):
                taken = target.adopt(chunk)
            else:
                answer = target.append_merged(chunk)
                taken = answer.receipt is Receipt.STAGED
                if answer.receipt is Receipt.REFUSED:
                    report.skipped.append(f"{key}: {answer.ack.error}")
                    continue
        except SuiteError as error:
            if isinstance(key, EpisodeKey) and error.code in ("store", "spec"):
                report.skipped.append(f"{key}: {error}")
                continue
            raise
        report.duplicates += not taken
        report.chunks += taken
        report.rows += len(chunk) * taken
    target.commit()
    progress(len(pieces), len(pieces))
    return report


_Piece = tuple[int, LogEntry]


def _pieces(reader: StoreReader, report: MergeReport) -> dict[ChunkId | EpisodeKey, list[_Piece]]:
    found: dict[ChunkId | EpisodeKey, list[_Piece]] = defaultdict(list)
    for segment, _, _ in reader.tables.segments.tolist():
        try:
            for entry in reader.log(segment):
                found[entry.chunk or entry.episode].append((segment, entry))
        except SuiteError as error:
            report.skipped.append(str(error))
    for key in [
        key for key in found if sum(e.rows for _, e in found[key]) != found[key][0][1].total
    ]:
        report.skipped.append(f"{key}: only a part of it is left")
        del found[key]
    return found


def _order(key: ChunkId | EpisodeKey) -> tuple[int, str, int, int]:
    """Imported episodes first, then the chunks of each producer by number."""
    if isinstance(key, EpisodeKey):
        return (0, key.producer, key.incarnation, key.number)
    return (1, key.producer, key.incarnation, key.sequence)


def _damaged(reader: StoreReader, pieces: list[_Piece]) -> bool:
    block_rows = reader.meta.block_rows
    for damage in reader.tables.damages:
        low, high = damage.block * block_rows, (damage.block + 1) * block_rows
        for segment, entry in pieces:
            whole = damage.block == WHOLE_SEGMENT
            overlaps = entry.start < high and entry.start + entry.rows > low
            if segment == damage.segment and (whole or overlaps):
                return True
    return False


def _chunk(reader: StoreReader, key: ChunkId | EpisodeKey, pieces: list[_Piece]) -> TrajectoryChunk:
    pieces = sorted(pieces, key=lambda piece: piece[1].offset)
    parts = [reader.read(segment, entry.start, entry.rows) for segment, entry in pieces]
    first, last = pieces[0][1], pieces[-1][1]
    sources = {segment: source for segment, source, _ in reader.tables.segments.tolist()}
    return TrajectoryChunk(
        id=key if isinstance(key, ChunkId) else ChunkId(key.producer, 0, 1),
        episode=first.episode,
        source=EpisodeSource(sources[pieces[0][0]]),
        first_row=first.first_row,
        columns={name: np.concatenate([part[name] for part in parts]) for name in parts[0]},
        schema_hash=reader.layout.schema.hash,
        result=last.result,
        robot=first.robot,
        task=first.task,
    )
