"""Episodes between stores and files: export, import, and merging of stores; nothing twice."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from user_core.codecs.trajectory import EpisodeFileReader, EpisodeFileWriter, RecordedEpisode
from user_core.errors import SpecError, StoreError, StoreFull, SuiteError
from user_core.types import ChunkId, EpisodeKey, EpisodeSource, TrajectoryChunk
from user_learner.replay.index import WHOLE_SEGMENT
from user_learner.replay.ingest import ChunkStatus
from user_learner.replay.layout import LogEntry, require_same_schema
from user_learner.replay.meaning import join_meaning, read_meaning
from user_learner.replay.reader import EpisodeInfo, StoreReader
from user_learner.replay.writer import StoreWriter

Progress = Callable[[int, int], None]


@dataclass
class TransferReport:
    """What an export or import did.

    Attributes:
        episodes: Episodes that were written.
        rows: Rows in them.
        duplicates: Episodes that were there before.
        skipped: Episodes that were left out, and why.
        notes: What is to be known of their meaning.
    """

    episodes: int = 0
    rows: int = 0
    duplicates: int = 0
    skipped: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def export_episodes(
    store: str | Path,
    file: str | Path,
    sources: Collection[EpisodeSource] = tuple(EpisodeSource),
    compress: bool = False,
    progress: Progress | None = None,
    edited: Callable[[StoreReader, EpisodeInfo], RecordedEpisode | None] | None = None,
) -> TransferReport:
    """Write the episodes of a store to a file.

    Episodes that miss rows in their middle, or have rows that are set aside, are left out. ``edited``
    gives an episode as edits say, None for one that they exclude; without it they go as recorded.

    Raises:
        StoreError: There is no store, or it is empty.
        OSError: The file cannot be written; nothing is left of it.
    """
    reader = StoreReader(store)
    report = TransferReport()
    try:
        chosen = [episode for episode in reader.episodes() if episode.source in sources]
        schema = reader.layout.schema
        meaning = read_meaning(store, schema).spec
        with EpisodeFileWriter(file, schema, compress, meaning) as target:
            for done, episode in enumerate(chosen):
                if progress:
                    progress(done, len(chosen))
                reason = incomplete(reader, episode)
                if reason:
                    report.skipped.append(f"episode {episode.key}: {reason}")
                    continue
                found = (edited or recorded)(reader, episode)
                if found is None:
                    continue
                target.add(found)
                report.episodes += 1
                report.rows += len(found)
    finally:
        reader.close()
    return report


def import_episodes(
    file: str | Path,
    target: StoreWriter,
    source: EpisodeSource | None = None,
    progress: Progress | None = None,
    accepted: Collection[str] = (),
) -> TransferReport:
    """Take the episodes of a file into a store, each at most once.

    Args:
        file: The episode file; not trusted.
        target: Where to.
        source: What they count as from now on; None keeps what they are.
        progress: Called with episodes done and episodes in all.
        accepted: Differences of meaning that are none, see :mod:`user_core.meaning`.

    Raises:
        SchemaMismatch: The file has other specs, or means other things; spells out the
            difference. Nothing was taken.
        CodecError: The file is damaged; what came before the damage was taken.
        StoreFull: As :meth:`StoreWriter.append`.
    """
    report = TransferReport()
    with EpisodeFileReader(file) as episodes:
        if target.schema is not None:
            require_same_schema(target.schema, episodes.schema, str(file))
        report.notes += join_meaning(
            target.path, target.schema, episodes.meaning, str(file), accepted, "--accept "
        )
        try:
            for done, episode in enumerate(episodes):
                if progress:
                    progress(done, len(episodes))
                take(target, _relabelled(episode, source), episodes.schema.hash, report)
        finally:
            target.commit()
    return report


def take(
    target: StoreWriter, episode: RecordedEpisode, schema_hash: str, report: TransferReport
) -> None:
    """Take an episode into a store, unless it is there, and count it."""
    chunk = TrajectoryChunk(
        id=ChunkId(episode.key.producer, 0, 1),
        episode=episode.key,
        source=episode.source,
        first_row=episode.first_row,
        columns=episode.columns,
        schema_hash=schema_hash,
        result=episode.result,
        robot=episode.robot,
        task=episode.task,
    )
    try:
        taken = target.adopt(chunk)
    except StoreFull:
        raise
    except (SpecError, StoreError) as error:
        report.skipped.append(f"episode {episode.key}: {error}")
        return
    report.duplicates += not taken
    report.episodes += taken
    report.rows += len(chunk) * taken


def _relabelled(episode: RecordedEpisode, source: EpisodeSource | None) -> RecordedEpisode:
    if source is None:
        return episode
    result = None if episode.result is None else replace(episode.result, source=source)
    return replace(episode, source=source, result=result)


def recorded(reader: StoreReader, episode: EpisodeInfo) -> RecordedEpisode:
    """An episode of a store with all its rows."""
    return RecordedEpisode(
        key=episode.key,
        source=episode.source,
        columns=reader.read_episode(episode),
        result=episode.result,
        robot=episode.robot,
        task=episode.task,
        first_row=episode.extents[0][0] if episode.extents else 0,
    )


def incomplete(reader: StoreReader, episode: EpisodeInfo) -> str:
    """Why an episode cannot be exported; empty when it can."""
    expected = episode.extents[0][0] if episode.extents else 0
    block_rows = reader.meta.block_rows
    for first_row, segment, start, rows in episode.extents:
        if first_row != expected:
            return f"rows {expected} to {first_row - 1} are missing"
        expected = first_row + rows
        for damage in reader.tables.damages:
            low, high = damage.block * block_rows, (damage.block + 1) * block_rows
            whole = damage.block == WHOLE_SEGMENT
            if damage.segment == segment and (whole or (start < high and start + rows > low)):
                return f"rows in segment {segment} are set aside: {damage.reason}"
    return "" if episode.extents else "none of its rows is left"


# --------------------------------------------------------------------------------------------------
# Merging stores
# --------------------------------------------------------------------------------------------------


@dataclass
class MergeReport:
    """What a merge did.

    Attributes:
        chunks: Chunks that were taken over, imported episodes included.
        rows: Rows in them.
        duplicates: Chunks and imported episodes that were here before.
        skipped: What was not taken over, and why.
        notes: What is to be known of their meaning.
    """

    chunks: int = 0
    rows: int = 0
    duplicates: int = 0
    skipped: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def merge(
    source: str | Path,
    target: StoreWriter,
    progress: Progress | None = None,
    accepted: Collection[str] = (),
) -> MergeReport:
    """Take over everything that ``source`` holds and ``target`` does not.

    Chunks keep their identity: one that both stores received is recognised by its number, and
    a producer may go on with the merged store. Interrupted, a merge can simply be started
    again. Rows that are set aside in ``source`` are not taken over.

    Raises:
        SchemaMismatch: The stores have not the same schema, or mean other things that are not
            among those ``accepted`` (:mod:`user_core.meaning`); spells out the difference.
        StoreError, StoreFull: As :meth:`StoreWriter.append`.
    """
    reader = StoreReader(source)
    try:
        if reader.schema is None:
            return MergeReport()
        if target.schema is not None:
            require_same_schema(target.schema, reader.schema, str(source))
        spec = read_meaning(source, reader.schema).spec
        notes = join_meaning(target.path, target.schema, spec, str(source), accepted, "--accept ")
        report = _merge(reader, target, progress or (lambda done, total: None))
        report.notes += notes
        return report
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
                result = target.append_merged(chunk)
                taken = result.status is ChunkStatus.STAGED
                if result.status is ChunkStatus.REFUSED:
                    report.skipped.append(f"{key}: {result.ack.error}")
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
