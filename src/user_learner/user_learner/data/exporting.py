"""Export: the episodes of a store, all or chosen, as a data set of another format."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from user_core.codecs.trajectory import RecordedEpisode
from user_core.specs import RobotSpec
from user_core.types import EpisodeKey, EpisodeSource, Outcome, TrajectorySchema
from user_learner.data.hdf5_writer import Hdf5Writer
from user_learner.data.lerobot.writer import FILE_STEPS, LeRobotWriter
from user_learner.data.mcap.writer import McapWriter
from user_learner.data.minari_writer import MinariWriter
from user_learner.edits.view import EditedEpisode, EditedEpisodes
from user_learner.replay.meaning import read_meaning
from user_learner.replay.reader import StoreReader
from user_learner.replay.transfer import TransferReport, incomplete

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Choice:
    """Which episodes are exported; what is empty chooses all.

    Attributes:
        sources: Why they were recorded.
        outcomes: How they ended.
        robots: Names of robots.
        tasks: Names of tasks.
        episodes: Identities.
        least_return: Smallest return.
    """

    sources: Collection[EpisodeSource] = ()
    outcomes: Collection[Outcome] = ()
    robots: Collection[str] = ()
    tasks: Collection[str] = ()
    episodes: Collection[EpisodeKey] = ()
    least_return: float | None = None

    def takes(self, episode: EditedEpisode) -> bool:
        """Whether an episode, as edits say, is chosen."""
        result, outcome, info = episode.result, episode.outcome, episode.info
        return (
            (not self.sources or episode.source in self.sources)
            and (not self.outcomes or outcome in self.outcomes)
            and (not self.robots or info.robot in self.robots)
            and (not self.tasks or info.task in self.tasks)
            and (not self.episodes or episode.key in self.episodes)
            and (
                self.least_return is None
                or (result is not None and result.episode_return >= self.least_return)
            )
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "sources": sorted(int(s) for s in self.sources),
            "outcomes": sorted(int(o) for o in self.outcomes),
            "robots": sorted(self.robots),
            "tasks": sorted(self.tasks),
            "episodes": sorted(map(str, self.episodes)),
            "least_return": self.least_return,
        }


ALL = Choice()


@dataclass
class ExportReport(TransferReport):
    """What an export did.

    Attributes:
        psnr_db: What the coding of images has lost, dB; infinite without loss.
        path: Where it lies: Minari's names end with a version.
    """

    psnr_db: float = field(default=float("inf"))
    path: Path = Path()


def chosen_episodes(
    store: EditedEpisodes, choice: Choice, report: TransferReport
) -> Iterator[EditedEpisode]:
    """Whole episodes of a store that are chosen; those that miss rows are counted as left out."""
    for episode in store.episodes():
        if not choice.takes(episode):
            continue
        reason = incomplete(store.reader, episode.info)
        if reason:
            report.skipped.append(f"episode {episode.key}: {reason}")
            continue
        yield episode


def export_lerobot(
    store: str | Path,
    path: str | Path,
    choice: Choice = ALL,
    coding: str = "h264",
    progress: Progress | None = None,
    file_steps: int = FILE_STEPS,
) -> ExportReport:
    """Write the episodes of a store as a LeRobotDataset v3; one that was stopped continues.

    Episodes are as edits say (:mod:`user_learner.edits`): what is excluded is left out.

    Args:
        store: The store; only read.
        path: Directory of the data set.
        choice: Which episodes.
        coding: How images are kept (:data:`user_learner.data.lerobot.video.CODINGS`).
        progress: Called with episodes done and in all.
        file_steps: Steps of one file, and the most that is written again after a kill.

    Raises:
        StoreError: There is no store, or it is empty.
        CodecError: ``path`` has something else.
        OSError: The disk is full; the same export continues when there is room.
    """

    def writer(reader: StoreReader, spec: RobotSpec | None, origin: dict[str, Any]) -> _Writer:
        schema = _told(reader.layout.schema, spec)
        return LeRobotWriter(path, schema, spec, coding, file_steps, origin)

    return _export(store, writer, choice, progress)


def export_hdf5(
    store: str | Path, path: str | Path, choice: Choice = ALL, progress: Progress | None = None
) -> ExportReport:
    """Write the episodes of a store as an HDF5 file in robomimic's layout, without loss.

    Raises:
        StoreError: There is no store, or it is empty.
        CodecError: There is a file of this name.
        OSError: The disk is full; nothing is left of the file.
    """
    return _export_anew(Hdf5Writer, store, path, choice, progress)


def export_mcap(
    store: str | Path, path: str | Path, choice: Choice = ALL, progress: Progress | None = None
) -> ExportReport:
    """Write the episodes of a store as a bag of MCAP files, without loss.

    Raises:
        StoreError: There is no store, or it is empty.
        CodecError: There is something of this name.
        OSError: The disk is full; nothing is left of the bag.
    """
    return _export_anew(McapWriter, store, path, choice, progress)


def export_minari(
    store: str | Path, path: str | Path, choice: Choice = ALL, progress: Progress | None = None
) -> ExportReport:
    """Write the episodes of a store as a Minari data set (HDF5). An episode without a final observation
    ends a step earlier there; one of a single observation is left out.

    Raises:
        StoreError: There is no store, or it is empty.
        CodecError: There is something of this name.
        OSError: The disk is full; nothing is left of it.
    """
    return _export_anew(MinariWriter, store, path, choice, progress)


class _Writer(Protocol):
    """What writes one format."""

    @property
    def path(self) -> Path: ...

    @property
    def written(self) -> Collection[tuple[str, int, int]]: ...

    @property
    def loss_psnr_db(self) -> float: ...

    def add(self, episode: RecordedEpisode) -> None: ...

    def finish(self) -> None: ...

    def abort(self) -> None: ...


def _export_anew(
    kind: Callable[[str | Path, TrajectorySchema, RobotSpec | None], _Writer],
    store: str | Path,
    path: str | Path,
    choice: Choice,
    progress: Progress | None,
) -> ExportReport:
    """By a writer that neither continues what was stopped nor notes where episodes are from."""

    def writer(reader: StoreReader, spec: RobotSpec | None, origin: dict[str, Any]) -> _Writer:
        return kind(path, _told(reader.layout.schema, spec), spec)

    return _export(store, writer, choice, progress)


def _told(schema: TrajectorySchema, spec: RobotSpec | None) -> TrajectorySchema:
    """A schema with the names, units and frames of ``spec``, where it has none itself.

    That of a run's store has none: it is made from what robots send, which are shapes and numbers.
    """
    if spec is None:
        return schema
    known = TrajectorySchema.of(spec).columns
    columns = dict(schema.columns)
    for name, column in columns.items():
        says = known.get(name)
        if says and (says.shape, says.dtype) == (column.shape, column.dtype):
            columns[name] = replace(
                column,
                names=column.names or says.names,
                unit=column.unit or says.unit,
                frame=column.frame or says.frame,
            )
    return TrajectorySchema(columns)


def _export(
    store: str | Path,
    make: Callable[[StoreReader, RobotSpec | None, dict[str, Any]], _Writer],
    choice: Choice,
    progress: Progress | None,
) -> ExportReport:
    report = ExportReport()
    with closing(StoreReader(store)) as reader:
        spec = read_meaning(store, reader.layout.schema).spec
        edited = EditedEpisodes(reader)
        episodes = list(chosen_episodes(edited, choice, report))
        origin = {"store": reader.meta.store, "edits": len(edited.log.edits), **choice.to_dict()}
        writer = make(reader, spec, origin)
        report.path = writer.path
        try:
            for done, chosen in enumerate(episodes):
                if progress:
                    progress(done, len(episodes))
                key = chosen.key
                if (key.producer, key.incarnation, key.number) in writer.written:
                    report.duplicates += 1
                    continue
                episode = edited.recorded(chosen)
                if not _has_steps(episode):
                    report.skipped.append(f"episode {key}: it has no step")
                    continue
                writer.add(episode)
                report.episodes += 1
                report.rows += len(episode)
            writer.finish()
        finally:
            writer.abort()
        report.psnr_db = writer.loss_psnr_db
    if spec is None:
        report.notes.append(f"meaning of {store} is unknown: its rate was taken for 10 Hz")
    return report


def _has_steps(episode: RecordedEpisode) -> bool:
    return bool((~episode.columns["final"]).any())
