"""Lanes: which open segment the rows of an episode go to.

Chunks of several producers arrive interleaved, but a next observation, an n-step return or a
window is read along one episode. So an episode has a lane, an open segment, to itself while
it lasts, and its rows lie next to each other; it continues in a new segment only when the
lane's is full. A lane serves episodes of one source. There are as many as episodes go on at
once; a lane whose episode is over takes the next.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from user_core.types import EpisodeKey, EpisodeSource
from user_learner.replay.chunklog import LogHeader
from user_learner.replay.index import FORMAT_VERSION, StoreMeta
from user_learner.replay.layout import RowLayout
from user_learner.replay.ledger import Ledger
from user_learner.replay.segment import OpenSegment, SegmentFiles


@dataclass
class Lane:
    """An open segment and the episode that fills it."""

    segment: OpenSegment
    source: int
    owner: EpisodeKey | None = None
    used: int = 0


class Lanes:
    """The open segments of a store."""

    def __init__(self, store: Path, layout: RowLayout, ledger: Ledger, max_per_source: int) -> None:
        self._store, self._layout, self._ledger = store, layout, ledger
        self._max = max_per_source
        self._full: list[OpenSegment] = []
        self._clock = 0
        self._lanes = [
            Lane(OpenSegment(store, layout, state, None), state.source, owner)
            for state, owner in ledger.open_segments()
        ]

    def __len__(self) -> int:
        return len(self._lanes)

    def segment_for(self, episode: EpisodeKey, source: EpisodeSource) -> OpenSegment:
        """The segment that takes the next rows of an episode; it has room for at least one.

        Raises OSError when a new segment cannot be made.
        """
        self._clock += 1
        lane = self._lane_of(episode) or self._take(episode, source)
        lane.used = self._clock
        if lane.segment.state.sealed:
            fresh = self._new_segment(source)  # first, so that a full disk changes nothing
            self._full.append(lane.segment)
            lane.segment = fresh
        return lane.segment

    def release(self, episode: EpisodeKey) -> None:
        """The episode is over: its lane takes another."""
        lane = self._lane_of(episode)
        if lane is not None:
            lane.owner = None

    def files(self, segments: Iterable[int]) -> SegmentFiles:
        """The files behind these segments, to be made durable while appending goes on.

        Full segments are closed here: the returned handles are of their own.
        """
        wanted = set(segments)
        open_ = [*self._full, *(lane.segment for lane in self._lanes)]
        files = SegmentFiles()
        for segment in open_:
            if segment.state.id in wanted:
                segment.add_to(files)
        while self._full:
            self._full.pop().close()
        return files

    def close(self) -> None:
        """Close everything. Idempotent."""
        while self._full:
            self._full.pop().close()
        while self._lanes:
            self._lanes.pop().segment.close()

    def _lane_of(self, episode: EpisodeKey) -> Lane | None:
        return next((lane for lane in self._lanes if lane.owner == episode), None)

    def _take(self, episode: EpisodeKey, source: EpisodeSource) -> Lane:
        mine = [lane for lane in self._lanes if lane.source == source]
        for lane in mine:  # a producer has one episode at a time: an older one is over
            if lane.owner is not None and lane.owner.producer == episode.producer:
                lane.owner = None
        free = next((lane for lane in mine if lane.owner is None), None)
        if free is None and len(mine) >= self._max:
            free = min(mine, key=lambda lane: lane.used)  # the robbed episode takes another later
        if free is None:
            free = Lane(self._new_segment(source), int(source))
            self._lanes.append(free)
        free.owner = episode
        return free

    def _new_segment(self, source: EpisodeSource) -> OpenSegment:
        state = self._ledger.begin_segment(source)
        header = segment_header(self._ledger.meta, state.id, int(source))
        return OpenSegment(self._store, self._layout, state, header)


def segment_header(meta: StoreMeta, segment: int, source: int) -> LogHeader:
    """The first line of the log of a new segment."""
    if meta.schema is None:
        raise AssertionError("a segment needs a schema")
    return LogHeader(
        FORMAT_VERSION,
        meta.store,
        segment,
        source,
        meta.segment_rows,
        meta.block_rows,
        meta.schema.to_dict(),
    )
