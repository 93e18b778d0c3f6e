"""A store as its edits say: what exports, statistics and tools read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from user_core.codecs.trajectory import RecordedEpisode
from user_core.runtime.closing import Closing
from user_core.specs import Array
from user_core.types import (
    EpisodeKey,
    EpisodeResult,
    EpisodeSource,
    Outcome,
    RewardSource,
)
from user_learner.edits.columns import RewardColumn
from user_learner.edits.entries import Edit
from user_learner.edits.log import EditLog
from user_learner.edits.state import EditState, EpisodeEdits
from user_learner.replay.reader import EpisodeInfo, StoreReader


@dataclass(frozen=True)
class EditedEpisode:
    """An episode as its edits say.

    Attributes:
        info: What was recorded.
        edits: What was said since.
    """

    info: EpisodeInfo
    edits: EpisodeEdits

    @property
    def key(self) -> EpisodeKey:
        """Its identity."""
        return self.info.key

    @property
    def source(self) -> EpisodeSource:
        """Why it was recorded."""
        return self.info.source

    @property
    def outcome(self) -> Outcome:
        """How it ended, as was said last; UNFINISHED where nothing was ever told."""
        if self.edits.outcome is not None:
            return self.edits.outcome
        return self.info.result.outcome if self.info.result is not None else Outcome.UNFINISHED

    @property
    def result(self) -> EpisodeResult | None:
        """The recorded result with outcome and length as edits say. Its return is the recorded one:
        :meth:`EditedEpisodes.recorded` sums up anew."""
        if self.info.result is None:
            return None
        return replace(self.info.result, outcome=self.outcome, length=self.steps)

    @property
    def steps(self) -> int:
        """Steps that are kept."""
        whole = self._recorded_steps
        stop = whole if self.edits.stop is None else min(self.edits.stop, whole)
        return max(0, stop - min(self.edits.start, stop))

    @property
    def _recorded_steps(self) -> int:
        if self.info.result is not None:
            return self.info.result.length
        return max(0, self.info.rows - 1)


class EditedEpisodes(Closing):
    """The episodes of a store, as its edits say. Also a store that is being written.

    Args:
        store: Directory of the store, or a reader of it (which stays open then).
        edits: Where its edits are, when not in the store.
        reward_column: Column of rewards to show; None: that which the edits say; empty: recorded.

    Raises:
        StoreError: There is no store, or no such column.
    """

    def __init__(
        self,
        store: str | Path | StoreReader,
        edits: str | Path = "",
        reward_column: str | None = None,
    ) -> None:
        self._own = not isinstance(store, StoreReader)
        self.reader: StoreReader = store if isinstance(store, StoreReader) else StoreReader(store)
        self.log = EditLog(edits or self.reader.path)
        self._taken = self.log.edits
        self.state = EditState.of(self._taken)
        self._wanted = reward_column
        self._column: RewardColumn | None = None
        try:
            self._take_column()
        except BaseException:
            self.close()
            raise

    def refresh(self) -> bool:
        """Look for new rows and new edits; return whether there were any."""
        rows = self.reader.refresh()
        self.log.refresh()
        edits = self.log.edits is not self._taken  # also what came through this very log
        if edits:
            self._edited()
        return rows or edits

    def append(self, edit: Edit) -> Edit:
        """Write an entry, which counts here from now on; return it with its number and time. Raises SuiteError, and
        then nothing is written."""
        done = self.log.append(edit)
        self._edited()
        return done

    def _edited(self) -> None:
        self._taken = self.log.edits
        self.state = EditState.of(self._taken)
        self._take_column()

    def episodes(self, excluded: bool = False) -> Iterator[EditedEpisode]:
        """The episodes in the order in which they came; with ``excluded`` those too that edits
        exclude, or of which a cut leaves no step."""
        for info in self.reader.episodes():
            episode = EditedEpisode(info, self.state.of_episode(info.key))
            if excluded or not (
                episode.edits.excluded or (episode.edits.cut and not episode.steps)
            ):
                yield episode

    def read(self, episode: EditedEpisode) -> dict[str, Array]:
        """Copy the rows of an episode that are kept, by column, with the rewards that count.

        The row after the last step that is kept is its final observation. A cut end is a
        truncation. ``reward_source`` says RELABELLED, or HUMAN, where a reward is not the recorded
        one. A column of rewards may say of a step in the middle that the task ended there: batches
        of a sampler end there; here, ``terminated`` is said of last steps only.
        """
        columns = self.reader.read_episode(episode.info)
        row = _row_numbers(episode.info)
        edits = episode.edits
        stop = episode.info.rows if edits.stop is None else edits.stop
        kept = (row >= edits.start) & (row <= stop)
        if not kept.all():
            columns, row = {name: array[kept] for name, array in columns.items()}, row[kept]
        if not len(row):
            return columns
        if not columns["final"][-1] and edits.stop is not None and row[-1] == stop:
            self._end_here(columns)
        last = len(row) - 2 if columns["final"][-1] else len(row) - 1
        if last < 0:
            return columns
        self._judge(episode.key, columns, row, last)
        if edits.reward is not None:
            columns["reward"][last] = edits.reward
            columns["terminated"][last] = edits.terminated
            columns["reward_source"][last] = int(RewardSource.HUMAN)
        if columns["final"][-1]:
            columns["truncated"][last] = not columns["terminated"][last]
        return columns

    def recorded(self, episode: EditedEpisode) -> RecordedEpisode:
        """The rows of :meth:`read` with a result that fits them: its outcome, length and return."""
        columns = self.read(episode)
        row = _row_numbers(episode.info)
        result = episode.result
        if result is not None:
            step = ~columns["final"]
            result = replace(
                result,
                length=int(step.sum()),
                episode_return=float(columns["reward"][step].sum(dtype=np.float64)),
            )
        first = max(int(row[0]) - episode.edits.start, 0) if len(row) else 0
        return RecordedEpisode(
            key=episode.key,
            source=episode.source,
            columns=columns,
            result=result,
            robot=episode.info.robot,
            task=episode.info.task,
            first_row=first,
        )

    def close(self) -> None:
        """Close the reader, unless it was given. Idempotent."""
        if self._own:
            self.reader.close()

    def _take_column(self) -> None:
        name = self.state.reward_column if self._wanted is None else self._wanted
        self._column = RewardColumn(self.log.path.parent, name) if name else None

    def _judge(self, key: EpisodeKey, columns: dict[str, Array], row: Array, last: int) -> None:
        """Put in what the column of rewards says."""
        if self._column is not None and self._column.is_another:
            self._take_column()
        if self._column is None:
            return
        self._column.refresh()
        values, known = self._column.of(key, int(row[0]), int(row[-1] - row[0]) + 1)
        at = row[: last + 1] - row[0]
        known = known[at]
        columns["reward"][: last + 1][known] = values["reward"][at][known]
        columns["reward_source"][: last + 1][known] = int(RewardSource.RELABELLED)
        if known[last]:
            columns["terminated"][last] = values["terminated"][at[last]] != 0

    @staticmethod
    def _end_here(columns: dict[str, Array]) -> None:
        """The last row becomes a final observation: it has no action and no reward."""
        for name, array in columns.items():
            if not name.startswith("observation.") and name != "stamp_ns":
                array[-1] = 0
        columns["final"][-1] = True


def _row_numbers(info: EpisodeInfo) -> Array:
    """Number within the episode of every row that is here, (n,) int64."""
    parts = [np.arange(first, first + rows) for first, _, _, rows in info.extents]
    return np.concatenate(parts) if parts else np.empty(0, np.int64)


def as_edited() -> Callable[[StoreReader, EpisodeInfo], RecordedEpisode | None]:
    """What gives episodes of a store as its present edits say, with the reader that is at hand; None for
    those that are excluded or of which no step is left."""
    views: list[EditedEpisodes] = []

    def edited(reader: StoreReader, info: EpisodeInfo) -> RecordedEpisode | None:
        view = views[0] if views else EditedEpisodes(reader)
        views[:] = [view]
        episode = EditedEpisode(info, view.state.of_episode(info.key))
        if episode.edits.excluded or (episode.edits.cut and not episode.steps):
            return None
        return view.recorded(episode)

    return edited
