"""Export to and import from episode files (:mod:`user_core.codecs.episodes`)."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from pathlib import Path

from user_core.codecs.episodes import EpisodeFileReader, EpisodeFileWriter, RecordedEpisode
from user_core.errors import SpecError, StoreError, StoreFull
from user_core.types import ChunkId, EpisodeSource, TrajectoryChunk
from user_learner.replay.door import require_same_schema
from user_learner.replay.quarantine import WHOLE_SEGMENT
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
    """

    episodes: int = 0
    rows: int = 0
    duplicates: int = 0
    skipped: list[str] = field(default_factory=list)


def export_episodes(
    store: str | Path,
    file: str | Path,
    sources: Collection[EpisodeSource] = tuple(EpisodeSource),
    compress: bool = False,
    progress: Progress | None = None,
) -> TransferReport:
    """Write the episodes of a store to a file.

    Episodes that miss rows in their middle, or have rows that are set aside, are left out.

    Raises:
        StoreError: There is no store, or it is empty.
        OSError: The file cannot be written; nothing is left of it.
    """
    reader = StoreReader(store)
    report = TransferReport()
    try:
        chosen = [episode for episode in reader.episodes() if episode.source in sources]
        with EpisodeFileWriter(file, reader.layout.schema, compress) as target:
            for done, episode in enumerate(chosen):
                if progress:
                    progress(done, len(chosen))
                reason = _incomplete(reader, episode)
                if reason:
                    report.skipped.append(f"episode {episode.key}: {reason}")
                    continue
                target.add(_recorded(reader, episode))
                report.episodes += 1
                report.rows += sum(extent[3] for extent in episode.extents)
    finally:
        reader.close()
    return report


def import_episodes(
    file: str | Path,
    target: StoreWriter,
    source: EpisodeSource | None = None,
    progress: Progress | None = None,
) -> TransferReport:
    """Take the episodes of a file into a store, each at most once.

    Args:
        file: The episode file; not trusted.
        target: Where to.
        source: What they count as from now on; None keeps what they are.
        progress: Called with episodes done and episodes in all.

    Raises:
        SchemaMismatch: The file has other specs; spells out the difference. Nothing was taken.
        CodecError: The file is damaged; what came before the damage was taken.
        StoreFull: As :meth:`StoreWriter.append`.
    """
    report = TransferReport()
    with EpisodeFileReader(file) as episodes:
        if target.schema is not None:
            require_same_schema(target.schema, episodes.schema, str(file))
        try:
            for done, episode in enumerate(episodes):
                if progress:
                    progress(done, len(episodes))
                _import(target, _relabelled(episode, source), episodes.schema.hash, report)
        finally:
            target.commit()
    return report


def _import(
    target: StoreWriter, episode: RecordedEpisode, schema_hash: str, report: TransferReport
) -> None:
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


def _recorded(reader: StoreReader, episode: EpisodeInfo) -> RecordedEpisode:
    return RecordedEpisode(
        key=episode.key,
        source=episode.source,
        columns=reader.read_episode(episode),
        result=episode.result,
        robot=episode.robot,
        task=episode.task,
        first_row=episode.extents[0][0] if episode.extents else 0,
    )


def _incomplete(reader: StoreReader, episode: EpisodeInfo) -> str:
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
