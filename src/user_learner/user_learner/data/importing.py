"""Import: episodes of data sets into a store, each once, continued where it was stopped.

An episode is known by what it holds, wherever it lies. Beside that a log in the store,
``imports.log``, says which episodes of which files are here, so that an import that is continued
does not decode them again. It is written after the commit; where it is lost, they are read again and
recognised.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from user_core.codecs.lines import decode_line, encode_line
from user_core.codecs.trajectory import RecordedEpisode
from user_core.errors import SuiteError
from user_core.specs import RobotSpec, digest
from user_core.types import EpisodeKey, EpisodeSource, TrajectorySchema
from user_learner.data.mapping import DataMapping, Mapped, load_mapping, propose
from user_learner.data.reading_ahead import ReadingAhead
from user_learner.data.source import Description, EpisodeRef, Source, open_source
from user_learner.replay.index import connect, store_at
from user_learner.replay.layout import require_same_schema
from user_learner.replay.meaning import join_meaning
from user_learner.replay.transfer import TransferReport, take
from user_learner.replay.writer import StoreWriter

LOG = "imports.log"
Progress = Callable[[int, int], None]
#: Episodes are committed after this many, or with the bytes that the store commits by itself.
COMMIT_EPISODES = 64


@dataclass
class ImportReport(TransferReport):
    """What an import did.

    Attributes:
        mapping: How the data was taken; None where a store had exported it.
        unread: Episodes that the log knew, so that they were not read again.
    """

    mapping: DataMapping | None = None
    unread: int = 0


def import_data(
    path: str | Path,
    target: StoreWriter,
    mapping: DataMapping | None = None,
    *,
    format_name: str = "",
    source: EpisodeSource | None = None,
    progress: Progress | None = None,
    accepted: Collection[str] = (),
    options: Mapping[str, Any] | None = None,
    processes: int | None = 0,
) -> ImportReport:
    """Take the episodes of a data set into a store, each at most once.

    Args:
        path: The data set; not trusted.
        target: Where to.
        mapping: What its arrays are; None takes what a store had exported as it was, and others by
            :func:`~user_learner.data.mapping.propose`.
        format_name: Its format; empty to find out.
        source: What the episodes count as; None for what data or mapping say.
        progress: Called with episodes done and in all.
        accepted: Differences of meaning that are none, see :mod:`user_core.meaning`.
        options: What only the format understands; before those of the mapping.
        processes: How many read, see :class:`~user_learner.data.reading_ahead.ReadingAhead`.

    Raises:
        SchemaMismatch: The data has other shapes, or means other things, than the store. Nothing
            was taken.
        StoreFull: The disk is full; what was committed stays, and the import continues later.
        SuiteError: The data set as a whole cannot be read.
    """
    report = ImportReport()
    options = {**(mapping.options if mapping else {}), **(options or {})}
    format_name = format_name or (mapping.format if mapping else "")
    with open_source(path, format_name, options) as data:
        description = data.describe()
        if mapping is None and description.as_it_was is None and not description.roles:
            data.episodes()  # a format that lacks something says what, better than the search for an action
        taking = Taken(description, mapping)
        report.mapping = taking.mapping
        if target.schema is not None:
            require_same_schema(target.schema, taking.schema, str(path))
        report.notes += join_meaning(
            target.path, target.schema, taking.spec, str(path), accepted, "--accept "
        )
        report.notes += description.notes
        if mapping is None and taking.mapping is not None and not description.period_s:
            report.notes.append(
                f"{path} does not say at which rate it is: {1 / taking.mapping.period_s:g} Hz is a guess; "
                "period_s in a mapping says it"
            )
        with ReadingAhead(data, taking, path, format_name, options, processes) as reading:
            refs = list(data.episodes())
            _take_all(
                reading, refs, taking, target, source, report,
                progress or (lambda done, total: None),
            )  # fmt: skip
    return report


class Taken:
    """How the episodes of a data set become those of a store."""

    def __init__(self, description: Description, mapping: DataMapping | None) -> None:
        self._mapped: Mapped | None = None
        self.mapping = mapping
        self.as_it_was = mapping is None and description.as_it_was is not None
        if self.as_it_was and description.as_it_was is not None:
            self.schema: TrajectorySchema = description.as_it_was
            self.spec: RobotSpec | None = description.spec
            return
        self.mapping = mapping or propose(description)
        self._mapped = Mapped(self.mapping, description)
        self.schema, self.spec = self._mapped.schema, self._mapped.spec

    def read(self, data: Source, ref: EpisodeRef) -> RecordedEpisode:
        if self._mapped is None:
            found = data.read(ref).recorded
            if found is None:
                raise AssertionError("an export of a store has its episodes as they were")
            return found
        episode = data.read(ref, self._mapped.wanted, self._mapped.sizes)
        return self._mapped.episode(episode)


def _take_all(
    reading: ReadingAhead,
    refs: list[EpisodeRef],
    taking: Taken,
    target: StoreWriter,
    source: EpisodeSource | None,
    report: ImportReport,
    progress: Progress,
) -> None:
    log = ImportLog(target.path, target.store)
    waiting: dict[EpisodeKey, str] = {}
    try:
        for done, read in enumerate(reading.read(refs, log)):
            progress(done, len(refs))
            if read.known:
                report.duplicates += 1
                report.unread += 1
                continue
            if read.episode is None:
                report.skipped.append(f"episode {read.ref.number}: {read.why}")
                continue
            episode = read.episode
            if source is not None:
                result = episode.result and replace(episode.result, source=source)
                episode = replace(episode, source=source, result=result)
            before = len(report.skipped)
            take(target, episode, taking.schema.hash, report)
            if len(report.skipped) == before:
                waiting[episode.key] = read.ref.place
            if len(waiting) >= COMMIT_EPISODES:
                target.commit()
                log.add(_committed(target.path, waiting))
                waiting = {}
        target.commit()
        log.add(_committed(target.path, waiting))
        progress(len(refs), len(refs))
    except BaseException:
        reading.close()
        with suppress(SuiteError, OSError):  # the error that is on its way says it
            target.commit()
            log.add(_committed(target.path, waiting))
        raise


def _committed(store: Path, waiting: dict[EpisodeKey, str]) -> list[str]:
    """Places of episodes that the store has: after a failure it forgets what was not committed."""
    with closing(connect(store, writable=False)) as index:
        return [
            place
            for key, place in waiting.items()
            if index.execute(
                "SELECT 1 FROM episodes WHERE producer = ? AND incarnation = ? AND number = ?",
                (key.producer, key.incarnation, key.number),
            ).fetchone()
        ]


class ImportLog:
    """Which episodes of which files a store has taken. A line that is not whole is passed over.

    Args:
        store: Its directory.
        identity: Of the store: the log of another one is not believed.
    """

    def __init__(self, store: Path, identity: str) -> None:
        self._path, self._identity = store / LOG, identity
        self._known: set[str] = set()
        try:
            content = self._path.read_bytes()
        except FileNotFoundError:
            return
        for line in content.splitlines():
            with suppress(ValueError):
                said = decode_line(line)
                if said.get("store") == identity:
                    self._known.update(said["places"])

    def __contains__(self, place: object) -> bool:
        return isinstance(place, str) and digest(place)[:24] in self._known

    def add(self, places: list[str]) -> None:
        """Say that these are in the store, which has committed them."""
        marks = [digest(place)[:24] for place in places if place]
        if not marks:
            return
        with open(self._path, "ab") as stream:  # a line that was cut short ends here
            stream.write(b"\n" + encode_line({"store": self._identity, "places": marks}))
            stream.flush()
            os.fsync(stream.fileno())
        self._known.update(marks)


def stores_of(
    data: Sequence[str | Path],
    into: Path,
    mapping: str = "",
    progress: Progress = lambda done, total: None,
    format_name: str = "",
    options: Mapping[str, Any] | None = None,
) -> tuple[list[Path], list[str]]:
    """Stores that hold what is given: itself, or what a data set is imported to, each episode once.

    Args:
        data: Stores, or data sets of other formats.
        into: Store for what has to be imported; made when it is needed.
        mapping: File that says what arrays of data sets are; empty: as they say themselves.
        progress: Told of episodes imported, and in all.
        format_name, options: Of data sets, as for :func:`import_data`.

    Returns:
        The stores, and what a person should know.

    Raises:
        SuiteError: It is neither, or cannot be read.
    """
    stores, foreign = [], []
    for each in map(Path, data):
        store = store_at(each)
        (foreign.append(each) if store is None else stores.append(store))
    notes: list[str] = []
    if foreign:
        given = load_mapping(mapping) if mapping else None
        with StoreWriter(into) as target:
            for each in foreign:
                report = import_data(
                    each, target, given,
                    format_name=format_name, progress=progress, options=options,
                )  # fmt: skip
                notes += [*report.notes, *(f"{each}: {line}" for line in report.skipped)]
                if report.mapping is not None and given is None:
                    notes.append(
                        f"{each}: what its actions do is not known ({report.mapping.action.kind.value}); "
                        "before a robot is driven by this, say it: user data inspect, --map"
                    )
        stores.append(into)
    return stores, notes
